"""Records say what is in their table, also where a database cannot hold a text as it is."""

from __future__ import annotations

import math

import pytest

from backend.store.records import ProjectRow, RefinementState, SampleRow, data_key, storable_text
from tests.backend.store.rows import sample, score


def test_another_picture_gives_another_data_key_and_another_order_of_keys_does_not() -> None:
    assert data_key({"image": "a", "prompt": 1}) == data_key({"prompt": 1, "image": "a"})
    assert data_key({"image": "a"}) != data_key({"image": "b"})
    assert len(data_key({})) == 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [("tree", "tree"), ("a\0b", "a\ufffdb"), ("\ud800x", "?x"), ("Straße 🙂", "Straße 🙂"), ("", "")],
)
def test_text_is_changed_only_where_no_database_can_hold_it(text: str, expected: str) -> None:
    assert storable_text(text) == expected


def test_text_is_cut_at_its_length() -> None:
    assert storable_text("abcdef", 4) == "abcd"


def test_a_record_gives_its_columns_and_takes_others_in_their_place() -> None:
    assert ProjectRow(3, "then").columns(served="v") == {
        "id": 3,
        "stamp": "then",
        "cursor": "",
        "served": "v",
        "synced_at": 0.0,
        "classes": [],
        "connected": True,
    }
    assert score(1, 0).columns(project=7)["project"] == 7


def test_records_of_the_same_place_in_two_projects_are_equal() -> None:
    first, second = score(1, 0), score(1, 0)
    second.project = 2
    assert first == second
    assert first != score(1, 1)


def test_names_of_a_sample_are_made_storable() -> None:
    tokens = sample(7, 1)
    odd = SampleRow(7, "r\0", "nano-s", "t", 1, "\udc00A", False, tokens.iou_token, tokens.mask_tokens, {})
    assert (odd.region, odd.label) == ("r\ufffd", "?A")


FIGURES = {
    "budget": 0.2,
    "share_of_cost": 0.15,
    "threshold": 0.05,
    "considered": 40,
    "chosen": 6,
    "suspended": True,
    "total": {"acted": 6, "kept": 5, "predicted_gain": 0.04, "seconds": 1.5},
    "true_gain": {"value": 0.03, "low": 0.01, "high": 0.05, "objects": 12, "images": 6},
    "cost": {"encode_s": 0.5, "decode_s": 0.01},
    "asked": {"share": 0.5},
}


def test_what_a_refinement_reports_is_reported_again_as_it_was() -> None:
    assert RefinementState.of("larger", 9, FIGURES).figures() == FIGURES


def test_what_a_refinement_does_not_know_is_left_out_and_never_zero() -> None:
    state = RefinementState.of("larger", 9, {"budget": 0.2})
    assert math.isnan(state.gain_value)
    figures = state.figures()
    assert figures["threshold"] is None
    assert figures["suspended"] is False
    assert not {"true_gain", "cost"} & figures.keys()
