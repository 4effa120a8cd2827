"""Masks for many points of one image, of which only the kept ones are made.

Shapes: P prompts (points), M masks per prompt (3 or 1), C candidates, K kept masks, D token width, N image
tokens, E side of the image embedding, H, W image in pixels, h, w = 4 E low-resolution masks.

For every point: tokens, SAM's IoUs and scores (no mask). For every candidate: a mask sampled at one pixel per
cell of the embedding, by which clear copies of better candidates go. For what is left: the low-resolution
mask, by which the rest of the near-copies go. For those that stay: the mask of the image's size.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from usam.arrays import number, numbers
from usam.errors import PromptError
from usam.heads.head_set import FloatArray, HeadSet
from usam.masks.overlap import nms
from usam.masks.resizing import resize_logits
from usam.predictor.arguments import Prepared
from usam.predictor.fast_masks import MaskPath
from usam.predictor.image import PatchedImagePredictor, TokenOutput

IntArray = npt.NDArray[np.int64]

HELD_BYTES = 512 << 20
"""Bytes of image tokens held until their masks are made; more prompts are worked off in groups of this size."""
SAMPLED_SIDE = 32
"""From an embedding of this side on, sampled masks are worth their time; smaller ones make all masks at once."""
SAMPLED_ERRORS = 3.0
"""By how many standard errors an IoU of sampled masks must lie above the limit to count."""


@dataclass(frozen=True, eq=False)
class Proposals:
    """K masks on one image, best first.

    hw           (H, W) of the image
    logits       (K, h, w) float32, foreground above 0
    ious         (K,) SAM's own estimate, higher = better
    scores       {head: (K,)}, ranges and directions as in `usam.heads.head_set`
    rank         (K,) what the masks are ordered by: the quality head's IoU where there is one, else `ious`
    points       (K, 2) the point that made each mask, pixels x, y
    prompt       (K,) index of that point in the call
    column       (K,) which of the M masks of its prompt it is
    iou_token    (K, D) float32
    mask_tokens  (K, 4, D) float32
    """

    hw: tuple[int, int]
    logits: FloatArray
    ious: FloatArray
    scores: dict[str, FloatArray]
    rank: FloatArray
    points: FloatArray
    prompt: IntArray
    column: IntArray
    iou_token: FloatArray
    mask_tokens: FloatArray

    def __len__(self) -> int:
        return len(self.logits)

    @cached_property
    def masks(self) -> npt.NDArray[np.bool_]:
        """(K, H, W) of the image's size, made on first use."""
        return np.asarray(resize_logits(self.logits, self.hw) > 0)

    @property
    def low_res(self) -> FloatArray:
        """The logits (K, h, w) within -32..32, fit for `mask_input`."""
        return np.clip(self.logits, -32, 32)


def propose_masks(
    predictor: PatchedImagePredictor,
    point_coords: npt.ArrayLike,
    *,
    multimask: bool = True,
    pred_iou_thresh: float = 0.0,
    nms_iou: float = 0.7,
    max_masks: int | None = None,
    by_samscore: bool = False,
) -> Proposals:
    """Masks of the objects at some points of the image that is set, best first, near-copies dropped.

    Masks are those of `predict` up to rounding of the logits. Empty masks are dropped. Overlap is judged on
    low-resolution masks, and where it is clear on sampled ones. The rank of a mask is the predicted IoU of the head
    set's quality head, else SAM's own estimate.

    Parameters
    ----------
    predictor
        A patched image predictor on which `set_image` was called.
    point_coords
        (P, 2) pixels x, y; `usam.prompts.grid_points` spreads them over an image.
    multimask
        Three candidates per point, else one, the decoder's output 0.
    pred_iou_thresh
        Drop candidates ranked below, 0..1.
    nms_iou
        Of two masks that overlap by more than this IoU, 0..1, the better ranked stays.
    max_masks
        Keep at most so many, the best; None keeps all.
    by_samscore
        Rank by SAM's own estimate whatever the heads.

    Returns
    -------
    `Proposals` of K masks: `masks` (K, H, W) bool, `scores` {head: (K,)}, `rank` (K,), higher = better.

    Raises
    ------
    ImageError
        No image is set.
    PromptError
        Points outside the image, or limits out of range.
    HeadsError
        Tokens that are not finite.

    Examples
    --------
    >>> from usam.prompts import grid_points
    >>> predictor = usam.load("nano-s")
    >>> predictor.set_image(image)
    >>> proposals = usam.propose_masks(predictor, grid_points(image.shape[:2], 4), max_masks=5)
    >>> 1 <= len(proposals) <= 5, proposals.masks.shape[1:]
    (True, (120, 160))
    >>> bool((proposals.rank[:-1] >= proposals.rank[1:]).all())
    True
    """
    if not isinstance(predictor, PatchedImagePredictor):
        raise PromptError(
            "a patched image predictor", type(predictor).__name__, "take usam.load(name), or usam.patch(yours)"
        )
    steps = proposal_steps(
        predictor,
        point_coords,
        multimask=multimask,
        pred_iou_thresh=pred_iou_thresh,
        nms_iou=nms_iou,
        max_masks=max_masks,
        by_samscore=by_samscore,
    )
    while True:
        try:
            next(steps)
        except StopIteration as done:
            proposals: Proposals = done.value
            return proposals


