"""Masks for many points of one image, of which only the kept ones are made.

Shapes: P prompts (points), M masks per prompt (3 or 1), C candidates, K kept masks, D token width, N image
tokens, E side of the image embedding, H, W image in pixels, h, w = 4 E low-resolution masks.

For every point: tokens, SAM's IoUs and scores (no mask). For every candidate: a mask sampled at one pixel per
cell of the embedding, by which clear copies of better candidates go. For what is left: the low-resolution
mask, by which the rest of the near-copies go. For those that stay: the mask of the image's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from usam.errors import PromptError
from usam.heads import FloatArray, HeadSet
from usam.image_predictor import PatchedImagePredictor, TokenOutput
from usam.mask_path import MaskPath
from usam.masks.overlap import nms

IntArray = npt.NDArray[np.int64]

HELD_BYTES = 512 << 20
"""Bytes of image tokens held until their masks are made; more prompts are worked off in groups of this size."""
SAMPLED_SIDE = 32
"""From an embedding of this side on, sampled masks are worth their time; smaller ones make all masks at once."""
SAMPLED_AREA = 25
"""Cells; a smaller sampled mask says too little about an overlap."""
SAMPLED_MARGIN = 0.05
"""How far above the limit an IoU of sampled masks must lie to count."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """K masks on one image, best first.

    masks        (K, H, W) bool
    low_res      (K, h, w) float32 logits, within -32..32, fit for `mask_input`
    ious         (K,) SAM's own estimate, higher = better
    scores       {head: (K,)}, ranges and directions as in `usam.heads`
    rank         (K,) what the masks are ordered by: the quality head's IoU where there is one, else `ious`
    points       (K, 2) the point that made each mask, pixels x, y
    prompt       (K,) index of that point in the call
    column       (K,) which of the M masks of its prompt it is
    iou_token    (K, D) float32
    mask_tokens  (K, 4, D) float32
    """

    masks: npt.NDArray[np.bool_]
    low_res: FloatArray
    ious: FloatArray
    scores: dict[str, FloatArray]
    rank: FloatArray
    points: FloatArray
    prompt: IntArray
    column: IntArray
    iou_token: FloatArray
    mask_tokens: FloatArray

    def __len__(self) -> int:
        return len(self.masks)


@torch.no_grad()
def propose_masks(
    predictor: PatchedImagePredictor,
    point_coords: npt.ArrayLike,
    *,
    multimask: bool = True,
    keep_iou: float = 0.0,
    nms_iou: float = 0.7,
    max_masks: int | None = None,
) -> Proposals:
    """Masks of the objects at `point_coords` (P, 2), pixels x, y, on the image that is set.

    Args:
        multimask: three candidates per point, else one, the decoder's output 0. keep_iou: drop candidates
        ranked below, 0..1. The rank is the predicted IoU of the head set's quality head,
            else SAM's own estimate.
        nms_iou: of two masks that overlap by more than this IoU, 0..1, the better ranked stays.
        max_masks: keep at most so many, the best.

    Masks are those of `predict` up to rounding of the logits. Empty masks are dropped. Raises ImageError,
    PromptError, HeadsError.
    """
    if not 0 <= nms_iou <= 1 or (max_masks is not None and max_masks < 1):
        raise PromptError("nms_iou in [0, 1] and max_masks above 0", f"{nms_iou:g} and {max_masks}")
    points = np.asarray(point_coords, dtype=np.float32)
    if points.ndim != 2:
        raise PromptError("points (P, 2), one for each prompt", f"shape {points.shape}", "give x, y of each point")
    heads, outputs = predictor.heads, (1, 2, 3) if multimask else (0,)
    _, coords, labels, _ = predictor.prepare(points[:, None], np.ones((len(points), 1), np.int32))
    embedding = predictor.embedding()
    path = MaskPath(predictor.model.sam_mask_decoder, list(embedding.high_res))
    group = max(1, HELD_BYTES // (embedding.image_embed.numel() * 4))
    tokens, tables, low_res = [], [], []
    for start in range(0, len(points), group):
        part = slice(start, start + group)
        chunks = list(predictor.token_chunks((None, coords[part], labels[part], None)))  # type: ignore[index]
        table = _Table.of(heads, [chunk for chunk, _ in chunks], outputs, predictor.checkpoint_name)
        table = table.take(np.flatnonzero(table.rank >= keep_iou))
        table, logits = _distinct(path, chunks, table, outputs, nms_iou)
        tokens += [chunk for chunk, _ in chunks]
        tables.append(table.shifted(start))
        low_res.append(logits)
    kept, logits = _Table.join(tables), torch.cat(low_res)
    order = _suppressed(logits, kept.rank, nms_iou)[:max_masks]
    kept, logits = kept.take(order), logits[torch.from_numpy(order).to(logits.device)]
    iou_token, mask_tokens = (torch.cat([getattr(t, n) for t in tokens]) for n in ("iou_token", "mask_tokens"))
    return Proposals(
        masks=_image_masks(predictor, logits),
        low_res=logits.clamp(-32, 32).cpu().numpy(),
        ious=kept.ious,
        scores=dict(zip(heads.names if heads else (), kept.scores, strict=True)),
        rank=kept.rank,
        points=points[kept.prompt],
        prompt=kept.prompt,
        column=kept.column,
        iou_token=iou_token.float().cpu().numpy()[kept.prompt],
        mask_tokens=mask_tokens.float().cpu().numpy()[kept.prompt],
    )


@dataclass(frozen=True, eq=False)
class _Table:
    """C candidates: prompt, column, ious and rank (C,), scores (heads, C)."""

    prompt: IntArray
    column: IntArray
    ious: FloatArray
    rank: FloatArray
    scores: FloatArray

    @classmethod
    def of(
        cls, heads: HeadSet | None, tokens: list[TokenOutput], outputs: tuple[int, ...], checkpoint: str | None
    ) -> _Table:
        """All candidates of some prompts: prompt by prompt, column by column."""
        iou_token, mask_tokens = (torch.cat([getattr(t, n) for t in tokens]) for n in ("iou_token", "mask_tokens"))
        ious = torch.cat([t.ious for t in tokens])[:, list(outputs)].float().cpu().numpy()
        prompts, columns = ious.shape
        scores: dict[str, FloatArray] = {}
        if heads is not None:
            scores = heads.score(iou_token, mask_tokens, "multimask" if columns == 3 else "single")
        quality = heads.quality_for(checkpoint) if heads else None
        rank = scores[quality] if quality else ious
        prompt, column = np.divmod(np.arange(prompts * columns), columns)
        table = np.array(list(scores.values()), np.float32).reshape(len(scores), rank.size)
        return cls(prompt, column, ious.ravel(), rank.ravel(), table)

    @classmethod
    def join(cls, parts: list[_Table]) -> _Table:
        return cls(
            np.concatenate([part.prompt for part in parts]),
            np.concatenate([part.column for part in parts]),
            np.concatenate([part.ious for part in parts]),
            np.concatenate([part.rank for part in parts]),
            np.concatenate([part.scores for part in parts], axis=1),
        )

    def take(self, rows: IntArray) -> _Table:
        """Some of the candidates."""
        return _Table(self.prompt[rows], self.column[rows], self.ious[rows], self.rank[rows], self.scores[:, rows])

    def shifted(self, prompts: int) -> _Table:
        """The same candidates with prompts numbered from `prompts` on."""
        return _Table(self.prompt + prompts, self.column, self.ious, self.rank, self.scores)


def _distinct(
    path: MaskPath,
    chunks: list[tuple[TokenOutput, Tensor]],
    table: _Table,
    outputs: tuple[int, ...],
    nms_iou: float,
) -> tuple[_Table, Tensor]:
    """The candidates without copies of better ones, and their low-resolution logits (C, h, w)."""
    side = int(chunks[0][1].shape[1] ** 0.5)
    if side >= SAMPLED_SIDE:
        logits = torch.cat([path.sampled(keys, t.mask_tokens, outputs) for t, keys in chunks])
        sampled = (logits > 0).cpu().numpy()[table.prompt, table.column]
        large = sampled.sum(axis=(1, 2)) >= SAMPLED_AREA
        stay = ~large
        kept = nms(sampled[large], table.rank[large], min(1.0, nms_iou + SAMPLED_MARGIN))
        stay[np.flatnonzero(large)[kept]] = True
        table = table.take(np.flatnonzero(stay))
    low_res = torch.cat([*_whole(path, chunks, table, outputs)])
    rows = _suppressed(low_res, table.rank, nms_iou)
    return table.take(rows), low_res[torch.from_numpy(rows).to(low_res.device)]


def _whole(
    path: MaskPath, chunks: list[tuple[TokenOutput, Tensor]], table: _Table, outputs: tuple[int, ...]
) -> Iterator[Tensor]:
    """Low-resolution logits of the candidates, which are in the order of their prompts."""
    start, side = 0, 4 * int(chunks[0][1].shape[1] ** 0.5)
    yield chunks[0][1].new_empty((0, side, side))
    for tokens, keys in chunks:
        wanted = (table.prompt >= start) & (table.prompt < start + len(keys))
        if not wanted.any():
            start += len(keys)
            continue
        prompts, row = np.unique(table.prompt[wanted] - start, return_inverse=True)
        where = torch.from_numpy(prompts).to(keys.device)
        logits = path.whole(keys[where], tokens.mask_tokens[where], outputs)
        yield logits[torch.from_numpy(row).to(keys.device), torch.from_numpy(table.column[wanted]).to(keys.device)]
        start += len(keys)


def _suppressed(logits: Tensor, rank: FloatArray, nms_iou: float) -> IntArray:
    """Indices of the masks that stay, best first; empty ones go."""
    masks = (logits > 0).cpu().numpy()
    there = np.flatnonzero(masks.any(axis=(1, 2)))
    return there[nms(masks[there], rank[there], nms_iou)]


def _image_masks(predictor: PatchedImagePredictor, logits: Tensor) -> npt.NDArray[np.bool_]:
    """(K, h, w) logits to (K, H, W) masks, as the predictor itself does it."""
    hw = predictor.embedding().image_hw
    masks = np.empty((len(logits), *hw), dtype=np.bool_)
    for index, one in enumerate(logits):
        resized = predictor._transforms.postprocess_masks(one[None, None], hw)
        masks[index] = (resized[0, 0] > predictor.mask_threshold).cpu().numpy()
    return masks
