"""What the photographs bring: nano-m trained alike on the old sets, on A, on A and B, and with joined answers as well.

Every run takes the same number of steps, on pictures of 256 pixels, from the weights of release 1, and is measured at
that size on pictures that no weight has seen. Runs are kept in the folder USAM_BENCH_RUNS (default: one of the system's
temporary folder) and go on from there. Needs the labelled sets (USAM_SHARED names the folder that holds `data`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from bench.rows import Row

if TYPE_CHECKING:
    from usam.research.nano.domains import DomainValues, Interval

STEPS, SIDE = 400, 256
BEGIN = "nano-m"
"""The rows on record began from the weights of release 1, which are in the history only."""
RUNS = {"old": ("old", 0.0), "A": ("A", 0.0), "A+B": ("AB", 0.0), "A+B, joined": ("AB", 0.4)}
"""By name: the sets, and the share of single clicks that accept a part or a union too. Each beside the one before."""

OF_B = ("animals7", "medical_waste", "cats", "solar_faults", "aerial_buildings")


def run() -> list[Row]:
    """Train what is not trained yet, one after another, and measure all."""
    from usam.checkpoints.registry import checkpoint_path

    if not (shared := os.environ.get("USAM_SHARED", "")):
        return []
    torch.set_num_threads(1)
    data, begin = Path(shared) / "data", checkpoint_path(BEGIN)
    folder = Path(os.environ.get("USAM_BENCH_RUNS") or Path(tempfile.gettempdir()) / "usam-bench-runs")
    measured = {BEGIN: measure_once(begin, folder / BEGIN, data)}
    for name in RUNS:
        out = folder / f"{name.replace(', ', '-')}-{STEPS}"
        if not (out / "values.npz").is_file():
            subprocess.run(["nice", "-n", "19", sys.executable, *train_command(name, data, begin, out)], check=True)
        measured[name] = measure_once(out / "nano-m.safetensors", out, data)
    return rows_of(measured)


def train_command(name: str, data: Path, begin: Path, out: Path) -> list[str]:
    """What Python is given to train one of `RUNS`: the command line that anybody has."""
    sets, joined = RUNS[name]
    program = ["-c", "from usam.cli.main import app; app()"]
    where = ["--data", str(data), "--start", str(begin), "--out", str(out)]
    budget = ["--steps", str(STEPS), "--side", str(SIDE), "--batch", "6", "--workers", "1", "--decay", "0.8"]
    return [*program, "nano", "train", "nano-m", *where, *budget, "--sets", sets, "--joined", str(joined)]


def measure_once(weights: Path, folder: Path, data: Path) -> list[DomainValues]:
    """COCO and the domains, held-out parts, by these weights; kept in `folder` and read from there the next time."""
    from usam.checkpoints.nano import load_nano
    from usam.files import replacing
    from usam.research.datasets import open_dataset
    from usam.research.nano.domains import DomainValues, measure_domains, values_of
    from usam.research.nano.figures import held_out, measure

    kept = folder / "values.npz"
    if not kept.is_file():
        model = load_nano("nano-s", weights)  # the same layers at 256 pixels
        seen = measure(model, held_out(open_dataset("coco", data / "coco_subset")))
        domains = measure_domains(model, open_dataset("photographs", data / "photographs"))
        found = [DomainValues("coco", seen.groups, values_of(seen)), *domains]
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as partial, partial.open("wb") as file:
            np.savez(file, **{f"{each.name}/{part}": getattr(each, part) for each in found for part in PARTS})
    with np.load(kept) as stored:
        names = [key.rpartition("/")[0] for key in stored.files if key.endswith(f"/{PARTS[0]}")]
        return [DomainValues(name, *(stored[f"{name}/{part}"] for part in PARTS)) for name in names]


PARTS = ("groups", "values")


def rows_of(measured: Mapping[str, Sequence[DomainValues]]) -> list[Row]:
    """COCO and the mean over domains of each run, then what each run has over the one before, object by object."""
    from usam.research.nano.domains import gain

    rows = []
    for name, values in measured.items():
        run_is = f"{STEPS} steps from {BEGIN}" if name in RUNS else "as it begins"
        rows += [
            Row(f"{name}, {figure}", value.value, "IoU", note=f"{_span(value)}; {run_is}, {SIDE} px; {images}")
            for figure, value, images in _figures(values)
        ]
    for before, name in pairwise(RUNS):
        rows += [
            Row(f"{name} over {before}, {figure}", value.value, "IoU", before, note=f"{_span(value)}; {images}")
            for figure, value, images in _figures(gain(measured[name], measured[before]))
        ]
    return rows


def _figures(values: Sequence[DomainValues]) -> list[tuple[str, Interval, str]]:
    from usam.research.nano.domains import FIGURES, domain_intervals, mean_intervals

    coco, *domains = values
    found = [
        (f"COCO, {figure}", value, f"{coco.images} images")
        for figure, value in zip(FIGURES, domain_intervals(coco), strict=True)
    ]
    of_b = [domain for domain in domains if domain.name in OF_B]
    of_a = [domain for domain in domains if domain.name not in OF_B]
    for which, part in (("", domains), (" of A", of_a), (" of B", of_b)):
        images = sum(domain.images for domain in part)
        found += [
            (f"mean over {len(part)} domains{which}, {figure}", value, f"{images} images or series")
            for figure, value in zip(FIGURES, mean_intervals(part), strict=True)
        ]
    return found


def _span(value: Interval) -> str:
    return f"[{value.low:.3f}, {value.high:.3f}]"
