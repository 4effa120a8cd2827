"""Heads that learn a project's labels are put in use where the gate lets them, once for the same labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import StoreError
from backend.jobs import retrain
from backend.jobs.retrain import run, version_line
from backend.label_studio.records import Annotation
from backend.learning.training import Trained, fingerprint, label_names
from backend.pool.policy import audit_tasks, learnt_in_use
from backend.resources import Resources
from backend.store.records import SampleRow
from tests.factories import head_set, resources
from usam.checkpoints.registry import weights_of
from usam.objects.effort import Threshold
from usam.objects.project_heads import ChosenGrid, ProjectHeads
from usam.training.gate import Verdict

BASE = head_set(1, names=("iou_nano_s", "iou_unsupervised", "task_gap"), bias={"iou_nano_s": 1.5})
CHECKPOINT = weights_of("nano-s")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Resources]:
    """Whoever asks for SAM fails: reading heads needs none."""
    opened = resources(tmp_path, heads=BASE)
    yield opened
    opened.store.close()


def label(place: Resources, tasks: range, iou: float = 0.2, updated_at: str = "t1") -> None:
    """Three objects a task, whose masks are as good as `iou` says, by turns a little better and worse."""
    for task in tasks:
        rng = np.random.default_rng(task)
        rows = []
        for number in range(3):
            targets = [iou + 0.05 * (-1) ** task] * 3
            tokens = rng.normal(size=(5, 8)).astype(np.float16)
            known = {"iou_nano_s": targets, "iou_unsupervised": targets[:1] * 3, "task_gap": [0.5] * 3}
            rows.append(
                SampleRow(
                    task, f"r{number}", CHECKPOINT, updated_at, task, "thing", False, tokens[0], tokens[1:], known
                )
            )
        place.store.record_annotation(1, Annotation(task, task, updated_at, []), rows, sampled_for="k")


def reason(place: Resources) -> str:
    return place.store.runs(1, "retrain", limit=1)[0].reason


def test_better_heads_are_put_in_use_and_the_pool_ranked_again(place: Resources) -> None:
    label(place, range(1, 13))
    assert run(place, 1) == "done"
    current = place.registry.current(1)
    assert current is not None
    (verdict,) = place.store.verdicts(1)
    assert (verdict.promote, verdict.candidate) == (True, current.version)
    assert verdict.candidate_error < verdict.champion_error
    assert place.store.selection_gain(1, BASE.version) is not None
    assert place.store.new_labels(1) == 0
    queue: Any = place.queue
    assert queue.waked == ["score_pool", "plan"]


def test_the_same_labels_teach_nothing_twice(place: Resources) -> None:
    label(place, range(1, 13))
    run(place, 1)
    assert run(place, 1) == "skipped"
    assert reason(place) == "no label has changed since the last time"
    label(place, range(1, 2), updated_at="t2")
    assert run(place, 1) in ("done", "rejected")


def test_too_few_tasks_are_not_trained_on(place: Resources) -> None:
    label(place, range(1, 3))
    assert run(place, 1) == "skipped"
    assert reason(place) == "expected 3 annotated tasks, got 2 beside audits"
    assert place.store.verdicts(1) == []


def test_heads_that_are_right_already_are_kept(place: Resources) -> None:
    right = {"iou_nano_s": 1.5, "iou_unsupervised": 1.5}
    place.heads = head_set(1, names=BASE.names, bias=right, scale=0.0)
    label(place, range(1, 13), iou=float(1 / (1 + np.exp(-1.5))))
    assert run(place, 1) == "rejected"
    assert place.registry.champion(1) == ""
    assert all(not verdict.promote for verdict in place.store.verdicts(1))


def test_audits_judge_and_are_not_learnt(place: Resources) -> None:
    place.settings = place.settings.model_copy(update={"audit_share": 0.5})
    label(place, range(1, 25))
    audits = audit_tasks(place.settings, 1, range(1, 25))
    assert run(place, 1) == "done"
    current = place.registry.current(1)
    assert current is not None
    learnt = {int(name.partition("@")[0]) for name in current.labels}
    assert learnt == set(range(1, 25)) - audits
    assert place.store.verdicts(1)[0].method == "audit"


@pytest.mark.parametrize("fails", [False, True])
def test_how_densely_to_look_is_chosen_with_what_is_wanted_and_part_of_the_version(
    place: Resources, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    learnt = ProjectHeads(("thing",), "v", "nano-s", None, None, Threshold(0.5, 0.5, 0.5))

    def choose(
        resources: Resources, project: int, learnt: ProjectHeads, before: Any, rows: Any, relearn: Any, told: Any
    ) -> Any:
        assert {row.task for row in rows} == set(range(1, 13))
        assert relearn([1, 2]) is learnt
        told(0, 1)
        if fails:
            raise StoreError("a task", "none")
        figures = {"grid_work": 10.0, "grid_work_before": 15.0}
        return replace(learnt, grid=ChosenGrid(12, 2), figures=figures)

    monkeypatch.setattr(retrain, "learn_project", lambda *_: learnt)
    monkeypatch.setattr(retrain, "with_grid", choose)
    label(place, range(1, 13))
    assert run(place, 1) == "done"
    in_use = learnt_in_use(place, 1)
    assert in_use is not None
    assert in_use.grid == (None if fails else ChosenGrid(12, 2))
    assert ("looked at in 2 x 2 parts: 50% more work without" in reason(place)) is not fails


def test_another_state_of_a_label_is_another_label() -> None:
    tokens = np.zeros((5, 8), np.float16)
    first = SampleRow(7, "r", CHECKPOINT, "t1", 3, "thing", False, tokens[0], tokens[1:], {})
    second = SampleRow(7, "r", CHECKPOINT, "t2", 3, "thing", False, tokens[0], tokens[1:], {})
    assert label_names([first, first, second]) == ["7@t1", "7@t2"]
    assert fingerprint([first], []) != fingerprint([second], []) != fingerprint([second], [3])


@pytest.mark.parametrize("better", [True, False])
def test_a_version_is_introduced_by_what_is_better_in_it(better: bool) -> None:
    verdict = Verdict(better, "audit", 40, 9, 0.02, 0.01 if better else 0.03, 0.99 if better else 0.3)
    trained = Trained(head_set(1), verdict, {}, [], 40, 0, 0.0, 0.0)
    line = version_line(trained, None, "decoder: masks better by audit")
    first, second = line.split("; ")
    assert (first if better else second).endswith(verdict.reason)
    assert (second if better else first) == "decoder: masks better by audit"
    assert ("scores as before" in line) is not better
