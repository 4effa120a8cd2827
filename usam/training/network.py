"""All heads as one network while they train.

Legend: N rows (objects), B rows of a batch, D token width, T heads, M masks a row, H1, H2 hidden widths. A
head maps concat(iou_token, mask_token) (2 D) through H1 and H2 (ReLU) to one logit; its value is the
sigmoid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.linalg import block_diag
from torch import Tensor, nn

from usam.errors import TrainingError

Layers = list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]
Alignment = str
_TOKENS = {"aligned": [0, 1, 2, 3], "shifted": [0, 0, 1, 2]}
"""The mask token that is read for outputs 0 to 3."""


@dataclass(frozen=True)
class Rows:
    """What heads learn from: iou (N, D), masks (N, M, D), targets (N, M, T) with NaN where unknown, weights
    (N,).
    """

    names: tuple[str, ...]
    iou: npt.NDArray[np.floating[Any]]
    masks: npt.NDArray[np.floating[Any]]
    targets: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]

    @classmethod
    def of(
        cls,
        iou_token: npt.NDArray[np.floating[Any]],
        mask_tokens: npt.NDArray[np.floating[Any]],
        targets: Mapping[str, npt.NDArray[np.floating[Any]]],
        alignment: Alignment,
        weights: npt.NDArray[np.floating[Any]] | None = None,
    ) -> Rows:
        """Rows from iou_token (N, D), mask_tokens (N, 4, D) and targets {head: (N, M)} in [0, 1].

        M = 3 speaks of outputs 1 to 3, M = 4 of outputs 0 to 3, 0 being the single mask. `aligned` heads of
        output m read mask token m, `shifted` ones token m - 1; both read token 0 for output 0. Raises
        `TrainingError` on shapes that do not fit, targets outside [0, 1], tokens or weights that are not
        finite.
        """
        count, width = iou_token.shape if iou_token.ndim == 2 else (len(iou_token), -1)
        if mask_tokens.shape != (count, 4, width) or width < 1:
            raise TrainingError(
                "iou_token (N, D) and mask_tokens (N, 4, D)", f"{iou_token.shape} and {mask_tokens.shape}"
            )
        if not targets:
            raise TrainingError("targets of at least one head", "none", "name what is to be learnt")
        outputs = next(iter(targets.values())).shape[-1]
        for name, values in targets.items():
            if values.shape != (count, outputs) or outputs not in (3, 4):
                raise TrainingError(f"targets of {name} as ({count}, 3 or 4)", str(values.shape), "one value a mask")
            if np.isnan(values).all():
                raise TrainingError(f"known targets of {name}", "NaN everywhere", "leave this head out")
            if np.nanmin(values) < 0 or np.nanmax(values) > 1:
                raise TrainingError(f"targets of {name} in [0, 1]", "values outside", "clip gaps to 0.5 + gap")
        weight = np.ones(count, np.float32) if weights is None else np.asarray(weights, np.float32)
        if weight.shape != (count,) or not np.isfinite(weight).all() or (weight < 0).any() or not weight.any():
            raise TrainingError(f"({count},) weights of at least 0, not all 0", str(weight.shape), "check them")
        masks = mask_tokens[:, _TOKENS[alignment][-outputs:]]
        if not (np.isfinite(iou_token).all() and np.isfinite(masks).all()):
            raise TrainingError("finite tokens", "NaN or infinity", "make the token table again")
        stacked = np.stack([np.asarray(values, np.float32) for values in targets.values()], axis=2)
        return cls(tuple(targets), iou_token, masks, stacked, weight)

    def __len__(self) -> int:
        return len(self.iou)

    @property
    def width(self) -> int:
        """D."""
        return int(self.iou.shape[1])


@dataclass(frozen=True)
class Scale:
    """Mean and spread of each input, (2 D,), by which inputs are standardised; folded into the first layer
    at the end.
    """

    mean: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: Rows, indices: npt.NDArray[np.int64]) -> Scale:
        """From the training rows alone."""
        iou = rows.iou[indices].astype(np.float32)
        masks = rows.masks[indices].reshape(-1, rows.width).astype(np.float32)
        mean = np.concatenate([part.mean(axis=0, dtype=np.float64) for part in (iou, masks)])
        spread = np.concatenate([part.std(axis=0, dtype=np.float64) for part in (iou, masks)])
        return cls(mean, np.maximum(spread, 1e-3 * spread.mean() + 1e-8))

    def apply(self, rows: Rows, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Standardised iou (N, D) and masks (N, M, D)."""
        parts = []
        for values, half in ((rows.iou, slice(0, rows.width)), (rows.masks, slice(rows.width, None))):
            shift, factor = self.mean[half].astype(np.float32), (1 / self.spread[half]).astype(np.float32)
            parts.append(torch.from_numpy((values.astype(np.float32) - shift) * factor).to(device, dtype))
        return parts[0], parts[1]

    def fold(self, layers: Layers) -> Layers:
        """Layers that take raw tokens and answer as `layers` do on standardised ones."""
        weight, bias = layers[0]
        raw = weight.astype(np.float64) / self.spread
        return [(raw.astype(np.float32), (bias - raw @ self.mean).astype(np.float32)), *layers[1:]]

    def unfold(self, layers: Layers) -> Layers:
        """The opposite of `fold`."""
        weight, bias = layers[0]
        raw = weight.astype(np.float64)
        return [((raw * self.spread).astype(np.float32), (bias + raw @ self.mean).astype(np.float32)), *layers[1:]]


