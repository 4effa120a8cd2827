"""Runs go on where they stopped, and their reports say what was played."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from usam.errors import SimulationError
from usam.heads.head_set import HeadSet
from usam.research.simulation.campaign import Campaign
from usam.research.simulation.labelled_set import LabelledSet
from usam.research.simulation.report import fitted_curve, savings, summaries, write_report
from usam.research.simulation.runs import Played, play_all

BASE = Campaign("random", budget=12, step=12)
STRATEGIES = ("random", "task")


def play(labelled: LabelledSet, heads: HeadSet, out: Path | None, **changes: object) -> Played:
    return play_all(labelled, heads, replace(BASE, **changes), STRATEGIES, [0, 1], out)


def test_a_run_goes_on_where_it_stopped(labelled: LabelledSet, heads: HeadSet, out: Path) -> None:
    told: list[tuple[int, int]] = []
    first = play_all(
        labelled, heads, BASE, STRATEGIES, [0, 1], out, lambda what, done, total: told.append((done, total))
    )
    assert first.fresh == 4
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]
    (out / "campaigns" / "task-1.json").unlink()
    (out / "campaigns" / "task-0.json").write_text("{")
    again = play(labelled, heads, out)
    assert again.fresh == 2
    assert again.campaigns == first.campaigns
    assert again.ceilings == first.ceilings
    assert play(labelled, heads, out).fresh == 0
    assert play(labelled, heads, out, budget=4).fresh == 4
    assert not list(out.rglob(".*"))


def test_nothing_to_play_is_refused(labelled: LabelledSet, heads: HeadSet) -> None:
    with pytest.raises(SimulationError, match="one strategy and one seed"):
        play_all(labelled, heads, BASE, [], [0])


def test_the_report_holds_every_strategy_with_its_figures(labelled: LabelledSet, heads: HeadSet, out: Path) -> None:
    played = play(labelled, heads, None, budget=24)
    report = write_report(played, BASE, out, "A campaign").read_text(encoding="utf-8")
    rows = summaries(played, BASE.promise.risk)
    for row in rows:
        assert f"| {row.strategy} |" in report
        assert f"- {row.strategy}: {row.stop}" in report
        assert row.hours.low <= row.hours.value <= row.hours.high
    for cost in ("labels", "seconds"):
        with Image.open(out / f"{cost}.png") as plot:
            assert plot.format == "PNG"
            assert min(plot.size) > 300
    with (out / "points.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(len(points) for seeds in played.campaigns.values() for points in seeds)
    assert {line["strategy"] for line in lines} == set(STRATEGIES)
    with (out / "curves.csv").open(newline="") as file:
        assert all(float(line["low"]) <= float(line["mean"]) <= float(line["high"]) for line in csv.DictReader(file))


def test_savings_are_only_told_where_there_is_something_to_gain(labelled: LabelledSet, heads: HeadSet) -> None:
    played = play(labelled, heads, None)
    starts = [points[0].machine_iou for points in played.campaigns["task"]]
    flat = replace(played, ceilings=starts)
    assert "nothing to save on" in str(savings(flat))
    rising = replace(played, ceilings=[start + 0.1 for start in starts])
    found = savings(rising)
    assert not isinstance(found, str)
    assert found["random"][0].value == 1
    assert "not among" in str(savings(replace(rising, campaigns={"task": played.campaigns["task"]})))


def test_a_short_history_gives_no_curve(labelled: LabelledSet, heads: HeadSet) -> None:
    played = play_all(labelled, heads, replace(BASE, budget=4), ["task"], [0])
    assert fitted_curve(played.campaigns["task"]) is None
    assert "too short" in summaries(played, 0.1)[0].stop


def test_stored_campaigns_are_plain_json(labelled: LabelledSet, heads: HeadSet, out: Path) -> None:
    play_all(labelled, heads, replace(BASE, budget=4), ["task"], [0], out)
    stored = json.loads((out / "campaigns" / "task-0.json").read_text())
    assert stored["points"][0]["labels"] == 0
