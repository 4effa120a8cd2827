"""Masks accepted unseen: how often the promise about them is broken, and how many are accepted, beside SamScore.

One click an object, nano-m (or what USAM_BENCH_MODEL names), images that no weight and no head has seen: COCO objects
of all sizes (`nano-test`), salient objects (ECSSD), segments of natural scenes (BSDS500); pictures that are in two of
the sets count as one. Each split draws half of the images as audits, calibrates on them, and accepts in the other half,
at most one mask an image.

The promise is broken where more of the accepted masks of a split fail than it allows. Beside it stand what people do
without risk control (the loosest threshold at which no more of the audits fail than allowed), and as many masks as
were accepted, drawn at random.

Intervals (95 %): of shares of splits by Wilson; of accepted shares over bootstraps of the images, each split anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.pools import MODEL, named
from bench.rows import Row
from bench.tables import data_folder, table
from usam.errors import PseudoLabelError
from usam.pseudo_labels.calibration import Candidates, RiskGuarantee, calibrate

CONFIDENCE = 0.9
SPLITS = 1000
BOOTSTRAPS, SPLITS_EACH = 30, 8
HEADLINE = (0.8, 0.1)
SETTINGS = ((0.5, 0.3), (0.6, 0.3), (0.7, 0.4))
"""IoU and risk at which the nano family can be trusted with something; the headline is stricter."""
SHEETS = ("--limit", "300", "--max-objects", "5", "--models", MODEL)
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects: `image` (N,) numbers of pictures, in order; of each way to choose and judge masks the quality (N,),
    the task gap (N,) or None, and the true IoU (N,) of the mask that it chooses."""

    image: Array
    ways: dict[str, tuple[Array, Array | None, Array]]

    def rows(self, way: str, images: Array) -> Candidates:
        """The masks of these images; an image that is there twice counts twice."""
        quality, gap, true = self.ways[way]
        starts, ends = (np.searchsorted(self.image, images, side) for side in ("left", "right"))
        places = np.repeat(np.arange(len(images)), ends - starts)
        rows = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
        return Candidates(
            rows.tolist(),
            places.tolist(),
            quality[rows],
            None if gap is None else gap[rows],
            true[rows],
            range(len(images)),
        )


@dataclass(frozen=True)
class Outcome:
    """What one split came to: the share of the pool's images with an accepted mask, the share of accepted masks that
    fail, and the same without risk control and at random."""

    accepted: float
    failing: float
    naive: float
    random: float


def run() -> list[Row]:
    """Violations and accepted shares."""
    if data_folder() is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        objects = read_objects(Path(folder))
    rows: list[Row] = []
    for iou, risk in (*SETTINGS, HEADLINE):
        rows += violations(objects, RiskGuarantee(iou, risk, CONFIDENCE, per_image=1))
    for iou, risk in (HEADLINE, *SETTINGS):
        rows += shares(objects, RiskGuarantee(iou, risk, CONFIDENCE, per_image=1), headline=(iou, risk) == HEADLINE)
    return named(rows)


def violations(objects: Objects, promise: RiskGuarantee) -> list[Row]:
    """How often the promise is broken over `SPLITS` splits, and how often without risk control."""
    found = list(outcomes(objects, "predicted IoU", promise, np.random.default_rng(0), SPLITS))
    given = [one for one in found if one.accepted > 0]
    name = f"pseudo-labels, IoU {promise.iou:g} at risk {promise.risk:.0%}"
    note = f"{SPLITS} splits of {len(np.unique(objects.image))} unseen images; something is accepted in {len(given)}"
    if given:
        note += f", {np.mean([one.failing for one in given]):.3f} of it fails in the mean"
    rows = []
    for what, broken in (
        ("with risk control", [one.failing for one in found]),
        ("without", [one.naive for one in found]),
        ("as many masks at random", [one.random for one in found]),
    ):
        count = sum(share > promise.risk for share in broken)
        low, high = wilson(count, SPLITS)
        target = f"<= {promise.level:.2g}" if what == "with risk control" else ""
        told = f"95 % [{low:.3f}, {high:.3f}]; {note}"
        rows.append(Row(f"{name}: promise broken, {what}", count / SPLITS, "share of splits", "", target, note=told))
    return rows


def shares(objects: Objects, promise: RiskGuarantee, *, headline: bool) -> list[Row]:
    """Accepted shares by each way to order masks, and the ratio of predicted IoU to SamScore."""
    images = np.unique(objects.image)
    found: dict[str, list[float]] = {}
    for way in objects.ways:
        rng = np.random.default_rng(1)
        found[way] = [
            float(np.mean([one.accepted for one in outcomes(objects, way, promise, rng, SPLITS_EACH, drawn)]))
            for drawn in (rng.choice(images, len(images)) for _ in range(BOOTSTRAPS))
        ]
    name = f"pseudo-labels, IoU {promise.iou:g} at risk {promise.risk:.0%}"
    rows = []
    for way, values in found.items():
        low, high = np.quantile(values, [0.025, 0.975])
        rows.append(
            Row(
                f"{name}: images with an accepted mask, by {way}",
                float(np.mean(values)),
                "share of pool",
                note=f"95 % [{low:.3f}, {high:.3f}] over {BOOTSTRAPS} bootstraps of images",
            )
        )
    mine, theirs = (np.array(found[way]) for way in ("predicted IoU", "SamScore"))
    difference = np.quantile(mine - theirs, [0.025, 0.975])
    note = f"difference, 95 % [{difference[0]:.3f}, {difference[1]:.3f}]"
    if not theirs.any():
        note = f"by SamScore nothing is accepted, by predicted IoU {mine.mean():.4f}; {note}"
    ratio = float(mine.mean() / theirs.mean()) if theirs.any() else float("inf") if mine.any() else float("nan")
    target = ">= 1.5" if headline else ""
    return [*rows, Row(f"{name}: accepted share", ratio, "times", "by SamScore, same risk control", target, note=note)]


