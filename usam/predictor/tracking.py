"""Following an object from frame to frame with a model that has no video memory: each mask leads to the next.

Legend: H, W height and width of a frame in pixels; h, w sides of the low-resolution masks; M = 3 masks of a prompt.

On a new frame the model is prompted with what is known of the object: the box of the mask before, a little larger, and
that mask itself. Of the three answers the one is taken that a person would take for the same object: its predicted IoU
times its overlap with the mask before. SAM 2 checkpoints have a memory of their own and are followed by it
(`usam.predictor.memory_tracking`); this is for the nano family and for other models without one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from usam.errors import ImageError, PromptError
from usam.masks.overlap import iou, mask_box
from usam.predictor.image import PatchedImagePredictor
from usam.prompts import Prompt, centre_point

BoolMask = npt.NDArray[np.bool_]
MARGIN = 0.1
"""How far the box around the mask before is widened on each side, as a share of its own side: an object moves."""
LEAST_OVERLAP = 0.1
"""IoU with the mask before below which no answer is the same object."""
LOST_AFTER = 12
"""Frames without the object after which it is not looked for any more where it was last seen."""


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """An object on one frame.

    mask     (H, W) the object; empty where it was not found
    iou      predicted IoU of the mask, 0..1, higher = better: by the heads where they predict it, else SAM's own; 0
             where it was not found
    scores   of every head, {name: value}; gaps in -0.5..0.5, higher = more to gain
    is_found whether the object was found
    visibility  SAM 2's probability that the object is in the frame at all, 0..1; None where the model does not tell
    """

    mask: BoolMask
    iou: float
    scores: dict[str, float] = field(default_factory=dict)
    is_found: bool = True
    visibility: float | None = None

    @property
    def is_out_of_sight(self) -> bool:
        """Whether the model says that the object is not in the frame, rather than that it did not find it."""
        return self.visibility is not None and self.visibility <= 0.5

    @property
    def gaps(self) -> dict[str, float]:
        """The three gaps, as far as the heads tell them."""
        return {name: value for name, value in self.scores.items() if name.endswith("_gap")}


class ObjectTracker(Protocol):
    """What follows one object from frame to frame: `MaskTracker`, or `usam.predictor.memory_tracking.MemoryTracker`."""

    @property
    def has_begun(self) -> bool: ...
    @property
    def has_given_up(self) -> bool: ...
    def begin(self, frame: npt.NDArray[np.uint8], prompt: Prompt, *, is_encoded: bool = False) -> TrackedFrame: ...
    def follow(self, frame: npt.NDArray[np.uint8], *, is_encoded: bool = False) -> TrackedFrame: ...
    def correct(self, prompt: Prompt) -> TrackedFrame: ...


class MaskTracker:
    """Follows one object. `begin` says which, `follow` finds it on the frame after, `correct` says more of it with
    clicks on the frame that was followed last.

    Parameters
    ----------
    predictor
        A patched image predictor, as `usam.load` gives it.
    margin
        How far the box of the mask before is widened on each side, as a share of its own side.
    with_mask
        Whether the mask before is given beside its box. Without it less is carried along from frame to frame: its
        shape, but also its mistakes.

    Raises
    ------
    ImageError
        `follow` or `correct` before `begin`, or a frame of another size.
    PromptError
        A prompt outside of the frame, a correction by a box, or one that says only where a lost object is not.

    Examples
    --------
    >>> tracker = MaskTracker(usam.load("nano-s"))  # doctest: +SKIP
    >>> first = tracker.begin(frames[0], usam.Prompt([[40, 30]], [1]))  # doctest: +SKIP
    >>> [tracker.follow(frame).iou for frame in frames[1:]]  # doctest: +SKIP
    """

    def __init__(self, predictor: PatchedImagePredictor, *, margin: float = MARGIN, with_mask: bool = True) -> None:
        self._predictor, self._margin, self._with_mask = predictor, margin, with_mask
        heads = predictor.heads
        self._quality = heads.quality_for(str(predictor.checkpoint_name)) if heads is not None else None
        self._last: TrackedFrame | None = None
        self._low_res: npt.NDArray[np.float32] | None = None
        self._frame: npt.NDArray[np.uint8] | None = None
        self._missed = 0

    @property
    def has_begun(self) -> bool:
        """Whether there is an object to follow."""
        return self._last is not None

    @property
    def has_given_up(self) -> bool:
        """Whether the object has not been found for so long that it is not looked for any more."""
        return self._missed >= LOST_AFTER

    def begin(self, frame: npt.NDArray[np.uint8], prompt: Prompt, *, is_encoded: bool = False) -> TrackedFrame:
        """Take what `prompt` shows on a frame (H, W, 3) RGB as the object.

        `is_encoded`: the predictor has this very frame set already, as by the tracker of another object.
        """
        prompt.check((frame.shape[0], frame.shape[1]))
        if not is_encoded:
            self._predictor.set_image(frame)
        points, labels = (prompt.points, prompt.labels) if len(prompt.points) else (None, None)
        masks, ious, low_res, scores = self._predictor.predict(points, labels, prompt.box)
        self._last, self._missed, self._frame = None, 0, frame
        return self._take(masks.astype(bool), low_res, self._rated(ious, scores), scores)

    def follow(self, frame: npt.NDArray[np.uint8], *, is_encoded: bool = False) -> TrackedFrame:
        """The object on the next frame (H, W, 3) RGB; `is_encoded` as for `begin`."""
        if self._last is None or self._low_res is None:
            raise ImageError("an object to follow", "none", "call begin first")
        before = self._last.mask
        check_size(frame, (before.shape[0], before.shape[1]))
        self._frame = frame
        if self.has_given_up:
            return TrackedFrame(np.zeros_like(before), 0.0, is_found=False)
        if not is_encoded:
            self._predictor.set_image(frame)
        given = self._low_res if self._with_mask else None
        masks, ious, low_res, scores = self._predictor.predict(box=widened_box(before, self._margin), mask_input=given)
        found = masks.astype(bool)
        overlap = iou(found, before)
        if not (overlap >= LEAST_OVERLAP).any():
            self._missed += 1
            return TrackedFrame(np.zeros_like(before), 0.0, is_found=False)
        return self._take(found, low_res, self._rated(ious, scores) * overlap, scores, ious)

    def correct(self, prompt: Prompt) -> TrackedFrame:
        """The object on the frame that was followed last (or begun on), once clicks have said more of it: 1 belongs to
        it, 0 does not. Where it was found there, its mask goes on from there; else the clicks say where it is."""
        if self._frame is None:
            raise ImageError("an object to follow", "none", "call begin first")
        check_clicks(prompt, (self._frame.shape[0], self._frame.shape[1]))
        given = self._low_res if self._last is not None and self._missed == 0 else None
        if given is None and not prompt.labels.any():
            raise PromptError("a click on the object", "only clicks beside it", "it was lost: click it")
        self._predictor.set_image(self._frame)
        points, labels = prompt.points, prompt.labels
        if given is not None and self._last is not None and not labels.any():
            inside = point_left(self._last.mask, points)
            points, labels = np.concatenate([inside, points]), np.concatenate([np.ones(len(inside), np.int32), labels])
        masks, ious, low_res, scores = self._predictor.predict(points, labels, mask_input=given)
        found = masks.astype(bool)
        x, y = prompt.points.T.astype(int)
        obeyed = (found[:, y, x] == prompt.labels.astype(bool)).mean(1)
        return self._take(found, low_res, self._rated(ious, scores) * obeyed, scores, ious)

    def _rated(self, ious: Any, scores: dict[str, Any]) -> npt.NDArray[np.float64]:
        return np.asarray(ious if self._quality is None else scores[self._quality], np.float64)

    def _take(
        self, masks: BoolMask, low_res: Any, rank: npt.NDArray[np.float64], scores: dict[str, Any], ious: Any = None
    ) -> TrackedFrame:
        """The best ranked of M masks, remembered for the next frame."""
        best = int(rank.argmax())
        own = rank if ious is None else self._rated(ious, scores)
        values = {name: float(value[best]) for name, value in scores.items()}
        taken = TrackedFrame(masks[best], float(own[best]), values, bool(masks[best].any()))
        if taken.is_found:
            self._last, self._low_res, self._missed = taken, np.asarray(low_res[best], np.float32), 0
        return taken


def check_size(frame: npt.NDArray[np.uint8], image_hw: tuple[int, int]) -> None:
    """Raises `ImageError` unless a frame (H, W, 3) has the size of those before it."""
    if frame.shape[:2] != image_hw:
        raise ImageError(
            f"frames of {image_hw[1]} x {image_hw[0]} pixels",
            f"one of {frame.shape[1]} x {frame.shape[0]}",
            "begin again after a change of size",
        )


def check_clicks(prompt: Prompt, image_hw: tuple[int, int]) -> None:
    """Raises `PromptError` unless a correction is of clicks inside of the frame alone."""
    if prompt.box is not None:
        raise PromptError("clicks to correct by", "a box", "begin again with the box, or click")
    prompt.check(image_hw)


def point_left(mask: BoolMask, taken_away: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A point (1, 2) well inside of a mask (H, W) and away from the clicks (K, 2) that take something away from it;
    (0, 2) where none is left. With clicks that only say what does not belong to it, the nano family draws next to
    nothing.

    >>> mask = np.zeros((100, 100), bool); mask[40:60, 20:60] = True
    >>> point_left(mask, np.array([[55.0, 50.0]], np.float32)).round().tolist()
    [[31.0, 49.0]]
    """
    ys, xs = np.indices(mask.shape)
    near = ((xs[..., None] - taken_away[:, 0]) ** 2 + (ys[..., None] - taken_away[:, 1]) ** 2) < mask.sum() / 4
    rest = mask & ~near.any(-1)
    return np.asarray(centre_point(rest), np.float32).reshape(1, 2) if rest.any() else np.empty((0, 2), np.float32)


def widened_box(mask: BoolMask, margin: float = MARGIN) -> npt.NDArray[np.float32]:
    """The box (4,) x0, y0, x1, y1 in pixels round a mask (H, W), `margin` of its sides larger on each side.

    >>> mask = np.zeros((100, 100), bool); mask[40:60, 20:40] = True
    >>> widened_box(mask).tolist()
    [18.0, 38.0, 42.0, 62.0]
    """
    x0, y0, x1, y1 = mask_box(mask)
    dx, dy = margin * (x1 - x0), margin * (y1 - y0)
    height, width = mask.shape
    box = [max(x0 - dx, 0), max(y0 - dy, 0), min(x1 + dx, width), min(y1 + dy, height)]
    return np.asarray(box, np.float32)
