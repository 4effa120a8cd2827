"""A tab of chosen tasks, the same however often it is asked for."""

from __future__ import annotations

from typing import Any

from backend.label_studio.records import View
from backend.label_studio.tabs import MOST_TASKS, show_in_tab


class Studio:
    """Keeps tabs."""

    def __init__(self) -> None:
        self.kept: dict[int, tuple[str, Any]] = {1: ("Default", {})}

    def views(self, project: int) -> list[View]:
        return [View(number, title, {}) for number, (title, _) in self.kept.items()]

    def create_view(self, project: int, title: str, *, ordering: list[str], filters: Any) -> View:
        number = max(self.kept) + 1
        self.kept[number] = title, filters
        return View(number, title, {})

    def delete_view(self, view: int) -> None:
        del self.kept[view]


def test_a_tab_takes_the_place_of_the_last_and_leaves_others() -> None:
    studio: Any = Studio()
    for tasks in ([4, 7, 4], [7]):
        assert show_in_tab(studio, 1, "Look", tasks) is not None
    assert [title for title, _ in studio.kept.values()] == ["Default", "Look"]
    filters = studio.kept[max(studio.kept)][1]
    assert filters["conjunction"] == "or"
    assert [item["value"] for item in filters["items"]] == [7]
    assert show_in_tab(studio, 1, "Look", []) is None
    assert [title for title, _ in studio.kept.values()] == ["Default"]
    show_in_tab(studio, 1, "Look", list(range(1000)))
    assert len(studio.kept[max(studio.kept)][1]["items"]) == MOST_TASKS
