"""Evidence for a promise is as strong as its p-value says, for images without end and for the pool at hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, hypergeom

from usam.errors import PseudoLabelError
from usam.pseudo_labels.guarantee import RiskGuarantee, images_needed, p_value

CALIBRATIONS = 1000


def test_at_the_limit_itself_the_promise_is_given_no_more_often_than_stated() -> None:
    """Every mask fails with just the risk, and images fail as a whole: what masks taken one by one would get wrong."""
    rng = np.random.default_rng(0)
    promise = RiskGuarantee(0.8, 0.2, 0.9, per_image=4)
    images, masks = 150, 4
    given = by_masks = 0
    for _ in range(CALIBRATIONS):
        failed = (rng.random(images) < promise.risk) * masks
        accepted = np.full(images, masks)
        given += p_value(failed, accepted, promise) <= promise.level
        by_masks += binom.cdf(failed.sum(), accepted.sum(), promise.risk) <= promise.level
    assert given <= binom.ppf(0.999, CALIBRATIONS, promise.level)
    assert by_masks > 2 * CALIBRATIONS * promise.level


def test_the_p_value_of_one_mask_an_image_is_that_of_mapie() -> None:
    control = pytest.importorskip("mapie.risk_control.methods")
    promise = RiskGuarantee(0.8, 0.1, 0.9, per_image=1)
    for failed in (0, 3, 9, 15):
        failures = np.zeros(100)
        failures[:failed] = 1
        found = control.compute_hoeffding_bentkus_p_value(np.array([failed / 100]), 100, 0.1, binary=True)
        assert p_value(failures, np.ones(100), promise) == pytest.approx(found[0, 0])


@pytest.mark.parametrize(
    ("risk", "confidence", "needed"), [(0.05, 0.9, 45), (0.1, 0.9, 22), (0.05, 0.95, 59), (0.01, 0.9, 230)]
)
def test_images_needed_where_nothing_fails_are_those_of_the_binomial(
    risk: float, confidence: float, needed: int
) -> None:
    promise = RiskGuarantee(0.9, risk, confidence, per_image=1)
    assert images_needed(promise, 1.0) == needed
    assert p_value(np.zeros(needed), np.ones(needed), promise) <= promise.level
    assert p_value(np.zeros(needed - 1), np.ones(needed - 1), promise) > promise.level


@pytest.mark.parametrize("pool", [7, 40, 400])
def test_the_share_of_the_pool_itself_is_exceeded_no_more_often_than_stated(pool: int) -> None:
    """Which images were audited is drawn; the worst number of failures for a pool and an audit is tried as well."""
    rng = np.random.default_rng(1)
    promise = RiskGuarantee(0.8, 0.1, 0.9, per_image=1)
    audits, allowed = 60, int(0.1 * pool)
    for failing in (allowed + 1, allowed + 2, allowed + 4, allowed + 8):
        found = rng.hypergeometric(failing, audits + pool - failing, audits, size=4 * CALIBRATIONS)
        values = {
            failed: p_value(np.eye(1, audits, 0)[0] * failed, np.ones(audits), promise, pool) for failed in set(found)
        }
        broken = sum(values[failed] <= promise.level and failing - failed > 0.1 * pool for failed in found)
        assert broken <= binom.ppf(0.999, 4 * CALIBRATIONS, promise.level)


def test_the_p_value_of_a_pool_is_hypergeometric_where_that_is_higher() -> None:
    promise = RiskGuarantee(0.8, 0.1, 0.9, per_image=1)
    failures = np.zeros(60)
    failures[:3] = 1
    assert p_value(failures, np.ones(60), promise, 40) == pytest.approx(
        max(hypergeom.cdf(3, 100, 3 + 4 + 1, 60), binom.cdf(3, 60, 0.1))
    )
    assert p_value(failures, np.ones(60), promise, 10**6) == pytest.approx(binom.cdf(3, 60, 0.1), rel=1e-3)
    assert p_value(np.ones(60), np.ones(60), promise, 40) == 1.0
    assert images_needed(promise, 1.0, pool_masks=5) == 45  # a single failure has to be among 45 audits, not these 5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"iou": 1.0}, "iou between 0 and 1"),
        ({"risk": 0.0}, "risk between 0 and 1"),
        ({"confidence": 90}, "confidence between 0 and 1"),
        ({"per_image": 0}, "per_image of at least 1"),
        ({"task_gap": 2.0}, "a task gap from"),
    ],
)
def test_promises_out_of_range_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(PseudoLabelError, match=said):
        RiskGuarantee(**wrong)  # type: ignore[arg-type]
