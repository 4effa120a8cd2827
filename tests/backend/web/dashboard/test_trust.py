"""The page of trust: audits alone judge the heads in use; and what a promise about accepted masks rests on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backend.label_studio.records import Annotation, Task
from backend.pool.policy import audit_tasks
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.pseudo_label_store import PseudoLabel, PseudoLabelRun, columns_of
from backend.web.dashboard import trust as module
from backend.web.dashboard.trust import Trust, audited_of, promise_lines, state_of
from tests.backend.web.dashboard.test_calibration import row
from tests.factories import head_set
from usam.pseudo_labels.calibration import Calibration, Candidates, RiskGuarantee

TASKS = range(100, 160)


@pytest.fixture
def registry(settings: Settings) -> Registry:
    made = Registry(settings.registry_dir)
    made.promote(3, made.publish(3, head_set(1)).version, "better")
    return made


@pytest.fixture
def trust(settings: Settings, store: Store, registry: Registry) -> Trust:
    store.record_tasks(3, [Task(task, {"image": "a.png"}, "t1", 1, is_labeled=True) for task in TASKS])
    for task in TASKS:
        store.record_annotation(3, Annotation(task, task, "t1", []), [row(task, [0.2, 0.5, 0.8])], sampled_for="k")
    return Trust(settings, store, registry)


def record(state: str = "written", drift: dict[str, Any] | None = None) -> PseudoLabelRun:
    promise = RiskGuarantee(iou=0.7, risk=0.1, confidence=0.9)
    calibration = Calibration(promise, 0.81, "abc", "digest", 40, 60, 2, 0.03, 0.5, ())
    iou = np.linspace(0.5, 0.9, 60)
    audit = Candidates([str(n) for n in range(60)], [n // 2 for n in range(60)], iou, true_iou=iou)
    masks = (PseudoLabel(1, 0, ("a",), 0.9, 0.9), PseudoLabel(1, 1, ("b",), 0.9, 0.9))
    return PseudoLabelRun(9, "v.pseudo-9", state, False, "f", calibration, columns_of(audit), 5, masks, drift or {})  # type: ignore[arg-type]


def test_audit_tasks_alone_judge(trust: Trust, settings: Settings, registry: Registry) -> None:
    page = trust.page(3, None)
    audits = audit_tasks(settings, 3, TASKS)
    assert 0 < len(audits) < len(TASKS)
    assert page.audited == len(audits)
    assert page.calibration is not None
    assert page.calibration.images == len(audits)
    assert page.heads == registry.champion(3)
    assert (page.promise, page.promise_state, page.promise_calibration) == ((), "", None)


def test_it_is_computed_again_only_where_something_changed(
    trust: Trust, store: Store, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trust.page(3, None).calibration
    computed: list[int] = []
    inner = module.audited_by
    monkeypatch.setattr(module, "audited_by", lambda *given: (computed.append(1), inner(*given))[1])
    assert trust.page(3, None).calibration is first
    assert computed == []
    registry.rollback(3, "")
    registry.promote(3, registry.publish(3, head_set(2)).version)
    trust.page(3, None)
    assert len(computed) == 1
    store.record_annotation(3, Annotation(500, 500, "t2", []), [row(500, [0.2] * 3)], sampled_for="k")
    trust.page(3, None)
    assert len(computed) == 2


def test_a_project_without_audits_has_a_page(settings: Settings, store: Store) -> None:
    page = Trust(settings, store, None).page(3, None, "record.json cannot be read")
    assert (page.calibration, page.audited, page.trouble) == (None, 0, "record.json cannot be read")


def test_a_promise_says_what_it_rests_on(trust: Trust) -> None:
    held = record(drift={"failed": 1, "accepted": 9, "images": 12, "wealth": 1.5, "limit": 20.0})
    page = trust.page(3, held)
    text = " ".join(page.promise)
    for words in ("2 masks on 1 tasks", "at most 10%", "IoU 0.7", "confidence 90%", "40 audited", "2 of 60", "0.03"):
        assert words in text, words
    assert "1 of 9 accepted masks fell short in 12 images" in text
    assert page.promise_state == "in force"
    assert page.promise_calibration is not None
    assert page.promise_calibration.objects == 60
    assert trust.page(3, held).promise_calibration is page.promise_calibration, "computed once a record"


def test_a_promise_that_is_withdrawn_says_what_to_do() -> None:
    withdrawn = record("withdrawn")
    assert state_of(withdrawn) == "withdrawn"
    assert "--undo" in " ".join(promise_lines(withdrawn))
    assert "No audit label has come in since" in " ".join(promise_lines(record()))
    assert state_of(None) == ""


def test_labels_of_old_records_may_lack_true_ious() -> None:
    candidates = replace(record().calibrated_on(), true_iou=None)
    assert len(audited_of(candidates)) == 0
