"""How well and how fast an object is followed through a video, `usam demo`: nano-m, which has no video memory, and how
fast by SAM 2's, with the architecture of SAM 2.1 Tiny and random weights.

J is the mean IoU of mask and truth over a sequence's frames after the first, begun by one click on the object's centre
in the first frame; beside it, a still click on each frame's own centre, which knows where the object is. Two real
sequences of the shared sets, of both of which the weights have seen up to twelve frames; and photographs of COCO's
held-out part, which no weight has seen, with a camera that moves over them. Needs the labelled sets (USAM_SHARED) for
quality; speed needs none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bench.rows import Row
from usam.masks import iou
from usam.statistics import bootstrap_mean

if TYPE_CHECKING:
    from usam.predictor.tracking import ObjectTracker

MODEL = "nano-m"
SEQUENCES = (("davis", "DAVIS", "car-shadow"), ("mose", "PUMaVOS_chair", "chair"))
PANNED, STEPS = 40, 16
"""Photographs and frames of each that the camera moves over."""
WINDOW, ZOOM = 0.7, 0.15
SIDE = 448
SAM2, FULL_AFTER = "sam2.1_hiera_tiny", 7
"""The checkpoint whose architecture is timed, and the frames until its memory holds as many masks as it ever does."""
Sequence = list[tuple[np.ndarray, np.ndarray]]


def run() -> list[Row]:
    """J of followed and of still clicks, and frames a second."""
    import usam
    from usam.predictor.tracking import MaskTracker

    torch.set_num_threads(2)
    tracker = MaskTracker(usam.load(MODEL))
    rows = [speed(tracker, MODEL, 24), *memory_speed()]
    if shared := os.environ.get("USAM_SHARED", ""):
        data = Path(shared) / "data"
        rows += [row for name, frames in real_sequences(data) for row in rows_of(tracker, name, [frames])]
        rows += rows_of(tracker, "COCO under a moving camera", list(panned_photographs(data)))
    return rows


def speed(tracker: ObjectTracker, name: str, count: int, skipped: int = 1, target: str = ">= 8", note: str = "") -> Row:
    """Frames a second of following, drawing left out, over `count` frames without the first `skipped`."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 80, (SIDE, 2 * SIDE, 3), dtype=np.uint8)
    ground[150:300, 200:350] = 220
    seconds = []
    for number in range(count):
        frame = np.ascontiguousarray(ground[:, 4 * number : 4 * number + SIDE])
        started = time.perf_counter()
        if number:
            tracker.follow(frame)
            seconds.append(time.perf_counter() - started)
        else:
            tracker.begin(frame, centre_click(ground[:, :SIDE, 0] == 220))
    measured = seconds[skipped - 1 :]
    rate = 1 / float(np.median(measured))
    note = f"{SIDE} x {SIDE} pixels, 2 threads, median of {len(measured)}{note}"
    return Row(f"following an object, {name}", rate, "frames a second", target=target, note=note)


def memory_speed(image_size: int | None = None) -> list[Row]:
    """Frames a second by video memory once it is full, and of encoding alone, at the model's own size."""
    import usam
    from usam.predictor.encoder import fastest_dtype
    from usam.predictor.memory_tracking import MemoryTracker

    torch.manual_seed(0)
    predictor = usam.load(SAM2, heads=None, weights=False, image_size=image_size)
    predictor.encoder_dtype = fastest_dtype("cpu")
    with torch.no_grad():  # random weights see no object: what is out of sight would be timed
        predictor.model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    kind = str(predictor.encoder_dtype).removeprefix("torch.")
    note = f", random weights, input {predictor.model.image_size} px, {kind}"
    name, count = f"{SAM2} by video memory", FULL_AFTER + 5
    row = speed(MemoryTracker(predictor), name, count, FULL_AFTER, "", f"{note}, memory full")
    frame = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        predictor.set_image(frame)
        seconds.append(time.perf_counter() - started)
    share = float(np.median(seconds)) * row.value
    note = f"{float(np.median(seconds)):.2f} s a frame, median of 5{note}"
    return [row, Row(f"{name}: share of encoding", share, "share of seconds", note=note)]


