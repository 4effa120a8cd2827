"""Following an object with SAM 2's own video memory, frame by frame from a stream whose end nobody knows.

Legend: H, W a frame in pixels; N tokens of its embedding; D token width; S the side of SAM 2's input.

`SAM2VideoPredictor` wants all frames of a video at once and keeps what it makes of each. Here a frame comes, is
followed and forgotten, but for what SAM 2's memory attention reads later: the frames that were clicked, the last masks
as its memory encoder keeps them, and the last object pointers. Masks are those of the video predictor on the frames
that were given, up to rounding; frames that were dropped in between do not count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from sam2.modeling.sam2_base import SAM2Base
from torch import Tensor
from torch.nn import functional as F

from usam.errors import ImageError, UsamError
from usam.predictor.decoder import AttributeOverride, Decoded, decode
from usam.predictor.encoder import encoding
from usam.predictor.image import PatchedImagePredictor
from usam.predictor.tracking import MaskTracker, ObjectTracker, TrackedFrame, check_clicks, check_size
from usam.predictor.video import ObjectTokens, score_table
from usam.prompts import Prompt

MAX_CORRECTIONS = 6
"""Corrected frames that are attended to besides the frame of the first click; the oldest makes room for a new one."""
LARGEST_LOGIT = 32.0
"""Logits of the mask that a correction begins from are kept within this on both sides, as SAM 2 keeps them."""
Output: TypeAlias = dict[str, Any]
"""What `SAM2Base.track_step` makes of a frame."""


def has_video_memory(model: Any) -> bool:
    """Whether a `SAM2Base` has a memory of earlier frames: SAM 2's checkpoints do, lighter models for images do not."""
    return bool(model.num_maskmem > 0 and model.memory_attention is not None)


def tracker_for(predictor: PatchedImagePredictor, **options: Any) -> ObjectTracker:
    """What follows an object best with this model: its video memory where it has one, else `MaskTracker(**options)`."""
    return MemoryTracker(predictor) if has_video_memory(predictor.model) else MaskTracker(predictor, **options)


@dataclass(frozen=True, eq=False)
class VideoMemory:
    """What is kept of the frames before: as much after hours as after a minute.

    clicked   {frame number: output} of the first click and of the last `max_corrections` corrected frames
    followed  {frame number: output} of as many of the last frames as are attended to
    masks     frames whose mask is attended to
    pointers  frames whose object pointer is attended to
    """

    masks: int
    pointers: int
    max_corrections: int = MAX_CORRECTIONS
    clicked: dict[int, Output] = field(default_factory=dict)
    followed: dict[int, Output] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Any, max_corrections: int = MAX_CORRECTIONS) -> VideoMemory:
        """An empty memory as far back as this `SAM2Base` looks."""
        masks = max(model.num_maskmem - 1, 1) * model.memory_temporal_stride_for_eval
        pointers = model.max_obj_ptrs_in_encoder - 1 if model.use_obj_ptrs_in_encoder else 0
        return cls(masks, pointers, max_corrections)

    def before(self, number: int) -> dict[str, dict[int, Output]]:
        """The frames before `number`, as SAM 2 takes them: what was clicked on that frame is not its own past."""
        clicked = {index: output for index, output in self.clicked.items() if index < number}
        followed = {index: output for index, output in self.followed.items() if index < number}
        return {"cond_frame_outputs": clicked, "non_cond_frame_outputs": followed}

    def keep(self, number: int, output: Output, *, is_clicked: bool) -> None:
        """Remember a frame, the latest there is, and forget what neither its correction nor the next frame looks at."""
        kept = {name: output[name] for name in ("maskmem_features", "maskmem_pos_enc", "obj_ptr")}
        kept["maskmem_features"] = kept["maskmem_features"].to(torch.bfloat16)  # as the video predictor keeps them
        first = next(iter(self.clicked.values()), kept)
        kept["maskmem_pos_enc"] = first["maskmem_pos_enc"]  # the same for all frames: kept once
        self.followed.pop(number, None)
        (self.clicked if is_clicked else self.followed)[number] = kept
        if len(self.clicked) > 1 + self.max_corrections:
            oldest = sorted(self.clicked)[1]
            self.followed[oldest] = self.clicked.pop(oldest)
        for index in list(self.followed):
            age = number - index
            if age > max(self.masks, self.pointers):
                del self.followed[index]
            elif age > self.masks:
                self.followed[index] = {"obj_ptr": self.followed[index]["obj_ptr"]}

    @property
    def nbytes(self) -> int:
        """Bytes of all that is remembered."""
        outputs = [*self.clicked.values(), *self.followed.values()]
        tensors = [output[name] for output in outputs for name in ("maskmem_features", "obj_ptr") if name in output]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True, eq=False)
