"""What acting on uncertainty gains and costs, and choosing masks by predicted IoU: nano-s, with nano-m as the larger.

Images that no weight and no head has seen: COCO objects of all sizes (`nano-test`), salient objects (ECSSD), segments
of natural scenes (BSDS500). Tokens are taken from the folder that USAM_BENCH_TOKENS names, else made by `usam tokens`.

Legend: N objects. The gain kept at a share of the cost is what acting on that share adds to mean true IoU, over what
the larger model adds when it does everything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.rows import Row
from usam.active.mask_selection import picked
from usam.active.refinement import Cost, plan_images, plan_objects
from usam.prompts import Prompt, random_points
from usam.statistics import bootstrap_mean, group_counts

SMALL, LARGE = "nano-s", "nano-m"
BUDGET = 0.35
SEEDS, REPLICATES = 5, 2000
SETS = {
    "coco_test": ("coco", "coco_subset", "--part", "nano-test"),
    "ecssd": ("folders", "ECSSD"),
    "bsds": ("bsds500", "BSDS500", "--split", "val", "--limit", "40", "--max-objects", "8"),
}
IMAGES_DECODED = 40
HEADS = Path(__file__).parent.parent / "models" / "heads"
Float64s = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects of one or more sets: image names, true IoUs of what each way shows, and what the small model tells."""

    image: npt.NDArray[Any]
    plain: dict[str, Float64s]
    """Model -> IoU of the mask of the highest SamScore."""
    chosen: dict[str, Float64s]
    """Model -> IoU of the mask of the highest predicted IoU."""
    any_mask: dict[str, Float64s]
    """Model -> mean IoU of its three masks: choosing at random."""
    predicted: dict[str, Float64s]
    """Model -> its highest predicted IoU."""
    gaps: dict[str, Float64s]
    """Of the mask that the small model shows."""
    samscore: Float64s
    clicked: Float64s
    """IoU of the best mask of the small model with eight points in the true mask, minus that with one."""


def run() -> list[Row]:
    """Rows for the three sets together, and for each where they differ in kind."""
    shared = os.environ.get("USAM_SHARED", "")
    if not shared:
        return []
    with token_folder(Path(shared) / "data") as folder:
        sets = {name: objects_of(folder / name, name) for name in SETS}
    together = joined(list(sets.values()))
    cost, seconds = measured_costs(Path(shared) / "data")
    rows = [*larger_rows(together, cost), *whole_rows(together, seconds), *margin_rows(together)]
    for name, one in {"all": together, **sets}.items():
        rows += choice_rows(one, name)
    return rows + point_rows(together, Path(shared) / "data")


@contextmanager
def token_folder(data: Path) -> Iterator[Path]:
    """Where the token tables are; made by the command that users have, where nobody has made them."""
    if given := os.environ.get("USAM_BENCH_TOKENS", ""):
        yield Path(given)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, (reader, root, *options) in SETS.items():
            words = ["tokens", reader, str(data / root), *options, "--models", f"{SMALL},{LARGE}"]
            words += ["--out", str(Path(folder) / name)]
            subprocess.run([sys.executable, "-m", "usam.cli.main", *words], check=True, stdout=subprocess.DEVNULL)
        yield Path(folder)


def objects_of(folder: Path, name: str) -> Objects:
    """Read one table and score it with the shipped heads."""
    from usam.heads.head_set import HeadSet
    from usam.research.tokens.table import TokenTable

    table = TokenTable.open(folder)
    plain, chosen, any_mask, predicted = {}, {}, {}, {}
    gaps: dict[str, Float64s] = {}
    columns = ["iou_token", "mask_tokens", "iou", "samscore", "dense_iou"]
    for model in (LARGE, SMALL):
        found = table.arrays(model, columns)
        heads = HeadSet.load(HEADS / model)
        scores = heads.score(found["iou_token"].astype(np.float32), found["mask_tokens"].astype(np.float32))
        iou, quality = found["iou"][:, 1:], scores[str(heads.quality_for(model))]
        plain[model], chosen[model] = picked(found["samscore"][:, 1:], iou), picked(quality, iou)
        any_mask[model] = iou.mean(axis=1).astype(np.float64)
        predicted[model] = quality.max(axis=1).astype(np.float64)
        gaps = {gap: picked(quality, values) for gap, values in scores.items() if gap.endswith("_gap")}
    samscore = found["samscore"][:, 1:].max(axis=1).astype(np.float64)
    clicked = (found["dense_iou"][:, 1:].max(axis=1) - iou.max(axis=1)).astype(np.float64)
    image = np.char.add(f"{name}/", table.texts()["image_id"])
    return Objects(image, plain, chosen, any_mask, predicted, gaps, samscore, clicked)


