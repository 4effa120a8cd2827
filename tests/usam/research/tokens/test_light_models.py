"""Heads for a small SAM 2 model of others: `usam tokens` and `usam train` as for any other checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from usam.cli.main import app
from usam.heads.head_set import HeadSet
from usam.predictor.load import load
from usam.research.datasets import open_dataset
from usam.research.tokens import TokenSettings, extract_tokens

MODELS = ["efficienttam_ti", "edgetam"]


def small(name: str, device: str) -> Any:
    torch.manual_seed(0)
    return load(name, device, None, image_size=128, weights=False)


def test_heads_are_trained_from_its_tokens_and_fit_it(
    labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usam.research.tokens.run.checksum_of", lambda *_: "untrained")
    extract_tokens(open_dataset("coco", labelled), tmp_path / "tokens", MODELS, TokenSettings(), load_model=small)
    for name in MODELS:
        out = tmp_path / name
        arguments = ["train", str(tmp_path / "tokens"), "--model", name, "--out", str(out), "--epochs", "2"]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        heads = HeadSet.load(out)
        predictor = small(name, "cpu")
        predictor.set_heads(heads)
        assert heads.quality_for(name) == f"iou_{name}"
        assert heads.fits(name)
        assert not heads.fits("nano-m")
