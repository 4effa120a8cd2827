"""Every figure of speed for a GPU, for all sizes, in one command of less than ten minutes: `make bench-gpu`.

Weights are random where a checkpoint's file is not at hand, which speed does not depend on. Encoding: the type that the
service uses against plain float32, one image at a time. Clicks: on an embedding at hand, against encoding for each.
Pool: JPEG files, read and scaled in threads and encoded in batches while 64 prompts of the image before are decoded
(`usam.predictor.batches`), against the encoder alone on inputs that are ready. Without a GPU nothing is measured unless
`--device cpu` asks for it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bench.encoding import change_row
from bench.rows import Row, append, median_interval, read
from bench.served import photographs

NAMES = (
    "nano-s", "nano-m", "edgetam", "efficienttam_ti", "efficienttam_s",
    "sam2.1_hiera_tiny", "sam2.1_hiera_small", "sam2.1_hiera_base_plus", "sam2.1_hiera_large",
)  # fmt: skip
SECONDS = 540.0
"""All of it; checkpoints whose turn does not come are named."""
SIZE = (1280, 960)
BATCH, THREADS, IMAGES = 8, 8, 128
PROMPTS = 8
"""Points a side of an image's grid."""
SHARE = ">= 0.8"


def run() -> list[Row]:
    """All figures on the GPU; none without one."""
    if not torch.cuda.is_available():
        print("  no CUDA device: nothing measured (python -m bench.gpu --device cpu measures the processor)")
        return []
    return measure("cuda", NAMES)


def measure(
    device: str,
    names: Sequence[str],
    *,
    seconds: float = SECONDS,
    images: int = IMAGES,
    batch: int = BATCH,
    threads: int = THREADS,
    image_size: int | None = None,
) -> list[Row]:
    """The figures of some checkpoints on a device, within so many seconds."""
    end = time.monotonic() + seconds
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        files = photographs(Path(folder), min(images, 32), SIZE)
        paths = [files[number % len(files)] for number in range(images)]
        for number, name in enumerate(names):
            share = (end - time.monotonic()) / (len(names) - number)
            if share < seconds / len(names) / 10:
                print(f"  no time is left for {', '.join(names[number:])}", file=sys.stderr)
                break
            rows += checkpoint_rows(name, device, paths, share, batch, threads, image_size)
    return rows


def checkpoint_rows(
    name: str, device: str, paths: Sequence[Path], seconds: float, batch: int, threads: int, image_size: int | None
) -> list[Row]:
    """The figures of one checkpoint; each may take a fifth of the seconds."""
    from usam.images import read_image

    predictor, weights = loaded(name, device, image_size)
    where = f"{name} on {device_name(predictor.device)}"
    wait, budget, image = waiter(predictor.device), seconds / 5, read_image(paths[0])
    dtype = service_dtype(name, device)

    def encode(one: torch.dtype | None) -> None:
        predictor.encoder_dtype = one
        predictor.set_image(image)

    plain, ours = timed(lambda: encode(None), wait, budget / 2), timed(lambda: encode(dtype), wait, budget / 2)
    point = np.array([[SIZE[0] / 2, SIZE[1] / 2]])
    click = timed(lambda: predictor.predict(point, [1]), wait, budget)
    note = f"{weights}, image {SIZE[0]} x {SIZE[1]}"
    in_type = str(dtype or torch.float32).removeprefix("torch.")
    rows = [
        Row(f"encode one image, {where}", 1000 * median(ours), "ms", note=f"{in_type}; {spread(ours)}; {note}"),
        Row(f"encode one image, {where}", median(ours) / median(plain), "ratio of seconds",
            "float32 in the same run", "<= 0.35", note=f"{in_type}; float32 {spread(plain)}; {note}"),
        Row(f"click on an image at hand, {where}", 1000 * median(click), "ms", note=f"{spread(click)}; {note}"),
        Row(f"click on an image at hand, {where}", median(click) / (median(click) + median(ours)), "ratio of seconds",
            "encoding for each click", "<= 0.05", note=note),
    ]  # fmt: skip
    if dtype is not None:
        rows.append(change_row(predictor, where, [image], dtype))
    return rows + pool_rows(predictor, where, paths, budget, batch, threads, note)


