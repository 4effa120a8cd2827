"""A tab of the Data Manager that shows chosen tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.label_studio.client import LabelStudio
    from backend.label_studio.records import View

MOST_TASKS = 100
"""In one tab: each task is a condition of its own."""


def show_in_tab(client: LabelStudio, project: int, title: str, tasks: Sequence[int]) -> View | None:
    """Make the tab `title` show the first `MOST_TASKS` of these tasks, in place of those of the last time; without
    tasks there is none. Label Studio orders them by its own columns: nothing there says which comes first.

    Tasks, annotations and predictions stay as they are. Raises `LabelStudioError`.
    """
    before = [view for view in client.views(project) if view.title == title]
    chosen = list(dict.fromkeys(tasks))[:MOST_TASKS]
    made = None
    if chosen:
        items = [{"filter": "filter:tasks:id", "operator": "equal", "type": "Number", "value": task} for task in chosen]
        filters = {"conjunction": "or", "items": items}
        made = client.create_view(project, title, ordering=["tasks:id"], filters=filters)
    for view in before:
        client.delete_view(view.id)
    return made
