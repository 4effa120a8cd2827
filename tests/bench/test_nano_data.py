"""The comparison of training sets: its runs differ in what they should alone, and each row is of the same objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from bench import nano_data
from bench.nano_data import BEGIN, RUNS, measure_once, rows_of, train_command
from usam.cli.main import app
from usam.research.nano.domains import FIGURES, DomainValues


def values(level: float) -> list[DomainValues]:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (20, 1)) + np.zeros((20, len(FIGURES)))
    groups = np.array([f"picture/{index // 2}" for index in range(20)])
    return [DomainValues("coco", groups, noise + 0.5), *(DomainValues(n, groups, noise + level) for n in ("a", "cats"))]


def test_runs_are_told_apart_by_sets_and_answers_alone() -> None:
    root = get_command(app)
    told = []
    for name in RUNS:
        words = train_command(name, Path("data"), Path("begin"), Path("out"))[2:]
        train = root.commands["nano"].commands["train"]  # type: ignore[attr-defined]
        told.append(train.make_context("train", words[2:]).params)
    differing = {key for params in told for key in params if params[key] != told[0][key]}
    assert differing == {"sets", "joined"}
    assert told[0]["steps"] == nano_data.STEPS


def test_a_run_stands_beside_the_one_before_over_the_same_objects() -> None:
    measured = {BEGIN: values(0.3), **{name: values(0.4 + 0.1 * rank) for rank, name in enumerate(RUNS)}}
    rows = {row.figure: row for row in rows_of(measured)}
    assert len(rows) == (5 + 3) * 4 * len(FIGURES)
    assert rows[f"A over old, mean over 2 domains, {FIGURES[0]}"].value == pytest.approx(0.1)
    assert "[0.100, 0.100]" in rows[f"A over old, mean over 2 domains, {FIGURES[0]}"].note
    assert rows[f"A over old, mean over 1 domains of B, {FIGURES[0]}"].value == pytest.approx(0.1)
    assert rows[f"A+B, joined over A+B, COCO, {FIGURES[0]}"].value == pytest.approx(0.0)


def test_what_was_measured_is_read_again(tmp_path: Path) -> None:
    found = values(0.4)
    kept = {f"{each.name}/{part}": getattr(each, part) for each in found for part in nano_data.PARTS}
    np.savez(tmp_path / "values.npz", **kept)
    again = measure_once(Path("no weights needed"), tmp_path, Path("no data"))
    assert [each.name for each in again] == ["coco", "a", "cats"]
    np.testing.assert_array_equal(again[1].values, found[1].values)
