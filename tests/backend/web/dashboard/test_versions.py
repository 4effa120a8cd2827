"""The versions' page: what the gate measured of each head set, what it refused, and what was in use when."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from backend.label_studio.records import Annotation
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.records import WorkRow
from backend.web.dashboard.versions import BASE_HEADS, BASE_NAME, earlier, judgement_of, learnt_of, versions_page
from tests.factories import head_set
from usam.training.gate import Verdict

FIGURES = {
    "champion_error": 0.04,
    "candidate_error": 0.03,
    "share": 0.9,
    "method": "audit",
    "objects": 30,
    "tasks": 9,
}


@pytest.fixture
def registry(settings: Settings) -> Registry:
    made = Registry(settings.registry_dir)
    for seed in (1, 2):
        version = made.publish(3, head_set(seed), samples=40 * seed, labels=["1@t"], figures=FIGURES)
        made.promote(3, version.version, "better by audit")
    return made


def test_versions_stand_newest_first_with_what_was_measured(store: Store, registry: Registry) -> None:
    page = versions_page(store, registry, 3)
    newest, older, base = page.lines
    assert (newest.in_use, older.in_use, base.in_use) == (True, False, False)
    assert page.in_use == newest.name == head_set(2).version
    assert (newest.objects, newest.labels) == (80, 1)
    assert newest.judgement is not None
    assert (newest.judgement.error, newest.judgement.before, newest.judgement.share) == (0.03, 0.04, 0.9)
    assert (newest.judgement.how, newest.judgement.objects, newest.judgement.tasks) == ("audit tasks", 30, 9)
    assert (base.name, base.address, base.judgement) == ("", BASE_NAME, None)
    assert [move.what for move in page.moves] == [f"put in use {newest.name}", f"put in use {older.name}"]
    assert page.moves[0].reason == "better by audit"


def test_a_version_that_keeps_its_scores_does_not_show_those_that_were_refused(
    store: Store, registry: Registry
) -> None:
    refused = {**FIGURES, "promote": False, "candidate_error": 0.05}
    registry.publish(3, head_set(3), samples=90, labels=["1@t"], figures=refused)
    newest, *_ = versions_page(store, registry, 3).lines
    assert newest.judgement is None
    assert newest.scores_stay.startswith(
        "scores as before; new ones were not surely better: error 0.0500 against 0.0400"
    )


def test_what_the_gate_refused_is_shown_too(store: Store, registry: Registry) -> None:
    verdict = Verdict(False, "audit", 30, 9, 0.03, 0.04, 0.2)
    store.put_verdict(3, 5, "abcdefabcdef", verdict)
    store.put_verdict(3, 6, "fedcbafedcba", Verdict(False, "nothing new to judge by", 0, 0, math.nan, math.nan, 0.0))
    store.put_verdict(3, 7, "111111111111", Verdict(True, "audit", 30, 9, 0.04, 0.03, 0.9))
    silent, refused = versions_page(store, registry, 3).refused
    assert (silent.judgement, silent.method) == (None, "nothing new to judge by")
    assert refused.name == "abcdefabcdef"
    assert refused.judgement is not None
    assert refused.judgement.error == 0.04


def test_a_version_that_may_be_gone_back_to_is_one_that_is_not_in_use(store: Store, registry: Registry) -> None:
    lines = versions_page(store, registry, 3).lines
    assert earlier(lines, lines[0].address) is None
    assert earlier(lines, lines[1].address) == lines[1]
    assert earlier(lines, BASE_NAME) == lines[2]
    assert earlier(lines, "../../etc") is None


def test_a_damaged_pointer_is_a_sentence(store: Store, registry: Registry) -> None:
    for path in (registry.folder / "3").glob("champion.json*"):
        path.write_text("{")
    page = versions_page(store, registry, 3)
    assert "repair" in page.damage
    assert (page.lines, page.in_use) == ((), "not known")


def test_without_versions_of_its_own_a_project_has_the_checkpoints(store: Store, tmp_path: Path) -> None:
    page = versions_page(store, Registry(tmp_path / "none"), 3)
    assert page.in_use == BASE_HEADS
    assert versions_page(None, None, 3).damage


@pytest.mark.parametrize(
    "figures", [{}, {"candidate_error": "x"}, {"candidate_error": True}, {"candidate_error": math.nan}]
)
def test_figures_that_say_nothing_are_left_out(figures: dict[str, object]) -> None:
    assert judgement_of(figures) is None


def test_what_people_changed_is_shown_by_version(store: Store, registry: Registry) -> None:
    for number, (version, kept) in enumerate((("nano-s+aaaaaaaaaaaa.4", 2), ("nano-s+bbbbbbbbbbbb.9", 6)), 1):
        work = WorkRow(
            number, number, version, kept, 8 - kept, 1, 1, 2, lead_s=7.0 if number == 2 else math.nan, at=number
        )
        store.record_annotation(3, Annotation(number, number, "t", []), [], sampled_for="k", work=work)
    now, before = versions_page(store, registry, 3).work
    assert (now.version, now.tasks, now.kept, now.deleted) == ("nano-s+bbbbbbbbbbbb", 1, 60.0, 20.0)
    assert now.added == pytest.approx(0.2)
    assert (now.seconds, before.seconds) == (7.0, None)


def test_what_a_version_knows_of_the_project_is_said() -> None:
    assert learnt_of({}) == ""
    assert learnt_of({"class_accuracy": 0.9}) == "90 % of labels right"
    assert learnt_of({"wanted_precision": math.nan, "wanted_recall": 0.5}) == ""
