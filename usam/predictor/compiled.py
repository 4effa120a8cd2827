"""An image encoder run by OpenVINO in float32, where that package is installed: the same maps, sooner on a processor.

    compiled, why_not = CompiledEncoder.of(predictor.model.image_encoder, predictor.model.image_size, threads=2)
    predictor.compiled = compiled  # None keeps torch

It is compared with torch before it is used, and only images one at a time go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

CLOSE = 1e-3
"""Largest error of a map over its largest value for which it counts as torch's."""

Arrays = list[npt.NDArray[np.float32]]
Compile = Callable[[nn.Module, Tensor, int], Callable[[Tensor], Arrays]]


class CompiledEncoder:
    """Takes an image encoder's place in a predictor (`PatchedImagePredictor.compiled`). Made by `of`."""

    def __init__(self, encoder: Any, run: Callable[[Tensor], Arrays], stages: int) -> None:
        self.encoder, self._run, self._stages = encoder, run, stages

    @classmethod
    def of(
        cls, encoder: Any, side: int, threads: int, compile_maps: Compile | None = None
    ) -> tuple[CompiledEncoder | None, str]:
        """The compiled encoder for images of `side` pixels, or None and why there is none: the package is not
        installed, it cannot run this encoder, or its maps are not torch's."""
        maps, generator = _Maps(encoder).eval(), torch.Generator().manual_seed(0)
        example = torch.randn(1, 3, side, side, generator=generator)
        try:
            with torch.no_grad():
                wanted, stages = maps(example), len(encoder.trunk(example))
                run = (compile_maps or _openvino)(maps, example, threads)
            got = run(example)
        except ImportError:
            return None, "the package openvino is not installed"
        except Exception as error:  # whatever a runtime raises, torch goes on
            return None, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        for ours, theirs in zip(got, wanted, strict=True):
            error_share = float((torch.as_tensor(ours) - theirs).abs().max() / theirs.abs().max().clamp(min=1e-9))
            if not error_share < CLOSE:
                return None, f"its maps differ from torch's by {error_share:.2g} of their largest value"
        return cls(encoder, run, stages), ""

    def __call__(self, images: Tensor) -> dict[str, Any]:
        """(B, 3, S, S) to the encoder's result; its `vision_pos_enc` has the right shapes and no meaning."""
        return self.observed(images, None)

    def observed(self, images: Tensor, observe: Callable[[Sequence[Tensor]], None] | None) -> dict[str, Any]:
        """As a call; `observe` gets the trunk's maps, finest first. Several images go to the encoder itself."""
        if len(images) != 1:
            result: dict[str, Any] = self.encoder(images)
            return result
        maps = [torch.as_tensor(part) for part in self._run(images)]
        stages, features = maps[: self._stages], maps[self._stages :]
        if observe is not None:
            observe(stages)
        return {"vision_features": features[-1], "vision_pos_enc": features, "backbone_fpn": features}


class _Maps(nn.Module):
    """An encoder's maps alone: the trunk's, then the neck's that are used."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.trunk, self.neck, self.scalp = encoder.trunk, encoder.neck, encoder.scalp

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        stages = self.trunk(images)
        features, _ = self.neck(stages)
        return (*stages, *features[: len(features) - self.scalp])


def _openvino(maps: nn.Module, example: Tensor, threads: int) -> Callable[[Tensor], Arrays]:
    import openvino  # type: ignore[import-not-found,unused-ignore]

    wanted = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.convert_model(maps, example_input=example, input=list(example.shape))
    compiled = openvino.Core().compile_model(model, "CPU", wanted)
    return lambda images: [np.array(part, np.float32) for part in compiled(images.numpy()).values()]
