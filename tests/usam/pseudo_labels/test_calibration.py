"""The promise is kept over many calibrations, refused where labels are too few, and traced."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from tests.usam.risky_masks import risky_masks
from usam.errors import PseudoLabelError
from usam.pseudo_labels import calibration
from usam.pseudo_labels.calibration import Calibration, Candidates, RiskGuarantee, accept, calibrate, thresholds

CALIBRATIONS = 1000
SETTINGS = [
    pytest.param(RiskGuarantee(0.7, 0.10, 0.9, per_image=3), 120, id="IoU 0.7, risk 10 %"),
    pytest.param(
        RiskGuarantee(0.8, 0.10, 0.9, per_image=1), 120, id="IoU 0.8, risk 10 %, one an image", marks=pytest.mark.slow
    ),
    pytest.param(
        RiskGuarantee(0.6, 0.05, 0.8, per_image=2), 150, id="IoU 0.6, risk 5 %, confidence 80 %", marks=pytest.mark.slow
    ),
]


def part_of(masks: Candidates, images: np.ndarray) -> Candidates:
    """The masks of these images, of those drawn twice twice, as images of their own. Masks lie image by image."""
    starts = np.searchsorted(masks.places, np.arange(masks.image_count + 1))
    rows = [np.arange(starts[image], starts[image + 1]) for image in images]
    chosen = np.concatenate(rows)
    numbers = np.repeat(np.arange(len(rows)), [len(one) for one in rows])
    assert masks.task_gap is not None
    assert masks.true_iou is not None
    return Candidates(
        [masks.names[row] for row in chosen],
        numbers.tolist(),
        masks.predicted_iou[chosen],
        masks.task_gap[chosen],
        masks.true_iou[chosen],
        range(len(rows)),
    )


@pytest.mark.parametrize(("promise", "audits"), SETTINGS)
def test_a_thousand_resampled_calibrations_break_the_promise_no_more_often_than_stated(
    promise: RiskGuarantee, audits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Audits are drawn from a population in which the share of accepted masks that fails is known."""
    monkeypatch.setattr(calibration, "thresholds", cache(thresholds))  # of the pool, which stays the same
    monkeypatch.setattr(Candidates, "digest", lambda audit: "")
    rng = np.random.default_rng(5)
    population = risky_masks(rng, 4000)
    pool = risky_masks(rng, 400, labelled=False)
    fails = population.true_iou < promise.iou
    best = np.where(population.accepted(promise, -1.0), population.quality(promise), -np.inf)
    broken = made = 0
    for _ in range(CALIBRATIONS):
        audit = part_of(population, rng.integers(4000, size=audits))
        try:
            threshold = calibrate(audit, pool, promise).threshold
        except PseudoLabelError:
            continue
        made += 1
        broken += fails[best >= threshold].mean() > promise.risk
    assert made > CALIBRATIONS / 2
    assert broken <= binom.ppf(0.999, CALIBRATIONS, promise.level)  # so rarely is even a share at the limit exceeded


@pytest.mark.parametrize("per_image", [1, 3])
def test_a_refusal_says_how_many_audits_are_missing_and_they_suffice(per_image: int) -> None:
    promise = RiskGuarantee(0.5, 0.1, 0.9, per_image=per_image)

    def audit(images: int) -> Candidates:
        rows = np.repeat(np.arange(images), per_image)
        names = [str(number) for number in range(len(rows))]
        return Candidates(names, rows.tolist(), np.full(len(rows), 0.9), None, np.full(len(rows), 0.95))

    pool = audit(50)
    with pytest.raises(PseudoLabelError, match="too few even if no mask fails") as refused:
        calibrate(audit(5), pool, promise)
    needed = refused.value.needed
    assert f"label {needed} more audit tasks" in str(refused.value)
    assert calibrate(audit(5 + needed), pool, promise).failed == 0
    with pytest.raises(PseudoLabelError):
        calibrate(audit(5 + needed - 1), pool, promise)


def test_a_wrong_guess_of_where_to_start_is_not_the_end() -> None:
    """Qualities that are far too low or too high order masks as well as right ones, and are accepted about as well."""
    rng = np.random.default_rng(6)
    audit, pool = risky_masks(rng, 400), risky_masks(rng, 400, labelled=False)
    promise = RiskGuarantee(0.7, 0.1, 0.9, per_image=1)

    def shifted(masks: Candidates, by: float) -> Candidates:
        return replace(masks, predicted_iou=masks.predicted_iou + by)

    right, low, high = (calibrate(shifted(audit, by), shifted(pool, by), promise) for by in (0.0, -0.4, 0.4))
    assert right.pool_share > 0.1
    assert min(low.pool_share, high.pool_share) > 0.8 * right.pool_share
    for made in (right, low, high):
        assert sum(step.level for step in made.steps if step.level) > 0
        assert made.p_value <= next(step.level for step in made.steps if step.threshold == made.threshold)


def test_heads_that_tell_nothing_are_refused_whatever_the_number_of_labels() -> None:
    rng = np.random.default_rng(0)
    masks = risky_masks(rng, 300)
    guess = replace(masks, predicted_iou=rng.random(len(masks.names)))
    with pytest.raises(PseudoLabelError, match="more labels alone would not do") as refused:
        calibrate(guess, risky_masks(rng, 300, labelled=False), RiskGuarantee(0.9, 0.05))
    assert refused.value.needed == 0