class StackedHeads(nn.Module):
    """T heads of shape 2 D - H1 - H2 - 1, of which the first `shared` hidden layers may be one for all."""

    def __init__(self, width: int, heads: int, hidden: tuple[int, int], shared: int) -> None:
        super().__init__()
        self.heads, self.hidden, self.shared = heads, hidden, shared
        firsts, seconds = (1 if shared >= 1 else heads), (1 if shared >= 2 else heads)
        self.first = nn.Parameter(torch.randn(firsts, hidden[0], 2 * width) * (1 / width) ** 0.5)
        self.first_bias = nn.Parameter(torch.zeros(firsts, hidden[0]))
        self.second = nn.Parameter(torch.randn(seconds, hidden[1], hidden[0]) * (2 / hidden[0]) ** 0.5)
        self.second_bias = nn.Parameter(torch.zeros(seconds, hidden[1]))
        self.last = nn.Parameter(torch.randn(heads, hidden[1]) * 0.3 * hidden[1] ** -0.5)
        self.last_bias = nn.Parameter(torch.zeros(heads))

    @classmethod
    def from_layers(cls, heads: Sequence[Layers]) -> StackedHeads:
        """A network with nothing shared that computes the given heads, each of three layers."""
        (first, _), (second, _), _ = heads[0]
        network = cls(first.shape[1] // 2, len(heads), (first.shape[0], second.shape[0]), shared=0)
        parameters = (network.first, network.second, network.last)
        biases = (network.first_bias, network.second_bias, network.last_bias)
        with torch.no_grad():
            for index, layers in enumerate(heads):
                for parameter, bias, (weight, offset) in zip(parameters, biases, layers, strict=True):
                    parameter[index] = torch.from_numpy(weight).reshape(parameter[index].shape)
                    bias[index] = torch.from_numpy(offset).reshape(bias[index].shape)
        return network

    def forward(self, iou: Tensor, masks: Tensor) -> Tensor:
        """Logits (B, M, T) from standardised iou (B, D) and masks (B, M, D), computed in their type.

        The iou half of the first layer is computed once a row, not once a mask.
        """
        dtype, (count, masks_each, width) = iou.dtype, masks.shape
        inputs = count * masks_each
        first = self.first.to(dtype).reshape(-1, 2 * width)
        start = F.linear(iou, first[:, :width], self.first_bias.to(dtype).reshape(-1))
        hidden = F.relu(F.linear(masks, first[:, width:]) + start[:, None]).reshape(inputs, -1)
        second, bias = self.second.to(dtype), self.second_bias.to(dtype)
        if self.shared:
            hidden = F.relu(F.linear(hidden, second.flatten(0, 1), bias.flatten()))
        else:
            stacked = hidden.view(inputs, self.heads, -1).transpose(0, 1)
            hidden = F.relu(torch.baddbmm(bias[:, None], stacked, second.transpose(1, 2))).transpose(0, 1)
        if self.shared == 2:
            logits = F.linear(hidden, self.last.to(dtype)).float()
        else:
            logits = (hidden.view(inputs, self.heads, -1) * self.last.to(dtype)).sum(dim=2).float()
        return (logits + self.last_bias).view(count, masks_each, self.heads)

    @torch.no_grad()
    def layers(self, head: int) -> Layers:
        """One head as plain layers [(W (out, in), b (out,)), ...] on standardised inputs."""
        one, two = (0 if self.shared >= 1 else head), (0 if self.shared >= 2 else head)
        pairs = [
            (self.first[one], self.first_bias[one]),
            (self.second[two], self.second_bias[two]),
            (self.last[head][None], self.last_bias[head][None]),
        ]
        return [(w.float().cpu().numpy().copy(), b.float().cpu().numpy().copy()) for w, b in pairs]


def merge_layers(members: Sequence[Layers]) -> Layers:
    """One head whose logit is the mean of the members' logits, as wide as all of them together.

    First layers are stacked, second layers stand on the diagonal of a larger one, last layers side by side
    over their number: still a plain network of three layers.
    """
    if len(members) == 1:
        return list(members[0])
    firsts, seconds, lasts = zip(*members, strict=True)
    second = block_diag(*(weight for weight, _ in seconds)).astype(np.float32)
    last = np.concatenate([weight for weight, _ in lasts], axis=1) / np.float32(len(members))
    return [
        (np.concatenate([weight for weight, _ in firsts]), np.concatenate([bias for _, bias in firsts])),
        (second, np.concatenate([bias for _, bias in seconds])),
        (last, np.mean([bias for _, bias in lasts], axis=0, dtype=np.float32)),
    ]
