"""The distinct objects of a whole image, by one loaded model: the same for the service and the jobs.

Everything works in steps, so that a click may go between two of them. Where the project's objects are small, the image
is looked at again in parts (`usam.predictor.tiles`): that needs its pixels, and one encoding a part.

Legend: P prompts, K objects, L side of the low-resolution masks, H, W image in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.inference.model import (
    CANDIDATES,
    LEAST_IOU,
    DecodedObjects,
    LoadedModel,
    ProposalGrid,
    ProposedObjects,
    image_features,
)
from backend.inference.scheduler import Steps
from backend.settings import Settings
from usam.active.mask_selection import MaskSelection
from usam.masks import nms, one_object
from usam.masks.packed_logits import rounded
from usam.predictor.clean_proposals import Layout
from usam.predictor.tiles import tiles_of
from usam.prompts import Prompt, grid_points

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.predictor.embedding import ImageEmbedding

Pixels = Callable[[], npt.NDArray[np.uint8]]
"""Gives the decoded image (H, W, 3); called only where it is looked at in parts."""


def propose(
    model: LoadedModel,
    embedding: ImageEmbedding,
    prompts: Sequence[Prompt],
    heads: HeadSet | None,
    selection: MaskSelection,
    settings: Settings,
    grid: ProposalGrid | None = None,
    pixels: Pixels | None = None,
) -> Steps[ProposedObjects]:
    """The distinct objects that prompts show, a grid where there are none, best predicted IoU first.

    Single points give all three of their masks, other prompts the selected one. The worse of two that overlap too much
    is dropped, and what is hardly a mask; which of the rest are shown is chosen later (`inference.shown`). The `grid`
    is the settings' unless the project's labels ask for another; its tiles need `pixels`.
    """
    heads = heads if heads is not None else model.own_heads
    given, grid = bool(prompts), grid or ProposalGrid(settings.points_per_side, CANDIDATES)
    asking = _Asking(model, heads, selection, settings, max(grid.most, settings.max_regions))
    asked = list(prompts) if given else _grid(embedding.image_hw, grid.points_per_side)
    are_points = all(prompt.box is None and prompt.labels.tolist() == [1] for prompt in asked)
    objects = yield from (asking.of_points if are_points else asking.of_prompts)(embedding, asked)
    yield
    if are_points:
        objects = replace(objects, logits=one_object(objects.logits))
    if not given and pixels is not None and grid.tiles > 1:
        objects, asked = yield from asking.with_tiles(objects, asked, pixels(), grid)
    objects = replace(objects, logits=rounded(objects.logits))  # as the pool keeps them
    return ProposedObjects(
        objects,
        [asked[source] for source in objects.source],
        image_features(embedding),
        embedding.image_hw,
        given,
        model.looks(embedding, objects.logits, objects.samscore),
        Layout.of(objects.logits > 0),
    )


def _grid(hw: tuple[int, int], points_per_side: int) -> list[Prompt]:
    return [Prompt(xy[None], np.ones(1, np.int32)) for xy in grid_points(hw, points_per_side)]


@dataclass(frozen=True)
class _Asking:
    """What is asked of which model, by which heads; `most` objects are kept."""

    model: LoadedModel
    heads: HeadSet | None
    selection: MaskSelection
    settings: Settings
    most: int

    @property
    def least_iou(self) -> float:
        return min(LEAST_IOU, self.settings.pred_iou_thresh)

    def of_points(self, embedding: ImageEmbedding, prompts: Sequence[Prompt]) -> Steps[DecodedObjects]:
        """A grid has many: only the masks that stay are ever made."""
        from usam.predictor.proposals import proposal_steps

        model = self.model
        model.predictor.set_embedding(embedding)
        model.predictor.set_heads(self.heads)
        found = yield from proposal_steps(
            model.predictor,
            np.stack([prompt.points[0] for prompt in prompts]),
            pred_iou_thresh=self.least_iou,
            nms_iou=self.settings.nms_iou,
            max_masks=self.most,
            by_samscore=self.selection == "samscore",
        )
        model.metrics.decoded.labels(model.name).inc(len(prompts))
        quality = self.heads.quality_for(model.name) if self.heads is not None else None
        return DecodedObjects(
            source=found.prompt,
            output=(found.column + 1).astype(np.int64),
            logits=found.logits,
            iou=np.clip(found.scores.get(quality or "", found.ious), 0, 1),
            samscore=np.clip(found.ious, 0, 1),
            scores=found.scores,
            iou_token=found.iou_token,
            mask_tokens=found.mask_tokens,
        )

    def of_prompts(self, embedding: ImageEmbedding, prompts: Sequence[Prompt]) -> Steps[DecodedObjects]:
        """Boxes and prompts of several points, as other models leave them."""
        size = self.settings.points_per_batch
        found = yield from self.model.decode_steps(embedding, prompts, self.heads, self.selection, size)
        good = np.flatnonzero((found.iou >= self.least_iou) & (found.logits > 0).any(axis=(1, 2)))
        kept = good[nms(found.logits[good] > 0, found.iou[good], self.settings.nms_iou)] if len(good) else good
        return found.take(kept[: self.most])

    def with_tiles(
        self, whole: DecodedObjects, asked: list[Prompt], image: npt.NDArray[np.uint8], grid: ProposalGrid
    ) -> Steps[tuple[DecodedObjects, list[Prompt]]]:
        """These objects and those of the image's parts, the best of both, and the prompts of all."""
        parts, prompts = [whole], list(asked)
        for tile in tiles_of((image.shape[0], image.shape[1]), grid.tiles):
            embedding = self.model.encode(tile.cut(image))
            yield
            points = _grid((tile.height, tile.width), grid.points_per_side)
            found = yield from self.of_points(embedding, points)
            yield
            logits = one_object(found.logits)
            found = replace(found, source=found.source + len(prompts), logits=tile.into_frame(logits))
            parts.append(found.take(np.flatnonzero(tile.whole(logits) & (found.logits > 0).any(axis=(1, 2)))))
            corner = np.array([tile.left, tile.top], np.float32)
            prompts += [Prompt(point.points + corner, point.labels) for point in points]
        found = DecodedObjects.join(parts)
        rank = found.samscore if self.selection == "samscore" else found.iou
        return found.take(nms(found.logits > 0, rank, self.settings.nms_iou)[: self.most]), prompts
