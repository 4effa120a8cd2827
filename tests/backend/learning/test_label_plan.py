"""A project's plan from its own store: what its labels have brought, and what more would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.errors import JobError
from backend.label_studio.records import Annotation, Task
from backend.learning import label_plan
from backend.learning.label_plan import plan_project
from backend.settings import Settings
from backend.store import Store
from backend.store.records import SampleRow
from usam.checkpoints.registry import heads_for, weights_of
from usam.heads.head_set import HeadSet
from usam.pseudo_labels.calibration import RiskGuarantee

PER_TASK = 3


@pytest.fixture(scope="module")
def heads() -> HeadSet:
    folder = heads_for("nano-s")
    assert folder is not None
    return HeadSet.load(folder)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("USAM_MODEL", "nano-s")
    monkeypatch.setenv("USAM_AUDIT_SHARE", "0.25")
    return Settings.from_environment()


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store(settings.store_url)
    store.join(1, "2026-01-01")
    yield store
    store.close()


def label(store: Store, heads: HeadSet, tasks: int, *, shift: float, seed: int = 0) -> None:
    """Labels that say what the heads say, but that each output's logit is off by a direction of its token."""
    rng = np.random.default_rng(seed)
    count = tasks * PER_TASK
    # tokens in the heads' own range: enough of a spread that the three masks differ
    iou_token = rng.normal(scale=1.0, size=(count, heads.width)).astype(np.float16)
    mask_tokens = rng.normal(scale=1.0, size=(count, 4, heads.width)).astype(np.float16)
    told = heads.score(iou_token.astype(np.float32), mask_tokens.astype(np.float32))[heads.quality]
    logit = np.log(told / (1 - told)).astype(np.float64)
    true = 1 / (1 + np.exp(-(logit * (1 - shift) + shift + 0.05 * rng.normal(size=told.shape))))
    store.record_tasks(1, [Task(n, {"image": f"{n}.png"}, "t", 1, is_labeled=True) for n in range(tasks)])
    for task in range(tasks):
        rows = [
            SampleRow(
                task,
                f"r{row}",
                weights_of("nano-s"),
                f"2026-01-{1 + task // 20:02d}T00:{task % 20:02d}",
                task,
                "A",
                False,
                iou_token[row],
                mask_tokens[row],
                {heads.quality: true[row].tolist(), "task_gap": [0.5] * 3},
            )
            for row in range(task * PER_TASK, (task + 1) * PER_TASK)
        ]
        store.record_annotation(1, Annotation(task, task, rows[0].updated_at, []), rows, sampled_for="k")


def test_labels_that_teach_the_choice_of_masks_are_said_to_bring_something(
    settings: Settings, store: Store, heads: HeadSet
) -> None:
    label(store, heads, 45, shift=1.6)
    found = plan_project(settings, store, 1, heads)
    counts = [count for count, _ in found.history]
    assert found.labels == 45 * PER_TASK
    assert found.tasks == 45
    assert counts.count(0) == 3
    assert max(counts) == PER_TASK * (45 - found.audits)
    assert f"{found.audits} audit tasks" in found.method
    start = np.mean([value for count, value in found.history if count == 0])
    end = np.mean([value for count, value in found.history if count == max(counts)])
    assert end > start + 0.02
    assert found.plan.curve.total_gain.low > 0
    assert found.plan.needed.low <= found.plan.needed.value <= found.plan.needed.high
    assert found.plan.gains[50].value < found.plan.curve.total_gain.value


def test_labels_that_say_what_the_heads_say_bring_nothing(settings: Settings, store: Store, heads: HeadSet) -> None:
    label(store, heads, 40, shift=0.0)
    found = plan_project(settings, store, 1, heads)
    assert found.plan.gains[100].value < 0.005
    assert "stop" in found.plan.curve.suggestion()


def test_a_promise_is_supported_or_says_how_many_audits_it_takes(
    settings: Settings, store: Store, heads: HeadSet
) -> None:
    label(store, heads, 40, shift=0.0)
    strict = plan_project(settings, store, 1, heads, RiskGuarantee(0.99, 0.01, 0.99))
    assert strict.plan.audits > 10 or "lower the IoU" in strict.plan.promise
    lax = plan_project(settings, store, 1, heads, RiskGuarantee(0.01, 0.4, 0.6))
    assert lax.plan.audits == 0
    assert "support it" in lax.plan.promise


def test_without_audits_tasks_are_held_out_in_turn(settings: Settings, store: Store, heads: HeadSet) -> None:
    label(store, heads, 20, shift=1.6)
    none = settings.model_copy(update={"audit_share": 0.0})
    found = plan_project(none, store, 1, heads)
    assert "in turn" in found.method
    assert "no audit task" in found.plan.promise
    assert len({count for count, _ in found.history}) >= 5


def test_how_far_it_is_ends_at_its_end(
    settings: Settings, store: Store, heads: HeadSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    label(store, heads, 8, shift=0.0)
    monkeypatch.setattr(label_plan, "SIZES", 20)  # some round to the same number of labels
    told: list[tuple[int, int]] = []
    plan_project(settings, store, 1, heads, say=lambda done, total: told.append((done, total)))
    (total,) = {total for _, total in told}
    assert [done for done, _ in told] == list(range(1, total + 1))


def test_too_few_labels_are_refused(settings: Settings, store: Store, heads: HeadSet) -> None:
    label(store, heads, 3, shift=0.0)
    with pytest.raises(JobError, match="9 on 3"):
        plan_project(settings, store, 1, heads)
    with pytest.raises(JobError, match="heads for nano-s"):
        plan_project(settings, store, 1, None)


def test_the_command_tells_people(settings: Settings, store: Store, heads: HeadSet) -> None:
    label(store, heads, 30, shift=1.6)
    told = CliRunner().invoke(app, ["plan", "--project", "1", "--more", "30"])
    assert told.exit_code == 0, told.output
    assert "90 labels on 30 tasks" in told.output
    assert "the next 30 labels are expected to bring" in told.output
    assert CliRunner().invoke(app, ["plan", "--project", "9"]).exit_code == 2
