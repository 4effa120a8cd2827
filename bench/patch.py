"""Patched predictors against plain ones in the same run, and the heads against the reference's scores.

Architecture: SAM 2.1 Tiny at 1024 px with random weights, which serve for speed. Ratios come from steps that take
turns, as medians over rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.rows import Row

MODEL = "sam2.1_hiera_tiny"
PROMPTS_PER_SIDE = 8
IMAGE_HW = (768, 1024)
HEADS = 9
CLICK_ROUNDS = 25
ENCODER_ROUNDS = 3
GRID_ROUNDS = 3
NMS_IOU = 0.9

Image = npt.NDArray[np.uint8]
Step = Callable[[], object]


def run() -> list[Row]:
    """All figures of the patched predictor."""
    torch.manual_seed(0)
    plain, patched = predictors()
    image = picture()
    rows = [*encoder_rows(patched, plain, image)]
    patched.encoder_dtype = None
    patched.set_image(image)
    plain.set_image(image)
    rows += [*click_rows(plain, patched), *grid_rows(plain, patched)]
    shared = os.environ.get("USAM_SHARED", "")
    return rows + golden_rows(Path(shared)) if shared else rows


def predictors() -> tuple[Any, Any]:
    """A plain and a patched predictor of one model, with nine heads of the published size."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    from usam.checkpoints.registry import build_model
    from usam.predictor.patch import patch_sam2

    model = build_model(MODEL, weights=False)
    return SAM2ImagePredictor(model), patch_sam2(SAM2ImagePredictor(model), random_heads(model.sam_prompt_embed_dim))


def random_heads(width: int) -> Any:
    """Heads as the published ones are made: 2 D, 512, 512, 1."""
    from usam.heads.head_set import PUBLISHED_HEADS, HeadSet

    random = np.random.default_rng(0)
    sizes = (2 * width, 512, 512, 1)
    layers = {
        name: [
            (random.normal(0, out_in[0] ** -0.5, out_in[::-1]).astype(np.float32), np.zeros(out_in[1], np.float32))
            for out_in in pairwise(sizes)
        ]
        for name in PUBLISHED_HEADS
    }
    return HeadSet.from_layers(layers, alignment="shifted", checkpoint="sam2.1", quality="iou_tiny")


