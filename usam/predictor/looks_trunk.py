"""What ImageNet taught about how things look, kept apart from the model that draws masks.

Shapes: C channels and g side of a map, H, W an image's sides.

A trunk that learns to draw masks forgets what classes look like, and SAM 2's was never told. The late blocks of
EfficientNet-Lite0 as ImageNet left them tell classes apart better, from fewer labels, for whatever model makes the
masks. The early blocks are those of the nano family, where they were never trained: there the map in the middle is
taken over, and half of the work with it.

    trunk = looks_trunk("cpu")
    maps = trunk.of_image(image)  # for `usam.predictor.object_features.pool_stages`
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from usam.checkpoints.nano_trunk import LiteTrunk, imagenet_state
from usam.predictor.encoder import fastest_dtype

VARIANT = "tf_efficientnet_lite0"
SIDE = 448
"""Pixels of the square that an image is squeezed into."""
EARLY = 3
"""Blocks up to stride 8: what they see, edges and textures, is the same for every task."""
KEPT = (4, 5, 6)
"""Blocks whose maps are kept, at strides 16, 32 and 32."""
SAME = 1e-3
"""Largest difference of early weights, by the largest of them, that storing them in float16 explains."""
HALF_LIMIT = 60000.0

Maps = tuple[Tensor, ...]


class LooksTrunk(nn.Module):
    """An EfficientNet-Lite0 by ImageNet. Raises `CheckpointError` where the package with its weights is missing.

    Maps are (C, g, g) float16, finest first: 112 x 28, 192 x 14 and 320 x 14. They are computed in the fastest type of
    the device that keeps float32's range.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.trunk = LiteTrunk(VARIANT, imagenet_state(VARIANT)).to(device).requires_grad_(False).eval()
        self._early = {
            name: value.clone() for name, value in self.trunk.features.state_dict().items() if not _is_late(name)
        }
        self._known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
        self.dtype = fastest_dtype(device)
        self.trunk.features.to(self.dtype)

    def begins(self, model: Any) -> bool:
        """Whether a SAM 2 model has the early blocks of this trunk, for images of the same side. Looked at once."""
        trunk = model.image_encoder.trunk
        if trunk not in self._known:
            self._known[trunk] = model.image_size == SIDE and self._same(trunk)
        return self._known[trunk]

    def _same(self, other: Any) -> bool:
        if not isinstance(other, LiteTrunk):
            return False
        theirs = other.features.state_dict()
        for name, ours in self._early.items():
            value = theirs.get(name)
            if value is None or value.shape != ours.shape:
                return False
            if bool((value.to(ours) - ours).abs().max() > SAME * ours.abs().max()):
                return False
        return True

    @torch.no_grad()
    def of_image(self, image: Any) -> Maps:
        """Maps of an image (H, W, 3) uint8 RGB, or a PIL image of mode RGB."""
        small = cv2.resize(np.asarray(image), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        device = next(self.trunk.features.parameters()).device
        pixels = torch.from_numpy(small).to(device).permute(2, 0, 1)[None]
        values = ((pixels.float() - 127) / 128).to(self.dtype).contiguous(memory_format=torch.channels_last)
        parts: Any = self.trunk.features
        values = parts.bn1(parts.conv_stem(values))
        for block in parts.blocks[:EARLY]:
            values = block(values)
        return self._late(values)

    @torch.no_grad()
    def of_stages(self, stages: Sequence[Tensor]) -> Maps:
        """Maps from those of the trunk of a model that `begins` as this one does, finest first, at strides 4, 8, ..."""
        return self._late(stages[1].to(self.dtype).contiguous(memory_format=torch.channels_last))

    def _late(self, values: Tensor) -> Maps:
        kept, blocks = [], cast(nn.Sequential, self.trunk.features.blocks)
        for number, block in enumerate(blocks[EARLY:], EARLY):
            values = block(values)
            if number in KEPT:
                kept.append(values[0].float().clamp(-HALF_LIMIT, HALF_LIMIT).half().contiguous())
        return tuple(kept)


@cache
def looks_trunk(device: str) -> LooksTrunk:
    """The trunk on a device, made once in a process. Raises as `LooksTrunk` does."""
    return LooksTrunk(device)


def _is_late(name: str) -> bool:
    part, *rest = name.split(".")
    return part == "blocks" and int(rest[0]) >= EARLY