@torch.no_grad()
def proposal_steps(
    predictor: PatchedImagePredictor,
    point_coords: npt.ArrayLike,
    *,
    multimask: bool = True,
    pred_iou_thresh: float = 0.0,
    nms_iou: float = 0.7,
    max_masks: int | None = None,
    by_samscore: bool = False,
) -> Generator[None, None, Proposals]:
    """`propose_masks` in steps of a few prompts or one mask, for those who share the model.

    Image and heads are those that are set when the first step runs; between steps others may be set.
    """
    number(nms_iou, "nms_iou", 0, 1, PromptError)
    number(pred_iou_thresh, "pred_iou_thresh", -np.inf, np.inf, PromptError)
    if max_masks is not None and (not isinstance(max_masks, int | np.integer) or max_masks < 1):
        raise PromptError("a whole number above 0, or None, as max_masks", repr(max_masks)[:40], "None keeps all")
    points = numbers(point_coords, "points (P, 2), x and y of each prompt", 2, PromptError).astype(np.float32)
    heads, outputs = predictor.heads, (1, 2, 3) if multimask else (0,)
    quality = heads.quality_for(predictor.checkpoint_name) if heads is not None and not by_samscore else None
    prompt = predictor.prepare(points[:, None], np.ones((len(points), 1), np.int32))
    embedding = predictor.embedding()
    path = MaskPath(predictor.model.sam_mask_decoder, list(embedding.high_res))
    group = max(1, HELD_BYTES // (embedding.image_embed.numel() * 4))
    limit = max_masks if len(points) <= group else None
    tokens, tables, logits = [], [], []
    held: list[tuple[TokenOutput, Tensor]] = []
    done = 0
    for chunk in predictor.token_chunks(prompt):
        held.append(chunk)
        tokens.append(chunk[0])
        yield
        count = sum(len(keys) for _, keys in held)
        if count < group and done + count < len(points):
            continue
        table = _Table.of(heads, [of_chunk for of_chunk, _ in held], outputs, quality)
        table = table.take(np.flatnonzero(table.rank >= pred_iou_thresh))
        table, made = yield from _distinct(_Source(path, held, outputs), table, nms_iou, limit)
        tables.append(table.shifted(done))
        logits.append(made.float().cpu().numpy())
        held, done = [], done + count
    kept, masks = _Table.join(tables), np.concatenate(logits)
    order = nms(masks > 0, kept.rank, nms_iou)[:max_masks]
    kept = kept.take(order)
    iou_token, mask_tokens = (torch.cat([getattr(t, n) for t in tokens]) for n in ("iou_token", "mask_tokens"))
    return Proposals(
        hw=embedding.image_hw,
        logits=masks[order],
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
class PromptOutputs:
    """All four outputs of the decoder for P prompts: 0 the single mask, 1 to 3 the multimask ones.

    logits       (P, 4, h, w), foreground above 0
    ious         (P, 4) SAM's own estimate of each mask's IoU, higher = better
    iou_token    (P, D)
    mask_tokens  (P, 4, D)
    """

    logits: FloatArray
    ious: FloatArray
    iou_token: FloatArray
    mask_tokens: FloatArray


@torch.no_grad()
def decode_prompts(predictor: PatchedImagePredictor, prompt: Prepared) -> PromptOutputs:
    """All outputs of prepared prompts of one shape (`PatchedImagePredictor.prepare`).

    They are those of `predict` up to rounding; no mask is enlarged. Raises ImageError where no image is set.
    """
    path = MaskPath(predictor.model.sam_mask_decoder, list(predictor.embedding().high_res))
    logits, tokens = [], []
    for chunk, keys in predictor.token_chunks(prompt):
        logits.append(path.whole(keys, path.weights(chunk.mask_tokens, (0, 1, 2, 3))).float().cpu().numpy())
        tokens.append(chunk)

    def joined(name: str) -> FloatArray:
        return np.asarray(torch.cat([getattr(chunk, name) for chunk in tokens]).float().cpu().numpy(), np.float32)

    return PromptOutputs(np.concatenate(logits), joined("ious"), joined("iou_token"), joined("mask_tokens"))


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
        cls, heads: HeadSet | None, tokens: list[TokenOutput], outputs: tuple[int, ...], quality: str | None
    ) -> _Table:
        """All candidates of some prompts: prompt by prompt, column by column. Without a head `quality` SAM ranks."""
        iou_token, mask_tokens = (torch.cat([getattr(t, n) for t in tokens]) for n in ("iou_token", "mask_tokens"))
        ious = torch.cat([t.ious for t in tokens])[:, list(outputs)].float().cpu().numpy()
        prompts, columns = ious.shape
        scores: dict[str, FloatArray] = {}
        if heads is not None:
            scores = heads.score(iou_token, mask_tokens, "multimask" if columns == 3 else "single")
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


class _Source:
    """Masks of a group of prompts, made when they are asked for."""

    def __init__(self, path: MaskPath, chunks: list[tuple[TokenOutput, Tensor]], outputs: tuple[int, ...]) -> None:
        self._path = path
        self._prompts = [
            (keys[index : index + 1], weights[index : index + 1])
            for tokens, keys in chunks
            for weights in (path.weights(tokens.mask_tokens, outputs),)
            for index in range(len(keys))
        ]
        self._whole: dict[int, Tensor] = {}
        self.side = int(chunks[0][1].shape[1] ** 0.5)
        self.device = chunks[0][1].device

    def low_res(self, prompt: int, column: int) -> Tensor:
        """Logits (h, w)."""
        if prompt not in self._whole:
            self._whole[prompt] = self._path.whole(*self._prompts[prompt])[0]
        return self._whole[prompt][column]

    def sampled(self) -> Generator[None, None, npt.NDArray[np.bool_]]:
        """All masks at one pixel per cell, (P, M, N)."""
        logits = []
        for prompt in self._prompts:
            logits.append(self._path.sampled(*prompt))
            yield
        return (torch.cat(logits).flatten(2) > 0).cpu().numpy()


def _distinct(
    source: _Source, table: _Table, nms_iou: float, limit: int | None
) -> Generator[None, None, tuple[_Table, Tensor]]:
    """The candidates that are no copies of better ones, best first, and their low-resolution logits (K, h, w)."""
    sampled = None
    if source.side >= SAMPLED_SIDE and source.side % 4 == 0 and len(table.rank):
        sampled = (yield from source.sampled())[table.prompt, table.column]
    rows: list[int] = []
    logits: list[Tensor] = []
    kept = torch.empty((32, (4 * source.side) ** 2), device=source.device)
    areas = kept.new_empty(0)
    for row in np.argsort(-table.rank, kind="stable").tolist():
        if len(rows) == limit:
            break
        if sampled is not None and rows and _clearly_over(sampled[rows], sampled[row], nms_iou):
            continue
        made = source.low_res(int(table.prompt[row]), int(table.column[row]))
        yield
        mask = (made > 0).flatten().float()
        area, count = mask.sum(), len(rows)
        if not area:
            continue
        both = kept[:count] @ mask  # counts of pixels: exact
        if bool((both > nms_iou * (areas + area - both)).any()):
            continue
        if count == len(kept):
            kept = torch.cat([kept, torch.empty_like(kept)])
        kept[count], areas = mask, torch.cat([areas, area[None]])
        rows.append(row)
        logits.append(made)
    side = 4 * source.side
    stacked = torch.stack(logits) if logits else torch.empty((0, side, side), device=source.device)
    return table.take(np.array(rows, np.int64)), stacked


def _clearly_over(kept: npt.NDArray[np.bool_], one: npt.NDArray[np.bool_], nms_iou: float) -> bool:
    """Whether a sampled mask (N,) overlaps one of `kept` (K, N) by more than the limit, sampling error
    allowed for.

    A sampled IoU is a share of the union's pixels, drawn at random for all that is known.
    """
    union = np.maximum((kept | one).sum(1), 1)
    error = np.sqrt(nms_iou * (1 - nms_iou) / union)
    return bool(((kept & one).sum(1) / union > nms_iou + SAMPLED_ERRORS * error).any())
