"""What `patch_sam2` makes of a `SAM2VideoPredictor`, or of a bare `SAM2Base`: scores with every mask.

Shapes: O objects of a video, B objects in one call, M masks per object (3 or 1), D token width, H, W video in
pixels.

Tokens travel with what they explain: `_forward_sam_heads` returns them on its result, a frame's output
carries them in the video's own `inference_state`. Nothing is kept on the model, so several videos may be
tracked by one model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor

from usam.errors import HeadsError
from usam.heads.head_set import FloatArray, HeadSet
from usam.predictor.base import Patched
from usam.predictor.decoder import AttributeOverride, Decoded, decode

Scores = dict[str, FloatArray]
_PARCEL = "tokens"


@dataclass(frozen=True, eq=False)
class ObjectTokens:
    """How the masks of B objects on one frame came about.

    iou_token      (B, D)
    mask_tokens    (B, 4, D)
    output         (B, 1) int64, which of the decoder's outputs 0..3 became the mask: of three the one with the best IoU
    iou            (B, 1) SAM's own estimate for that output, 0..1, higher = better
    object_logits  (B, 1) above 0 = the object is visible
    """

    iou_token: Tensor
    mask_tokens: Tensor
    output: Tensor
    iou: Tensor
    object_logits: Tensor

    @classmethod
    def of(cls, decoded: Decoded) -> ObjectTokens:
        best = decoded.ious.argmax(-1, keepdim=True)
        return cls(
            decoded.iou_token,
            decoded.mask_tokens,
            decoded.outputs.gather(1, best),
            decoded.ious.gather(1, best),
            decoded.object_logits,
        )

    @classmethod
    def join(cls, parts: list[ObjectTokens]) -> ObjectTokens:
        """One after the other along B."""
        fields = ("iou_token", "mask_tokens", "output", "iou", "object_logits")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))


@dataclass(frozen=True, eq=False)
class FrameScores:
    """Scores of all O objects of a video on one frame, in the order of `obj_ids`.

    scores         {head: (O,) float32}: of the mask that was given out; ranges and directions: `usam.heads.head_set`
    ious           (O,) SAM's own estimate for that mask
    object_logits  (O,) above 0 = the object is visible
    tokens         the objects' tokens, without those below

    NaN where no mask was predicted: a person gave the mask, or the object has none on this frame.
    """

    obj_ids: list[Any]
    scores: Scores
    ious: FloatArray
    object_logits: FloatArray
    tokens: ObjectTokens | None


class SamOutputs(tuple[Any, ...]):
    """The result of `_forward_sam_heads`, with the tokens it was made from."""

    tokens: ObjectTokens


class _TokenModel(Patched):
    """Lets `_forward_sam_heads` and `_track_step` of a `SAM2Base` hand out tokens besides their results."""

    sam_mask_decoder: Any

    def _forward_sam_heads(self, *args: Any, **kwargs: Any) -> SamOutputs:
        decoded: list[Decoded] = []

        def decoder(**inputs: Any) -> tuple[Tensor, ...]:
            decoded.append(decode(self.sam_mask_decoder, inputs))
            return decoded[0].returned

        heads = super()._forward_sam_heads.__func__  # type: ignore[misc]
        outputs = SamOutputs(heads(AttributeOverride(self, sam_mask_decoder=decoder), *args, **kwargs))
        outputs.tokens = ObjectTokens.of(decoded[0])
        return outputs

    def _track_step(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._track_step(*args, **kwargs)  # type: ignore[misc]
        current, outputs = result[0], result[1]
        current["tokens"] = outputs.tokens if isinstance(outputs, SamOutputs) else None
        return result


class PatchedModel(_TokenModel, SAM2Base):  # type: ignore[misc]
    """A `SAM2Base` whose `track_step` gives scores. Made by `patch_sam2`; not to be constructed."""

    def track_step(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As SAM 2's; the result has more entries for the B objects' masks `pred_masks`:

        tokens  `ObjectTokens`
        ious    (B,) SAM's own estimate
        scores  {head: (B,)} tensors on the model's device, ranges and directions: `usam.heads.head_set`

        All three are None where the mask was an input rather than predicted.
        """
        current: dict[str, Any] = super().track_step(*args, **kwargs)
        tokens, heads = current["tokens"], self.heads
        current["ious"] = current["scores"] = None
        if tokens is not None:
            current["ious"], current["scores"] = tokens.iou[:, 0], {}
            if heads is not None:
                stacked = heads.score_outputs(tokens.iou_token, tokens.mask_tokens, tokens.output)
                current["scores"] = dict(zip(heads.names, stacked[:, :, 0], strict=True))
        return current


