"""Encoding in the service: its type against plain float32, and what that changes in masks.

SAM 2.1 Tiny has random weights, which serve for speed; what bfloat16 changes in a trained model's masks may be more or
less. The service's own model (`LoadedModel`) and SAM 2's own predictor share one model and take turns. nano-m, with its
weights, says why it stays in float32.
"""

from __future__ import annotations

from statistics import fmean, median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.patch import picture, turns
from bench.rows import Row

MODEL = "sam2.1_hiera_tiny"
ROUNDS = 7
TARGET = "<= 0.35"
SIDE = 4
"""Points a side of the grid whose masks are compared."""

Image = npt.NDArray[np.uint8]


def run() -> list[Row]:
    """Seconds of an encoding and the change of masks."""
    return [*service_rows(MODEL, ROUNDS), *nano_rows()]


def service_rows(name: str, rounds: int, device: str = "auto") -> list[Row]:
    """The service's encoding of one checkpoint against plain float32."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    from backend.inference.model import LoadedModel
    from backend.metrics.service import Metrics
    from backend.settings import Settings

    torch.manual_seed(0)
    settings = Settings(model=name, device=device, random_weights=True)
    model = LoadedModel.load(name, settings, Metrics(), None)
    plain = SAM2ImagePredictor(model.predictor.model)
    plain._bb_feat_sizes = model.predictor._bb_feat_sizes
    image = picture()
    seconds = turns({"plain": lambda: plain.set_image(image), "ours": lambda: model.encode(image)}, rounds)
    dtype = _name(model.predictor.encoder_dtype)
    note = f"{seconds['ours']:.2f} s in {dtype} against {seconds['plain']:.2f} s, {rounds} turns, random weights"
    return [
        Row(
            f"encoding in the service, {name}",
            seconds["ours"] / seconds["plain"],
            "ratio of seconds",
            "plain SAM2ImagePredictor.set_image in float32",
            TARGET,
            note=note,
        ),
        change_row(model.predictor, name, [image], model.predictor.encoder_dtype),
    ]


def nano_rows() -> list[Row]:
    """What bfloat16 would change in nano-m's masks, and gain."""
    from skimage import data

    from usam.predictor.load import load

    predictor = load("nano-m", heads=None)
    images = [data.astronaut(), data.coffee(), data.chelsea(), data.cat(), data.rocket()]

    def encode(dtype: torch.dtype | None) -> None:
        predictor.encoder_dtype = dtype
        predictor.set_image(images[0])

    seconds = turns({"float32": lambda: encode(None), "bfloat16": lambda: encode(torch.bfloat16)}, ROUNDS)
    note = f"{1000 * seconds['bfloat16']:.0f} ms against {1000 * seconds['float32']:.0f} ms, {ROUNDS} turns"
    return [
        Row("encoding by nano-m in bfloat16", seconds["bfloat16"] / seconds["float32"], "ratio of seconds",
            "float32, which the service uses", note=note),
        change_row(predictor, "nano-m", images, torch.bfloat16),
    ]  # fmt: skip


def change_row(predictor: Any, name: str, images: list[Image], dtype: torch.dtype | None) -> Row:
    """IoU of masks from embeddings of this type with those from float32's, by grid prompts, all three masks."""
    from usam.masks import iou
    from usam.prompts import grid_points

    found: list[float] = []
    by_image = []
    for image in images:
        masks = []
        for one in (None, dtype):
            predictor.encoder_dtype = one
            predictor.set_image(image)
            points = grid_points(image.shape[:2], SIDE)
            masks.append([predictor.predict(point[None], np.ones(1))[0] > 0 for point in points])
        pairs = [(a[i], b[i]) for a, b in zip(*masks, strict=True) for i in range(3) if a[i].any() or b[i].any()]
        values = [float(iou(a, b)) for a, b in pairs]
        found += values
        by_image.append(fmean(values))
    predictor.encoder_dtype = dtype
    low, middle = np.percentile(found, 5), median(found)
    note = f"{len(found)} masks of {len(images)} images; median {middle:.4f}, 5 % are below {low:.4f}"
    note += f"; images from {min(by_image):.4f} to {max(by_image):.4f}"
    return Row(f"IoU of masks in {_name(dtype)} with those of float32, {name}", fmean(found), "mean IoU", "float32",
               note=note)  # fmt: skip


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype or torch.float32).removeprefix("torch.")