def picture() -> Image:
    """A picture with shapes of all sizes."""
    random = np.random.default_rng(0)
    height, width = IMAGE_HW
    image = np.full((height, width, 3), 96, np.uint8)
    y, x = np.ogrid[:height, :width]
    for radius in (300, 200, 120, 120, 80, 80, 50, 50, 30, 30):
        centre = random.uniform((0, 0), IMAGE_HW)
        image[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = random.integers(0, 256, 3)
    return image


def click_rows(plain: Any, patched: Any) -> list[Row]:
    """One prompt on an image that is set, with nine heads and with none."""
    heads, (x, y) = patched.heads, (512.0, 384.0)
    point: dict[str, Any] = {"point_coords": np.array([[x, y]]), "point_labels": np.array([1])}

    def fresh() -> None:
        patched._usam.known_image = None
        patched.predict(**point)

    def without_heads() -> None:
        patched.set_heads(None)
        patched.predict(**point)
        patched.set_heads(heads)

    steps: dict[str, Step] = {
        "plain": lambda: plain.predict(**point),
        "patched": lambda: patched.predict(**point),
        "first": fresh,
        "bare": without_heads,
    }
    seconds = turns(steps, CLICK_ROUNDS)
    note = f"{1000 * seconds['patched']:.1f} ms against {1000 * seconds['plain']:.1f} ms, {CLICK_ROUNDS} turns"
    return [
        Row(
            f"predict, one prompt, {HEADS} heads, patched / plain",
            seconds["patched"] / seconds["plain"],
            "ratio of seconds",
            "plain SAM2ImagePredictor.predict",
            "<= 1.01",
            note=f"{note}; the image's part of the first layer is kept between prompts",
        ),
        Row(
            f"predict, first prompt of an image, {HEADS} heads, patched / plain",
            seconds["first"] / seconds["plain"],
            "ratio of seconds",
            "plain SAM2ImagePredictor.predict",
            "<= 1.01",
            note="nothing known of the image before",
        ),
        Row(
            f"{HEADS} heads on one prompt",
            1000 * (seconds["patched"] - seconds["bare"]),
            "ms",
            note="patched predict with heads less without, scores on the host",
        ),
    ]


def grid_rows(plain: Any, patched: Any) -> list[Row]:
    """64 prompts of one image: scores only, and masks after suppression, against 64 plain predicts one by one."""
    from usam.predictor.proposals import propose_masks
    from usam.prompts import grid_points

    points = grid_points(IMAGE_HW, PROMPTS_PER_SIDE)
    labels = np.ones((len(points), 1), np.int32)
    kept: list[int] = []

    def proposals() -> None:
        kept.append(len(propose_masks(patched, points, nms_iou=NMS_IOU)))

    steps: dict[str, Step] = {
        "plain": lambda: [plain.predict(point[None], np.ones(1)) for point in points],
        "scores": lambda: patched.predict_scores(points[:, None], labels),
        "masks": proposals,
    }
    seconds = turns(steps, GRID_ROUNDS)
    against, note = f"{len(points)} plain predicts one by one", f"{seconds['plain']:.2f} s plain"
    count = f"{len(points)} prompts, {HEADS} heads"
    return [
        Row(
            f"scores only, {count}",
            seconds["scores"] / seconds["plain"],
            "ratio of seconds",
            against,
            "<= 0.5",
            note=f"{seconds['scores']:.2f} s; {note}",
        ),
        Row(
            f"masks kept after suppression, {count}",
            seconds["masks"] / seconds["plain"],
            "ratio of seconds",
            against,
            "<= 0.8",
            note=f"{seconds['masks']:.2f} s; {note}; {kept[0]} masks of {3 * len(points)} kept at IoU {NMS_IOU}",
        ),
    ]


def encoder_rows(patched: Any, plain: Any, image: Image) -> list[Row]:
    """The image encoder in the fastest safe type against float32, and what it changes in masks."""
    from usam.predictor.encoder import fastest_dtype

    dtype = fastest_dtype(patched.device)
    patched.encoder_dtype = dtype
    steps: dict[str, Step] = {"plain": lambda: plain.set_image(image), "fast": lambda: patched.set_image(image)}
    seconds = turns(steps, ENCODER_ROUNDS)
    change, count = mask_change(patched, image, dtype)
    name = str(dtype).removeprefix("torch.")
    rows = [
        Row(
            f"encoder, {name} / float32",
            seconds["fast"] / seconds["plain"],
            "ratio of seconds",
            "plain SAM2ImagePredictor.set_image",
            "<= 0.55",
            note=f"{seconds['fast']:.2f} s against {seconds['plain']:.2f} s, {ENCODER_ROUNDS} turns",
        ),
        Row(
            f"encoder in {name}: IoU of its masks with those of float32",
            change,
            "mean IoU",
            "float32",
            note=f"{count} masks, random weights",
        ),
    ]
    return rows + trained_change(dtype)


def mask_change(predictor: Any, image: Image, dtype: torch.dtype) -> tuple[float, int]:
    """Mean IoU of the best masks of grid prompts from embeddings in float32 and in `dtype`, and their number."""
    from usam.masks import iou
    from usam.prompts import grid_points

    masks = []
    for encoder_dtype in (None, dtype):
        predictor.encoder_dtype = encoder_dtype
        predictor.set_image(image)
        found = [predictor.predict(point[None], np.ones(1)) for point in grid_points(IMAGE_HW, 4)]
        masks.append([m[:, :, :] > 0 for m, *_ in found])
    best = [float(iou(a[i], b[i])) for a, b in zip(*masks, strict=True) for i in range(3)]
    return statistics.fmean(best), len(best)


def trained_change(dtype: torch.dtype) -> list[Row]:
    """The same for trained weights, where the project has them."""
    from usam.errors import UsamError
    from usam.predictor.load import load

    rows = []
    for name in (MODEL, "nano-m"):
        try:
            predictor = load(name, heads=None)
        except UsamError:
            continue
        change, count = mask_change(predictor, picture(), dtype)
        rows.append(Row(f"encoder in {dtype}: IoU of masks, {name}", change, "mean IoU", note=f"{count} masks"))
    return rows


def golden_rows(shared: Path) -> list[Row]:
    """The published heads against what the reference gives for the same tokens."""
    from usam.heads.head_set import HeadSet

    golden = np.load(shared / "golden" / "usam_heads_sam2.1.npz")
    heads = HeadSet.load(shared / "weights" / "usam_mlps" / "sam2.1")
    scores = heads.score(golden["iou_token"], golden["mask_tokens"])
    worst = max(float(np.abs(scores[name] - golden[f"score_{name}"]).max()) for name in heads.names)
    return [
        Row(
            "published heads against the reference",
            worst,
            "largest difference",
            "the reference's scores of 64 prompts",
            "<= 1e-5",
        )
    ]


def turns(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median seconds of each step, the steps taking turns after one turn to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}
