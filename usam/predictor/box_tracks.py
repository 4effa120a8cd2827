"""Boxes of objects along a video: followed from a box on one frame, and kept as few key frames between which the rest
is interpolated.

Legend: N frames of a track, one after the other. A box is (x0, y0, x1, y1), in any unit; where the object was not found
it is NaN, and its confidence 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from usam.errors import ImageError
from usam.masks.overlap import mask_box, paired_iou
from usam.predictor.image import PatchedImagePredictor
from usam.predictor.memory_tracking import tracker_for
from usam.predictor.tracking import ObjectTracker
from usam.prompts import Prompt
from usam.videos import Frame

FloatArray = npt.NDArray[np.float64]
MARGIN = 0.05
"""How far the box before is widened on each side. It is given without its mask, which carries mistakes along: chosen
between 0, 0.05 and 0.1 on COCO's part 'heads' under a moving camera and on the two real sequences of `bench video`."""
LEAST_IOU = 0.95
"""IoU that an interpolated box must have with the followed one for its frame to need no key frame."""


@dataclass(frozen=True, eq=False)
class BoxTrack:
    """One object from frame `first` on: boxes (N, 4) and confidences (N,), the predicted IoU of each frame's mask in
    0..1, higher = surer."""

    first: int
    boxes: FloatArray
    confidence: FloatArray

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def is_found(self) -> npt.NDArray[np.bool_]:
        """(N,) on which frames the object was found."""
        return np.asarray(np.isfinite(self.boxes).all(1))

    def at(self, frames: Sequence[int], first: int) -> BoxTrack:
        """The track in another numbering: its frame number n, from `first` on, shows our frame `frames[n - first]`."""
        rows = np.asarray(frames, np.int64) - self.first
        return BoxTrack(first, self.boxes[rows], self.confidence[rows])


def follow_boxes(
    predictor: PatchedImagePredictor, frames: Iterable[Frame], begin: Sequence[tuple[int, npt.ArrayLike]]
) -> list[BoxTrack]:
    """Follow objects, each from a box in pixels on one frame to the last of `frames`, all in one pass: by SAM 2's video
    memory where the model has it, else by the box before.

    Parameters
    ----------
    predictor
        A patched image predictor, as `usam.load` gives it.
    frames
        Frames in order, none left out, the first of them not after the first box.
    begin
        Frame number and box (4,) of each object. The box itself is the track's first; an object of which no mask is
        found in it is lost from there on, unless video memory sees it later.

    Raises
    ------
    ImageError
        Where the frames change their size, or end before an object begins.
    PromptError
        A box outside of the frame.

    Examples
    --------
    >>> video = Video("street.mp4")  # doctest: +SKIP
    >>> (track,) = follow_boxes(usam.load("nano-m"), video.frames(), [(0, (300, 200, 380, 280))])  # doctest: +SKIP
    >>> track.boxes[-1], track.confidence.min()  # doctest: +SKIP
    """
    nowhere: FloatArray = np.full(4, np.nan)
    no_points = np.empty((0, 2), np.float32)
    given: list[FloatArray] = [np.asarray(box, np.float64) for _, box in begin]
    trackers: dict[int, ObjectTracker] = {}
    boxes: list[list[FloatArray]] = [[] for _ in begin]
    confidence: list[list[float]] = [[] for _ in begin]
    for frame in frames:
        is_encoded = False
        for one, (first, _) in enumerate(begin):
            if frame.number < first:
                continue
            if one in trackers:
                tracker, box = trackers[one], nowhere
                is_sought = tracker.has_begun and not tracker.has_given_up
                tracked = tracker.follow(frame.image, is_encoded=is_encoded) if is_sought else None
                if tracked is not None and tracked.is_found:
                    box = mask_box(tracked.mask).astype(np.float64)
            else:
                tracker, box, is_sought = tracker_for(predictor, margin=MARGIN, with_mask=False), given[one], True
                trackers[one] = tracker
                prompt = Prompt(no_points, np.empty(0, np.int32), box.astype(np.float32))
                tracked = tracker.begin(frame.image, prompt, is_encoded=is_encoded)
            is_encoded |= is_sought
            boxes[one].append(box)
            confidence[one].append(tracked.iou if tracked is not None and tracked.is_found else 0.0)
    for one, (first, _) in enumerate(begin):
        if one not in trackers:
            raise ImageError(f"a video with frame {first + 1}", "one that ends before", "is it whole?")
    return [
        BoxTrack(first, np.array(boxes[one]), np.clip(np.array(confidence[one]), 0.0, 1.0))
        for one, (first, _) in enumerate(begin)
    ]


