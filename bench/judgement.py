"""What the shipped heads are worth on images that no weight and no head has seen: ranking, correlation, calibration.

COCO objects of all sizes, the part `nano-test` of the split, by the commands that users have (`usam tokens` and so on).
Needs the labelled sets (USAM_SHARED names the folder that holds `data`); without them there is nothing to measure.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.rows import Row

MODELS = ("nano-m", "nano-s", "nano-l")
"""Targets are for the first."""
TARGETS = {
    ("task", "USAM", "relative AUC"): ">= 0.8",
    ("prompt", "USAM", "relative AUC"): ">= 0.74",
    ("model", "USAM", "relative AUC"): ">= 0.78",
    ("correlation with true IoU", "USAM", "Pearson, all three masks"): ">= 0.76",
}
QUANTITIES = ("relative AUC", "share to oracle", "Pearson, all three masks", "calibration error")


def run() -> list[Row]:
    """A row for each use and measure, with the interval of a bootstrap over images in the note."""
    shared = os.environ.get("USAM_SHARED", "")
    if not shared:
        return []
    with tempfile.TemporaryDirectory() as folder:
        tokens, rows = Path(folder) / "tokens", []
        root = Path(shared) / "data" / "coco_subset"
        usam("tokens", "coco", root, "--part", "nano-test", "--entropies", "--out", tokens)
        for model in MODELS:
            heads, report = Path(__file__).parent.parent / "models" / "heads" / model, Path(folder) / model
            usam("evaluate", tokens, "--heads", heads, "--out", report)
            with (report / "figures.csv").open(newline="", encoding="utf-8") as file:
                rows += [row_of(model, line) for line in csv.DictReader(file) if line["quantity"] in QUANTITIES]
        return rows


def usam(*words: object) -> None:
    """Run `usam` as a user would."""
    subprocess.run([sys.executable, "-m", "usam.cli.main", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def row_of(model: str, line: dict[str, str]) -> Row:
    """One line of figures.csv as a row."""
    key = (line["table"], line["subject"], line["quantity"])
    interval = f"[{float(line['low']):.3f}, {float(line['high']):.3f}]" if line["low"] else ""
    return Row(
        f"{model} heads, {key[0]}, {key[1]}: {key[2]}",
        float(line["value"]),
        "",
        target=TARGETS.get(key, "") if model == MODELS[0] else "",
        note=f"unseen COCO objects of all sizes; 95 % {interval}",
    )
