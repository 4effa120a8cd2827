"""By what a pool is ranked: audits that nobody can choose, strategies that the heads serve, names that are ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.pool.policy import (
    GAP_STRATEGIES,
    audit_tasks,
    heads_in_use,
    is_own_version,
    mask_selection_in_use,
    project_seed,
    ranking_heads,
    ranking_run,
    settings_key,
    strategy_for,
)
from backend.settings import Settings
from tests.factories import head_set, resources
from tests.usam.training.test_gate import constant


@pytest.fixture
def settings() -> Settings:
    return Settings.from_environment(model="nano-s", strategy="task", audit_share=0.0)


def test_audits_are_the_same_tasks_whatever_the_pool(settings: Settings) -> None:
    audited = settings.model_copy(update={"audit_share": 0.3})
    everybody = audit_tasks(audited, 9, range(400))
    assert 80 < len(everybody) < 160
    assert audit_tasks(audited, 9, range(0, 400, 7)) == everybody & set(range(0, 400, 7))
    assert audit_tasks(audited, 10, range(400)) != everybody
    assert audit_tasks(audited, 9, []) == set()


def test_a_larger_share_adds_audits_and_takes_none_away(settings: Settings) -> None:
    few, many = (audit_tasks(settings.model_copy(update={"audit_share": share}), 9, range(400)) for share in (0.1, 0.3))
    assert few < many
    assert audit_tasks(settings.model_copy(update={"audit_share": 1.0}), 9, range(400)) == set(range(400))
    assert audit_tasks(settings, 9, range(400)) == set()


def test_projects_and_seeds_draw_apart(settings: Settings) -> None:
    seeds = {project_seed(settings.model_copy(update={"seed": seed}), project) for seed in (0, 1) for project in (1, 2)}
    assert len(seeds) == 4


@pytest.mark.parametrize(
    ("wanted", "heads", "given"),
    [
        ("task", constant(0.5), "task"),
        ("task+epistemic", constant(0.5), "task"),
        ("epistemic", constant(0.5), "samscore"),
        ("predicted-iou", constant(0.5), "predicted-iou"),
        ("predicted-iou", None, "samscore"),
        ("task+epistemic", None, "samscore"),
        ("entropy", None, "entropy"),
        ("random", None, "random"),
    ],
)
def test_a_strategy_that_heads_do_not_serve_is_replaced_and_said(
    settings: Settings, wanted: str, heads: Any, given: str
) -> None:
    chosen, why = strategy_for(settings.model_copy(update={"strategy": wanted}), heads)
    assert chosen == given
    assert bool(why) == (chosen != wanted)


def test_heads_with_every_gap_serve_every_strategy(settings: Settings) -> None:
    for strategy in (*GAP_STRATEGIES, "predicted-iou"):
        assert strategy_for(settings.model_copy(update={"strategy": strategy}), head_set()) == (strategy, "")


def test_our_versions_are_told_from_others() -> None:
    assert ranking_run("sam2.1_hiera_tiny+0123456789ab.17") == 17
    assert ranking_run("nano-m+no-heads.3-1") == 3
    assert [ranking_heads(name) for name in ("nano-m+0123456789ab.5", "yolo+0123456789ab.5")] == ["0123456789ab", ""]
    for own in ("nano-m+0123456789ab", "nano-s+no-heads.pseudo-3", "nano-m+no-heads.memory.followed"):
        assert ranking_run(own) is None
        assert is_own_version(own)
    build_of_another_program = "1.4.2+9f3a1c2b4d5e.7"
    for other in (build_of_another_program, "yolo+0123456789ab.1", "yolo+v8.1", "detector.17", "None", ""):
        assert ranking_run(other) is None, "else it would be deleted"
        assert not is_own_version(other), "else what it marked would be passed over"


def test_an_order_depends_on_heads_strategy_and_configuration(settings: Settings) -> None:
    key = settings_key(settings, "abc", "<View/>")
    assert key != settings_key(settings, "", "<View/>")
    assert key != settings_key(settings, "abc", "<View></View>")
    assert key != settings_key(settings.model_copy(update={"strategy": "random"}), "abc", "<View/>")
    assert key == settings_key(settings.model_copy(update={"port": 1}), "abc", "<View/>")


def test_a_projects_own_heads_are_used_once_they_are_in_use(tmp_path: Path) -> None:
    base, own = head_set(0), head_set(1)
    place = resources(tmp_path, heads=base)
    assert heads_in_use(place, 1) == (base, "")
    place.registry.publish(1, own)
    assert heads_in_use(place, 1) == (base, ""), "published, not promoted"
    place.registry.promote(1, own.version)
    found, why = heads_in_use(place, 1)
    assert (found.version if found else None, why) == (own.version, "")
    assert heads_in_use(place, 2) == (base, ""), "another project keeps the checkpoint's"
    place.store.close()


def test_heads_of_another_checkpoint_are_passed_over_and_named(tmp_path: Path) -> None:
    base, own = head_set(0), head_set(1)
    place = resources(tmp_path, heads=base)
    place.registry.publish(1, own)
    place.registry.promote(1, own.version)
    place.settings = place.settings.model_copy(update={"model": "nano-m"})
    found, why = heads_in_use(place, 1)
    assert found is base
    assert why == f"heads {own.version} are for nano-s-2, not for nano-m"
    place.store.close()


def test_a_mask_choice_that_is_set_wins_over_what_was_measured(tmp_path: Path) -> None:
    place = resources(tmp_path, heads=head_set(), mask_choice="samscore")
    assert mask_selection_in_use(place, 1, head_set(1)) == "samscore"
    place.settings = place.settings.model_copy(update={"mask_choice": "predicted-iou"})
    assert mask_selection_in_use(place, 1, head_set(1)) == "predicted-iou"
    place.store.close()