def pool_rows(
    predictor: Any, where: str, paths: Sequence[Path], budget: float, batch: int, threads: int, note: str
) -> list[Row]:
    """Images a second: the encoder alone, with scores of 64 prompts, and with masks proposed by them."""
    from usam.images import read_image
    from usam.predictor.batches import encode_ahead
    from usam.predictor.proposals import propose_masks
    from usam.prompts import grid_points

    points = grid_points((SIZE[1], SIZE[0]), PROMPTS)
    wait = waiter(predictor.device)
    ready = [read_image(path) for path in paths[:batch]]
    scale = predictor._transforms.forward_batch
    inputs = scale(ready).to(predictor.device)
    predictor._transforms.forward_batch = lambda images: inputs
    try:
        alone = timed(lambda: predictor.set_image_batch(ready), wait, budget)
    finally:
        predictor._transforms.forward_batch = scale
    encoder = len(ready) / median(alone)

    def rate(decode: Callable[[], object]) -> tuple[float, int]:
        started, done = time.perf_counter(), 0
        images = [partial(read_image, path) for path in paths]
        for embedding in encode_ahead(predictor, images, batch=batch, threads=threads):
            predictor.set_embedding(embedding)
            decode()
            done += 1
            if time.perf_counter() - started > budget:
                break
        wait()
        return done / (time.perf_counter() - started), done

    labels = np.ones((len(points), 1), np.int32)
    scores, scored = rate(lambda: predictor.predict_scores(points[:, None], labels))
    masks, proposed = rate(lambda: propose_masks(predictor, points, max_masks=40))
    how = f"batches of {batch}, {threads} threads read JPEG files, from the first to the last; {note}"
    count = f"{len(points)} prompts"
    return [
        Row(f"encoder alone, {where}", encoder, "images/s",
            note=f"inputs ready on the device; batches of {batch}; {note}"),
        Row(f"JPEG to scores of {count}, {where}", scores, "images/s", note=f"{scored} images; {how}"),
        Row(f"JPEG to scores of {count}, {where}", scores / encoder, "ratio of images/s", "encoder alone", SHARE,
            note=f"{scored} images; {how}"),
        Row(f"JPEG to masks by {count}, {where}", masks, "images/s", note=f"{proposed} images; {how}"),
        Row(f"JPEG to masks by {count}, {where}", masks / encoder, "ratio of images/s", "encoder alone",
            note=f"{proposed} images; {how}"),
        *memory_rows(predictor.device, where),
    ]  # fmt: skip


def loaded(name: str, device: str, image_size: int | None = None) -> tuple[Any, str]:
    """A predictor with nine heads, and what its weights are."""
    from bench.patch import random_heads
    from usam.checkpoints.registry import checkpoint_path
    from usam.predictor.load import load

    own = checkpoint_path(name).is_file() and image_size is None
    predictor = load(name, device, None, image_size=image_size, weights=own)
    predictor.checkpoint_name = "sam2.1"  # the random heads' own, so that they fit whatever checkpoint it is
    predictor.set_heads(random_heads(predictor.model.sam_prompt_embed_dim))
    if predictor.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(predictor.device)
    return predictor, "its own weights" if own else "random weights"


def service_dtype(name: str, device: str) -> torch.dtype | None:
    """The type that the service encodes in on that device."""
    from backend.inference.precision import encoder_dtype
    from backend.settings import Settings

    return encoder_dtype(Settings(model=name, device=device), name)


def timed(step: Callable[[], object], wait: Callable[[], None], budget: float, most: int = 50) -> list[float]:
    """Seconds of each call, the first left out, within the budget; at least three."""
    step()
    wait()
    seconds: list[float] = []
    end = time.perf_counter() + budget
    while len(seconds) < 3 or (len(seconds) < most and time.perf_counter() < end):
        started = time.perf_counter()
        step()
        wait()
        seconds.append(time.perf_counter() - started)
    return seconds


def spread(seconds: Sequence[float]) -> str:
    """Median with its interval in ms, and of how many."""
    low, high = median_interval(seconds)
    return f"{1000 * median(seconds):.1f} ms, 95 % [{1000 * low:.1f}, {1000 * high:.1f}], {len(seconds)} times"


def waiter(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done all that was asked of it."""
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def device_name(device: torch.device) -> str:
    """The card's name, or the device's kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def memory_rows(device: torch.device, where: str) -> Iterator[Row]:
    """The most memory that tensors took on the card."""
    if device.type == "cuda":
        yield Row(f"memory on the card, {where}", torch.cuda.max_memory_allocated(device) / 2**20, "MiB",
                  note="the most that tensors took at once, weights included")  # fmt: skip


def main(arguments: list[str]) -> int:
    """`python -m bench.gpu [--device cuda] [--models nano-m,...] [--seconds 540] [--dry]`."""
    from bench.__main__ import show
    from bench.page import write_page
    from usam.checkpoints.registry import pick_device

    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", default=",".join(NAMES), help="checkpoints, separated by commas")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all figures together")
    parser.add_argument("--images", type=int, default=IMAGES, help="of a pool")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--threads", type=int, default=THREADS, help="that read images")
    parser.add_argument("--image-size", type=int, help="side of the model's input, for a trial")
    parser.add_argument("--dry", action="store_true", help="store nothing")
    given = parser.parse_args(arguments)
    pick_device(given.device)
    rows = measure(
        given.device,
        given.models.split(","),
        seconds=given.seconds,
        images=given.images,
        batch=given.batch,
        threads=given.threads,
        image_size=given.image_size,
    )
    rows = [replace(row, topic="gpu") for row in rows]
    if not given.dry:
        append(rows)
        write_page(read())
    show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