class _EncodedFrame:
    """A frame as `SAM2Base.track_step` takes it: maps (N, 1, D) from fine to coarse, their sides, and the positional
    encoding (N, 1, D) of the coarsest, which memory attention alone reads."""

    image_hw: tuple[int, int]
    maps: list[Tensor]
    position: Tensor
    sizes: list[tuple[int, int]]


class MemoryTracker:
    """Follows one object with SAM 2's video memory. `begin` says which, `follow` finds it on the frame after, `correct`
    says more of it with clicks on the frame that was followed last.

    An object that leaves the picture is out of sight until SAM 2 sees it again. What is remembered is bounded; the
    frame of the first click stays for good.

    Parameters
    ----------
    predictor
        A patched image predictor of a SAM 2 checkpoint, as `usam.load` gives it. Its model may be shared; memory
        attention runs in the predictor's `encoder_dtype`.
    max_corrections
        Corrected frames that are attended to besides the first; each costs time on all frames after.

    Raises
    ------
    ImageError
        `follow` or `correct` before `begin`, or a frame of another size.
    PromptError
        A prompt outside of the frame, or a correction by a box.
    UsamError
        The model has no video memory.

    Examples
    --------
    >>> tracker = MemoryTracker(usam.load("sam2.1_hiera_tiny"))  # doctest: +SKIP
    >>> first = tracker.begin(frames[0], usam.Prompt([[40, 30]], [1]))  # doctest: +SKIP
    >>> [tracker.follow(frame).iou for frame in frames[1:]]  # doctest: +SKIP
    >>> tracker.correct(usam.Prompt([[90, 100]], [0])).iou  # doctest: +SKIP
    """

    def __init__(self, predictor: PatchedImagePredictor, *, max_corrections: int = MAX_CORRECTIONS) -> None:
        if not has_video_memory(predictor.model):
            raise UsamError(
                "a model with video memory, a SAM 2 checkpoint",
                str(predictor.checkpoint_name),
                "follow by the mask before: usam.predictor.tracking.MaskTracker",
            )
        self._predictor, self._max_corrections = predictor, max_corrections
        heads = predictor.heads
        self._quality = heads.quality_for(str(predictor.checkpoint_name)) if heads is not None else None
        self.memory = VideoMemory.of(predictor.model, max_corrections)
        self._number = 0
        self._frame: _EncodedFrame | None = None
        self._low_res: Tensor | None = None
        self._clicks: dict[str, Tensor] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether there is an object to follow."""
        return self._frame is not None

    @property
    def has_given_up(self) -> bool:
        """Never: an object that comes back is found again."""
        return False

    @torch.no_grad()
    def begin(self, frame: npt.NDArray[np.uint8], prompt: Prompt, *, is_encoded: bool = False) -> TrackedFrame:
        """Take what `prompt` shows on a frame (H, W, 3) RGB as the object, and forget every other.

        `is_encoded`: the predictor has this very frame set already, as by the tracker of another object.
        """
        prompt.check((frame.shape[0], frame.shape[1]))
        self._frame = self._encoded(frame, is_encoded)
        self.memory = VideoMemory.of(self._predictor.model, self._max_corrections)
        self._number, self._low_res, self._clicks = 0, None, None
        return self._clicked(prompt, self._frame)

    @torch.no_grad()
    def follow(self, frame: npt.NDArray[np.uint8], *, is_encoded: bool = False) -> TrackedFrame:
        """The object on the next frame (H, W, 3) RGB; `is_encoded` as for `begin`."""
        before = self._begun()
        check_size(frame, before.image_hw)
        self._frame = self._encoded(frame, is_encoded)
        self._number, self._clicks = self._number + 1, None
        return self._step(self._frame, None)

    @torch.no_grad()
    def correct(self, prompt: Prompt) -> TrackedFrame:
        """The object on the frame that was followed last (or begun on), once clicks have said more of it: 1 belongs to
        it, 0 does not. The frame becomes one that is never forgotten before `max_corrections` newer ones."""
        frame = self._begun()
        check_clicks(prompt, frame.image_hw)
        return self._clicked(prompt, frame)

    def _begun(self) -> _EncodedFrame:
        if self._frame is None:
            raise ImageError("an object to follow", "none", "call begin first")
        return self._frame

    def _clicked(self, prompt: Prompt, frame: _EncodedFrame) -> TrackedFrame:
        new, before = self._in_model_pixels(prompt, frame.image_hw), self._clicks
        self._clicks = new if before is None else {name: torch.cat([before[name], new[name]], 1) for name in new}
        return self._step(frame, self._clicks)

    def _in_model_pixels(self, prompt: Prompt, image_hw: tuple[int, int]) -> dict[str, Tensor]:
        """A box's corners (labels 2 and 3), then points: (1, K, 2) in pixels of the model's input, labels (1, K)."""
        corners = np.empty((0, 2), np.float32) if prompt.box is None else prompt.box.reshape(2, 2)
        points = np.concatenate([corners, prompt.points]).astype(np.float32)
        labels = np.concatenate([[2, 3][: len(corners)], prompt.labels]).astype(np.int32)
        sides, device = torch.tensor([image_hw[1], image_hw[0]]), self._predictor.device
        coords = torch.from_numpy(points) / sides * self._predictor.model.image_size
        signs = torch.from_numpy(labels)
        return {"point_coords": coords[None].to(device), "point_labels": signs[None].to(device)}

    def _encoded(self, frame: npt.NDArray[np.uint8], is_encoded: bool) -> _EncodedFrame:
        predictor = self._predictor
        if not is_encoded:
            predictor.set_image(frame)
        model, features = predictor.model, predictor._features
        embed = features["image_embed"][-1:]
        if model.directly_add_no_mem_embed:  # the image predictor has added it; track_step does so itself, or does not
            embed = embed - model.no_mem_embed.permute(1, 2, 0)[..., None]
        maps = [*(level[-1:] for level in features["high_res_feats"]), embed]
        position = model.image_encoder.neck.position_encoding(embed)
        return _EncodedFrame(
            (frame.shape[0], frame.shape[1]),
            [level.flatten(2).permute(2, 0, 1) for level in maps],
            position.flatten(2).permute(2, 0, 1),
            [(level.shape[-2], level.shape[-1]) for level in maps],
        )

    def _step(self, frame: _EncodedFrame, clicks: dict[str, Tensor] | None) -> TrackedFrame:
        """SAM 2's own step on this frame, remembered."""
        predictor, model = self._predictor, self._predictor.model
        decoded: list[Decoded] = []

        def decoder(**inputs: Any) -> tuple[Tensor, ...]:
            decoded.append(decode(model.sam_mask_decoder, inputs))
            return decoded[0].returned

        def attention(**inputs: Any) -> Tensor:
            with encoding(predictor.device, predictor.encoder_dtype):
                fused: Tensor = model.memory_attention(**inputs)
            return fused.float()

        stand_in = AttributeOverride(
            model, sam_mask_decoder=decoder, memory_attention=attention, binarize_mask_from_pts_for_mem_enc=True
        )
        previous = self._low_res if clicks is not None else None
        output: Output = SAM2Base.track_step(
            stand_in,
            frame_idx=self._number,
            is_init_cond_frame=self._number == 0,
            current_vision_feats=frame.maps,
            current_vision_pos_embeds=[frame.position],
            feat_sizes=frame.sizes,
            point_inputs=clicks,
            mask_inputs=None,
            output_dict=self.memory.before(self._number),
            num_frames=self._number + model.max_obj_ptrs_in_encoder,
            prev_sam_mask_logits=None if previous is None else previous.clamp(-LARGEST_LOGIT, LARGEST_LOGIT),
        )
        self._low_res = output["pred_masks"]
        self.memory.keep(self._number, output, is_clicked=clicks is not None)
        return self._tracked(output["pred_masks"], ObjectTokens.of(decoded[0]), frame.image_hw)

    def _tracked(self, low_res: Tensor, tokens: ObjectTokens, image_hw: tuple[int, int]) -> TrackedFrame:
        heads = self._predictor.heads
        iou, logit, *values = score_table(heads, tokens)[:, 0].tolist()
        visibility = float(0.5 + 0.5 * np.tanh(logit / 2))
        scores = dict(zip(heads.names if heads is not None else (), values, strict=True))
        mask = (F.interpolate(low_res, image_hw, mode="bilinear", align_corners=False) > 0)[0, 0].cpu().numpy()
        if logit <= 0 or not mask.any():
            return TrackedFrame(np.zeros_like(mask), 0.0, is_found=False, visibility=visibility)
        rated = iou if self._quality is None else scores[self._quality]
        return TrackedFrame(mask, rated, scores, visibility=visibility)
