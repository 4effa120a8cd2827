"""Small objects are looked for in parts of an image where that leaves less work on labelled images."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import FetchError
from backend.inference.model import LoadedModel, ProposalGrid
from backend.inference.shown import grid_of
from backend.learning import grid_choice
from backend.learning.examples import learn_project, learnt_line
from backend.learning.grid_choice import compare_grids, with_grid
from backend.learning.task_images import TaskImages
from backend.metrics.service import Metrics
from backend.resources import Resources
from backend.settings import Settings
from backend.store.records import ExampleRow, SampleRow
from tests.discs import discs
from tests.factories import brush, label_config, png, resources
from usam.heads.bundled import resolve_heads
from usam.masks.rle import encode_rle
from usam.objects.effort import Work
from usam.objects.project_heads import ChosenGrid, ObjectSizes, ProjectHeads

TASKS = range(1, 5)
RADIUS = 5
"""Pixels of 640: even a dense grid over the whole picture misses half of such discs."""


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    settings = Settings.from_environment(model="nano-m", threads=1)
    return LoadedModel.load("nano-m", settings, Metrics(), resolve_heads("nano-m", "auto"))


def add_discs(opened: Resources) -> None:
    """Four tasks with 24 marked discs each."""
    studio: Any = opened.label_studio
    images: Any = opened.images
    for number in TASKS:
        image, masks = discs(number, RADIUS)
        value = {"format": "rle", "brushlabels": ["thing"]}
        regions = [
            brush(f"r{k}", image.shape[:2], value={**value, "rle": encode_rle(mask)}) for k, mask in enumerate(masks)
        ]
        studio.add_task(number, regions, updated_at=f"2026-01-0{number}T00:00:00.000000Z")
        images.files[number] = png(image)
    opened.store.record_tasks(1, studio.task_list)


@pytest.fixture
def place(tmp_path: Path, model: LoadedModel) -> Iterator[Resources]:
    opened = resources(tmp_path, model)
    opened.settings = opened.settings.model_copy(update={"model": "nano-m"})
    add_discs(opened)
    yield opened
    opened.store.close()


def examples(place: Resources) -> list[ExampleRow]:
    made = []
    for task in place.store.tasks(1):
        (annotation,) = place.label_studio.annotations(1, [task.id])
        row, reason = TaskImages(place, label_config(), task).examples(annotation, None)
        assert row is not None, reason
        made.append(row)
    return made


def none() -> None:
    """What is in use where nothing was learnt before."""


def samples(tasks: Any) -> list[SampleRow]:
    tokens = np.zeros((0, 8), np.float16)
    return [
        SampleRow(100 * task, "r", "nano-m", f"2026-01-0{task}", task, "thing", False, tokens, tokens, {})
        for task in tasks
    ]


def test_parts_are_chosen_where_they_leave_less_work_and_kept_until_labels_double(place: Resources) -> None:
    rows, left_out = examples(place), list[int]()

    def learn(tasks: Collection[int] = ()) -> ProjectHeads | None:
        left_out.extend(tasks)
        return learn_project([row for row in rows if row.task not in tasks], ["thing"], "nano-m", 0)

    learnt = learn()
    assert learnt is not None
    assert grid_of(place.settings, learnt).tiles == 1
    steps: list[tuple[int, int]] = []
    chosen = with_grid(place, 1, learnt, none, samples([1, 3]), learn, lambda done, total: steps.append((done, total)))
    assert chosen.grid == ChosenGrid(12, 2)
    assert grid_of(place.settings, chosen).tiles == 2
    assert chosen.figures["grid_work"] < 0.95 * chosen.figures["grid_work_before"]
    assert "looked at in 2 x 2 parts" in learnt_line(chosen)
    assert left_out == [3], "of two labelled tasks the newer one, of which the heads that judge know nothing"
    assert steps == [(0, 1)]

    again = with_grid(place, 1, learnt, lambda: chosen, samples([1, 2, 3]), learn)
    assert again.grid == chosen.grid
    assert again.figures["grid_tasks"] == 2


def no_more(tasks: Collection[int] = ()) -> ProjectHeads | None:
    raise AssertionError("nothing is to be learnt again or read")


def heads(side: float) -> ProjectHeads:
    from usam.objects.effort import Threshold

    return ProjectHeads(("thing",), "v", "nano-m", None, None, Threshold(0.5, 0.0, 0.0), sizes=ObjectSizes(side, 3))


def test_nothing_is_tried_where_objects_are_large_or_the_settings_say_how(place: Resources) -> None:
    large, small = heads(0.4), heads(0.02)
    assert with_grid(place, 1, large, no_more, samples(TASKS), no_more) is large
    for given in ({"tiles": 1}, {"points_per_side": 8}):
        place.settings = Settings.from_environment(model="nano-m", data_dir=place.settings.data_dir, **given)
        assert with_grid(place, 1, small, no_more, samples(TASKS), no_more) is small


def test_without_an_image_or_enough_to_learn_from_nothing_is_chosen(place: Resources) -> None:
    images: Any = place.images
    images.broken = {number: FetchError("an image", "404", "look at its address") for number in TASKS}
    small = heads(0.02)
    selector: Any = object()
    assert with_grid(place, 1, small, none, samples(TASKS), lambda _: replace(small, selector=selector)) is small
    images.broken = {}
    assert with_grid(place, 1, small, none, samples(TASKS), lambda _: None) is small
    assert with_grid(place, 1, small, none, samples(TASKS), lambda _: small) is small
    assert with_grid(place, 1, small, none, samples([1]), no_more) is small


def test_a_dearer_way_that_saves_nothing_is_given_up_on_the_way(
    place: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[list[int]] = []

    def works(resources: Any, controls: Any, task: Any, annotation: Any, grids: Any, learnt: Any) -> list[Work]:
        tried.append([grid.points_per_side for grid in grids])
        if task.id == 2:
            raise FetchError("an image", "404", "look at its address")
        return [Work(added=9 if grid.points_per_side == 12 else 10) for grid in grids]

    monkeypatch.setattr(grid_choice, "_works", works)
    monkeypatch.setattr(grid_choice, "GIVEN_UP_AFTER", 1)
    grids = [ProposalGrid(8, 20), ProposalGrid(20, 20), ProposalGrid(12, 20)]
    seconds = compare_grids(place, 1, list(TASKS), grids, heads(0.02))
    assert tried == [[8, 20, 12]] + [[8, 12]] * 3
    assert seconds[1] == np.inf
    assert seconds[2] < seconds[0] < np.inf
