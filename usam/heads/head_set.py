"""A head set: every uncertainty head of one SAM checkpoint, evaluated as one stacked computation.

Shapes: P prompts, M masks per prompt (3 or 1), D token width, H heads, N hidden width.

A head is a small network on `concat(iou_token, mask_token)` (2 D values): linear layers with ReLU between
them and a sigmoid at the end (UncertainSAM, arXiv 2505.05049). Heads named `iou_*` answer with an IoU in [0,
1], higher = better mask. Heads named `*_gap` are trained on `0.5 + gap` and served as `output - 0.5` in
[-0.5, 0.5], higher = more to gain.

Which mask token a score reads is the set's *alignment*. SAM's decoder makes four outputs: 0 when one mask is
asked for, 1 to 3 when several are. `aligned` heads read token m for output m. `shifted` heads, such as the
published ones, were trained with token m - 1 under output m (m >= 1), and so read tokens 0, 1, 2 for outputs
1, 2, 3. Both read token 0 for output 0.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from usam.arrays import numbers
from usam.errors import HeadsError
from usam.heads.files import PUBLISHED_HEADS, Alignment, Layers, StoredHeads, read, write

__all__ = ["PUBLISHED_HEADS", "Alignment", "Columns", "FloatArray", "HeadSet", "Layers"]

FloatArray = npt.NDArray[np.float32]
Columns = Literal["multimask", "single", "all"]

_NAME = re.compile(r"iou_[a-z0-9_]+|[a-z0-9]+(_[a-z0-9]+)*_gap")
_OUTPUTS: dict[Columns, tuple[int, ...]] = {"multimask": (1, 2, 3), "single": (0,), "all": (0, 1, 2, 3)}
_TOKEN_OF_OUTPUT: dict[Alignment, tuple[int, ...]] = {"aligned": (0, 1, 2, 3), "shifted": (0, 0, 1, 2)}


class HeadSet:
    """All heads for one SAM checkpoint. Immutable: replace the whole set to change a head.

    Read one with `HeadSet.load`, make one with `HeadSet.from_layers` or `usam.fit_heads`; `score` gives {head: (P, M)}.

    names       heads, in the order of the stacked computation
    alignment   'aligned' or 'shifted' (module docstring)
    checkpoint  whose tokens the heads were trained on: a checkpoint, a family ('sam2.1'), or '' (unknown)
    quality     the head that predicts the IoU of that checkpoint's own masks, or None
    width       D
    version     12 hexadecimal digits of the SHA-256 over names, alignment, checkpoint, quality and weights
    metadata    what else is known (training data, figures, date): JSON values

    Examples
    --------
    >>> from usam.checkpoints.registry import heads_for
    >>> heads = usam.HeadSet.load(heads_for("nano-s"))
    >>> heads.checkpoint, heads.quality, "task_gap" in heads.names
    ('nano-s-2', 'iou_nano_s', True)
    >>> heads.subset(["task_gap"]).save("gaps").name
    'heads.safetensors'
    """

    def __init__(
        self,
        layers: Mapping[str, Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]],
        *,
        alignment: Alignment,
        checkpoint: str = "",
        quality: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if alignment not in _TOKEN_OF_OUTPUT:
            raise HeadsError("alignment 'aligned' or 'shifted'", repr(alignment), "say how the heads were trained")
        if not layers:
            raise HeadsError("at least one head", "none")
        for name in layers:
            if not _NAME.fullmatch(name):
                raise HeadsError("head names such as 'iou_large' or 'task_gap'", repr(name), "rename the head")
        self.names: tuple[str, ...] = tuple(layers)
        self.alignment: Alignment = alignment
        self.checkpoint = checkpoint
        self.metadata: dict[str, Any] = dict(metadata or {})
        self._layers = {name: _checked_layers(name, head) for name, head in layers.items()}
        self._check_stackable()
        if quality is not None:
            self.index(quality)
        self.quality = quality
        self.width = self._layers[self.names[0]][0][0].shape[1] // 2
        self.sha256 = self._content_hash()
        self.version = self.sha256[:12]
        self._stacks: dict[torch.device, _Stack] = {}

    @classmethod
    def from_layers(
        cls,
        layers: Mapping[str, Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]],
        *,
        alignment: Alignment,
        checkpoint: str = "",
        quality: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> HeadSet:
        """A head set from `{head: [(W (out, in), b (out,)), ...]}`; all heads have the same layer sizes.

        `checkpoint` is taken for the weights that it stands for in this release.
        Raises HeadsError when sizes differ or do not chain, the last layer is not one value wide, a value is
        not finite, or a name is neither `iou_*` nor `*_gap`.
        """
        from usam.checkpoints.registry import weights_of

        weights = weights_of(checkpoint) if checkpoint else ""
        return cls(layers, alignment=alignment, checkpoint=weights, quality=quality, metadata=metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, checkpoint: str | None = None) -> HeadSet:
        """Read a head set: our file or folder (`heads.safetensors`), or the published layout
        `<head>/model.pth`.

        Published files are read with an unpickler that allows tensors only. `checkpoint` names the base
        checkpoint of a published folder; by default its family is taken from the folder's name (`sam2.1`,
        `sam2.0`).
        Raises HeadsError: missing, unreadable, unsafe, altered, wrong shapes, values not finite, unknown
        heads.
        """
        stored = read(Path(path), checkpoint)
        heads = cls(
            stored.layers,
            alignment=stored.alignment,
            checkpoint=stored.checkpoint,
            quality=stored.quality,
            metadata=stored.metadata,
        )
        if stored.sha256 not in (None, heads.sha256):
            remedy = "the file was altered: fetch or train again"
            raise HeadsError(f"SHA-256 {stored.sha256} in {path}", heads.sha256, remedy)
        return heads

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the set to `path` (a `.safetensors` file, else a folder that gets `heads.safetensors`).

        The file appears whole or not at all. Returns the file's path. Raises HeadsError when it cannot be
        stored.
        """
        stored = StoredHeads(self._layers, self.alignment, self.checkpoint, self.quality, self.metadata, self.sha256)
        return write(stored, Path(path))

    def layers(self) -> dict[str, Layers]:
        """`{head: [(W (out, in), b (out,)), ...]}`, copies, as `from_layers` takes them."""
        return {name: [(w.copy(), b.copy()) for w, b in head] for name, head in self._layers.items()}

    def rounded(self) -> HeadSet:
        """The set with its weights rounded to half floats: half the file, another version, scores within 1e-3."""
        half = {
            name: [(w.astype(np.float16).astype(np.float32), b.astype(np.float16).astype(np.float32)) for w, b in head]
            for name, head in self._layers.items()
        }
        return HeadSet(
            half, alignment=self.alignment, checkpoint=self.checkpoint, quality=self.quality, metadata=self.metadata
        )

    def index(self, name: str) -> int:
        """Position of a head in `names`. Raises HeadsError for a head that the set does not have."""
        if name not in self.names:
            raise HeadsError(f"one of the heads {', '.join(self.names)}", repr(name), "choose a head of this set")
        return self.names.index(name)

    def subset(self, names: Sequence[str]) -> HeadSet:
        """The set with these heads only, in this order. Raises HeadsError for an unknown head."""
        for name in names:
            self.index(name)
        quality = self.quality if self.quality in names else None
        return HeadSet(
            {name: self._layers[name] for name in names},
            alignment=self.alignment,
            checkpoint=self.checkpoint,
            quality=quality,
            metadata=self.metadata,
        )

    def fits(self, checkpoint: str | None) -> bool:
        """Whether the heads were trained on this checkpoint's tokens; True where either side does not say.

        A name of ours that stands for other weights than when they were trained does not fit.
        """
        if not checkpoint or not self.checkpoint:
            return True
        from usam.checkpoints.registry import weights_of

        family, _, size = checkpoint.partition("_")
        return self.checkpoint == weights_of(checkpoint) or bool(size and self.checkpoint == family)

    def quality_for(self, checkpoint: str | None) -> str | None:
        """The head that predicts the IoU of this checkpoint's own masks: its size's head, else `quality`."""
        size = f"iou_{(checkpoint or '').partition('hiera_')[2]}"
        return size if size in self.names else self.quality

    def to(self, device: torch.device | str) -> HeadSet:
        """Place the weights on `device` now rather than at the first score there. Returns the same set."""
        self._stack(torch.device(device))
        return self

    def score(
        self,
        iou_token: npt.ArrayLike | torch.Tensor,
        mask_tokens: npt.ArrayLike | torch.Tensor,
        columns: Columns = "multimask",
    ) -> dict[str, FloatArray]:
        """Scores {head: (P, M) float32} from iou_token (P, D) and mask_tokens (P, 4, D), in one pass.

        columns: 'multimask' scores decoder outputs 1, 2, 3 (M = 3), 'single' output 0 (M = 1), 'all' outputs
        0 to 3 (M = 4). The token that each column reads depends on the alignment (module docstring). IoUs lie
        in [0, 1], gaps in [-0.5, 0.5].
        Raises HeadsError for other shapes or widths and for tokens that are not finite.
        """
        if columns not in _OUTPUTS:
            raise HeadsError(f"columns, one of {', '.join(_OUTPUTS)}", repr(columns))
        iou, masks = (
            part if isinstance(part, torch.Tensor) else torch.as_tensor(numbers(part, "tokens", error=HeadsError))
            for part in (iou_token, mask_tokens)
        )
        if not (iou.ndim and masks.ndim):
            raise HeadsError("tokens (P, D) and (P, 4, D)", f"{tuple(iou.shape)} and {tuple(masks.shape)}")
        outputs = torch.tensor(_OUTPUTS[columns], device=masks.device).expand(masks.shape[0], -1)
        return self.as_dict(self.score_outputs(iou, masks, outputs))

    @torch.no_grad()
    def score_outputs(self, iou_token: torch.Tensor, mask_tokens: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """Scores (H, P, M) float32 of the decoder outputs `outputs` (P, M), 0..3, on the tokens' device.

        Computed in float32 whatever the tokens' type and any autocast. Raises HeadsError for other shapes.
        """
        prompts, width = iou_token.shape[0], self.width
        if iou_token.shape != (prompts, width) or mask_tokens.shape != (prompts, 4, width):
            raise HeadsError(
                f"tokens of width {width}: iou_token (P, {width}) and mask_tokens (P, 4, {width})",
                f"{tuple(iou_token.shape)} and {tuple(mask_tokens.shape)}",
                f"use heads trained for this model (these are for {self.checkpoint or 'another width'})",
            )
        device = mask_tokens.device
        stack = self._stack(device)
        with torch.autocast(device.type, enabled=False):
            reads = stack.token_of_output[outputs]
            chosen = mask_tokens.float().gather(1, reads[..., None].expand(-1, -1, width))
            return stack(iou_token.float(), chosen)

    def as_dict(self, stacked: torch.Tensor) -> dict[str, FloatArray]:
        """{head: (P, M) float32} of stacked scores (H, P, M), in one device-to-host copy.

        Raises HeadsError when a score is not finite, which means that the tokens were not.
        """
        values: FloatArray = stacked.cpu().numpy()
        if not np.isfinite(values).all():
            raise HeadsError(
                "finite tokens", "scores that are not finite", "check the image, prompt and weights for NaN"
            )
        return dict(zip(self.names, values, strict=True))

    def __repr__(self) -> str:
        origin = f"{self.alignment}, {self.checkpoint or 'any checkpoint'}, version {self.version}"
        return f"HeadSet({', '.join(self.names)}; {origin})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stacks": {}}

    def _stack(self, device: torch.device) -> _Stack:
        stack = self._stacks.get(device)
        if stack is None:
            with torch.inference_mode(False):
                stack = _Stack(self._layers, self.alignment, device)
            self._stacks[device] = stack
        return stack

    def _check_stackable(self) -> None:
        first = [weight.shape for weight, _ in self._layers[self.names[0]]]
        for name, head in self._layers.items():
            shapes = [weight.shape for weight, _ in head]
            if shapes != first:
                raise HeadsError(f"layers of {first} in every head", f"{shapes} in {name}", "train the heads alike")

    def _content_hash(self) -> str:
        digest = hashlib.sha256()
        digest.update(json.dumps([self.names, self.alignment, self.checkpoint, self.quality]).encode())
        for head in self._layers.values():
            for weight, bias in head:
                digest.update(json.dumps(weight.shape).encode() + weight.tobytes() + bias.tobytes())
        return digest.hexdigest()


