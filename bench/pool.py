"""Ranking a pool: images a minute with 64 prompts each, and how much of that time is not the model's.

The job `score_pool` itself, on photographs in a real Label Studio: fetch, decode, prompt, suppress, make regions, keep,
rank, import, switch, verify. The model is loaded before. Its time is what encoder, decoder, mask upscaling and heads
take; everything else is outside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from backend.jobs.entry import run_job
from backend.jobs.worker import preload
from backend.label_studio.records import UNCERTAINTY_SAMPLING
from backend.resources import Resources
from bench.rows import Row
from bench.served import CONFIG, beside_label_studio, photographs

IMAGES = 64
GRID_SIDE = 8


def run() -> list[Row]:
    """Images a minute, and the share of time outside the model."""
    with beside_label_studio(points_per_side=GRID_SIDE) as opened:
        return rank(opened)


def rank(opened: Resources) -> list[Row]:
    """Both figures, in a Label Studio that is there."""
    client, store = opened.label_studio, opened.store
    project = client.create_project("pool", CONFIG, sampling=UNCERTAINTY_SAMPLING)
    client.upload(project.id, photographs(opened.settings.data_dir / "pictures", IMAGES))
    store.join(project.id, project.stamp)
    run_job(opened, "sync", project.id)
    preload()
    opened.model  # noqa: B018  (loaded here, not in the measured time)
    clock = Clock()
    started = time.perf_counter()
    with clock.on_the_model():
        run_job(opened, "score_pool", project.id)
    seconds = time.perf_counter() - started
    (done,) = store.runs(project.id, "score_pool", limit=1)
    if done.state != "done" or done.details["proposed"] != IMAGES or done.details["failed"]:
        raise AssertionError(f"{done.state}: {done.reason}, {done.details}")
    parts = ", ".join(f"{part} {value:.2f} s" for part, value in done.details["seconds"].items())
    what = f"ranking a pool, {opened.settings.model}, {GRID_SIDE**2} prompts an image"
    model = ", ".join(f"{part} {value:.1f} s" for part, value in clock.seconds.items())
    note = f"{IMAGES} photographs of 640 x 480 in real Label Studio, masks kept as RLE; {parts}"
    return [
        Row(f"{what}, images", 60 * IMAGES / seconds, "1/min", note=note),
        Row(
            f"{what}, time outside the model",
            1 - sum(clock.seconds.values()) / seconds,
            "share",
            "",
            "<= 0.1",
            note=model,
        ),
    ]


class Clock:
    """Seconds that this thread spent in the parts of the model, by part. Heads that are asked beside it, while it
    works on the next image, do not count."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._thread = threading.get_ident()
        self._inside = False

    @contextmanager
    def on_the_model(self) -> Iterator[None]:
        """Time every call into encoder, decoder and heads until the block ends."""
        from sam2.modeling.sam2_base import SAM2Base

        from usam.heads.head_set import HeadSet
        from usam.predictor.fast_masks import MaskPath
        from usam.predictor.image import PatchedImagePredictor

        with ExitStack() as stack:
            for owner, name, part in (
                (SAM2Base, "forward_image", "encode"),
                (MaskPath, "weights", "masks"),
                (MaskPath, "whole", "masks"),
                (MaskPath, "sampled", "masks"),
                (HeadSet, "score", "heads"),
                (HeadSet, "score_outputs", "heads"),
            ):
                stack.enter_context(patch.object(owner, name, self._timed(getattr(owner, name), part)))
            chunks = PatchedImagePredictor.token_chunks
            stack.enter_context(patch.object(PatchedImagePredictor, "token_chunks", self._stepped(chunks, "decode")))
            yield

    def _add(self, part: str, started: float) -> None:
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def _timed(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            if self._inside or threading.get_ident() != self._thread:
                return call(*arguments, **named)
            self._inside, started = True, time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self._inside = False
                self._add(part, started)

        return timed

    def _stepped(self, call: Callable[..., Any], part: str) -> Callable[..., Any]:
        """A generator's own time, without its user's."""

        def timed(*arguments: Any, **named: Any) -> Iterator[Any]:
            steps = iter(call(*arguments, **named))
            while True:
                started = time.perf_counter()
                try:
                    step = next(steps)
                except StopIteration:
                    return
                finally:
                    self._add(part, started)
                yield step

        return timed
