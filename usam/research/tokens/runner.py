"""One model's forward passes: an image encoded once, prompts decoded in small chunks, all outputs kept.

Legend: P prompts, K points of a prompt, D token width, H, W image height and width in pixels, h, w those of
the low-resolution masks (a quarter of the model's input).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from torch import Tensor

from usam.predictor.decoder import (
    AttributeOverride,
    FirstLayer,
    ImageShare,
    is_stock_transformer,
    split_tokens,
    two_way,
)
from usam.predictor.embedding import ImageEmbedding

CHUNK_ON_CPU = 4
CHUNK_ON_GPU = 64
CORNERS = (2, 3)
"""SAM's labels of a box's first and second corner."""


@dataclass(frozen=True)
class Outputs:
    """What the decoder gives for P prompts, all four outputs of it, on the model's device.

    logits       (P, 4, h, w), above 0 = object
    samscore     (P, 4) SAM's own estimate of each mask's IoU, 0..1, higher = better
    iou_token    (P, D)
    mask_tokens  (P, 4, D)
    """

    logits: Tensor
    samscore: Tensor
    iou_token: Tensor
    mask_tokens: Tensor


@dataclass(frozen=True, eq=False)
class Encoded:
    """An image as one model sees it; `share` is the decoder's work that is the same for all single prompts."""

    embedding: ImageEmbedding
    position: Tensor
    share: ImageShare | None


class TimedPredictor:
    """A predictor with a clock.

    width    D, the channels of a token
    low_res  h = w, the side of the low-resolution masks
    chunk    prompts decoded at once: on a CPU few, so that they stay in its cache
    shares   whether the decoder's work on the image is kept from prompt to prompt (then one by one is fastest)
    seconds  spent in forward passes so far

    `predictor` is a patched one (`usam.checkpoints.registry.load`). Enlarging the image to the model's input is no
    forward pass and not in `seconds`.
    """

    def __init__(self, name: str, predictor: Any) -> None:
        self.name = name
        self.predictor = predictor
        self.model = predictor.model
        self.device = torch.device(self.model.device)
        encoder, transformer = self.model.sam_prompt_encoder, self.model.sam_mask_decoder.transformer
        plain = type(encoder) is PromptEncoder and is_stock_transformer(transformer)
        self.shares = plain and self.device.type == "cpu"
        self.chunk = CHUNK_ON_GPU if self.device.type != "cpu" else 1 if self.shares else CHUNK_ON_CPU
        self.seconds = 0.0
        self.width = int(self.model.sam_mask_decoder.transformer_dim)
        self.low_res = int(self.model.sam_image_embedding_size) * 4

    def encode(self, image: npt.NDArray[np.uint8]) -> Encoded:
        """Encode a (H, W, 3) RGB image."""
        with torch.inference_mode():
            with self._clock(), self._without_transforms():
                self.predictor.set_image(image)
            embedding = self.predictor.embedding()
            with self._clock():
                encoder = self.model.sam_prompt_encoder
                position = encoder.get_dense_pe()
                share = None
                if self.shares:
                    _, dense = encoder(points=None, boxes=None, masks=None)
                    keys = (embedding.image_embed + dense).flatten(2).transpose(1, 2)
                    layer = self.model.sam_mask_decoder.transformer.layers[0]
                    first = FirstLayer.of(layer, keys, position.flatten(2).transpose(1, 2))
                    share = ImageShare(position, first)
            return Encoded(embedding, position, share)

    def points(self, encoded: Encoded, xy: npt.NDArray[np.float32]) -> Outputs:
        """Decode (P, K, 2) foreground points in pixels of the image."""
        return self._in_chunks(encoded, xy, np.ones(xy.shape[:2], np.int32))

    def boxes(self, encoded: Encoded, xyxy: npt.NDArray[np.float32]) -> Outputs:
        """Decode (P, 4) boxes in pixels of the image."""
        corners = np.tile(np.array(CORNERS, np.int32), (len(xyxy), 1))
        return self._in_chunks(encoded, xyxy.reshape(-1, 2, 2), corners)

    def _in_chunks(self, encoded: Encoded, xy: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]) -> Outputs:
        parts = []
        with self._clock(), torch.inference_mode():
            for start in range(0, len(xy), self.chunk):
                part = slice(start, start + self.chunk)
                parts.append(self._decode(encoded, xy[part], labels[part]))
            logits, samscore, iou_token, mask_tokens = (
                parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
            )
        return Outputs(logits, samscore, iou_token, mask_tokens)

    def _decode(
        self, encoded: Encoded, xy: npt.NDArray[np.float32], labels: npt.NDArray[np.int32]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        height, width = encoded.embedding.image_hw
        scale = self.model.image_size / np.array([width, height], np.float32)
        coords = torch.from_numpy(np.ascontiguousarray(xy * scale)).to(self.device)
        marks = torch.from_numpy(np.ascontiguousarray(labels)).to(self.device)
        sparse, dense = self.model.sam_prompt_encoder(points=(coords, marks), boxes=None, masks=None)
        decoder = self.model.sam_mask_decoder
        hidden: list[Tensor] = []

        def transformer(image: Tensor, position: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
            whole = decoder.transformer
            if is_stock_transformer(whole):
                found, keys = two_way(whole, image, position, tokens, encoded.share if len(xy) == 1 else None)
            else:
                found, keys = whole(image, position, tokens)
            hidden.append(found)
            return found, keys

        logits, samscore, _, _ = AttributeOverride(decoder, transformer=transformer).predict_masks(
            image_embeddings=encoded.embedding.image_embed,
            image_pe=encoded.position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=True,
            high_res_features=list(encoded.embedding.high_res) or None,
        )
        iou_token, mask_tokens = split_tokens(decoder, hidden[0])
        return logits.float(), samscore.float(), iou_token.float(), mask_tokens.float()

    @contextmanager
    def _without_transforms(self) -> Iterator[None]:
        """Take what the predictor spends on resizing and normalising the image out of `seconds`."""
        transforms = self.predictor._transforms

        def timed(image: Any) -> Tensor:
            start = perf_counter()
            tensor: Tensor = transforms(image)
            self.seconds -= perf_counter() - start
            return tensor

        self.predictor._transforms = timed
        try:
            yield
        finally:
            self.predictor._transforms = transforms

    @contextmanager
    def _clock(self) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        finally:
            self.seconds += perf_counter() - start
