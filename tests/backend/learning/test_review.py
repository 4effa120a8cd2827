"""Labels worth a second look, from what a sync keeps; and the list that lies beside the store."""

from __future__ import annotations

import json

import pytest

from backend.label_studio.records import Annotation
from backend.learning.review import FOLDER, LEAST_DAMAGE, _words, keep_review, kept_review, review_project
from backend.settings import Settings
from backend.store import Store
from tests.backend.learning.reviewed import GONE, WRONG, fill, settings, store
from usam.objects.review import Doubt

__all__ = ["settings", "store"]


def test_what_is_wrong_comes_first_in_words(store: Store) -> None:
    found = review_project(store, 3, "nano-s", None)
    assert (found.labels, found.tasks) == (79, 40)
    first = {line.reason: line for line in reversed(found.lines)}
    wrong, gone = first["label"], first["not marked"]
    assert {(line.task, line.reason) for line in found.lines[:2]} == {
        (1 + WRONG // 2, "label"),
        (1 + GONE // 2, "not marked"),
    }
    assert (wrong.annotation, wrong.region, wrong.label) == (100 + WRONG // 2, f"r{WRONG}", "dog")
    assert wrong.why.startswith("labelled dog, looks like cat (")
    assert wrong.remedy == "change the label to cat, or leave it"
    assert gone.why.startswith("nobody marked what looks like a dog")
    assert gone.region == ""
    assert found.first(5, "label").lines[0] == wrong
    assert review_project(store, 3, "nano-s", None).lines == found.lines, "the same twice"


def test_a_project_without_labels_or_with_those_of_another_model(store: Store) -> None:
    store.join(4)
    assert review_project(store, 4, "nano-s", None).lines == ()
    assert review_project(store, 3, "nano-m", None).labels == 0


def test_a_shifted_outline_says_how_far_and_where_to(store: Store) -> None:
    store.join(5)
    fill(store, 5, {20: (-12.4, 0.6), 31: (3.0, -9.0), 50: (0.2, 0.3)})
    outlines = [line for line in review_project(store, 5, "nano-s", None).lines if line.reason == "outline"]
    found = {line.region: line.why.rpartition(" (")[0] for line in outlines[:3]}
    assert found == {
        "r20": "the outline looks shifted by about 12 px to the left",
        "r31": "the outline looks shifted by about 3 px to the right and 9 px up",
        "r50": "the outline looks shifted",
    }
    assert {line.remedy for line in outlines[:3]} == {"move the outline back, or leave it"}
    assert outlines[2].damage > 2 * max((line.damage for line in outlines[3:]), default=0)
    assert min(line.damage for line in outlines) >= LEAST_DAMAGE, "nobody is sent to look at a damage of 0.00"


@pytest.mark.parametrize(
    ("side", "missing", "where"),
    [
        ((-0.9, 0.4), 0.5, "about half of it may be missing, on the left"),
        ((0.7, 0.6), 0.25, "about a third of it may be missing, on the right"),
        ((0.1, -1.0), 0.1, "a part of it may be missing, above"),
        ((0.0, 1.0), 0.9, "most of it may be missing, below"),
    ],
)
def test_a_cut_outline_says_how_much_is_missing_and_where(
    side: tuple[float, float], missing: float, where: str
) -> None:
    figures = {"right": 0.1, "moved": 0.2, "cut": 0.7}
    doubt = Doubt(3, "outline", 0.5, (0, 0, 1, 1), "cat", "", figures)
    why, remedy = _words(doubt, (9.0, 9.0, *side, missing))
    assert why == f"the outline looks cut off: {where} (70%)"
    assert remedy == "add what is missing, or leave it"


def test_what_is_answered_again_leaves_the_list(settings: Settings, store: Store) -> None:
    assert kept_review(settings, store, 3) is None
    found = review_project(store, 3, "nano-s", None)
    keep_review(settings, 3, found)
    keep_review(settings, 3, found)
    assert kept_review(settings, store, 3) == found
    answered = found.lines[0]
    store.record_annotation(3, Annotation(answered.annotation, answered.task, "t2", []), [], sampled_for="k")
    now = kept_review(settings, store, 3)
    assert now is not None
    assert {line.annotation for line in found.lines} - {line.annotation for line in now.lines} == {answered.annotation}


LINES = '{"lines": %s, "labels": 1, "tasks": 1, "at": 0}'


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\0\0",
        "{",
        "[]",
        "[" * 10_000,
        LINES % '[{"task": 1}]',
        LINES % "null",
        LINES.replace("1", "Infinity") % "[]",
        LINES.replace("1", "1" * 400) % "[{}]",
    ],
    ids=lambda content: content[:30],
)
def test_a_damaged_list_is_none_and_made_anew(settings: Settings, store: Store, content: str) -> None:
    path = settings.data_dir / FOLDER / "3.json"
    path.parent.mkdir()
    path.write_text(content)
    assert kept_review(settings, store, 3) is None


def test_of_a_list_each_field_is_what_it_has_to_be(settings: Settings, store: Store) -> None:
    keep_review(settings, 3, review_project(store, 3, "nano-s", None))
    path = settings.data_dir / FOLDER / "3.json"
    whole = json.loads(path.read_text())
    for name in whole["lines"][0]:
        damaged = {**whole, "lines": [{**whole["lines"][0], name: {"x": []}}]}
        path.write_text(json.dumps(damaged))
        assert kept_review(settings, store, 3) is None, name
