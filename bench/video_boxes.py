"""How well a box drawn on one frame of a video is followed, as Label Studio shows it between key frames: nano-m, the
command `usam-backend track`.

The mean IoU of the shown and the true box over a sequence's frames after the first, begun by the true box of the first;
where the object was taken for lost it counts 0. Beside it what one drawn box gives without following (it stays where it
is), and what a second one gives (drawn on the last frame, with Label Studio's interpolation between the two). The
sequences are those of `bench video`: of the two real ones the weights have seen up to twelve frames, of the photographs
under a moving camera none; that camera moves evenly, which suits straight interpolation. Needs the labelled sets
(USAM_SHARED).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bench.rows import Row
from bench.video import MODEL, Sequence, panned_photographs, real_sequences
from usam.masks.overlap import mask_box, paired_iou
from usam.predictor.box_tracks import BoxTrack, follow_boxes, interpolated, key_rows, runs, steadied
from usam.statistics import bootstrap_mean
from usam.videos import Frame

Follow = Callable[[Sequence], BoxTrack]


def run() -> list[Row]:
    """IoU of boxes and share of key frames; nothing without the labelled sets."""
    import usam

    shared = os.environ.get("USAM_SHARED", "")
    if not shared:
        return []
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    predictor = usam.load(MODEL)

    def follow(frames: Sequence) -> BoxTrack:
        video = [Frame(number, number / 25, image) for number, (image, _) in enumerate(frames)]
        (track,) = follow_boxes(predictor, video, [(0, mask_box(frames[0][1]))])
        return track

    data = Path(shared) / "data"
    rows = [row for name, frames in real_sequences(data) for row in rows_of(follow, name, [frames])]
    return rows + rows_of(follow, "COCO under a moving camera", list(panned_photographs(data)))


@dataclass
class Measured:
    """IoU of every frame after the first, and the number of its sequence, or of its piece of six frames."""

    followed: list[float] = field(default_factory=list)
    still: list[float] = field(default_factory=list)
    two: list[float] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    """Of each sequence, key frames by frames."""


def measure(follow: Follow, sequences: list[Sequence]) -> Measured:
    """Follow the object of each sequence from its first box."""
    measured = Measured()
    for number, frames in enumerate(sequences):
        true = np.array([mask_box(mask) for _, mask in frames], np.float64)
        boxes, keys = as_shown(follow(frames))
        last = len(frames) - 1
        measured.followed += paired_iou(boxes, true)[1:].tolist()
        measured.still += paired_iou(np.repeat(true[:1], len(true), 0), true)[1:].tolist()
        measured.two += paired_iou(interpolated({0: true[0], last: true[last]}, range(last + 1)), true)[1:].tolist()
        measured.groups += [number if len(sequences) > 1 else index // 6 for index in range(last)]
        measured.kept.append(keys / len(frames))
    return measured


def as_shown(track: BoxTrack) -> tuple[np.ndarray, int]:
    """Boxes (N, 4) as the editor shows them, without area where it shows none, and the number of key frames."""
    shown, keys = np.zeros_like(track.boxes), 0
    boxes = steadied(track).boxes
    for low, high in runs(track):
        kept = [low + row for row in key_rows(boxes[low : high + 1])]
        shown[low : high + 1] = interpolated({row: boxes[row] for row in kept}, range(low, high + 1))
        keys += len(kept)
    return shown, keys


def rows_of(follow: Follow, name: str, sequences: list[Sequence]) -> list[Row]:
    """Rows of one set of sequences, or of the pieces of a single one."""
    measured = measure(follow, sequences)
    groups, count = np.array(measured.groups), len(measured.followed)
    is_one = len(sequences) == 1
    over = f"{count} frames in pieces of six" if is_one else f"{len(sequences)} sequences"
    seen = "up to 12 of its frames were trained on" if is_one else "unseen"
    rows = []

    def add(what: str, values: np.ndarray, sign: str, against: str = "") -> None:
        found = bootstrap_mean(values, groups)
        note = f"95 % [{found.low:{sign}.3f}, {found.high:{sign}.3f}] over {over}; {seen}"
        rows.append(Row(f"{name}, box IoU, {what}", found.value, "mean IoU", against, note=note))

    followed, still, two = (np.array(values) for values in (measured.followed, measured.still, measured.two))
    add("one box followed", followed, "")
    add("one box left where it is", still, "")
    add("two boxes interpolated", two, "")
    add("followed against left", followed - still, "+", "the drawn box left where it is")
    add("followed against two boxes", followed - two, "+", "a second box drawn on the last frame")
    note = f"mean of {len(sequences)} sequence{'s'[: not is_one]}; each other frame within IoU 0.95 of its box"
    rows.append(Row(f"{name}, share of key frames", float(np.mean(measured.kept)), "of the frames", note=note))
    return rows
