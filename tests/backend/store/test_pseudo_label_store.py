"""Accepted masks are recorded so that they can be taken back, and a person's change makes a region theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import StoreError
from backend.store.kept_twice import copy_of
from backend.store.pseudo_label_store import (
    ACCEPTED_VERSION,
    RECORD_FILE,
    PseudoLabel,
    PseudoLabelRun,
    PseudoLabelStore,
    accepted_by,
    accepting_version,
    columns_of,
    with_provenance,
)
from tests.factories import brush
from usam.pseudo_labels.calibration import Calibration, Candidates, RiskGuarantee, Step

VERSION = "nano-s+0123456789ab.pseudo-4"
AUDIT = Candidates(["a", "b"], [1, 2], np.array([0.9, 0.4]), None, np.array([0.8, 0.1]), [1, 2, 3])


def run_record(run: int = 4, state: Any = "planned") -> PseudoLabelRun:
    promise = RiskGuarantee(0.5, 0.4, 0.7, per_image=1)
    steps = (Step(0.6, 2, 0, 0.1, 0.2),)
    calibration = Calibration(promise, 0.6, "h", AUDIT.digest(), 3, 2, 0, 0.1, 0.5, steps)
    masks = (PseudoLabel(9, 0, ("r1", "r2"), 0.9, 0.85), PseudoLabel(3, 1, ("r3",), 0.8, 0.8))
    return PseudoLabelRun(run, VERSION, state, False, "f", calibration, columns_of(AUDIT), 17, masks)


@pytest.fixture
def records(tmp_path: Path) -> PseudoLabelStore:
    return PseudoLabelStore(tmp_path)


def test_a_record_comes_back_as_it_was_written(records: PseudoLabelStore) -> None:
    written = run_record()
    records.put(1, written)
    assert records.records(1) == [written]
    assert records.records(2) == []
    assert written.tasks == [3, 9]


def test_the_labels_calibrated_on_come_back_with_the_same_digest(records: PseudoLabelStore) -> None:
    records.put(1, run_record())
    (back,) = records.records(1)
    assert back.calibrated_on().digest() == AUDIT.digest() == back.calibration.digest


def test_records_are_given_oldest_first_by_number(records: PseudoLabelStore) -> None:
    for run in (10, 9, 11):
        records.put(1, run_record(run))
    assert [record.run for record in records.records(1)] == [9, 10, 11]


def test_masks_stand_until_they_are_undone_also_where_the_promise_was_withdrawn(records: PseudoLabelStore) -> None:
    records.put(1, run_record(4, "written"))
    records.put(1, run_record(5))
    standing = records.standing(1)
    assert standing is not None
    assert standing.run == 4, "one that is only planned is not in use"
    withdrawn = records.change(1, standing, "withdrawn", {"p": 0.01})
    assert records.standing(1) == withdrawn
    records.change(1, withdrawn, "undone")
    assert records.standing(1) is None
    assert records.records(1)[0].drift == {"p": 0.01}, "what the watch said is kept"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"masks": [], "calibration": {}}'])
def test_a_record_that_cannot_be_read_is_named_and_not_passed_over(records: PseudoLabelStore, content: str) -> None:
    records.put(1, run_record(4))
    records.put(1, run_record(5))
    path = records.folder_of(1, 5) / "record.json"
    path.write_text(content)
    assert [record.run for record in records.records(1)] == [4, 5], "mended from its copy"
    path.write_text(content)
    copy_of(path).write_text(content)
    with pytest.raises(StoreError) as caught:
        records.records(1)
    assert str(path) in str(caught.value)
    assert records.projects() == [1]
    (line,) = records.repair(1)
    assert str(path) in line
    assert [record.run for record in records.records(1)] == [4]
    assert records.repair(1) == []


def test_of_a_record_each_field_is_what_it_has_to_be(records: PseudoLabelStore) -> None:
    """One of another type ended the page of trust."""
    records.put(1, run_record())
    path = records.folder_of(1, 4) / RECORD_FILE
    whole = json.loads(path.read_text())
    damaged = [{**whole, name: {"x": []}} for name in whole if name != "drift"]
    damaged += [
        {**whole, "calibration": {**whole["calibration"], name: "x"}} for name in ("images", "threshold", "steps")
    ]
    damaged += [{**whole, "labels": {**whole["labels"], "predicted_iou": ["x", 0]}}]
    for one in damaged:
        for file in (path, copy_of(path)):
            file.write_text(json.dumps(one))
        with pytest.raises(StoreError, match="usam-backend repair"):
            records.records(1)


def test_a_record_that_is_gone_comes_back_from_its_copy(records: PseudoLabelStore) -> None:
    records.put(1, run_record(4))
    (records.folder_of(1, 4) / "record.json").unlink()
    assert [record.run for record in records.records(1)] == [4]


def test_a_record_that_cannot_be_written_says_so_and_leaves_the_one_before(
    records: PseudoLabelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run_record()
    records.put(1, before)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("backend.store.pseudo_label_store.write_twice", full)
    with pytest.raises(StoreError, match="No space"):
        records.change(1, before, "written")
    assert records.records(1) == [before]


def test_a_region_is_the_machines_until_a_person_changes_its_mask() -> None:
    marked = with_provenance(brush(meta={"text": ["sure"]}), VERSION)
    assert accepted_by(marked) == VERSION
    assert marked["meta"]["text"] == ["sure"]
    assert accepted_by({**marked, "value": {**marked["value"], "brushlabels": ["other"]}}) == ""
    assert accepted_by(brush()) == ""
    assert accepted_by({**marked, "meta": ["junk"]}) == ""


def test_an_annotation_with_one_mask_of_a_person_is_a_persons() -> None:
    marked = [with_provenance(brush(name), VERSION) for name in ("a", "b")]
    choice = {"id": "c", "type": "choices", "value": {"choices": ["x"]}}
    assert accepting_version([*marked, choice]) == VERSION
    assert accepting_version([*marked, brush("c")]) == ""
    assert accepting_version([marked[0], with_provenance(brush("d"), "nano-s+no-heads.pseudo-5")]) == ""
    assert accepting_version([]) == ""


@pytest.mark.parametrize(
    ("version", "expected"),
    [(VERSION, True), ("nano-s+no-heads.pseudo-12", True), ("nano-s+0123456789ab", False), ("x.pseudo-1", False)],
)
def test_versions_of_accepted_masks_are_told_from_others(version: str, expected: bool) -> None:
    assert bool(ACCEPTED_VERSION.fullmatch(version)) is expected
