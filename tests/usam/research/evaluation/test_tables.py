"""Tables and figures of heads on token tables, through the command line as a user makes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_table import write_table
from typer.testing import CliRunner

from usam.checkpoints.registry import weights_of
from usam.cli.main import app
from usam.errors import HeadsError, TokensError
from usam.heads.head_set import HeadSet
from usam.research.evaluation.ablation import token_ablation
from usam.research.evaluation.objects import read_objects
from usam.research.evaluation.tables import Evaluation, Runtime, evaluate
from usam.research.tokens import TokenTable
from usam.research.tokens.examples import read_examples, seen_groups
from usam.training import TrainSettings


@pytest.fixture(scope="module")
def judged(table_folder: Path, heads_folder: Path) -> Evaluation:
    table, heads = TokenTable.open(table_folder), HeadSet.load(heads_folder)
    return evaluate(table, heads, unseen_by=seen_groups(heads_folder), replicates=200)


def test_each_use_is_told_better_than_by_samscore_and_random(judged: Evaluation) -> None:
    for use in ("model", "prompt", "task", "truth"):
        shares = {name: judged.value(use, name, "share to oracle") for name in ("USAM", "SamScore", "random", "oracle")}
        assert shares["USAM"] > shares["SamScore"], use
        assert shares["USAM"] > 0.2
        assert shares["random"] == pytest.approx(0, abs=1e-9)
        assert shares["oracle"] == pytest.approx(1)
        assert judged.value(use, "USAM", "relative AUC") > judged.value(use, "random", "relative AUC")


def test_predicted_iou_correlates_and_is_calibrated(judged: Evaluation) -> None:
    column = "Pearson, all three masks"
    usam = judged.value("correlation with true IoU", "USAM", column)
    assert usam > 0.7
    assert usam > judged.value("correlation with true IoU", "SamScore", column)
    assert judged.value("correlation with true IoU", "h_std", column) < 0
    calibration = [judged.value("calibration", name, "calibration error") for name in ("USAM", "SamScore")]
    assert calibration[0] < calibration[1]


def test_before_and_after_are_those_of_the_table(judged: Evaluation, table_folder: Path, heads_folder: Path) -> None:
    table = TokenTable.open(table_folder)
    seen = seen_groups(heads_folder)
    groups = np.char.add("made/", table.texts()["group"])
    unseen = ~np.isin(groups, sorted(seen))
    small, large = (table.arrays(name, ["iou"])["iou"][unseen, 1:].max(axis=1) for name in ("nano-s", "nano-m"))
    assert judged.value("model", "no refinement", "mean IoU") == pytest.approx(small.mean())
    assert judged.value("model", "all refined", "mean IoU") == pytest.approx(large.mean())
    assert judged.value("truth", "all refined", "mean IoU") == 1
    assert len(judged.objects) == unseen.sum()
    assert judged.left_out == (~unseen).sum() > 0


def test_intervals_contain_their_figures(judged: Evaluation) -> None:
    for figure in judged.figures:
        if not np.isnan(figure.low) and figure.table != "calibration":
            assert figure.low - 1e-9 <= figure.value <= figure.high + 1e-9, figure


def test_the_command_writes_a_report_with_everything(table_folder: Path, heads_folder: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(table_folder), "--heads", str(heads_folder), "--out", str(tmp_path)]
    page = tmp_path / "page.html"
    outcome = CliRunner().invoke(app, [*command, "--replicates", "50", "--seed", "3", "--report", str(page)])
    assert outcome.exit_code == 0, outcome.output
    assert page.read_text().count("data:image/png;base64") == 3
    assert "Refine with the larger model" in page.read_text()
    assert "left out" in outcome.output
    report = (tmp_path / "report.md").read_text()
    for part in (
        "Refine with the larger model",
        "choosing among the three masks",
        "h_theta",
        "8 prompts",
        "Calibration",
    ):
        assert part in report
    rows = list(csv.DictReader((tmp_path / "figures.csv").read_text().splitlines()))
    subjects = {row["subject"] for row in rows if row["table"] == "task"}
    assert {"USAM", "SamScore", "random", "oracle", "h_std", "h_a", "h_xp", "h_theta", "h_t", "h_y"} <= subjects
    matrix = list(csv.reader((tmp_path / "pearson.csv").read_text().splitlines()))
    assert len(matrix) == len(matrix[0])
    for plot in ("refinement.png", "reliability.png", "pearson.png"):
        with Image.open(tmp_path / plot) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 10
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_training_writes(heads_folder: Path, table_folder: Path) -> None:
    heads = HeadSet.load(heads_folder)
    assert heads.quality == "iou_nano_s"
    assert heads.checkpoint == weights_of("nano-s")
    assert heads.alignment == "aligned"
    assert heads.metadata["training_data"]["objects"] == {"made": 480}
    assert set(heads.metadata["training"]["figures"]) == set(heads.names)
    split = json.loads((heads_folder / "split.json").read_text())
    groups = [set(split[part]) for part in ("train", "validation", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 120
    epochs = (heads_folder / "training.csv").read_text().splitlines()
    assert epochs[0] == "epoch," + ",".join(heads.names)
    assert len(epochs) == 1 + heads.metadata["training"]["epochs"]
    assert (heads_folder / "reliability.png").stat().st_size > 5_000


def test_training_for_every_model_with_a_search(table_folder: Path, tmp_path: Path) -> None:
    command = ["train", str(table_folder), "--out", str(tmp_path), "--alignment", "aligned", "--epochs", "5"]
    outcome = CliRunner().invoke(app, [*command, "--search", "1", "--seed", "2", "--device", "cpu"])
    assert outcome.exit_code == 0, outcome.output
    assert "trial 0" in outcome.output
    assert {HeadSet.load(tmp_path / name).quality for name in ("nano-s", "nano-m")} == {"iou_nano_s", "iou_nano_m"}
    assert (tmp_path / "nano-s" / "search.journal").is_file()


def test_training_from_given_heads_adapts_them(heads_folder: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "tokens", images=20, seed=4, dataset="other")
    command = ["train", str(other), "--out", str(tmp_path / "heads"), "--init", str(heads_folder)]
    outcome = CliRunner().invoke(app, command)
    assert outcome.exit_code == 0, outcome.output
    assert "cross-validated" in outcome.output
    heads = HeadSet.load(tmp_path / "heads")
    assert heads.metadata["parent"] == HeadSet.load(heads_folder).version
    seen = seen_groups(tmp_path / "heads")
    assert seen == seen_groups(heads_folder) | {f"other/image-{number}" for number in range(20)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "imagenet"], "preset out of"),
        (["--alignment", "crooked"], "alignment"),
        (["--model", "x"], "nano-s"),
    ],
)
def test_bad_requests_are_one_line(table_folder: Path, tmp_path: Path, options: list[str], message: str) -> None:
    outcome = CliRunner().invoke(app, ["train", str(table_folder), "--out", str(tmp_path / "heads"), *options])
    assert outcome.exit_code == 2
    assert message in outcome.output
    assert not (tmp_path / "heads").exists()


def test_tables_are_joined_and_their_images_kept_apart(table_folder: Path, heads_folder: Path, tmp_path: Path) -> None:
    other = TokenTable.open(write_table(tmp_path, images=10, seed=9, entropies=False, dataset="other"))
    table, heads = TokenTable.open(table_folder), HeadSet.load(heads_folder)
    objects, left_out = read_objects([table, other], heads)
    assert (len(objects), left_out) == (520, 0)
    assert len(set(objects.groups.tolist())) == 130
    assert objects.entropies == {}
    examples = read_examples([table, other], "nano-m")
    assert examples.source["objects"] == {"made": 480, "other": 40}


def test_what_does_not_fit_is_refused(table_folder: Path, heads_folder: Path) -> None:
    table, heads = TokenTable.open(table_folder), HeadSet.load(heads_folder)
    with pytest.raises(HeadsError, match="heads of nano-m"):
        evaluate(table, heads, model="nano-m")
    everything = frozenset(f"made/image-{number}" for number in range(120))
    with pytest.raises(TokensError, match="not seen"):
        evaluate(table, heads, unseen_by=everything)


def test_an_ablation_shows_which_token_tells_what(table_folder: Path, heads_folder: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    table, heads = TokenTable.open(table_folder), HeadSet.load(heads_folder)
    fresh = TokenTable.open(write_table(tmp_path, images=40, seed=5, dataset="fresh"))
    objects, _ = read_objects([fresh], heads)
    settings = TrainSettings(
        hidden=(32, 16), epochs=8, batch=32, learning_rate=5e-3, members=1, precision="float32", device="cpu"
    )
    figures = token_ablation(
        read_examples([table], "nano-s"), read_examples([fresh], "nano-s"), objects, settings=settings, replicates=50
    )
    pearson = {figure.subject: figure.value for figure in figures if figure.quantity == "Pearson with true IoU"}
    # only a mask's own token knows its IoU
    assert pearson["mask token"] > pearson["IoU token"] + 0.1
    assert pearson["both tokens"] > pearson["IoU token"] + 0.1
    assert len(figures) == 15


def test_runtimes_are_reported(table_folder: Path, heads_folder: Path, tmp_path: Path) -> None:
    table, heads = TokenTable.open(table_folder), HeadSet.load(heads_folder)
    runtimes = [Runtime("nano-s", {"SAM": 0.05, "+USAM": 0.051}, "cpu")]
    result = evaluate(table, heads, tmp_path, replicates=20, runtimes=runtimes)
    assert result.value("runtime, seconds", "nano-s on cpu", "+USAM") == 0.051
    assert "0.0510" in (tmp_path / "report.md").read_text()