class _Stack:
    """The heads' weights on one device, laid out so that P prompts and M masks cost one pass.

    The first layers of all heads are one matrix, split in its iou_token and mask_token halves: the iou half
    is computed once per prompt rather than once per mask.
    """

    def __init__(self, layers: Mapping[str, Layers], alignment: Alignment, device: torch.device) -> None:
        heads = list(layers.values())
        width = heads[0][0][0].shape[1] // 2
        first = torch.from_numpy(np.concatenate([head[0][0] for head in heads]))
        self.heads = len(heads)
        self.iou_half = first[:, :width].contiguous().to(device)
        self.mask_half = first[:, width:].contiguous().to(device)
        self.first_bias = torch.from_numpy(np.concatenate([head[0][1] for head in heads])).to(device)
        self.rest = [
            (
                torch.from_numpy(np.stack([head[i][0].T for head in heads])).to(device),
                torch.from_numpy(np.stack([head[i][1] for head in heads])[:, None, :]).to(device),
            )
            for i in range(1, len(heads[0]))
        ]
        offset = np.array([0.5 if name.endswith("_gap") else 0.0 for name in layers], dtype=np.float32)
        self.offset = torch.from_numpy(offset[:, None, None]).to(device)
        self.token_of_output = torch.tensor(_TOKEN_OF_OUTPUT[alignment], device=device)

    def __call__(self, iou_token: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """(H, P, M) from iou_token (P, D) and the mask token that each column reads, `chosen` (P, M, D)."""
        prompts, masks, _ = chosen.shape
        shared = F.linear(iou_token, self.iou_half, self.first_bias)
        x = F.linear(chosen, self.mask_half) + shared[:, None, :]
        x = x.view(prompts * masks, self.heads, len(self.first_bias) // self.heads).transpose(0, 1)
        for weight, bias in self.rest:
            x = torch.baddbmm(bias, x.relu(), weight)
        return x.sigmoid().view(self.heads, prompts, masks) - self.offset


def _checked_layers(name: str, layers: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]) -> Layers:
    """The layers as contiguous float32 arrays. Raises HeadsError: shapes do not chain, values not finite."""
    checked: Layers = []
    inputs: int | None = None
    for index, (weight, bias) in enumerate(layers):
        w, b = (
            np.array(numbers(part, f"layer {index} of {name}", error=HeadsError), dtype=np.float32, order="C")
            for part in (weight, bias)
        )
        if w.ndim != 2 or b.shape != w.shape[:1] or (inputs is not None and w.shape[1] != inputs):
            raise HeadsError(
                f"layer {index} of {name} as W (out, {inputs or '2 D'}) and b (out,)",
                f"W {w.shape} and b {b.shape}",
                "the head was made for another layout",
            )
        if not (np.isfinite(w).all() and np.isfinite(b).all()):
            raise HeadsError(f"finite weights in layer {index} of {name}", "NaN or infinity", "train the head again")
        checked.append((w, b))
        inputs = w.shape[0]
    if len(checked) < 2 or inputs != 1 or checked[0][0].shape[1] % 2:
        shapes = [w.shape for w, _ in checked]
        raise HeadsError(
            f"{name} as two or more layers from 2 D to 1", f"{shapes}", "the head was made for another layout"
        )
    return checked
