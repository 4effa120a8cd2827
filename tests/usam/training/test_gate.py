"""The gate lets better heads pass and no others, and never judges on what was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from usam.heads.head_set import HeadSet
from usam.training.gate import MIN_AUDIT_TASKS, judge, object_errors, take

WIDTH = 4


def constant(value: float, gap: float = 0.0) -> HeadSet:
    """Heads that say the same of every mask: an IoU, and a task gap."""

    def head(target: float) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        bias = np.float32(np.log(target / (1 - target)))
        return [
            (np.zeros((1, 2 * WIDTH), np.float32), np.zeros(1, np.float32)),
            (np.zeros((1, 1), np.float32), bias[None]),
        ]

    layers = {"iou_nano_s": head(value), "task_gap": head(0.5 + gap)}
    return HeadSet.from_layers(layers, alignment="aligned", checkpoint="nano-s", quality="iou_nano_s")


def batch(count: int, iou: float, *, tasks: int = 10, noise: float = 0.02, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    targets = np.clip(iou + noise * rng.normal(size=(count, 3)), 0, 1).astype(np.float32)
    return {
        "iou_token": np.zeros((count, WIDTH), np.float32),
        "mask_tokens": np.zeros((count, 4, WIDTH), np.float32),
        "targets": {"iou_nano_s": targets, "task_gap": np.full((count, 3), 0.5, np.float32)},
        "groups": np.arange(count) % tasks,
    }


def refuse(_: Any) -> HeadSet:
    raise AssertionError("the candidate itself is judged on audits, nothing is fitted")


def test_a_better_candidate_passes_on_audits() -> None:
    verdict = judge(constant(0.9), constant(0.4), batch(20, 0.9), batch(20, 0.4), refuse)
    assert verdict.promote
    assert (verdict.method, verdict.objects, verdict.tasks) == ("audit", 20, 10)
    assert verdict.candidate_error < verdict.champion_error
    assert verdict.share == 1.0


def test_a_worse_candidate_and_an_equal_one_do_not() -> None:
    assert not judge(constant(0.4), constant(0.9), batch(20, 0.9), batch(20, 0.4), refuse).promote
    assert not judge(constant(0.4), constant(0.4), batch(20, 0.4), batch(20, 0.4), refuse).promote


def test_a_gain_on_one_task_alone_is_not_enough() -> None:
    audit = batch(40, 0.5, tasks=10, noise=0.0)
    audit["targets"]["iou_nano_s"][audit["groups"] == 0] = 1.0
    verdict = judge(constant(0.5), constant(0.53), batch(20, 0.5), audit, refuse)
    assert verdict.candidate_error < verdict.champion_error
    assert not verdict.promote


@pytest.mark.parametrize("audit", [None, batch(9, 0.4), batch(40, 0.4, tasks=MIN_AUDIT_TASKS - 1)])
def test_with_too_few_audits_the_recipe_is_cross_validated_by_task(audit: dict[str, Any] | None) -> None:
    seen: list[set[int]] = []

    def refit(part: Any) -> HeadSet:
        seen.append(set(part["groups"].tolist()))
        return constant(float(part["targets"]["iou_nano_s"].mean()))

    verdict = judge(constant(0.9), constant(0.4), batch(30, 0.4), audit, refit)
    assert verdict.promote
    assert verdict.method == "cross-validation"
    assert len(seen) == 5
    assert sorted(task for fold in seen for task in set(range(10)) - fold) == list(range(10))


def test_objects_that_the_champion_was_trained_on_judge_nothing() -> None:
    train = batch(30, 0.4)
    unseen = train["groups"] >= 6
    folds: list[int] = []

    def refit(part: Any) -> HeadSet:
        folds.append(len(part["groups"]))
        return constant(0.4)

    verdict = judge(constant(0.9), constant(0.4), train, None, refit, unseen)
    assert (verdict.objects, verdict.tasks) == (12, 4)
    assert folds == [27] * 4
    nothing = judge(constant(0.9), constant(0.4), train, None, refuse, np.zeros(30, bool))
    assert (nothing.promote, nothing.reason) == (False, "nothing new to judge by")
    assert "share" in nothing.figures()
    assert "candidate_error" not in nothing.figures()


def test_gaps_are_compared_as_they_were_trained() -> None:
    rows = batch(6, 0.4, noise=0.0)
    rows["targets"]["task_gap"][:] = 0.7
    errors = object_errors(constant(0.4, gap=0.2), rows, rows)
    np.testing.assert_allclose(errors, 0, atol=1e-6)


def test_unknown_targets_count_for_nothing() -> None:
    rows = batch(6, 0.4, noise=0.0)
    rows["targets"]["task_gap"][:3] = np.nan
    assert np.isfinite(object_errors(constant(0.4), rows, rows)).all()


def test_without_a_champion_the_mean_has_to_be_beaten() -> None:
    audit = batch(20, 0.4)
    assert judge(None, constant(0.4), batch(20, 0.8), audit, refuse).promote
    assert not judge(None, constant(0.8), batch(20, 0.4), audit, refuse).promote


def test_taking_rows_keeps_them_together() -> None:
    rows = batch(6, 0.4)
    part = take(rows, rows["groups"] == 2)
    np.testing.assert_array_equal(part["targets"]["iou_nano_s"], rows["targets"]["iou_nano_s"][2:3])
