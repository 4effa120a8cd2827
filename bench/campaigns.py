"""What labels are worth: heads after 10 and 50 labels on three shifted sets, and how soon an order gets there.

A label is one object that a person answered, drawn at random among the images to learn from. Sets that the nano family
has not seen: salient objects (ECSSD, one an image), natural scenes as several people cut them (BSDS500), and nuclei
(DSB 2018), from heads that have learnt from COCO alone, since the shipped ones know nuclei; beside them COCO objects,
which are no shift: labels should do no harm there.

Each seed halves a set by image, learns from labels of one half, predicts the other, and the other way round, so that
every image is judged once by heads that have not seen it. Figures are taken in each half, for its heads differ from the
other's, and averaged over halves and seeds. Intervals (95 %) resample images, for all seeds alike.

Tokens come from the folders below USAM_BENCH_TOKENS, else are made by `usam tokens` (USAM_SHARED names the folder that
holds `data`); without either there is nothing to measure.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.rows import Row

MODEL, QUALITY = "nano-m", "iou_nano_m"
LABELS, FEW, SEEDS, DRAWS = 50, 10, 5, 200
SETS = {
    "ecssd": ("folders", "ECSSD", []),
    "bsds": ("bsds500", "BSDS500", ["--split", "val", "--limit", "40", "--max-objects", "8"]),
    "coco_test": ("coco", "coco_subset", ["--part", "nano-test"]),
    "coco_heads": ("coco", "coco_subset", ["--part", "nano-heads"]),
    "panoptic_heads": ("coco-panoptic", "coco_subset", ["--part", "nano-heads"]),
    "dsb_heads": ("dsb2018", "DSB2018_subset", ["--part", "nano-heads", "--max-objects", "20"]),
    "dsb_test": ("dsb2018", "DSB2018_subset", ["--part", "nano-test", "--max-objects", "20"]),
}
SHIFTS = {
    "salient objects (ECSSD)": (["ecssd"], True),
    "several annotators (BSDS500)": (["bsds"], True),
    "nuclei (DSB 2018), heads of COCO": (["dsb_heads", "dsb_test"], False),
}
STRATEGIES = ("random", "samscore", "predicted-iou", "task+epistemic")


def run() -> list[Row]:
    """Rows of adaptation and of campaigns."""
    if not (os.environ.get("USAM_SHARED") or os.environ.get("USAM_BENCH_TOKENS")):
        return []
    with tempfile.TemporaryDirectory() as folder:
        rows: list[Row] = []
        own = _heads_of_coco(Path(folder))
        for name, (sets, shipped) in SHIFTS.items():
            rows += _adaptation(name, _labelled(sets, Path(folder)), _shipped() if shipped else own, shifted=True)
        rows += _adaptation("COCO, no shift", _labelled(["coco_test"], Path(folder)), _shipped(), shifted=False)
        return [*rows, *_campaigns(_labelled(["ecssd"], Path(folder)))]


def _table(name: str, made: Path) -> Any:
    from usam.research.tokens import TokenTable

    kept = Path(os.environ.get("USAM_BENCH_TOKENS", "")) / name
    if os.environ.get("USAM_BENCH_TOKENS") and kept.is_dir():
        return TokenTable.open(kept)
    if not (made / name).is_dir():
        dataset, root, words = SETS[name]
        data = Path(os.environ["USAM_SHARED"]) / "data" / root
        command = [
            sys.executable,
            "-m",
            "usam.cli.main",
            "tokens",
            dataset,
            str(data),
            *words,
            "--out",
            str(made / name),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return TokenTable.open(made / name)


def _labelled(sets: list[str], made: Path) -> Any:
    from usam.research.simulation.labelled_set import LabelledSet

    return LabelledSet.read([_table(name, made) for name in sets], MODEL)


def _shipped() -> Any:
    from usam.heads.bundled import resolve_heads

    return resolve_heads(MODEL, "auto")


def _heads_of_coco(made: Path) -> Any:
    """Heads trained as the shipped ones are, but on COCO alone."""
    from usam.research.tokens.examples import read_examples
    from usam.training import TrainSettings, fit_heads

    examples = read_examples([_table("coco_heads", made), _table("panoptic_heads", made)], MODEL)
    return fit_heads(
        examples.iou_token,
        examples.mask_tokens,
        examples.targets,
        examples.groups,
        settings=TrainSettings(device="cpu"),
        checkpoint=MODEL,
        quality=QUALITY,
    ).heads


@dataclass(frozen=True)
class _Told:
    """Predicted IoU (N, 3) of every object before, and after some labels of other images, a seed each; `halves` (N,)
    flags one half of each seed.
    """

    before: np.ndarray[Any, Any]
    after: list[np.ndarray[Any, Any]]
    halves: list[np.ndarray[Any, Any]]


def _predicted(labelled: Any, heads: Any, count: int) -> _Told:
    from usam.research.evaluation.objects import scores_of
    from usam.training import TrainSettings, fit_heads

    def told(found: Any, rows: Any) -> np.ndarray[Any, Any]:
        return np.asarray(scores_of(found, labelled.iou_token[rows], labelled.mask_tokens[rows])[QUALITY], np.float64)

    after, halves = [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        names = rng.permutation(np.unique(labelled.groups))
        half = np.isin(labelled.groups, names[: len(names) // 2])
        values = np.empty(labelled.iou.shape)
        for side in (half, ~half):
            rows = rng.permutation(np.flatnonzero(side))[:count]
            batch = labelled.batch(rows, heads)
            fitted = fit_heads(
                batch["iou_token"],
                batch["mask_tokens"],
                batch["targets"],
                labelled.groups[rows],
                settings=TrainSettings(seed=seed, device="cpu"),
                checkpoint=MODEL,
                init=heads,
            ).heads
            values[~side] = told(fitted, np.flatnonzero(~side))
        after.append(values)
        halves.append(half)
    return _Told(told(heads, np.arange(len(labelled))), after, halves)


def _adaptation(name: str, labelled: Any, heads: Any, *, shifted: bool) -> list[Row]:
    from usam.statistics import calibration_error, share_to_oracle

    true = labelled.iou.astype(np.float64)
    some, few = _predicted(labelled, heads, LABELS), _predicted(labelled, heads, FEW)

    def calibration(told: Any, rows: Any) -> float:
        return calibration_error(told[rows].ravel(), true[rows].ravel())

    def masks(told: Any, rows: Any) -> float:
        return share_to_oracle(1 - told[rows].ravel(), true[rows].ravel(), np.ones(3 * len(rows)))

    def objects(told: Any, rows: Any) -> float:
        shown = true[rows, some.before[rows].argmax(axis=1)]  # the same masks before and after
        doubt = 1 - told[rows, some.before[rows].argmax(axis=1)]
        return share_to_oracle(doubt, shown, np.ones(len(rows)))

    def chosen(told: Any, rows: Any) -> float:
        return float(true[rows, told[rows].argmax(axis=1)].mean())

    def error(told: Any, rows: Any) -> float:
        return float(((told[rows] - true[rows]) ** 2).mean())

    images = len(np.unique(labelled.groups))
    about = f"{len(labelled)} objects in {images} images, {SEEDS} seeds, labels drawn at random; 95 %"
    halves = [np.flatnonzero(side) for half in some.halves for side in (half, ~half)]
    before, ranked = (float(np.mean([one(some.before, half) for half in halves])) for one in (calibration, masks))
    floor = float(np.mean([_floor(some.before[half], true[half]) for half in halves]))
    rows = []
    if shifted:
        value, low, high = _compared(labelled.groups, some, calibration, np.divide)
        note = f"{about} [{low:.3f}, {high:.3f}]; before {before:.3f}, and {floor:.3f} were it right but for chance"
        rows.append(
            Row(f"{name}: calibration error after {LABELS} labels", value, "ratio", "before", "<= 0.5", note=note)
        )
        value, low, high = _compared(labelled.groups, some, masks, np.subtract)
        note = f"{about} [{low:+.3f}, {high:+.3f}] round {value:+.3f}; before {ranked:.3f}; random order is 0"
        figure = f"{name}: rise of the share to oracle in ranking all masks, {LABELS} labels, lower end"
        rows.append(Row(figure, low, "share", "before", "> 0", note=note))
        value, low, high = _compared(labelled.groups, some, objects, np.subtract)
        figure = f"{name}: rise of the share to oracle in ranking objects, {LABELS} labels"
        rows.append(Row(figure, value, "share", "before", note=f"{about} [{low:+.3f}, {high:+.3f}]"))
    value, low, high = _compared(labelled.groups, some, chosen, np.subtract)
    figure = f"{name}: mean IoU gained by choosing masks with {LABELS} labels"
    rows.append(Row(figure, value, "IoU", "the heads before", note=f"{about} [{low:+.4f}, {high:+.4f}]"))
    value, low, high = _compared(labelled.groups, few, error, np.divide)
    figure = f"{name}: squared error of predicted IoU after {FEW} labels"
    rows.append(Row(figure, value, "ratio", "before", "<= 1.02", note=f"{about} [{low:.3f}, {high:.3f}]"))
    return rows


def _compared(
    groups: Any, told: _Told, measure: Callable[[Any, Any], float], compare: Callable[[Any, Any], Any]
) -> tuple[float, float, float]:
    """After compared with before, each the mean over halves and seeds, with its interval over images drawn with
    replacement.
    """
    names, place = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(place == number) for number in range(len(names))]

    def once(rows: Any) -> float:
        found = []
        for after, half in zip(told.after, told.halves, strict=True):
            for part in (rows[half[rows]], rows[~half[rows]]):
                if len(part) >= 2:
                    found.append((measure(after, part), measure(told.before, part)))
        return float(compare(*np.mean(found, axis=0)))

    rng = np.random.default_rng(0)
    drawn = [
        once(np.concatenate([members[n] for n in rng.integers(len(names), size=len(names))])) for _ in range(DRAWS)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return once(np.arange(len(groups))), float(low), float(high)


def _floor(told: Any, true: Any, bins: int = 15) -> float:
    """Calibration error of predictions right on average in each bin, by the spread of the truth there."""
    flat, real = told.ravel(), true.ravel()
    parts = np.array_split(np.argsort(flat, kind="stable"), bins)
    errors = [np.sqrt(2 / np.pi) * real[part].std() / np.sqrt(len(part)) for part in parts]
    return float(np.average(errors, weights=[len(part) for part in parts]))


def _campaigns(labelled: Any) -> list[Row]:
    """Labels for 90 % of the achievable gain, of the project's masks and of the machine's on held-out images."""
    from usam.research.simulation.campaign import Campaign, parts
    from usam.research.simulation.curves import curve, saving
    from usam.research.simulation.report import goals_of
    from usam.research.simulation.runs import play_all

    base = Campaign("random", budget=10_000, step=12)
    played = play_all(labelled, _shipped(), base, STRATEGIES, range(SEEDS))
    rows = []
    ends = np.array([[points[0].project_iou, points[-1].project_iou] for points in played.campaigns["random"]])
    goals, gain = goals_of(played)
    pool = len(parts(labelled, base)[0])
    aims = {
        "project_iou": (
            "the project's masks",
            ends[:, 0] + 0.9 * (ends[:, 1] - ends[:, 0]),
            np.ptp(ends, axis=1).mean(),
        ),
        "machine_iou": ("the machine's masks on held-out images", goals, gain.value),
    }
    for quantity, (what, aim, whole) in aims.items():
        curves = {name: curve(name, seeds, quantity, places=101) for name, seeds in played.campaigns.items()}
        for strategy in STRATEGIES[1:]:
            for other, target in (("random", "<= 0.5"), ("samscore", "<= 0.7")):
                if other == strategy:
                    continue
                found = saving(curves[strategy], curves[other], aim)
                note = (
                    f"ECSSD, {SEEDS} seeds, pool of {pool}: {found.labels:.0f} against {found.against:.0f} labels; "
                    f"whole gain {whole:+.3f}; 95 % over seeds [{found.ratio.low:.2f}, {found.ratio.high:.2f}]"
                )
                if quantity == "project_iou" and other == "random":
                    note += f"; by the true gain of each label {_oracle(labelled, base):.2f}"
                figure = f"labels for 90 % of the gain of {what}, order {strategy} against {other}"
                aimed = target if strategy != "samscore" else ""
                rows.append(Row(figure, found.ratio.value, "ratio", f"order {other}", aimed, note=note))
    return rows


def _oracle(labelled: Any, base: Any) -> float:
    """The ratio for the order that knows what each label of the pool gains, before any learning; mean over seeds."""
    from dataclasses import replace

    from usam.research.evaluation.objects import scores_of
    from usam.research.simulation.campaign import parts

    ratios = []
    for seed in range(SEEDS):
        pool, _ = parts(labelled, replace(base, seed=seed))
        shown = scores_of(_shipped(), labelled.iou_token[pool], labelled.mask_tokens[pool])[QUALITY].argmax(axis=1)
        kept = base.annotator.answer(labelled, pool, shown).iou
        gain = np.sort(kept - labelled.iou[pool, shown])[::-1].cumsum()
        ratios.append((int(np.argmax(gain >= 0.9 * gain[-1])) + 1) / (0.9 * len(pool)))
    return float(np.mean(ratios))
