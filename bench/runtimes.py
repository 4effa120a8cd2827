"""A click with nano-m, encoded and decoded, by other ways to run its encoder in float32, against torch as it is.

Each way takes the place of the encoder in one predictor, and they take turns; the decoder stays torch's. Tried: the
encoder traced and frozen, compiled by torch (inductor, which needs a C++ compiler on the machine), and OpenVINO and
ONNX Runtime where they are installed (they are no packages of ours). Seconds are the clock's; those of the processor,
which other work on the machine changes less, are in the note. A way whose masks are not torch's is left out by name.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.rows import Row, median_interval

MODEL = "nano-m"
ROUNDS = 25
TARGET = "<= 0.6"
CLICK = ([[320.0, 240.0]], [1])
SAME = 0.999
"""IoU with torch's own masks from which on they count as the same."""

Run = Callable[[Tensor], Any]


def run() -> list[Row]:
    """A row for each way and number of threads."""
    rows = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rows += ways_rows(MODEL, threads, ROUNDS)
    torch.set_num_threads(before)
    return rows


def ways_rows(name: str, threads: int, rounds: int, ways: dict[str, Callable[..., Run]] | None = None) -> list[Row]:
    """Seconds of a click by each way over torch's own, the same run."""
    from usam.masks import iou
    from usam.predictor.load import load

    predictor: Any = load(name, heads=None)
    image = _picture()
    own = predictor.model.image_encoder
    maps = plain_maps(own)
    side = predictor.model.image_size
    encoders: dict[str, nn.Module] = {"torch": own}
    failed = []
    for way, make in (WAYS if ways is None else ways).items():
        try:
            with torch.no_grad():
                encoders[way] = Substitute(make(maps, torch.zeros(1, 3, side, side), threads))
        except Exception as error:  # a trial: whatever a runtime raises says that it does not work here
            failed.append(f"{way}: {type(error).__name__}")

    def click(way: str) -> Any:
        predictor.model.image_encoder = encoders[way]
        predictor.set_image(image)
        return predictor.predict(*CLICK)[0] > 0

    masks = click("torch")
    for way in list(encoders):
        least = min(float(iou(ours, theirs)) for ours, theirs in zip(click(way), masks, strict=True))
        if least < SAME:
            del encoders[way]
            failed.append(f"{way}: IoU with torch's masks {least:.4f}")
    clock: dict[str, list[float]] = {way: [] for way in encoders}
    processor: dict[str, list[float]] = {way: [] for way in encoders}
    for _ in range(rounds):
        for way in encoders:
            started, worked = time.perf_counter(), time.process_time()
            click(way)
            clock[way].append(time.perf_counter() - started)
            processor[way].append(time.process_time() - worked)
    predictor.model.image_encoder = own
    rows = []
    for way in encoders:
        if way == "torch":
            continue
        shares = [ours / theirs for ours, theirs in zip(clock[way], clock["torch"], strict=True)]
        low, high = median_interval(shares)
        busy = median(processor[way]) / median(processor["torch"])
        note = (
            f"{1000 * median(clock[way]):.0f} ms against {1000 * median(clock['torch']):.0f} ms, {rounds} turns, "
            f"95 % [{low:.2f}, {high:.2f}]; processor's seconds {busy:.2f}; masks the same"
        )
        note += f"; not here: {', '.join(failed)}" if failed else ""
        figure = f"encode and decode a click, {name}, encoder by {way}, {threads} threads"
        rows.append(Row(figure, median(shares), "ratio of seconds", "torch float32", TARGET, note=note))
    return rows


class Maps(nn.Module):
    """An encoder that gives its maps alone, as runtimes want it."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.trunk, self.neck, self.scalp = encoder.trunk, encoder.neck, encoder.scalp

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps, _ = self.neck(self.trunk(images))
        return tuple(maps[: len(maps) - self.scalp])


def plain_maps(encoder: Any) -> nn.Module:
    """An encoder of SAM 2 as a module that gives its maps alone."""
    return Maps(encoder).eval()


class Substitute(nn.Module):
    """A way to compute the maps, as the encoder of a model."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, images: Tensor) -> dict[str, Any]:
        maps = [torch.as_tensor(part) for part in self._run(images)]
        return {"vision_features": maps[-1], "vision_pos_enc": maps, "backbone_fpn": maps}


def _frozen(maps: nn.Module, example: Tensor, threads: int) -> Run:
    run: Run = torch.jit.freeze(torch.jit.trace(maps, example, check_trace=False))
    run(example)
    return run


def _compiled(maps: nn.Module, example: Tensor, threads: int) -> Run:
    if not (shutil.which("c++") or shutil.which("g++")):
        raise RuntimeError("no C++ compiler")
    run: Run = torch.compile(maps)
    run(example)
    return run


def _openvino(maps: nn.Module, example: Tensor, threads: int) -> Run:
    import openvino

    wanted = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.convert_model(maps, example_input=example)
    compiled = openvino.Core().compile_model(model, "CPU", wanted)
    return lambda images: [np.array(part) for part in compiled(images.numpy()).values()]


def _onnx(maps: nn.Module, example: Tensor, threads: int) -> Run:
    import io

    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(maps, (example,), file, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda images: session.run(None, {given.name: images.numpy()})


WAYS: dict[str, Callable[..., Run]] = {
    "a frozen trace": _frozen,
    "torch.compile": _compiled,
    "OpenVINO": _openvino,
    "ONNX Runtime": _onnx,
}


def _picture() -> Any:
    from skimage import data

    return np.ascontiguousarray(np.tile(data.coffee(), (2, 2, 1))[:480, :640])