class PatchedVideoPredictor(_TokenModel, SAM2VideoPredictor):  # type: ignore[misc]
    """A `SAM2VideoPredictor` with scores. Made by `patch_sam2`; not to be constructed.

    `add_new_points_or_box`, `add_new_mask`, `clear_all_prompts_in_frame` and `propagate_in_video` give
    `(frame_idx, obj_ids, masks, scores)`: what they give unpatched, and {head: (O,) float32}, one value for
    each of `obj_ids` and `masks`. `remove_object` gives `(frame_idx, masks, scores)` for each updated frame.
    A score is NaN where no mask was predicted (`FrameScores`). Masks are the unpatched predictor's, bit for
    bit.
    """

    def add_new_points_or_box(
        self, inference_state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[int, list[Any], Tensor, Scores]:
        """As SAM 2's, and the scores of all objects on that frame."""
        return self._scored(inference_state, super().add_new_points_or_box(inference_state, *args, **kwargs))

    def add_new_mask(
        self, inference_state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[int, list[Any], Tensor, Scores]:
        """As SAM 2's, and the scores of all objects on that frame: NaN for the mask that is given here."""
        return self._scored(inference_state, super().add_new_mask(inference_state, *args, **kwargs))

    def clear_all_prompts_in_frame(
        self, inference_state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[int, list[Any], Tensor, Scores] | None:
        """As SAM 2's, and the scores of all objects on that frame."""
        result = super().clear_all_prompts_in_frame(inference_state, *args, **kwargs)
        return None if result is None else self._scored(inference_state, result)

    def remove_object(
        self, inference_state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[list[Any], list[tuple[int, Tensor, Scores]]]:
        """As SAM 2's, and the scores of the remaining objects on each updated frame."""
        obj_ids, updated = super().remove_object(inference_state, *args, **kwargs)
        scored = [(frame, masks, self.frame_scores(inference_state, frame).scores) for frame, masks in updated]
        return obj_ids, scored

    def propagate_in_video(
        self, inference_state: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Iterator[tuple[int, list[Any], Tensor, Scores]]:
        """As SAM 2's: for each frame its index, the object ids, masks (O, 1, H, W) logits, and the scores."""
        for result in super().propagate_in_video(inference_state, *args, **kwargs):
            yield self._scored(inference_state, result)

    def frame_scores(self, inference_state: dict[str, Any], frame_idx: int) -> FrameScores:
        """Scores of the video's objects on a frame that was prompted or tracked, by the heads in use now.

        One computation and one copy for all objects. Raises HeadsError when tokens are not finite.
        """
        heads, obj_ids = self.heads, list(inference_state["obj_ids"])
        found = [_tokens_on(inference_state, index, frame_idx) for index in range(len(obj_ids))]
        rows = [index for index, tokens in enumerate(found) if tokens is not None]
        names = heads.names if heads else ()
        table = np.full((len(names) + 2, len(obj_ids)), np.nan, dtype=np.float32)
        tokens = ObjectTokens.join([part for part in found if part is not None]) if rows else None
        if tokens is not None:
            table[:, rows] = score_table(heads, tokens)
        scores = dict(zip(names, table[2:], strict=True))
        return FrameScores(obj_ids, scores, table[0], table[1], tokens)

    def _scored(
        self, inference_state: dict[str, Any], result: tuple[int, list[Any], Tensor]
    ) -> tuple[int, list[Any], Tensor, Scores]:
        return *result, self.frame_scores(inference_state, result[0]).scores

    def track_step(self, **kwargs: Any) -> dict[str, Any]:
        current: dict[str, Any] = super().track_step(**kwargs)
        kwargs["output_dict"][_PARCEL] = current["tokens"]
        return current

    def _run_single_frame_inference(
        self, inference_state: dict[str, Any], output_dict: dict[str, Any], **kwargs: Any
    ) -> tuple[dict[str, Any], Tensor]:
        """As SAM 2's, which keeps only what it knows of a step's result; the tokens join the frame's output here."""
        out, masks = super()._run_single_frame_inference(
            inference_state=inference_state, output_dict=output_dict, **kwargs
        )
        out["tokens"] = output_dict.pop(_PARCEL)
        return out, masks


def _tokens_on(inference_state: dict[str, Any], index: int, frame: int) -> ObjectTokens | None:
    """The tokens of an object's latest output on a frame, in the order in which SAM 2 looks for its mask."""
    for place in ("temp_output_dict_per_obj", "output_dict_per_obj"):
        for kind in ("cond_frame_outputs", "non_cond_frame_outputs"):
            out = inference_state[place][index][kind].get(frame)
            if out is not None:
                tokens: ObjectTokens | None = out.get("tokens")
                return tokens
    return None


def score_table(heads: HeadSet | None, tokens: ObjectTokens) -> FloatArray:
    """IoU, object logit and one row per head, (2 + heads, B) float32, in one device-to-host copy."""
    rows = [tokens.iou.T.float(), tokens.object_logits.T.float()]
    if heads is not None:
        rows.append(heads.score_outputs(tokens.iou_token, tokens.mask_tokens, tokens.output)[:, :, 0])
    table: FloatArray = torch.cat(rows).cpu().numpy()
    if not np.isfinite(table).all():
        raise HeadsError("finite tokens", "scores that are not finite", "check the video and the weights for NaN")
    return table
