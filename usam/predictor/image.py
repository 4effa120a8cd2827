"""What `patch_sam2` makes of a `SAM2ImagePredictor`: one that returns scores with its masks.

Shapes: P prompts, K points of a prompt, M masks per prompt (3 or 1), D token width, H, W image in pixels,
h, w low-resolution masks (a quarter of the model's input side: 256 at 1024 px).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor
from torch import Tensor

from usam.errors import ImageError
from usam.heads.head_set import FloatArray, HeadSet
from usam.predictor.arguments import Prepared, check_prompts
from usam.predictor.base import Patched
from usam.predictor.compiled import CompiledEncoder
from usam.predictor.decoder import AttributeOverride, Decoded, ImageShare, decode, mark, split_tokens
from usam.predictor.embedding import ImageEmbedding
from usam.predictor.encoder import LeanEncoder, ObservedEncoder, check_rgb, encoding
from usam.predictor.fast_tokens import chunk_size, run_tokens
from usam.predictor.looks_trunk import looks_trunk

Scores = dict[str, FloatArray]


@dataclass(frozen=True, eq=False)
class KnownImage:
    """The last image that prompts were decoded on; `key` says under which weights and precision."""

    embed: Tensor
    key: tuple[Any, ...]
    share: ImageShare


@dataclass(frozen=True, eq=False)
class TokenOutput:
    """Tokens of P prompts, on the model's device.

    iou_token    (P, D)
    mask_tokens  (P, 4, D), token m makes the decoder's output m (0: single mask, 1 to 3: multimask)
    ious         (P, 4) SAM's own estimate of the IoU of outputs 0 to 3, higher = better
    """

    iou_token: Tensor
    mask_tokens: Tensor
    ious: Tensor


class PatchedImagePredictor(Patched, SAM2ImagePredictor):  # type: ignore[misc]
    """A `SAM2ImagePredictor` with scores. Made by `patch_sam2`; not to be constructed."""

    encoder_dtype: torch.dtype | None = None
    """The type that images are encoded in, such as `usam.predictor.encoder.fastest_dtype(device)`; None is the model's
    own, and bit for bit what the unpatched predictor does. Embeddings are float32 either way."""
    keep_stages: bool = False
    """Whether maps of looks are kept with every image that is set, for `usam.predictor.object_features`."""
    compiled: CompiledEncoder | None = None
    """What encodes single images in the model's own type; None: torch."""
    _stages: tuple[Tensor, ...] = ()

    chunk: int | None = None
    """Prompts decoded at a time where only tokens are wanted; None: `usam.predictor.fast_tokens.chunk_size` says."""

    @torch.no_grad()
    def set_image(self, image: Any) -> None:
        """Encode an image: (H, W, 3) uint8 RGB or a PIL image in mode RGB. Raises ImageError for others."""
        image = check_rgb(image)
        self._stages = ()
        self._encode(SAM2ImagePredictor.set_image, image, self.encoder_dtype)

    @torch.no_grad()
    def set_image_batch(self, image_list: list[Any]) -> None:
        """Encode several (H, W, 3) images, for `predict_batch`. Raises ImageError for others, or none."""
        image_list = [check_rgb(image) for image in image_list]
        if not image_list:
            raise ImageError("at least one image", "none")
        self._stages = ()
        self._encode(SAM2ImagePredictor.set_image_batch, image_list, self.encoder_dtype)

    def predict(
        self,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[FloatArray, FloatArray, FloatArray, Scores]:
        """Masks of one or several prompts on the image that is set, with scores.

        Args:
            point_coords: (K, 2) or (P, K, 2) pixels x, y; relative to the image's sides, in [0, 1), when
                `normalize_coords` is false.
            point_labels: (K,) or (P, K): 1 object, 0 background, -1 padding.
            box: (4,) or (P, 4) x0, y0, x1, y1 pixels.
            mask_input: (h, w), (1, h, w) or (P, 1, h, w) logits of an earlier prediction.
            multimask_output: three masks a prompt instead of one.
            return_logits: masks as logits instead of 0 and 1.

        Returns masks (M, H, W), SAM's IoUs (M,), low-resolution logits (M, h, w) and scores {head: (M,)};
        each with a leading P for more than one prompt. The first three equal the unpatched predictor's bit
        for bit. Column m of a score belongs to mask m: the decoder's output m + 1 with `multimask_output`,
        and reads mask token m + 1 with 'aligned' heads, m with 'shifted' ones. Without `multimask_output` the
        mask is output 0, read from token 0; where SAM 2 falls back to one of the three because output 0 is
        not stable, the column is that output's. IoU heads lie in [0, 1], gaps in [-0.5, 0.5] (`usam.heads.head_set`).
        Without heads the scores are {}.

        Raises ImageError (no image set), PromptError, HeadsError (tokens not finite).
        """
        heads = self.heads
        prompt = self.prepare(point_coords, point_labels, box, mask_input, normalize_coords)
        masks, ious, low_res, decoded = self._decode(prompt, multimask_output, return_logits)
        return _array(masks), _array(ious), _array(low_res), _scores(heads, decoded)

    def predict_batch(
        self,
        point_coords_batch: list[npt.ArrayLike] | None = None,
        point_labels_batch: list[npt.ArrayLike] | None = None,
        box_batch: list[npt.ArrayLike] | None = None,
        mask_input_batch: list[npt.ArrayLike] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[list[FloatArray], list[FloatArray], list[FloatArray], list[Scores]]:
        """`predict` for each of the images of `set_image_batch`: four lists with one entry per image."""
        if not self._is_batch:
            raise ImageError("images set with set_image_batch", "none", "call set_image_batch first")
        heads = self.heads
        results = []
        for index in range(len(self._orig_hw)):
            prompt = self.prepare(
                _entry(point_coords_batch, index),
                _entry(point_labels_batch, index),
                _entry(box_batch, index),
                _entry(mask_input_batch, index),
                normalize_coords,
                index,
            )
            masks, ious, low_res, decoded = self._decode(prompt, multimask_output, return_logits, index)
            results.append((_array(masks), _array(ious), _array(low_res), _scores(heads, decoded)))
        masks_list, ious_list, low_res_list, scores_list = map(list, zip(*results, strict=True))
        return masks_list, ious_list, low_res_list, scores_list

    def predict_tokens(
        self,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        normalize_coords: bool = True,
    ) -> TokenOutput:
        """The tokens that masks and scores are made from; arguments as in `predict`. No mask is made.

        Equal to what `predict` scores up to rounding (`usam.predictor.fast_tokens`), at a fraction of its time.
        Raises ImageError, PromptError.
        """
        prompt = self.prepare(point_coords, point_labels, box, mask_input, normalize_coords)
        parts = [tokens for tokens, _ in self.token_chunks(prompt)]
        return TokenOutput(
            torch.cat([part.iou_token for part in parts]),
            torch.cat([part.mask_tokens for part in parts]),
            torch.cat([part.ious for part in parts]),
        )

    def predict_scores(
        self,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        box: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        normalize_coords: bool = True,
    ) -> tuple[FloatArray, Scores]:
        """SAM's IoUs (P, 3) and scores {head: (P, 3)} of the three multimask outputs, without making masks.

        Arguments and columns as in `predict` with `multimask_output`; equal to its scores within 1e-4 in
        float32.
        Raises ImageError, PromptError, HeadsError.
        """
        heads = self.heads
        tokens = self.predict_tokens(point_coords, point_labels, box, mask_input, normalize_coords)
        scores = heads.score(tokens.iou_token, tokens.mask_tokens) if heads else {}
        return tokens.ious[:, 1:].float().cpu().numpy(), scores

    def calibrate_chunk(self, prompts: int = 16) -> int:
        """Measure which number of prompts at a time this device decodes fastest, up to `prompts`, and use it.

        Takes the time of a few dozen prompts on the image that is set. Raises ImageError without one.
        """
        self._check_image()
        height, width = self._orig_hw[-1]
        points = np.full((prompts, 1, 2), (width // 2, height // 2), np.float32)
        prompt = self.prepare(points, np.ones((prompts, 1)))
        seconds = {}
        for chunk in (2**power for power in range(prompts.bit_length())):
            best = float("inf")
            for _ in range(3):
                started = time.perf_counter()
                parts = [tokens.ious for tokens, _ in self.token_chunks(prompt.take(slice(chunk)), chunk)]
                torch.cat(parts).sum().item()
                best = min(best, time.perf_counter() - started)
            seconds[chunk] = best / chunk
        self.chunk = min(seconds, key=seconds.__getitem__)
        return self.chunk

    def embedding(self) -> ImageEmbedding:
        """The encoded image that is set, to be kept and given to `set_embedding` later. Raises ImageError."""
        self._check_image()
        if self._is_batch:
            raise ImageError("one image set with set_image", "a batch", "set the images one by one")
        features, (height, width) = self._features, self._orig_hw[0]
        high_res = tuple(features["high_res_feats"])
        name = self.checkpoint_name or ""
        return ImageEmbedding(features["image_embed"], high_res, (height, width), name, self._stages)

    def set_embedding(self, embedding: ImageEmbedding) -> None:
        """Set an image that this model has encoded before, as cheap as an assignment when it is on its
        device.

        Raises CheckpointError when another model encoded it.
        """
        embedding.check_fits(self.model, self.checkpoint_name)
        if embedding.image_embed.device != self.device:
            embedding = embedding.to(self.device)
        self.reset_predictor()
        self._features, self._stages = embedding.features, embedding.stages
        self._orig_hw = [embedding.image_hw]
        self._is_image_set = True

    def _encode(self, encode: Callable[..., None], images: Any, dtype: torch.dtype | None) -> None:
        """Run the base class's `encode` in another type, and keep maps of looks where they are wanted; the image that
        is set changes when it is done."""
        model = self.model
        encoder = model.image_encoder
        if dtype is not None and LeanEncoder.suits(encoder):
            lean = self._usam.lean_encoder
            if lean is None or lean.encoder is not encoder:
                self._usam.lean_encoder = lean = LeanEncoder(encoder)
            encoder = lean
        elif dtype is None and self.compiled is not None:
            encoder = self.compiled
        looks = looks_trunk(str(self.device)) if self.keep_stages and encode is SAM2ImagePredictor.set_image else None
        watched = ObservedEncoder(encoder, looks.of_stages) if looks is not None and looks.begins(model) else None
        if watched is not None:
            encoder = watched
        elif looks is None and dtype is None and encoder is model.image_encoder:
            return encode(self, images)
        stand_in = AttributeOverride(self, model=AttributeOverride(model, image_encoder=encoder))
        with encoding(self.device, dtype):
            encode(stand_in, images)
        features = stand_in._features
        self._features = {
            "image_embed": features["image_embed"].float(),
            "high_res_feats": [part.float() for part in features["high_res_feats"]],
        }
        self._orig_hw, self._is_batch, self._is_image_set = stand_in._orig_hw, stand_in._is_batch, True
        self._stages = () if looks is None else watched.seen if watched is not None else looks.of_image(images)

    def _sam_model(self) -> Any:
        return self.model

    def _check_image(self) -> None:
        if not self._is_image_set:
            raise ImageError("an image set with set_image", "none", "call set_image or set_embedding first")

    def prepare(
        self,
        points: npt.ArrayLike | None,
        labels: npt.ArrayLike | None,
        box: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        normalize: bool = True,
        image: int = -1,
    ) -> Prepared:
        """Prompts, checked as `predict` checks them, on the device and in pixels of the model's input."""
        self._check_image()
        hw = self._orig_hw[image] if normalize else (1, 1)
        low_res = self.model.sam_prompt_encoder.mask_input_size
        points, labels, box, mask_input = check_prompts(points, labels, box, mask_input, hw, low_res)
        return Prepared(*self._prep_prompts(points, labels, box, mask_input, normalize, img_idx=image))

    def _decode(
        self, prompt: Prepared, multimask: bool, logits: bool, image: int = -1
    ) -> tuple[Tensor, Tensor, Tensor, Decoded]:
        """The base class's `_predict` with a decoder that also gives its tokens."""
        model = self.model
        mask_input, coords, labels, boxes = prompt
        share = self._share(image)
        decoded: list[Decoded] = []

        def decoder(**inputs: Any) -> tuple[Tensor, ...]:
            inputs["repeat_image"] = len(inputs["sparse_prompt_embeddings"]) > 1
            dense = inputs["dense_prompt_embeddings"]
            known = len(dense) == 1 and _is_no_mask(dense, model.sam_prompt_encoder)
            decoded.append(decode(model.sam_mask_decoder, inputs, share if known else None))
            return decoded[0].returned

        encoder = _PromptEncoder(model.sam_prompt_encoder, share.dense_pe)
        stand_in = AttributeOverride(
            self, model=AttributeOverride(model, sam_prompt_encoder=encoder, sam_mask_decoder=decoder)
        )
        predict = SAM2ImagePredictor._predict
        masks, ious, low_res = predict(
            stand_in, coords, labels, boxes, mask_input, multimask, return_logits=logits, img_idx=image
        )
        return masks, ious, low_res, decoded[0]

    @torch.no_grad()
    def token_chunks(self, prompt: Prepared, chunk: int | None = None) -> Iterator[tuple[TokenOutput, Tensor]]:
        """Tokens and image tokens (p, N, D) of prepared prompts, `chunk` prompts at a time (default: `chunk_size`)."""
        model, share = self.model, self._share(-1)
        embed = self._features["image_embed"][-1:]
        mask_input, coords, labels, boxes = prompt
        if boxes is not None:
            corners = torch.tensor([[2, 3]], dtype=torch.int32, device=boxes.device).expand(len(boxes), -1)
            coords = boxes if coords is None else torch.cat([boxes, coords], dim=1)
            labels = corners if labels is None else torch.cat([corners, labels], dim=1)
        count = len(next(part for part in (coords, mask_input) if part is not None))
        step = chunk or self.chunk or chunk_size(embed[0, 0].numel(), embed.shape[1], embed.device)
        for start in range(0, count, step):
            part = slice(start, start + step)
            points = None if coords is None or labels is None else (coords[part], labels[part])
            masks = None if mask_input is None else mask_input[part]
            sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=masks)
            shared = _is_no_mask(dense, model.sam_prompt_encoder)
            hidden, keys = run_tokens(model.sam_mask_decoder, embed, sparse, dense, share, shared)
            iou_token, mask_tokens = split_tokens(model.sam_mask_decoder, hidden)
            ious = model.sam_mask_decoder.iou_prediction_head(iou_token)
            yield TokenOutput(iou_token, mask_tokens, ious), keys

    @torch.no_grad()
    def _share(self, image: int) -> ImageShare:
        """What this image's prompts have in common, made anew for another image, precision or weights."""
        model = self.model
        embed = self._features["image_embed"]
        attended = model.sam_mask_decoder.transformer.layers[0]
        weights = (
            model.sam_prompt_encoder.no_mask_embed.weight,
            model.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix,
            *attended.cross_attn_token_to_image.parameters(),
            *attended.cross_attn_image_to_token.parameters(),
        )
        kind = embed.device.type
        precision = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
        key = (image, precision, *map(mark, (embed, *weights)))
        known: KnownImage | None = self._usam.known_image
        if known is None or known.embed is not embed or known.key != key:
            known = KnownImage(embed, key, ImageShare(model.sam_prompt_encoder.get_dense_pe()))
            self._usam.known_image = known
        return known.share


class _PromptEncoder:
    """The model's prompt encoder with its positional encoding at hand."""

    def __init__(self, encoder: Any, dense_pe: Tensor) -> None:
        self._encoder, self._dense_pe = encoder, dense_pe

    def __call__(self, **prompts: Any) -> Any:
        return self._encoder(**prompts)

    def get_dense_pe(self) -> Tensor:
        return self._dense_pe


def _entry(batch: list[npt.ArrayLike] | None, index: int) -> npt.ArrayLike | None:
    return None if batch is None else batch[index]


def _is_no_mask(dense: Tensor, encoder: Any) -> bool:
    """Whether a dense embedding (P, D, E, E) is the encoder's constant for 'no mask input', expanded."""
    constant: Tensor = encoder.no_mask_embed.weight
    return dense.data_ptr() == constant.data_ptr() and dense.stride()[-2:] == (0, 0)


def _scores(heads: HeadSet | None, decoded: Decoded) -> Scores:
    """By head, without the leading axis when it is 1."""
    if heads is None:
        return {}
    scores = heads.as_dict(heads.score_outputs(decoded.iou_token, decoded.mask_tokens, decoded.outputs))
    return {name: values[0] for name, values in scores.items()} if len(decoded.ious) == 1 else scores


def _array(tensor: Tensor) -> FloatArray:
    """As the base class hands results out: float32, without the leading axis when it is 1."""
    array: FloatArray = tensor.squeeze(0).float().detach().cpu().numpy()
    return array
