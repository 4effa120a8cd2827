"""An encoded image: what a predictor keeps of an image, to be stored and given to another predictor.

Shapes: D token width, E side of the image embedding, H, W image height and width in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from usam.errors import CheckpointError


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """One image's features, of one model. Moves between predictors of the same model and between threads.

    image_embed  (1, D, E, E)
    high_res     (1, D / 8, 4 E, 4 E) and (1, D / 4, 2 E, 2 E), or none for models without them
    image_hw     (H, W) of the image as it was set
    checkpoint   name of the checkpoint that encoded it, or '' where that is not known
    stages       maps of looks (`usam.predictor.looks_trunk`), finest first; () where the predictor does not
                 `keep_stages`
    """

    image_embed: Tensor
    high_res: tuple[Tensor, ...]
    image_hw: tuple[int, int]
    checkpoint: str = ""
    stages: tuple[Tensor, ...] = ()

    @property
    def features(self) -> dict[str, Any]:
        """The features as `SAM2ImagePredictor` keeps them."""
        return {"image_embed": self.image_embed, "high_res_feats": list(self.high_res)}

    @property
    def nbytes(self) -> int:
        """Bytes that the features take."""
        return sum(t.numel() * t.element_size() for t in (self.image_embed, *self.high_res, *self.stages))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> ImageEmbedding:
        """The embedding on another device or in another type (bfloat16: half the bytes, less exact). Stages keep
        their type."""
        image_embed, *high_res = (t.to(device, dtype) for t in (self.image_embed, *self.high_res))
        stages = tuple(stage.to(device) for stage in self.stages)
        return ImageEmbedding(image_embed, tuple(high_res), self.image_hw, self.checkpoint, stages)

    def check_fits(self, model: Any, checkpoint: str | None) -> None:
        """Raises CheckpointError when `model`, of the name `checkpoint`, did not encode this embedding."""
        if self.checkpoint and checkpoint and self.checkpoint != checkpoint:
            raise CheckpointError(
                f"an embedding by {checkpoint}",
                f"one by {self.checkpoint}",
                "encode the image with this model",
            )
        side = model.sam_image_embedding_size
        wanted = (1, model.sam_prompt_embed_dim, side, side)
        if tuple(self.image_embed.shape) != wanted:
            raise CheckpointError(
                f"an image embedding {wanted}",
                f"{tuple(self.image_embed.shape)}",
                "encode the image with this model",
            )
