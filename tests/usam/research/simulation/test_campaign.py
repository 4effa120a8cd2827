"""A campaign spends what it is given, learns from nothing that it is judged on, and can be played again."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest

from usam.active.acquisition import STRATEGIES
from usam.errors import SimulationError
from usam.heads.head_set import HeadSet
from usam.pseudo_labels.calibration import RiskGuarantee
from usam.research.simulation.campaign import Campaign, ceiling, parts, replay
from usam.research.simulation.labelled_set import LabelledSet

SHORT = Campaign("task", budget=48, step=16, audit_share=0.2)


def test_every_strategy_spends_its_budget(labelled: LabelledSet, heads: HeadSet) -> None:
    for strategy in STRATEGIES:
        points = replay(labelled, heads, replace(SHORT, strategy=strategy, budget=16))
        first, last = points[0], points[-1]
        assert (first.labels, first.images, first.clicks, first.seconds) == (0, 0, 0, 0.0)
        assert 16 <= last.labels < 16 + 4
        assert last.images == last.labels / 4
        assert last.seconds > 0
        assert last.project_iou > first.project_iou
        assert all(0 <= value <= 1 for value in (last.machine_iou, last.calibration_error, last.accepted_share))


def test_labels_help_and_the_whole_pool_ends_it(labelled: LabelledSet, heads: HeadSet) -> None:
    points = replay(labelled, heads, replace(SHORT, budget=10_000, step=20))
    pool, _ = parts(labelled, SHORT)
    assert points[-1].labels == len(pool)
    assert [point.labels for point in points] == sorted({point.labels for point in points})
    assert points[-1].promoted >= 1
    assert points[-1].calibration_error < 0.7 * points[0].calibration_error
    assert points[-1].project_iou >= 0.8


def test_the_same_seed_is_the_same_campaign(labelled: LabelledSet, heads: HeadSet) -> None:
    first, again, other = (replay(labelled, heads, replace(SHORT, seed=seed)) for seed in (1, 1, 2))
    assert [asdict(point) for point in first] == [asdict(point) for point in again]
    assert [asdict(point) for point in first] != [asdict(point) for point in other]


def test_what_is_held_out_changes_nothing_but_the_figures(labelled: LabelledSet, heads: HeadSet) -> None:
    _, test = parts(labelled, SHORT)
    tokens, iou = labelled.mask_tokens.copy(), labelled.iou.copy()
    tokens[test], iou[test] = 0, 0.25
    targets = {name: values.copy() for name, values in labelled.targets.items()}
    for values in targets.values():
        values[test] = 0.9
    spoilt = replace(labelled, mask_tokens=tokens, iou=iou, targets=targets)
    known, blind = replay(labelled, heads, SHORT), replay(spoilt, heads, SHORT)
    for one, other in zip(known, blind, strict=True):
        assert (one.labels, one.clicks, one.seconds, one.promoted) == (
            other.labels,
            other.clicks,
            other.seconds,
            other.promoted,
        )
        assert one.project_iou == other.project_iou
        assert other.machine_iou == pytest.approx(0.25)


def test_strategies_share_the_held_out_images_and_start(labelled: LabelledSet, heads: HeadSet) -> None:
    starts = [replay(labelled, heads, replace(SHORT, strategy=name, budget=4))[0] for name in ("random", "task")]
    assert starts[0] == starts[1]
    pool, test = parts(labelled, SHORT)
    assert not set(labelled.groups[pool]) & set(labelled.groups[test])
    assert len(pool) + len(test) == len(labelled)


def test_masks_are_accepted_by_audits_alone(labelled: LabelledSet, heads: HeadSet) -> None:
    easy = RiskGuarantee(0.2, 0.4, 0.6, per_image=1)
    accepting = replay(labelled, heads, replace(SHORT, promise=easy, audit_share=0.4))
    assert accepting[-1].audits > 0
    assert accepting[-1].accepted_share > 0
    without = replay(labelled, heads, replace(SHORT, promise=easy, audit_share=0.0))
    assert {point.accepted_share for point in without} == {0.0}


def test_the_ceiling_is_what_the_whole_pool_teaches(labelled: LabelledSet, heads: HeadSet) -> None:
    start = replay(labelled, heads, replace(SHORT, budget=1))[0].machine_iou
    assert ceiling(labelled, heads, SHORT) > start - 0.02


def test_what_cannot_be_replayed_is_refused(labelled: LabelledSet, heads: HeadSet) -> None:
    with pytest.raises(SimulationError, match="strategies out of expected-error"):
        Campaign("best")
    with pytest.raises(SimulationError, match="at least 1 label"):
        Campaign("task", budget=0)
    with pytest.raises(SimulationError, match="test share"):
        Campaign("task", test_share=1.0)
    with pytest.raises(SimulationError, match="add --entropies"):
        replay(replace(labelled, entropy=None), heads, replace(SHORT, strategy="entropy"))
    one = np.zeros(len(labelled), "<U1")
    with pytest.raises(SimulationError, match="take more images"):
        replay(replace(labelled, images=one, groups=one), heads, SHORT)