def runs(track: BoxTrack) -> list[tuple[int, int]]:
    """First and last row of each stretch of frames on which the object was found."""
    edges = np.diff(np.concatenate([[0], track.is_found.astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) - 1).tolist(), strict=True))


def steadied(track: BoxTrack) -> BoxTrack:
    """The same track with each box the mean of it and its two neighbours: masks tremble by a pixel, which would ask for
    a key frame each time. The first and the last of each stretch stay: somebody drew it, or it is as far as it got."""
    boxes = track.boxes.copy()
    for low, high in runs(track):
        part = track.boxes[low : high + 1]
        boxes[low + 1 : high] = (part[:-2] + part[1:-1] + part[2:]) / 3
    return BoxTrack(track.first, boxes, track.confidence)


def key_rows(boxes: npt.ArrayLike, least_iou: float = LEAST_IOU) -> list[int]:
    """The rows of boxes (N, 4) to keep, the first and the last among them, so that linear interpolation between them
    gives every other box with an IoU of at least `least_iou`.

    >>> key_rows([(n, 0, n + 10, 10) for n in range(50)])
    [0, 49]
    """
    array = np.asarray(boxes, np.float64)
    kept, todo = {0, len(array) - 1}, [(0, len(array) - 1)]
    while todo:
        low, high = todo.pop()
        if high - low < 2:
            continue
        between = np.arange(low + 1, high)
        drawn = interpolated({low: array[low], high: array[high]}, between)
        overlap, distance = paired_iou(drawn, array[between]), np.abs(drawn - array[between]).max(1)
        worst = int(np.lexsort((-distance, overlap))[0])  # the farthest of those that do not overlap at all
        if overlap[worst] < least_iou:
            middle = int(between[worst])
            kept.add(middle)
            todo += [(low, middle), (middle, high)]
    return sorted(kept)


def interpolated(keys: Mapping[int, npt.ArrayLike], frames: npt.ArrayLike) -> FloatArray:
    """Boxes (len(frames), 4) between key frames, linearly; before the first and after the last as these are."""
    numbers = sorted(keys)
    known = np.array([np.asarray(keys[number], np.float64) for number in numbers])
    wanted = np.asarray(frames, np.float64)
    return np.stack([np.interp(wanted, numbers, known[:, side]) for side in range(4)], axis=1)


def look_first(track: BoxTrack, apart: int, most: int = 3) -> list[int]:
    """The frame numbers to look at first: of lowest confidence, at least `apart` frames from each other, the least sure
    first. The frame that somebody drew on is none of them; of frames without the object the first of a row is.

    >>> look_first(BoxTrack(1, np.ones((5, 4)), np.array([0.9, 0.8, 0.2, 0.3, 0.7])), apart=2)
    [3, 5]
    """
    lost = ~track.is_found
    candidates = [row for row in range(1, len(track)) if not (lost[row] and lost[row - 1])]
    chosen: list[int] = []
    for row in sorted(candidates, key=lambda row: (track.confidence[row], row)):
        if len(chosen) < most and all(abs(row - other) >= apart for other in chosen):
            chosen.append(row)
    return [track.first + row for row in chosen]