def test_a_better_prediction_accepts_more_under_the_same_promise() -> None:
    rng = np.random.default_rng(1)
    audit, pool = risky_masks(rng, 300), risky_masks(rng, 300)
    promise = RiskGuarantee(0.7, 0.1, 0.9, per_image=3)
    good = calibrate(audit, pool, promise)
    worse_audit, worse_pool = (
        replace(one, predicted_iou=one.predicted_iou + rng.normal(0, 0.2, len(one.names))) for one in (audit, pool)
    )
    assert calibrate(worse_audit, worse_pool, promise).pool_share < good.pool_share
    assert good.p_value <= promise.level
    assert [step.threshold for step in good.steps] == sorted((step.threshold for step in good.steps), reverse=True)


def test_a_high_task_gap_is_never_accepted_and_a_low_one_lowers_the_quality() -> None:
    promise = RiskGuarantee(0.8, task_gap=0.1)
    masks = Candidates(list("abcd"), [0, 1, 2, 3], np.full(4, 0.9), np.array([0.11, 0.1, -0.2, np.nan]))
    assert masks.quality(promise) == pytest.approx([-np.inf, 0.8, 0.9, -np.inf])
    assert masks.accepted(promise, 0.0).tolist() == [False, True, True, False]


def test_the_best_masks_of_an_image_are_accepted_and_no_more_than_stated() -> None:
    masks = Candidates(list("abcde"), ["x", "y", "x", "x", "y"], np.array([0.7, 0.2, 0.9, 0.8, 0.95]))
    assert masks.accepted(RiskGuarantee(0.5, per_image=2), 0.5).tolist() == [False, False, True, True, True]
    assert masks.accepted(RiskGuarantee(0.5, per_image=1), 0.5).tolist() == [False, False, True, False, True]


def test_whole_images_are_accepted_by_their_worst_mask_and_not_when_they_have_too_many() -> None:
    masks = Candidates(list("abcdef"), ["x", "y", "x", "z", "z", "z"], np.array([0.7, 0.8, 0.9, 0.9, 0.9, 0.9]))
    promise = RiskGuarantee(0.5, per_image=2, whole_images=True)
    assert masks.ranked(promise).tolist() == [0.7, 0.8, 0.7, -np.inf, -np.inf, -np.inf]
    assert masks.accepted(promise, 0.75).tolist() == [False, True, False, False, False, False]
    assert len(Candidates([], [], np.zeros(0)).ranked(promise)) == 0


def test_thresholds_depend_on_no_label_and_get_looser() -> None:
    rng = np.random.default_rng(2)
    pool = risky_masks(rng, 200)
    promise = RiskGuarantee(0.7, 0.1, 0.9, per_image=2)
    found, levels = thresholds(pool, promise, 100)
    assert len(found) == len(levels) > 5
    assert (np.diff(found) < 0).all()
    assert levels.min() >= 0
    assert levels.sum() == pytest.approx(promise.level)
    unlabelled = replace(pool, true_iou=None)
    assert [one.tolist() for one in thresholds(unlabelled, promise, 100)] == [found.tolist(), levels.tolist()]
    assert [len(one) for one in thresholds(pool, promise, 3)] == [0, 0]


def test_every_acceptance_names_threshold_heads_and_calibration_set() -> None:
    rng = np.random.default_rng(3)
    audit, pool = risky_masks(rng, 200), risky_masks(rng, 100, labelled=False)
    made = calibrate(audit, pool, RiskGuarantee(0.7, 0.1), "0123456789ab")
    found = accept(pool, made, "0123456789ab")
    assert len(found) == pytest.approx(made.pool_share * len(pool.names))
    assert {(one.threshold, one.heads, one.calibration) for one in found} == {
        (made.threshold, "0123456789ab", audit.digest())
    }
    assert all(one.quality >= made.threshold for one in found)
    assert Calibration.of_record(json.loads(json.dumps(made.as_record()))) == made
    with pytest.raises(PseudoLabelError, match="calibrate again"):
        accept(pool, made, "ba9876543210")
    with pytest.raises(PseudoLabelError, match="calibrate again"):
        Calibration.of_record({"threshold": 0.5})


def test_the_digest_changes_with_every_label_and_not_with_their_order() -> None:
    audit = risky_masks(np.random.default_rng(4), 10)
    back = slice(None, None, -1)
    assert audit.true_iou is not None
    assert audit.task_gap is not None
    turned = Candidates(
        audit.names[back],
        audit.images[back],
        audit.predicted_iou[back],
        audit.task_gap[back],
        audit.true_iou[back],
        audit.audited,
    )
    assert turned.digest() == audit.digest()
    other = audit.true_iou.copy()
    other[0] += 0.01
    assert replace(audit, true_iou=other).digest() != audit.digest()


def test_columns_of_other_lengths_and_missing_labels_are_refused() -> None:
    with pytest.raises(PseudoLabelError, match="columns of one length"):
        Candidates(["a"], [1, 2], np.ones(1))
    masks = Candidates(["a"], [1], np.ones(1))
    with pytest.raises(PseudoLabelError, match="audit labels"):
        calibrate(masks, masks, RiskGuarantee())


def test_a_pool_without_acceptable_masks_is_refused() -> None:
    audit = risky_masks(np.random.default_rng(0), 100)
    empty = Candidates([], [], np.zeros(0), audited=range(10))
    with pytest.raises(PseudoLabelError, match="no mask in the pool"):
        calibrate(audit, empty, RiskGuarantee(0.5, 0.2))
