"""The command for a GPU, from end to end on a processor with a tiny setting."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bench.gpu
from bench import rows
from bench.gpu import main, measure, timed
from usam.errors import CheckpointError

TINY = ["--device", "cpu", "--images", "3", "--batch", "2", "--threads", "2", "--seconds", "2", "--image-size", "128"]


@pytest.mark.slow
def test_every_figure_is_made_and_none_is_stored_when_dry(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.gpu, "append", lambda _: pytest.fail("stored"))
    assert main([*TINY, "--models", "sam2.1_hiera_tiny", "--dry"]) == 0
    said = capsys.readouterr().out
    for figure in (
        "encode one image, sam2.1_hiera_tiny on cpu",
        "click on an image at hand",
        "encoder alone",
        "JPEG to scores of 64 prompts",
        "JPEG to masks by 64 prompts",
    ):
        assert figure in said
    assert "random weights" in said


def test_figures_are_stored_under_their_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[rows.Row] = []
    monkeypatch.setattr(bench.gpu, "append", stored.extend)
    monkeypatch.setattr("bench.page.write_page", lambda _: None)
    assert main([*TINY[:-2], "--models", "nano-s"]) == 0
    assert {row.topic for row in stored} == {"gpu"}
    assert all(row.value > 0 for row in stored)
    ratio = next(row for row in stored if row.target == ">= 0.8")
    assert ratio.against == "encoder alone"
    assert "its own weights" in ratio.note


def test_checkpoints_for_which_no_time_is_left_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure("cpu", ["nano-s", "nano-m"], seconds=-1) == []
    assert "nano-s, nano-m" in capsys.readouterr().err


def test_a_card_that_is_not_there_is_named_at_once() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(CheckpointError, match="cpu"):
        main(["--device", "cuda"])
    assert bench.gpu.run() == []


def test_a_step_is_timed_at_least_three_times_after_a_first_one() -> None:
    calls: list[int] = []
    assert len(timed(lambda: calls.append(1), lambda: None, budget=0.0)) == 3
    assert len(calls) == 4


def test_the_makefile_has_it() -> None:
    assert "python -m bench.gpu" in (Path(__file__).parents[2] / "Makefile").read_text()
