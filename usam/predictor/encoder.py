"""Encoding images in fewer bits, where that is faster and safe.

Shapes: B windows or images, A attention heads, L query and S key tokens, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from torch import Tensor
from torch.overrides import TorchFunctionMode

from usam.errors import ImageError
from usam.predictor.compiled import CompiledEncoder
from usam.predictor.decoder import AttributeOverride, mark

QUERY_ROWS = 512
"""Queries at a time: their weights for 4,096 keys take 4 MB per head in bfloat16."""


def fastest_dtype(device: torch.device | str) -> torch.dtype:
    """The fastest type that keeps float32's range and that `device` computes natively; else float32.

    bfloat16 on a CPU with AVX-512 BF16 or AMX and on CUDA from Ampere on. Float16 is never chosen: a large
    activation would overflow in it.
    """
    device = torch.device(device)
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        native = device.type == "cpu" and (_processor_has("avx512_bf16") or _processor_has("amx_tile"))
    return torch.bfloat16 if native else torch.float32


@contextmanager
def encoding(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Inside, models compute in `dtype` where that is safe (autocast); None and float32 change nothing.

    On a CPU without AMX attention in bfloat16 is computed in blocks of queries by matrix products, in about half the
    time of the built-in kernel, which is the faster one where there is AMX. Applies to the calling thread only.
    """
    if dtype in (None, torch.float32):
        yield
        return
    with torch.autocast(device.type, dtype=dtype):
        if device.type == "cpu" and not _processor_has("amx_tile"):
            with _BlockedAttention():
                yield
        else:
            yield


class ObservedEncoder:
    """An image encoder whose trunk's maps `observe` gets to see, finest first, on their way to the neck; `seen` is what
    it made of them the last time.

    The encoder itself stays as it is, so other threads may use it; what it computes is the same. `encoder` has a
    `trunk` and a `neck`, as SAM 2's, or is a `CompiledEncoder`.
    """

    def __init__(self, encoder: Any, observe: Callable[[Sequence[Tensor]], Any]) -> None:
        self._encoder, self._observe = encoder, observe
        self.seen: Any = None

    def __call__(self, images: Tensor) -> dict[str, Any]:
        """(B, 3, S, S) to the encoder's result."""
        if isinstance(self._encoder, CompiledEncoder):
            return self._encoder.observed(images, self._see)
        result: dict[str, Any] = AttributeOverride(self._encoder, neck=self._neck)(images)
        return result

    def _neck(self, stages: Sequence[Tensor]) -> Any:
        self._see(stages)
        return self._encoder.neck(stages)

    def _see(self, stages: Sequence[Tensor]) -> None:
        self.seen = self._observe(stages)


class LeanEncoder:
    """SAM 2's image encoder without what an image predictor does not read, for use inside `encoding`.

    Leaves out the neck's positional encodings, which serve video memory; makes the trunk's positional
    embedding once; and keeps channels innermost from the start, as all of the trunk's layers want them.
    Features are the encoder's, up to rounding.
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self._known: tuple[tuple[Any, ...], Tensor] | None = None

    @staticmethod
    def suits(encoder: Any) -> bool:
        """Whether `encoder` is SAM 2's own with a Hiera trunk, neither compiled nor hooked."""
        if type(encoder) is not ImageEncoder:
            return False
        parts = (encoder, encoder.trunk, encoder.neck)
        if type(encoder.trunk) is not Hiera or type(encoder.neck) is not FpnNeck:
            return False
        return not any("forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks for part in parts)

    def __call__(self, images: Tensor) -> dict[str, Any]:
        """(B, 3, S, S) to the encoder's result; its `vision_pos_enc` has the right shapes and no meaning."""
        encoder = self.encoder
        trunk = AttributeOverride(encoder.trunk, patch_embed=self._patches, _get_pos_embed=self._positions)
        neck = AttributeOverride(encoder.neck, position_encoding=_itself)
        result: dict[str, Any] = AttributeOverride(encoder, trunk=trunk, neck=neck)(images)
        return result

    def _patches(self, images: Tensor) -> Tensor:
        patches: Tensor = self.encoder.trunk.patch_embed(images)
        return patches.contiguous()

    def _positions(self, hw: tuple[int, int]) -> Tensor:
        trunk = self.encoder.trunk
        key = (tuple(hw), mark(trunk.pos_embed), mark(trunk.pos_embed_window))
        if self._known is None or self._known[0] != key:
            self._known = (key, trunk._get_pos_embed(hw).contiguous())
        return self._known[1]


class _BlockedAttention(TorchFunctionMode):
    """Computes plain bfloat16 attention by `_attend`, and leaves everything else alone."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention and len(args) == 3 and kwargs in (None, {}, {"dropout_p": 0.0}):
            query, key, value = args
            if query.dtype == key.dtype == value.dtype == torch.bfloat16 and not query.requires_grad:
                return _attend(query, key, value)
        return func(*args, **(kwargs or {}))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(d)) value for (B, A, L, d) and (B, A, S, d), without the whole (L, S) at once."""
    query, key, value = query.contiguous() * query.shape[-1] ** -0.5, key.contiguous(), value.contiguous()
    transposed = key.transpose(-1, -2)
    blocks = torch.split(query, QUERY_ROWS, dim=-2)
    return torch.cat([(block @ transposed).softmax(-1) @ value for block in blocks], dim=-2)


def check_rgb(image: Any) -> Any:
    """The image as the base class can encode it: a view such as `image[..., ::-1]` in memory of its own.

    Raises ImageError for any other array, which the base class takes for a picture of noise.
    """
    if isinstance(image, Image):
        good, got = image.mode == "RGB" and min(image.size) > 0, f"a PIL image {image.size} in mode {image.mode}"
    else:
        shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
        good = isinstance(image, np.ndarray) and dtype == np.uint8 and image.ndim == 3
        good = good and image.shape[2] == 3 and image.size > 0
        got = f"{dtype} of shape {shape}"
    if not good:
        raise ImageError("an RGB image (H, W, 3) uint8", got, "read it with usam.images.read_image")
    return np.ascontiguousarray(image) if isinstance(image, np.ndarray) else image


def _itself(x: Tensor) -> Tensor:
    return x


def _processor_has(feature: str) -> bool:
    """Whether torch knows of a feature ("avx512_bf16", "amx_tile") and finds it in this processor."""
    probe: Callable[[], bool] | None = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return probe is not None and probe()