def joined(parts: list[Objects]) -> Objects:
    """Several sets as one."""

    def both(name: str) -> dict[str, Float64s]:
        return {key: np.concatenate([getattr(part, name)[key] for part in parts]) for key in getattr(parts[0], name)}

    return Objects(
        np.concatenate([part.image for part in parts]),
        both("plain"),
        both("chosen"),
        both("any_mask"),
        both("predicted"),
        both("gaps"),
        np.concatenate([part.samscore for part in parts]),
        np.concatenate([part.clicked for part in parts]),
    )


def measured_costs(data: Path) -> tuple[Cost, dict[str, Cost]]:
    """The larger model's cost, and both models': medians over eight images, one click each, in turn."""
    from usam.predictor.load import load
    from usam.research.datasets import open_dataset

    pictures = [
        record.read_image() for record, _ in zip(open_dataset("folders", data / "ECSSD"), range(8), strict=False)
    ]
    times: dict[tuple[str, str], list[float]] = {}
    models = {name: load(name, "cpu") for name in (SMALL, LARGE)}
    for picture in [pictures[0], *pictures]:
        for name, predictor in models.items():
            started = time.perf_counter()
            predictor.set_image(picture)
            encoded = time.perf_counter()
            predictor.predict(point_coords=[[picture.shape[1] / 2, picture.shape[0] / 2]], point_labels=[1])
            times.setdefault((name, "encode"), []).append(encoded - started)
            times.setdefault((name, "decode"), []).append(time.perf_counter() - encoded)
    medians = {key: float(np.median(values[1:])) for key, values in times.items()}
    costs = {name: Cost(medians[name, "encode"], medians[name, "decode"]) for name in models}
    return costs[LARGE], costs


def larger_rows(objects: Objects, cost: Cost) -> list[Row]:
    """The larger model by model gap and by other measures, masks chosen by predicted IoU on both sides."""
    gain = objects.chosen[LARGE] - objects.chosen[SMALL]
    count = len(gain)
    by_object = {
        "model gap": plan_objects(objects.gaps["model_gap"], BUDGET).chosen,
        "SamScore": plan_objects(1 - objects.samscore + 1e-6, BUDGET).chosen,
        "predicted IoU": plan_objects(1 - objects.predicted[SMALL] + 1e-6, BUDGET).chosen,
        "oracle": plan_objects(gain, BUDGET).chosen,
    }
    draws = np.mean([random_choice(count, seed) for seed in range(SEEDS)], axis=0)
    rows = [
        kept_row("object", name, chosen, gain, gain, objects.image, target=">= 0.6" if name == "model gap" else "")
        for name, chosen in {**by_object, f"random, {SEEDS} seeds": draws}.items()
    ]
    plan = plan_images(objects.gaps["model_gap"], objects.image, BUDGET, cost)
    rows.append(
        kept_row("image", "model gap", plan.chosen, gain, gain, objects.image, share=plan.share, target=">= 0.6")
    )
    most = plan_images(np.ones(count), objects.image, BUDGET, cost)
    rows.append(kept_row("image", "number of objects", most.chosen, gain, gain, objects.image, share=most.share))
    images = np.unique(objects.image)
    drawn = [np.isin(objects.image, images[random_choice(len(images), seed)]) for seed in range(SEEDS)]
    rows.append(kept_row("image", f"random, {SEEDS} seeds", np.mean(drawn, axis=0), gain, gain, objects.image))
    return rows


def random_choice(count: int, seed: int) -> Flags:
    """A uniformly drawn share of the budget's size."""
    drawn = np.random.default_rng(seed).permutation(count)[: int(BUDGET * count)]
    return np.isin(np.arange(count), drawn)


