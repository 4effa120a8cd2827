"""SAM's own estimate beside the head: used where it knows more, left out where it does not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from usam.objects.estimate import Blend, average_precision, fit_blend


def project(
    head: float, estimate: float, seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_], list[int]]:
    """400 proposals of 20 images: how far head and estimate tell the wanted ones, in standard deviations."""
    rng = np.random.default_rng(seed)
    wanted = rng.random(400) < 0.4
    judged, sure = (1 / (1 + np.exp(-rng.normal(gap * wanted, 1.0))) for gap in (head, estimate))
    return judged, sure, wanted, [index // 20 for index in range(400)]


def test_an_estimate_that_knows_more_decides_and_ranks_better_on_other_images() -> None:
    blend, left_out, kind = fit_blend(*project(0.3, 2.5))
    assert kind in ("both", "estimate")
    assert blend.estimate > blend.head
    head, estimate, wanted, _ = project(0.3, 2.5, seed=1)
    gained = average_precision(blend.probability(head, estimate), wanted)
    assert gained > average_precision(head, wanted) + 0.2
    assert ((left_out >= 0) & (left_out <= 1)).all()


def test_both_are_better_than_either() -> None:
    blend, _, kind = fit_blend(*project(1.5, 1.5))
    assert kind == "both"
    head, estimate, wanted, _ = project(1.5, 1.5, seed=2)
    both = average_precision(blend.probability(head, estimate), wanted)
    assert both > max(average_precision(head, wanted), average_precision(estimate, wanted)) + 0.02


def test_an_estimate_that_speaks_against_what_is_wanted_has_no_say() -> None:
    blend, left_out, kind = fit_blend(*project(2.0, -1.0))
    assert (blend, kind) == (Blend(1.0, 0.0, 0.0), "head")
    np.testing.assert_array_equal(left_out, project(2.0, -1.0)[0])


def test_without_anything_unwanted_the_head_stays_alone() -> None:
    head, estimate, _, images = project(1.0, 1.0)
    assert fit_blend(head, estimate, np.ones(400, bool), images)[2] == "head"