def rows_of(tracker: ObjectTracker, name: str, sequences: list[Sequence]) -> list[Row]:
    """J of following and of still clicks, and their difference, over sequences (or frames, of a single one)."""
    followed, still, groups = [], [], []
    for number, frames in enumerate(sequences):
        tracker.begin(frames[0][0], centre_click(frames[0][1]))
        masks = [tracker.follow(image).mask for image, _ in frames[1:]]
        for index, ((image, true), mask) in enumerate(zip(frames[1:], masks, strict=True)):
            followed.append(float(iou(mask, true)))
            still.append(float(iou(tracker.begin(image, centre_click(true)).mask, true)))
            groups.append(number if len(sequences) > 1 else index // 6)
    over = f"{len(sequences)} sequences" if len(sequences) > 1 else f"{len(followed)} frames in pieces of six"
    seen = "unseen" if len(sequences) > 1 else "up to 12 of its frames were trained on"
    rows = []
    for what, values in (("followed", followed), ("a still click on each frame", still)):
        found = bootstrap_mean(np.array(values), np.array(groups))
        note = f"95 % [{found.low:.3f}, {found.high:.3f}] over {over}; {seen}"
        rows.append(Row(f"{name}, J, {what}", found.value, "mean IoU", note=note))
    gained = bootstrap_mean(np.array(followed) - np.array(still), np.array(groups))
    note = f"95 % [{gained.low:+.3f}, {gained.high:+.3f}] over {over}"
    rows.append(Row(f"{name}, J, followed against still", gained.value, "mean IoU", "a still click", note=note))
    return rows


def real_sequences(data: Path) -> Iterator[tuple[str, Sequence]]:
    """The real sequences with more than a few labelled frames, at most 854 pixels wide."""
    from usam.research.datasets import open_dataset

    for reader, folder, video in SEQUENCES:
        records = [one for one in open_dataset(reader, data / folder) if one.group.endswith(f"/{video}")]
        frames = [(one.read_image(), one.instances[0].read_mask()) for one in records if one.instances]
        yield f"{video} ({reader.upper() if reader == 'davis' else 'PUMaVOS'})", [shrunk(*frame) for frame in frames]


def panned_photographs(data: Path) -> Iterator[Sequence]:
    """A camera that moves and zooms over photographs, at an object over 2 % of each that it does not lose."""
    import cv2

    from usam.research.datasets import open_dataset
    from usam.research.nano.figures import held_out

    rng, made = np.random.default_rng(0), 0
    for record in held_out(open_dataset("coco", data / "coco_subset")):
        masks = [one.read_mask() for one in record.instances]
        masks = [mask for mask in masks if 0.02 <= mask.mean() <= 0.5]
        if not masks:
            continue
        image, mask = record.read_image(), masks[int(rng.integers(len(masks)))]
        height, width = mask.shape
        begin, end = rng.random(2), rng.random(2)
        frames: Sequence = []
        for step in range(STEPS):
            share = step / (STEPS - 1)
            size = WINDOW * (1 - ZOOM * share)
            h, w = round(height * size), round(width * size)
            top, left = ((begin + share * (end - begin)) * [height - h, width - w]).astype(int)
            part = np.s_[top : top + h, left : left + w]
            out = (round(width * WINDOW), round(height * WINDOW))
            picture = cv2.resize(image[part], out, interpolation=cv2.INTER_AREA)
            truth = cv2.resize(mask[part].astype(np.uint8), out, interpolation=cv2.INTER_NEAREST) > 0
            frames.append((picture, truth))
        if all(truth.mean() >= 0.005 for _, truth in frames):
            yield frames
            made += 1
        if made == PANNED:
            return


def shrunk(image: np.ndarray, mask: np.ndarray, width: int = 854) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask at most `width` pixels wide."""
    import cv2

    ratio = min(1.0, width / image.shape[1])
    size = (round(image.shape[1] * ratio), round(image.shape[0] * ratio))
    small = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA), small


def centre_click(mask: np.ndarray) -> Any:
    """A click on the centre of a mask."""
    from usam.prompts import Prompt, centre_point

    return Prompt(centre_point(mask)[None], np.ones(1, np.int32))
