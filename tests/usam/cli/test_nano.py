"""`usam nano`: what the commands print and refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from usam.checkpoints.nano import build_nano, load_nano, save_nano
from usam.cli import nano


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    nano.register(app)
    app.command("other")(lambda: None)
    return app


def test_export_writes_the_run_and_prints_its_hash(app: typer.Typer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    model = build_nano("nano-s")
    save_nano(model, tmp_path / "run" / "nano-s.safetensors")
    target = tmp_path / "out.safetensors"
    result = CliRunner().invoke(app, ["nano", "export", "nano-s", str(tmp_path / "run"), str(target)])
    assert result.exit_code == 0, result.output
    assert len(result.output.split()[0]) == 64
    again = load_nano("nano-s", target)
    torch.testing.assert_close(again.no_mem_embed, model.no_mem_embed.half().float())


def test_missing_data_is_named(app: typer.Typer, tmp_path: Path) -> None:
    from usam.errors import DatasetError

    save_nano(build_nano("nano-s"), tmp_path / "nano.safetensors")
    arguments = ["nano", "evaluate", "nano-s", "--data", str(tmp_path), "--weights", str(tmp_path / "nano.safetensors")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, DatasetError)
    trained = CliRunner().invoke(app, ["nano", "train", "nano-s", "--data", str(tmp_path), "--out", str(tmp_path)])
    assert isinstance(trained.exception, DatasetError)


@pytest.mark.shared
def test_evaluation_sets_are_found(shared: Path) -> None:
    sets = nano.evaluation_sets(shared / "data")
    assert list(sets) == ["coco", "ecssd", "bsds500", "ade20k"]
    assert next(iter(sets["coco"])).instances


def test_export_mixes_a_run_with_what_it_began_from(app: typer.Typer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "run").mkdir()
    ours, theirs = build_nano("nano-s"), build_nano("nano-s")
    save_nano(ours, tmp_path / "run" / "nano-s.safetensors")
    save_nano(theirs, tmp_path / "before.safetensors")
    words = ["nano", "export", "nano-s", str(tmp_path / "run"), str(tmp_path / "out.safetensors")]
    result = CliRunner().invoke(app, [*words, "--blend", str(tmp_path / "before.safetensors"), "--share", "0.75"])
    assert result.exit_code == 0, result.output
    mixed = load_nano("nano-s", tmp_path / "out.safetensors")
    for name, tensor in mixed.state_dict().items():
        expected = 0.75 * ours.state_dict()[name] + 0.25 * theirs.state_dict()[name]
        torch.testing.assert_close(tensor, expected, atol=2e-3, rtol=2e-3)
