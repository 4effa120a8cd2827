"""The overview's words: what is done, what runs and for how long still, what needs a person and what to do."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from backend.label_studio.records import Project
from backend.settings import Settings
from backend.store.overview import ProjectOverview
from backend.store.records import Run
from backend.web.dashboard import overview as module
from backend.web.dashboard.overview import (
    Pace,
    card_of,
    engine_notices,
    event_notices,
    link_to,
    share_of,
    summary_line,
    training_line,
)
from backend.web.dashboard.surroundings import Seen

SETTINGS = Settings(label_studio_url="http://inside:8080", label_studio_public_url="https://labels.example/ls")
KNOWN = ProjectOverview(3, "v", tasks=10, unlabelled=4, annotations=7, new_labels=5)
SEEN = Seen({3: Project(3, " Cats ", "<View/>", "", "", "2026")})


def run(job: str, state: str = "running", done: int = 0, total: int = 0, reason: str = "", **more: Any) -> Run:
    made = Run(3, job, state, "", done, total, reason, more.pop("details", {}), 1000.0, 1000.0, more.get("finished"))
    made.id = more.get("id", 1)
    return made


def card(known: ProjectOverview = KNOWN, seen: Seen = SEEN, **more: Any) -> module.ProjectCard:
    return card_of(SETTINGS, known, seen, Pace(), **more)


def test_a_card_says_title_and_what_is_left() -> None:
    found = card()
    assert (found.title, found.labelled, found.left, found.share) == ("Cats", 6, 4, 0.6)
    assert found.link == "https://labels.example/ls/projects/3/data", "as browsers reach it"
    assert found.training == "15 more labels until the next training"
    assert (found.running, found.notices) == ((), ())
    assert card(seen=Seen()).title == "Project 3"


def test_links_fall_back_to_the_address_that_the_service_uses() -> None:
    assert link_to(Settings(label_studio_url="http://a:1"), 3, 5) == "http://a:1/projects/3/data?task=5"
    assert link_to(Settings(), 3) == ""


@pytest.mark.parametrize(
    ("new", "line"),
    [
        (19, "1 more label until the next training"),
        (0, "20 more labels until the next training"),
        (20, "20 new labels: training is next"),
    ],
)
def test_labels_until_the_next_training_are_counted(new: int, line: str) -> None:
    assert training_line(20, replace(KNOWN, new_labels=new)) == line


def test_a_training_that_runs_is_said() -> None:
    known = replace(KNOWN, new_labels=20, runs={"retrain": run("retrain")})
    assert training_line(20, known) == "learning from the new labels now"


def test_time_left_goes_by_what_was_done_since_it_was_first_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, job = Pace(), run("score_pool", done=500, total=1000)
    assert pace.left(job, 1010.0) == pytest.approx(10.0), "500 in 10 s, as far as anybody can tell"
    job.done = 600
    assert pace.left(job, 1030.0) == pytest.approx(400 * 20 / 100), "500 were there from before"
    pace.forget_others([])
    assert pace.left(job, 1060.0) == pytest.approx(400 * 60 / 600)
    assert pace.left(run("retrain", done=1, total=2), 1010.0) is None
    assert pace.left(run("score_pool", done=0, total=100), 1010.0) is None


def test_a_run_has_a_share_where_its_total_is_known() -> None:
    assert share_of(run("sync")) is None
    assert share_of(run("score_pool", done=3, total=4)) == 0.75
    assert share_of(run("score_pool", done=9, total=4)) == 1.0


def test_what_runs_and_what_came_of_the_last_ones_is_said() -> None:
    runs = {
        "score_pool": run("score_pool", done=2, total=8),
        "retrain": run("retrain", "rejected", reason="not surely better", finished=1001.0),
        "pseudo_label": run("pseudo_label", "rejected", reason="expected 20 more", finished=1001.0),
        "sync": run("sync", "done", finished=1001.0),
        "track": run("track", "done", finished=1001.0),
    }
    ended = {job: one for job, one in runs.items() if one.state != "running"}
    found = card(replace(KNOWN, runs=runs, ended=ended))
    assert [(line.job, line.share) for line in found.running] == [("Ranking", 0.25)]
    assert any(line.startswith("Trained") and "not put in use, not surely better" in line for line in found.last)
    (refused,) = [line for line in found.last if "refused, expected 20 more" in line]
    assert refused.startswith("Accepting masks "), "none was accepted"
    assert any(line.startswith("Followed boxes on videos") for line in found.last)
    assert not any("sync" in line for line in found.last)


@pytest.mark.parametrize(
    ("known", "more", "text", "remedy"),
    [
        (
            {"runs": {"retrain": run("retrain", "failed", reason="no room")}},
            {},
            "Training failed",
            "tried again by itself",
        ),
        (
            {"runs": {"sync": run("sync", "done", reason="1 set aside: annotation 7", details={"set_aside": ["x"]})}},
            {},
            "annotation 7",
            "Correct or delete",
        ),
        ({"unusable": 2, "unusable_reason": "no such file"}, {}, "2 pictures could not be used", ""),
        ({"set_aside": 1, "set_aside_reason": "region r"}, {}, "1 answer could not be learnt from", "draw the region"),
        ({}, {"trouble": "champion.json"}, "champion.json", "usam-backend repair"),
        ({}, {"seen": Seen({})}, "does not show this project", "three days"),
        (
            {},
            {"promise": SimpleNamespace(state="withdrawn", masks=(1, 2))},
            "promise behind 2 accepted masks is withdrawn",
            "--undo",
        ),
    ],
)
def test_what_needs_a_person_says_what_to_do(
    known: dict[str, Any], more: dict[str, Any], text: str, remedy: str
) -> None:
    (notice,) = card(replace(KNOWN, **known), **{"seen": SEEN, **more}).notices
    assert text in notice.text
    assert remedy in notice.remedy


def test_a_promise_that_holds_needs_nobody() -> None:
    assert card(promise=SimpleNamespace(state="written", masks=(1,))).notices == ()


def test_the_service_itself_has_its_notices() -> None:
    assert engine_notices("ready", "nano-m") == []
    assert "nano-m" in engine_notices("failed", "nano-m")[0].text
    assert event_notices(0) == []
    assert "set-aside.jsonl" in event_notices(9)[0].remedy


def test_all_projects_are_summed_up() -> None:
    assert summary_line([card(), card(trouble="x")]) == (
        "2 projects, 12 of 20 tasks labelled, 8 left; 1 project with something for a person"
    )
