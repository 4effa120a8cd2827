"""The order in which people are asked: variety at the top, audits among the ranked, strict confidences."""

from __future__ import annotations

import numpy as np
import pytest

from usam.active.ordering import confidence, confidence_of_order, diverse_order, interleave_audit, rank_pool
from usam.errors import UsamError
from usam.statistics import stable_uniform


def pool(count: int, copies: int, width: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Acquisitions, features and original of `count` images, each there `copies` times, nearly equal."""
    rng = np.random.default_rng(0)
    origin = np.repeat(np.arange(count), copies)
    features = rng.normal(size=(count, width))[origin] + 0.01 * rng.normal(size=(count * copies, width))
    acquisition = rng.random(count)[origin] + 1e-3 * rng.random(count * copies)
    shuffle = rng.permutation(count * copies)
    return acquisition[shuffle], features[shuffle], origin[shuffle]


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_near_duplicates_are_never_both_at_the_top(spread: float) -> None:
    acquisition, features, origin = pool(200, copies=3)
    order = diverse_order(acquisition, features, spread=spread, head=50)
    assert sorted(order.tolist()) == list(range(600))
    for turn in range(3):
        assert len(set(origin[order[200 * turn : 200 * (turn + 1)]])) == 200
    plain = np.argsort(-acquisition)
    assert len(set(origin[plain[:200]])) < 100


def test_without_duplicates_the_order_is_by_acquisition() -> None:
    acquisition, features, _ = pool(300, copies=1)
    acquisition[7] = np.nan
    order = diverse_order(acquisition, features)
    assert order[-1] == 7
    assert (np.diff(acquisition[order[:-1]]) <= 0).all()


def test_a_chain_of_neighbours_does_not_hide_its_far_end() -> None:
    angles = np.radians([0, 15, 30])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert diverse_order(np.array([3.0, 2.0, 1.0]), features, similarity=0.95).tolist() == [0, 2, 1]


def test_identical_images_end_in_order_of_acquisition() -> None:
    acquisition = np.random.default_rng(1).random(50)
    order = diverse_order(acquisition, np.ones((50, 4)))
    assert (np.diff(acquisition[order]) < 0).all()


def test_spread_covers_clusters_that_worth_alone_would_leave_out() -> None:
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(10, 32))
    cluster = np.repeat(np.arange(10), 40)
    features = centres[cluster] + 0.4 * rng.normal(size=(400, 32))
    acquisition = 1.0 - cluster / 10 + 0.05 * rng.random(400)
    seen = [
        len(set(cluster[diverse_order(acquisition, features, spread=spread, head=10)[:10]])) for spread in (0.0, 2.0)
    ]
    assert seen[0] <= 2
    assert seen[1] >= 8


def test_ten_thousand_images_are_each_in_the_order_once_and_never_all_compared_at_once() -> None:
    import tracemalloc

    rng = np.random.default_rng(0)
    acquisition, features = rng.random(10_000), rng.normal(size=(10_000, 128)).astype(np.float32)
    tracemalloc.start()
    order = diverse_order(acquisition, features, spread=0.3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(order.tolist())) == 10_000
    assert peak < 10_000**2, "less than a byte for each pair"


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsamError, match="one feature row"):
        diverse_order(np.ones(3), np.ones((2, 4)))


def test_audits_are_a_steady_share_of_the_queue() -> None:
    order = [f"task-{index}" for index in range(5_000)]
    audited = interleave_audit(order, 0.1, 3)
    assert sorted(audited.positions.tolist()) == list(range(5_000))
    counts = audited.is_audit.reshape(10, 500).sum(axis=1)
    assert counts.min() >= 40
    assert counts.max() <= 60
    ranked = audited.positions[~audited.is_audit]
    assert (np.diff(ranked) > 0).all()


def test_audits_are_uniform_over_ranks() -> None:
    order = list(range(20_000))
    first = interleave_audit(order, 0.1, 5)
    served_first = first.positions[first.is_audit][:500]
    # mean rank of 500 uniform draws: 10,000 with standard error 258
    assert abs(served_first.mean() - 10_000) < 4 * 258
    deciles = np.histogram(served_first, bins=10, range=(0, 20_000))[0]
    assert deciles.min() > 25


def test_audits_stay_when_the_pool_changes_and_repeat_by_seed() -> None:
    before = list(range(1_000))
    after = [task for task in before if task % 3] + list(range(1_000, 1_500))
    np.random.default_rng(0).shuffle(after)

    def audits(order: list[int], seed: int) -> list[int]:
        audited = interleave_audit(order, 0.2, seed)
        return [order[position] for position in audited.positions[audited.is_audit]]

    common = set(before) & set(after)
    assert [task for task in audits(before, 7) if task in common] == [
        task for task in audits(after, 7) if task in common
    ]
    assert audits(before, 7) != audits(before, 8)
    generators = [interleave_audit(before, 0.2, np.random.default_rng(1)) for _ in range(2)]
    assert (generators[0].positions == generators[1].positions).all()


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 40)])
def test_audit_share_limits(share: float, expected: int) -> None:
    assert interleave_audit(list(range(40)), share, 0).is_audit.sum() == expected
    assert len(interleave_audit([], share, 0).positions) == 0


def test_audit_share_outside_its_range_is_refused() -> None:
    with pytest.raises(UsamError, match="audit share"):
        interleave_audit([1, 2], 1.5, 0)


def test_stable_uniform_is_uniform() -> None:
    draws = stable_uniform(range(10_000), 0)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(np.quantile(draws, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.02


def test_confidence_serves_the_ranked_order_with_ties_broken() -> None:
    acquisition = np.array([0.2, 0.9, 0.9, np.nan, 0.5])
    values = confidence(acquisition)
    assert np.argsort(values).tolist() == [1, 2, 4, 0, 3]
    assert values.min() > 0
    assert values.max() == 1.0
    assert len(set(values.tolist())) == 5


def test_confidence_of_order_wants_a_permutation() -> None:
    assert confidence_of_order(np.array([2, 0, 1])).tolist() == pytest.approx([2 / 3, 1.0, 1 / 3])
    for wrong in ([0, 0, 1], [0, 1, 3]):
        with pytest.raises(UsamError, match="permutation"):
            confidence_of_order(np.array(wrong))


def test_rank_pool_joins_the_parts() -> None:
    acquisition, features, origin = pool(100, copies=2)
    ids = [f"t{index}" for index in range(200)]
    ranking = rank_pool(ids, acquisition, features, audit_share=0.1, seed=1)
    assert np.argsort(ranking.confidence).tolist() == ranking.order.tolist()
    ranked = ranking.order[~ranking.is_audit]
    assert len(set(origin[ranked[:80]])) == 80
    assert rank_pool(ids, acquisition, audit_share=0.0).order[0] == np.argmax(acquisition)


def test_images_further_down_are_not_compared_with_each_other() -> None:
    twins = np.ones((6, 4))
    assert diverse_order(np.arange(6.0)[::-1], twins, rounds=1, within=3).tolist() == [0, 1, 2, 3, 4, 5]
    features = np.eye(6)
    features[1] = features[5] = features[0]
    order = diverse_order(np.arange(6.0)[::-1], features, within=3)
    assert order.tolist() == [0, 2, 1, 3, 4, 5], "the twin within goes behind, the one beyond keeps its place"
