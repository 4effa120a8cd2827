"""Whether the nano family's encoder may compute in 8 bits: what that changes in masks, and what it saves.

Calibrated by NNCF on images of the same kind as those that are judged, as on a user's own, in its default way and with
mean activations corrected after each layer. Masks of a grid of single clicks are compared with those of torch in
float32; SAM 2's checkpoints are not here to be judged. Seconds are the processor's, which other work changes less.
Needs `openvino` and `nncf`, which are no packages of ours, and COCO images below USAM_SHARED.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean, median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bench.rows import Row, median_interval
from bench.runtimes import Run, Substitute, plain_maps
from bench.tables import data_folder

MODEL = "nano-m"
CALIBRATED_ON, JUDGED_ON, ROUNDS = 50, 20, 15
SIDE = 4
"""Points a side of the grid whose masks are compared."""
SAME = ">= 0.98"
Image = npt.NDArray[np.uint8]


def run() -> list[Row]:
    """A row of masks and one of time for each way."""
    import nncf
    import openvino

    from usam.predictor.load import load
    from usam.research.datasets import open_dataset

    data = data_folder()
    if data is None:
        raise FileNotFoundError("USAM_SHARED must name the folder with the labelled sets")
    torch.set_num_threads(1)
    records = list(open_dataset("coco", data / "coco_subset"))
    order = np.random.default_rng(0).permutation(len(records))[: CALIBRATED_ON + JUDGED_ON]
    images = [records[index].read_image() for index in order]
    predictor: Any = load(MODEL, heads=None)
    own, side = predictor.model.image_encoder, predictor.model.image_size
    predictor.model.image_encoder = kept = _Kept(own)
    for image in images[:CALIBRATED_ON]:
        predictor.set_image(image)
    seen = kept.seen
    with torch.no_grad():
        whole = openvino.convert_model(plain_maps(own), example_input=torch.zeros(1, 3, side, side))
    calibration = nncf.Dataset([each.numpy() for each in seen])
    corrected = {"preset": nncf.QuantizationPreset.MIXED, "fast_bias_correction": False}
    ways = {
        "OpenVINO in bfloat16": _compiled(openvino, whole, "bf16"),
        "OpenVINO in int8": _compiled(openvino, nncf.quantize(whole, calibration, subset_size=CALIBRATED_ON), "f32"),
        "OpenVINO in int8, means corrected": _compiled(
            openvino, nncf.quantize(whole, calibration, subset_size=CALIBRATED_ON, **corrected), "f32"
        ),
    }
    judged = images[CALIBRATED_ON:]
    plain = [_masks(predictor, own, image) for image in judged]
    return [
        row for way, run in ways.items() for row in _rows(predictor, way, Substitute(run), own, judged, plain, seen)
    ]


def _rows(
    predictor: Any,
    way: str,
    encoder: nn.Module,
    own: nn.Module,
    images: list[Image],
    plain: list[list[Any]],
    inputs: list[Tensor],
) -> list[Row]:
    from usam.masks import iou

    means = []
    for image, theirs in zip(images, plain, strict=True):
        pairs = zip(_masks(predictor, encoder, image), theirs, strict=True)
        ious = [float(iou(a, b)) if (a | b).any() else 1.0 for one in pairs for a, b in zip(*one, strict=True)]
        means.append(fmean(ious))
    shares = []
    with torch.no_grad():
        for image in inputs[:ROUNDS]:
            seconds = [_processor_seconds(one, image) for one in (encoder, own)]
            shares.append(seconds[0] / seconds[1])
    low, high = median_interval(shares)
    note = f"{len(images)} images of COCO, {SIDE**2} clicks each, three masks; images from {min(means):.3f} on"
    return [
        Row(f"IoU of masks by {way} with those of float32, {MODEL}", fmean(means), "mean IoU", "", SAME, note=note),
        Row(
            f"encode, {MODEL}, {way}",
            median(shares),
            "ratio of processor's seconds",
            "torch float32",
            note=f"one thread, {ROUNDS} turns, 95 % [{low:.2f}, {high:.2f}]",
        ),
    ]


def _processor_seconds(encoder: nn.Module, image: Tensor) -> float:
    started = time.process_time()
    encoder(image)
    return time.process_time() - started


def _compiled(openvino: Any, model: Any, precision: str) -> Run:
    wanted = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    compiled: Callable[..., Any] = openvino.Core().compile_model(model, "CPU", wanted)
    return lambda images: [np.array(part) for part in compiled(images.numpy()).values()]


class _Kept(nn.Module):
    """An encoder that keeps what it is given."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._encoder, self.seen = encoder, list[Tensor]()

    def forward(self, images: Tensor) -> Any:
        self.seen.append(images.detach().clone())
        return self._encoder(images)


def _masks(predictor: Any, encoder: nn.Module, image: Image) -> list[Any]:
    """The three masks of each click of a grid."""
    predictor.model.image_encoder = encoder
    predictor.set_image(image)
    height, width = image.shape[:2]
    places = (np.arange(SIDE) + 0.5) / SIDE
    return [predictor.predict([[x * width, y * height]], [1])[0] > 0 for y in places for x in places]