def outcomes(
    objects: Objects,
    way: str,
    promise: RiskGuarantee,
    rng: np.random.Generator,
    splits: int,
    drawn: Array | None = None,
) -> Iterator[Outcome]:
    """`splits` random splits of the images into audits and pool; images that are drawn twice go to one side."""
    known = np.unique(objects.image)
    drawn = known if drawn is None else drawn
    for _ in range(splits):
        audits = rng.permutation(known)[: len(known) // 2]
        chosen = np.isin(drawn, audits)
        audit, pool = (objects.rows(way, part) for part in (drawn[chosen], drawn[~chosen]))
        yield outcome(audit, pool, promise, rng)


def outcome(audit: Candidates, pool: Candidates, promise: RiskGuarantee, rng: np.random.Generator) -> Outcome:
    """Calibrate and accept, and the same without risk control and at random."""
    fails = np.asarray(pool.true_iou, np.float64) < promise.iou
    ranked = pool.ranked(promise)
    naive = share_of(fails, ranked >= naive_threshold(audit, promise))
    try:
        taken = ranked >= calibrate(audit, pool, promise).threshold
    except PseudoLabelError:
        return Outcome(0.0, 0.0, naive, 0.0)
    at_random = rng.choice(len(fails), int(taken.sum()), replace=False)
    return Outcome(float(taken.sum()) / pool.image_count, share_of(fails, taken), naive, float(fails[at_random].mean()))


def naive_threshold(audit: Candidates, promise: RiskGuarantee) -> float:
    """The lowest quality at which the share of the audits that fails is still allowed; infinite where none is."""
    ranked = audit.ranked(promise)
    order = np.argsort(-ranked, kind="stable")
    order = order[np.isfinite(ranked[order])]
    fails = np.asarray(audit.true_iou, np.float64)[order] < promise.iou
    allowed = np.flatnonzero(np.cumsum(fails) <= promise.risk * np.arange(1, len(order) + 1))
    return float(ranked[order[allowed[-1]]]) if len(allowed) else np.inf


def share_of(flags: Array, part: Array) -> float:
    """The share of `part` that is flagged; 0 of nothing."""
    return float(flags[part].mean()) if part.any() else 0.0


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    share, extra = count / total, z * z / total
    middle = (share + extra / 2) / (1 + extra)
    half = z * np.sqrt(share * (1 - share) / total + extra / (4 * total)) / (1 + extra)
    return max(0.0, float(middle - half)), float(middle + half)


def read_objects(made: Path) -> Objects:
    """All objects, with the masks that each way chooses."""
    from usam.heads.bundled import resolve_heads

    tables = [
        table("coco_test", "coco", "coco_subset", "--part", "nano-test", "--models", MODEL, made=made),
        table("ecssd", "folders", "ECSSD", "--models", MODEL, made=made),
        table("bsds_images", "bsds500", "BSDS500", *SHEETS, made=made),
    ]
    columns = [one.arrays(MODEL, ["iou_token", "mask_tokens", "iou", "samscore", "group"]) for one in tables]
    joined = {name: np.concatenate([one[name] for one in columns]) for name in columns[0]}
    heads = resolve_heads(MODEL, "auto")
    assert heads is not None
    assert heads.quality is not None
    scores = heads.score(joined["iou_token"].astype(np.float32), joined["mask_tokens"].astype(np.float32))
    predicted, samscore, true = scores[heads.quality], joined["samscore"][:, 1:], joined["iou"][:, 1:]
    rows = np.arange(len(true))
    best, theirs = predicted.argmax(axis=1), samscore.argmax(axis=1)
    same = shared_groups()
    groups = [same.get(group, group) for group in joined["group"].tolist()]
    _, image = np.unique(np.array(groups), return_inverse=True)
    order = np.argsort(image, kind="stable")
    ways = {
        "predicted IoU": (predicted[rows, best], scores["task_gap"][rows, best], true[rows, best]),
        "SamScore": (samscore[rows, theirs], None, true[rows, theirs]),
        "the truth (ceiling)": (true.max(axis=1), None, true.max(axis=1)),
        "chance": (np.random.default_rng(0).random(len(rows)), None, true[rows, theirs]),
    }
    return Objects(
        image[order],
        {way: (one[0][order], None if one[1] is None else one[1][order], one[2][order]) for way, one in ways.items()},
    )


def shared_groups() -> dict[str, str]:
    """Groups of ECSSD whose picture is in BSDS500 too -> that picture's group there."""
    from usam.research.datasets import open_dataset
    from usam.research.datasets.overlap import shared_pictures

    data = data_folder()
    assert data is not None
    pairs = shared_pictures(open_dataset("folders", data / "ECSSD"), open_dataset("bsds500", data / "BSDS500"))
    return {first: second for first, second, _ in pairs}
