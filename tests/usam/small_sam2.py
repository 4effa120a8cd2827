"""SAM 2.1 Tiny at small image sizes with random weights: every module of the real one, in a fraction of the time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sam2.sam2_image_predictor import SAM2ImagePredictor

from usam.heads.head_set import PUBLISHED_HEADS, Alignment, HeadSet

IMAGE_HW = (90, 130)


@cache
def model(image_size: int = 128) -> Any:
    """A SAM2Base, the same at every call: leave it as it is."""
    from usam.checkpoints.registry import build_model

    torch.manual_seed(0)
    return build_model("sam2.1_hiera_tiny", weights=False, image_size=image_size)


@cache
def video_model() -> Any:
    """A SAM2VideoPredictor for 128 px, the same at every call."""
    import sam2
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    torch.manual_seed(0)
    config = OmegaConf.load(Path(sam2.__path__[0]) / "configs/sam2.1/sam2.1_hiera_t.yaml").model
    config.image_size = 128
    config._target_ = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    for attention in ("self_attention", "cross_attention"):
        config.memory_attention.layer[attention].feat_sizes = [8, 8]
    OmegaConf.resolve(config)
    return instantiate(config, _recursive_=True).eval()


def plain(base: Any | None = None) -> Any:
    """An unpatched predictor whose feature sizes fit its model."""
    base = model() if base is None else base
    predictor = SAM2ImagePredictor(base)
    side = base.sam_image_embedding_size
    predictor._bb_feat_sizes = [(4 * side, 4 * side), (2 * side, 2 * side), (side, side)]
    return predictor


def seeing() -> Any:
    """A patched predictor of a new model for 128 px with heads, which sees an object in every frame."""
    from usam.checkpoints.registry import build_model
    from usam.predictor.patch import patch

    torch.manual_seed(0)
    base = build_model("sam2.1_hiera_tiny", weights=False, image_size=128)
    set_object_bias(5.0, base)
    return patch(plain(base), random_heads())


def remembering() -> Any:
    """nano-s, which encodes an image that it has seen before no second time."""
    from usam.predictor.load import load

    predictor: Any = load("nano-s")
    encode, known = predictor.set_image, dict[bytes, Any]()

    def set_image(image: Any) -> None:
        content = np.asarray(image).tobytes()
        if content not in known:
            encode(image)
            known[content] = predictor.embedding()
        predictor.set_embedding(known[content])

    predictor.set_image = set_image
    return predictor


def set_object_bias(bias: float, *models: Any) -> None:
    """Let models see an object in every frame (5) or in none (-5)."""
    for one in models:
        with torch.no_grad():
            one.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(bias)


def picture(seed: int = 0, image_hw: tuple[int, int] = IMAGE_HW) -> npt.NDArray[np.uint8]:
    """Noise over a few flat shapes, (H, W, 3)."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 60, (*image_hw, 3), dtype=np.uint8)
    for _ in range(4):
        y, x = random.integers(0, image_hw[0] - 20), random.integers(0, image_hw[1] - 20)
        image[y : y + 20, x : x + 20] += random.integers(60, 190, 3, dtype=np.uint8)
    return image


def random_layers(width: int, names: Sequence[str] = PUBLISHED_HEADS, hidden: int = 16, seed: int = 0) -> Any:
    """Layers 2 D, hidden, hidden, 1 for each head."""
    random = np.random.default_rng(seed)
    sizes = (2 * width, hidden, hidden, 1)
    return {
        name: [
            (random.normal(0, 2 * sizes[i] ** -0.5, (sizes[i + 1], sizes[i])), random.normal(0, 0.1, sizes[i + 1]))
            for i in range(3)
        ]
        for name in names
    }


def random_heads(width: int = 256, alignment: Alignment = "aligned", checkpoint: str = "", seed: int = 0) -> HeadSet:
    """Nine heads whose scores differ from token to token."""
    layers = random_layers(width, seed=seed)
    return HeadSet.from_layers(layers, alignment=alignment, checkpoint=checkpoint, quality="iou_large")
