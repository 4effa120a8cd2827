"""Real clicks by a real model on drawn pictures, and the command from pictures to report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from usam.cli.main import app
from usam.errors import SimulationError
from usam.predictor.load import load
from usam.research.datasets import open_dataset
from usam.research.simulation.clicking import click_curve, clicked_objects
from usam.research.tokens import TokenSettings, TokenTable, extract_tokens

CLICKS = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of a bright blob on noise, each with its mask."""
    root, rng = tmp_path_factory.mktemp("blobs"), np.random.default_rng(0)
    (root / "images").mkdir()
    (root / "masks").mkdir()
    y, x = np.mgrid[:96, :128]
    for number in range(12):
        cy, cx = rng.uniform(30, 66), rng.uniform(40, 88)
        mask = ((y - cy) / rng.uniform(12, 25)) ** 2 + ((x - cx) / rng.uniform(12, 30)) ** 2 < 1
        picture = rng.integers(40, 90, (96, 128, 3))
        picture[mask] += rng.integers(60, 140, 3)
        Image.fromarray(picture.astype(np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray((255 * mask).astype(np.uint8)).save(root / "masks" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def tokens(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    extract_tokens(open_dataset("folders", root, masks="masks"), folder, ["nano-s"], TokenSettings())
    return folder


def test_clicks_are_real_and_kept(root: Path, tokens: Path, tmp_path: Path) -> None:
    table, path = TokenTable.open(tokens), tmp_path / "clicks.npz"
    records = open_dataset("folders", root, masks="masks")
    predictor = load("nano-s", heads=None)
    clicked = clicked_objects(table, records, lambda: predictor, CLICKS, path)
    assert clicked.shape == (12, CLICKS)
    assert ((clicked >= 0) & (clicked <= 1)).all()
    assert clicked.max(axis=1).mean() > clicked[:, 0].mean()
    single = table.arrays("nano-s", ["iou"])["iou"][:, 0]
    assert clicked[:, 0] == pytest.approx(single, abs=0.05)

    def refuse() -> None:
        raise AssertionError("it was made before")

    assert (clicked_objects(table, records, refuse, CLICKS, path) == clicked).all()
    with pytest.raises(SimulationError, match="12 objects not among them"):
        clicked_objects(table, [], lambda: predictor, CLICKS + 1, path)


def test_a_mask_that_is_right_stays_right(root: Path) -> None:
    predictor = load("nano-s", heads=None)
    image = np.array(Image.open(root / "images" / "0.png"))
    predictor.set_image(image)
    reached = np.asarray(predictor.predict(np.array([[64.0, 48.0]]), np.array([1]), multimask_output=False)[0][0], bool)
    curve = click_curve(predictor, reached, 3)
    assert curve.shape == (3,)
    assert curve[-1] >= 0.5


def test_the_command_goes_from_pictures_to_a_report_and_on(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["simulate", "folders", str(root), "--option", "masks=masks", "--out", str(out), "--models", "nano-s"]
    command += ["--strategies", "random,task", "--budget", "4", "--step", "4", "--seeds", "1", "--clicks", "3"]
    page = tmp_path / "page.html"
    first = CliRunner().invoke(app, [*command, "--report", str(page)])
    assert first.exit_code == 0, first.output
    assert page.read_text().count("data:image/png;base64") == 2
    assert "When to stop" in page.read_text()
    assert "the next 100 labels" in first.output or "too short" in first.output
    report = (out / "report.md").read_text()
    assert "12 objects, nano-s" in report
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    second = CliRunner().invoke(app, command)
    assert second.output == first.output
    assert (out / "report.md").read_text() == report
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    other = CliRunner().invoke(app, [*command, "--limit", "6"])
    assert other.exit_code == 2
    assert "expected tokens of the same make" in other.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--strategies", "best"], "expected strategies out of"),
        (["--strategies", "random", "--iou", "2"], "iou between 0 and 1"),
        (["--strategies", "random", "--click-seconds", "0"], "seconds above 0"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_made(
    root: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    outcome = CliRunner().invoke(app, ["simulate", "folders", str(root), "--out", str(tmp_path / "o"), *words])
    assert outcome.exit_code == 2
    assert said in outcome.output
    assert not (tmp_path / "o").exists()


@pytest.mark.shared
def test_salient_objects_of_a_real_set(shared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["--limit", "18", "--budget", "8", "--step", "8", "--seeds", "1", "--strategies", "random,task+epistemic"]
    outcome = CliRunner().invoke(
        app, ["simulate", "folders", str(shared / "data" / "ECSSD"), "--out", str(out), *words]
    )
    assert outcome.exit_code == 0, outcome.output
    assert "| task+epistemic |" in (out / "report.md").read_text()
    assert len(TokenTable.open(out / "tokens")) == 18
