"""One task from close up: what is known of each proposal, and a sentence where nothing is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fastapi import FastAPI

from backend.pool.kept_objects import Reading
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.overview import UNUSABLE
from backend.store.records import ProposalRow, ScoreRow
from backend.web.dashboard.closer import Closer
from backend.web.dashboard.rendering import render_live
from tests.backend.web.dashboard.reading import Text, ask
from tests.factories import bright, kept_objects, label_config, picture_address
from usam.masks.packed_logits import PackedLogits

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def closer(settings: Settings, store: Store, registry: Registry) -> Closer:
    kept = kept_objects(bright(), bright(), bright(), labels=["A", HOSTILE, None])
    logits = PackedLogits.of(kept.masks.logits([0]))
    asked = replace(kept, larger={0: Reading(0.93, "big", logits)}, alternatives={1: Reading(0.71, "small", logits)})
    store.put_proposal(3, asked.pack(1, "key", {}))
    store.put_scores(3, [ScoreRow(1, "v", 0.3, 0.1, 4, True, "task gap 0.30 on its 2 objects", shown=(0, 1))])
    return Closer(settings, store, registry, lambda _: label_config("A"))


def test_each_proposal_says_what_the_model_says_of_it(closer: Closer) -> None:
    page = closer.page(3, 1, {"show": "audits", "page": "3", "evil": "x"})
    assert page is not None
    assert (page.place, page.is_audit, page.left_out, page.trouble) == (5, True, 1, "")
    assert page.back == "../queue?show=audits&page=3"
    first, second = page.objects
    assert (first.number, first.label, first.iou) == (1, "A", pytest.approx(0.93))
    assert len(first.gaps) == 3
    assert all(0 <= gap.share <= 1 for gap in first.gaps)
    assert "larger model (big), predicted IoU 0.93" in first.notes[0]
    assert "overlap by IoU 1.00" in first.notes[0]
    assert "predicted IoU 0.71" in second.notes[0]
    assert list(page.pictures) == ["proposals", "doubt", "readings"]
    content, _ = render_live("closer.html", {}, page=page)
    assert HOSTILE in Text(content)
    assert HOSTILE not in content
    assert closer.page(3, 1, {}).objects is page.objects, "kept for the next look"  # type: ignore[union-attr]


def test_what_is_kept_changes_with_what_it_is_made_of(closer: Closer, registry: Registry) -> None:
    before = closer.page(3, 1, {})
    registry.rollback(3, "")
    after = closer.page(3, 1, {})
    assert before is not None
    assert after is not None
    assert after.heads == ""
    assert after.objects is not before.objects


def test_where_nothing_is_known_it_says_so(closer: Closer, store: Store) -> None:
    assert closer.page(3, 999, {}) is None
    unseen = closer.page(3, 2, {})
    assert unseen is not None
    assert "not been looked at by the model yet" in unseen.trouble
    store.put_proposal(3, ProposalRow(2, "key", b"damaged", {}))
    damaged = closer.page(3, 2, {})
    assert damaged is not None
    assert "cannot be read" in damaged.trouble
    store.put_scores(3, [ScoreRow(2, "v", UNUSABLE, 1.0, 9, False, "no such file")])
    unusable = closer.page(3, 2, {})
    assert unusable is not None
    assert unusable.trouble == "This picture could not be used: no such file"


def test_a_task_that_is_gone_and_a_view_that_is_none_are_sentences(app: FastAPI, store: Store) -> None:
    gone = ask(app, "/projects/3/tasks/999")
    assert gone.status_code == 404
    assert "Task 999 is not known any more" in Text(gone.text)
    live = ask(app, "/projects/3/tasks/999?part=live&seen=x")
    assert live.status_code == 200, "so that the page that is open shows it"
    assert "not known any more" in Text(live.text)
    assert ask(app, "/projects/3/tasks/1/pictures/naked").status_code == 404
    assert "svg" in ask(app, "/projects/3/tasks/999/pictures/doubt").headers["content-type"]
    assert ask(app, "/projects/3/tasks/x").status_code == 404


@pytest.mark.parametrize("path", ["tasks/1", "tasks/1/pictures/doubt", "tasks/1/thumbnail", "learning"])
def test_nothing_of_a_task_is_shown_without_the_password(guarded_app: FastAPI, path: str) -> None:
    assert ask(guarded_app, f"/projects/3/{path}").status_code == 401
    assert ask(guarded_app, f"/projects/3/{path}", auth=("ann", "secret")).status_code == 200


def test_large_pictures_are_made_and_kept(app: FastAPI, store: Store, closer: Closer) -> None:
    from backend.label_studio.records import Task

    (row,) = store.proposal_rows(3, [1]).values()
    store.record_tasks(3, [Task(1, {"image": picture_address(1)}, "t2", 0)])
    store.put_proposal(3, ProposalRow(1, "key", row.arrays, {}))
    store.put_scores(3, [ScoreRow(1, "v", 0.3, 0.1, 4, True, "why", shown=(0, 1))])
    views = [ask(app, f"/projects/3/tasks/1/pictures/{view}") for view in ("proposals", "doubt", "readings")]
    assert {one.headers["content-type"] for one in views} == {"image/jpeg"}
    assert views[0].content != views[1].content
    assert all("private" in one.headers["cache-control"] for one in views)