def kept_row(
    unit: str,
    by: str,
    chosen: npt.NDArray[Any],
    gain: Float64s,
    whole: Float64s,
    images: npt.NDArray[Any],
    *,
    share: float | None = None,
    base: Float64s | None = None,
    target: str = "",
) -> Row:
    """Share of the larger model's whole gain that acting on `chosen` (N,), flags or shares of draws, keeps.

    `base` (N,): what is gained everywhere before anything is chosen.
    """
    kept = gain * chosen + (0.0 if base is None else base)
    counts = np.concatenate([group_counts(images, 500, seed) for seed in range(REPLICATES // 500)]).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = (counts @ kept) / (counts @ whole)
    low, high = np.nanquantile(draws, [0.025, 0.975])
    spent = float(np.mean(chosen)) if share is None else share
    return Row(
        f"larger model's gain kept, {SMALL} to {LARGE}, by {by}, per {unit}",
        float(kept.sum() / whole.sum()),
        "share",
        against=f"{LARGE} for everything",
        target=target,
        note=f"at {spent:.0%} of its cost; 95 % [{low:.2f}, {high:.2f}] over images; "
        f"whole gain {whole.mean():+.4f} mean IoU, {len(whole)} objects of {len(np.unique(images))} images",
    )


def whole_rows(objects: Objects, seconds: dict[str, Cost]) -> list[Row]:
    """All that is done about doubt, against SAM as it comes with the larger model; and what that costs in all."""
    chosen = plan_objects(objects.gaps["model_gap"], BUDGET).chosen
    plain = objects.plain[LARGE] - objects.plain[SMALL]
    gain = objects.chosen[LARGE] - objects.chosen[SMALL]
    base = objects.chosen[SMALL] - objects.plain[SMALL]
    draws = np.mean([random_choice(len(gain), seed) for seed in range(SEEDS)], axis=0)
    rows = [
        kept_row("object", f"mask choice and {name}", one, gain, plain, objects.image, base=base)
        for name, one in {"model gap": chosen, f"random, {SEEDS} seeds": draws, "nothing else": chosen & False}.items()
    ]
    small, large = (seconds[name].seconds(1, 1) for name in (SMALL, LARGE))
    told = (
        f"{SMALL} {small * 1000:.0f} ms, {LARGE} {large * 1000:.0f} ms a click (encode and decode), medians of 8 images"
    )
    return [
        *rows,
        Row(
            f"time of acting by model gap, {SMALL} for all and {LARGE} for {BUDGET:.0%}",
            (small + BUDGET * large) / large,
            "ratio",
            against=f"{LARGE} for everything",
            note=f"the first pass included, a click an image; {told}",
        ),
    ]


def margin_rows(objects: Objects) -> list[Row]:
    """Whose mask to keep once both have decoded: by predicted IoU across models, with and without a margin."""
    chosen = plan_objects(objects.gaps["model_gap"], BUDGET).chosen
    gain = objects.chosen[LARGE] - objects.chosen[SMALL]
    rows = []
    for margin in (0.0, 0.1, 1.0):
        keeps = chosen & (objects.predicted[LARGE] >= objects.predicted[SMALL] - margin)
        change = bootstrap_mean(np.where(keeps, gain, 0.0)[chosen], objects.image[chosen])
        rows.append(
            Row(
                f"gain where {LARGE} was asked, kept unless predicted worse by over {margin:g}",
                change.value,
                "mean IoU",
                note=f"95 % [{change.low:+.4f}, {change.high:+.4f}]; kept for {keeps.sum() / max(chosen.sum(), 1):.0%}",
            )
        )
    return rows


def choice_rows(objects: Objects, name: str) -> list[Row]:
    """What choosing among the three masks by predicted IoU gains over SamScore and over chance."""
    rows = []
    for model in (SMALL, LARGE):
        for other, iou in (("SamScore", objects.plain[model]), ("random choice", objects.any_mask[model])):
            found = bootstrap_mean(objects.chosen[model] - iou, objects.image)
            rows.append(
                Row(
                    f"better mask choice, {model}, {name}: predicted IoU over {other}",
                    found.value,
                    "mean IoU",
                    against=other,
                    target="> 0" if (name, other) == ("all", "SamScore") else "",
                    note=f"95 % [{found.low:+.4f}, {found.high:+.4f}] over images; "
                    f"{objects.chosen[model].mean():.4f} against {iou.mean():.4f}",
                )
            )
    return rows


def point_rows(objects: Objects, data: Path) -> list[Row]:
    """More points where the prompt gap is high: in the true mask, as a person would click, and in the own mask."""
    chosen = plan_objects(objects.gaps["prompt_gap"], BUDGET).chosen
    clicks = bootstrap_mean(objects.clicked[chosen], objects.image[chosen])
    rest = objects.clicked[~chosen].mean()
    gap, before, after, image = own_points(data)
    doubtful = plan_objects(gap, BUDGET).chosen
    own = bootstrap_mean((after - before)[doubtful], image[doubtful])
    return [
        Row(
            f"seven more points in the true mask, {BUDGET:.0%} of the highest prompt gap, {SMALL}",
            clicks.value,
            "mean IoU",
            note=f"best of three; 95 % [{clicks.low:+.4f}, {clicks.high:+.4f}]; on the other objects {rest:+.4f}",
        ),
        Row(
            f"seven more points in the own mask, {BUDGET:.0%} of the highest prompt gap, {SMALL}",
            own.value,
            "mean IoU",
            note=f"kept where predicted better; 95 % [{own.low:+.4f}, {own.high:+.4f}]; on all {len(gap)} COCO objects "
            f"{(after - before).mean():+.4f}; why the service adds none",
        ),
    ]


def own_points(data: Path) -> tuple[Float64s, Float64s, Float64s, npt.NDArray[Any]]:
    """Prompt gap, true IoU before and after points were added inside the mask shown, and image of COCO's objects."""
    from usam.predictor.load import load
    from usam.research.datasets import open_dataset
    from usam.research.tokens.manifest import TokenSettings
    from usam.research.tokens.objects import prepare

    predictor = load(SMALL, "cpu")
    quality = predictor.heads.quality_for(SMALL)
    lines: list[tuple[float, float, float, str]] = []
    part_of = TokenSettings(part="nano-test").part_of
    records = [one for one in open_dataset("coco", data / "coco_subset") if part_of(one.group) == "nano-test"]
    for record in records[:IMAGES_DECODED]:
        prepared = prepare(record)
        if not prepared.instances:
            continue
        predictor.set_image(prepared.image)
        hw = (int(prepared.image.shape[0]), int(prepared.image.shape[1]))
        for points, truth in zip(prepared.dense, prepared.truths, strict=True):
            prompt = Prompt(points[:1], np.ones(1, np.int32))
            _, _, logits, scores = predictor.predict(point_coords=prompt.points, point_labels=prompt.labels)
            best = int(scores[quality].argmax())
            before = after = float(truth.ious(logits[best : best + 1])[0])
            if (logits[best] > 0).any():
                more = denser(prompt, logits[best], hw)
                _, _, again, told = predictor.predict(point_coords=more.points, point_labels=more.labels)
                if told[quality].max() > scores[quality][best]:
                    place = int(told[quality].argmax())
                    after = float(truth.ious(again[place : place + 1])[0])
            lines.append((float(scores["prompt_gap"][best]), before, after, record.image_id))
    gap, first, second, image = zip(*lines, strict=True)
    return np.array(gap), np.array(first), np.array(second), np.array(image)


def denser(prompt: Prompt, logits: npt.NDArray[np.float32], hw: tuple[int, int]) -> Prompt:
    """The prompt with seven points more inside its own mask (h, w) of an image (H, W): UncertainSAM's dense prompt."""
    inside = logits > 0
    rng = np.random.default_rng([int(inside.sum()), int(np.flatnonzero(inside)[0])])
    scale = np.array([hw[1] / logits.shape[1], hw[0] / logits.shape[0]], np.float32)
    points = np.concatenate([prompt.points, random_points(inside, rng=rng) * scale]).astype(np.float32)
    return Prompt(points, np.ones(len(points), np.int32)).check(hw)
