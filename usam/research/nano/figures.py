"""How good a nano model is: one click, eight points, a box, and how far its own estimate can be trusted.

Legend: N objects, M = 4 masks a prompt (the single mask, then the three of the multimask output), H, W image size.
Prompts are the paper's (UncertainSAM, arXiv 2505.05049): the centre point; seven more random points; the box.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from usam.checkpoints.nano import NanoSAM, decode, encode_images
from usam.errors import DatasetError
from usam.prompts import box_of, centre_point, random_points
from usam.research.datasets.record import Record
from usam.research.nano.stored_images import Part, nano_split

FloatArray = npt.NDArray[np.float32]
KINDS = ("click", "points", "box")
CHUNK = 8
"""Objects decoded at once; on a CPU larger batches leave the cache."""


@dataclass(frozen=True)
class Outcomes:
    """What became of N objects. `groups` (N,) names the image; `area` (N,) the share of it that an object covers.

    `iou` and `predicted`: by kind of prompt (N, 4), true and predicted IoU of each mask.
    """

    groups: npt.NDArray[np.str_]
    area: FloatArray
    iou: dict[str, FloatArray]
    predicted: dict[str, FloatArray]

    def take(self, keep: npt.NDArray[np.generic]) -> Outcomes:
        """Only the objects that `keep` marks (a mask) or lists (indices, repeated as given)."""
        return Outcomes(
            self.groups[keep],
            self.area[keep],
            {kind: values[keep] for kind, values in self.iou.items()},
            {kind: values[keep] for kind, values in self.predicted.items()},
        )


Measure = Callable[[Outcomes], float]


@dataclass(frozen=True)
class Figure:
    """A mean or a correlation with its 95 % interval, by bootstrap over images."""

    name: str
    value: float
    low: float
    high: float
    objects: int
    images: int


@torch.inference_mode()
def measure(
    model: NanoSAM, records: Iterable[Record], smallest: float = 0.01, most: int = 20, seed: int = 0
) -> Outcomes:
    """Prompt every object that covers at least `smallest` of its image, at most `most` an image (the largest).

    Masks are scaled up to the image and compared there, without the pixels that the record ignores.
    Raises `DatasetError` when no object is left.
    """
    groups: list[str] = []
    areas: list[float] = []
    ious: dict[str, list[FloatArray]] = {kind: [] for kind in KINDS}
    predicted: dict[str, list[FloatArray]] = {kind: [] for kind in KINDS}
    rng = np.random.default_rng(seed)
    for record in records:
        masks = [instance.read_mask() for instance in record.instances]
        masks = sorted((m for m in masks if m.mean() >= smallest), key=lambda m: -int(m.sum()))[:most]
        if not masks:
            continue
        image = record.read_image()
        ignored = record.read_ignored() if record.read_ignored is not None else None
        seen = encode_images(model, _as_input(image, model.image_size))
        for first in range(0, len(masks), CHUNK):
            part = masks[first : first + CHUNK]
            for kind in KINDS:
                points, labels = _prompts(kind, part, model.image_size, rng)
                logits, quality = decode(model, seen, torch.zeros(len(part), dtype=torch.long), points, labels, None)
                ious[kind] += [_iou(each, mask, ignored) for each, mask in zip(logits, part, strict=True)]
                predicted[kind] += list(quality.float().numpy())
        groups += [f"{record.dataset}/{record.group}"] * len(masks)
        areas += [float(mask.mean()) for mask in masks]
    if not groups:
        raise DatasetError(f"objects over {smallest:.1%} of an image", "none", "choose another part or set")
    return Outcomes(
        np.array(groups),
        np.array(areas, np.float32),
        {kind: np.stack(values).astype(np.float32) for kind, values in ious.items()},
        {kind: np.stack(values).astype(np.float32) for kind, values in predicted.items()},
    )


def _as_input(image: npt.NDArray[np.uint8], side: int) -> torch.Tensor:
    from sam2.utils.transforms import SAM2Transforms

    tensor: torch.Tensor = SAM2Transforms(side, 0.0)(image)[None]
    return tensor


def _prompts(
    kind: str, masks: list[npt.NDArray[np.bool_]], side: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = masks[0].shape
    if kind == "box":
        points = np.stack([box_of(mask).reshape(2, 2) for mask in masks])
        labels = [[2, 3]] * len(masks)
    else:
        more = 7 if kind == "points" else 0
        points = np.stack([np.concatenate([centre_point(m)[None], random_points(m, more, rng)]) for m in masks])
        labels = [[1] * (1 + more)] * len(masks)
    scaled = points / np.array([width, height], np.float32) * side
    return torch.from_numpy(scaled.astype(np.float32)), torch.tensor(labels, dtype=torch.int32)


def _iou(logits: torch.Tensor, mask: npt.NDArray[np.bool_], ignored: npt.NDArray[np.bool_] | None = None) -> FloatArray:
    full = F.interpolate(logits[None].float(), mask.shape, mode="bilinear", align_corners=False)[0] > 0
    if ignored is not None:
        full &= torch.from_numpy(~ignored)
    truth = torch.from_numpy(mask)
    both = (full & truth).sum((1, 2))
    either = (full | truth).sum((1, 2)).clamp(min=1)
    return (both / either).numpy().astype(np.float32)


def best_of_three(ious: FloatArray) -> FloatArray:
    """(N, 4) -> (N,) IoU of the best of the three multimask outputs."""
    return np.asarray(ious[:, 1:].max(1), np.float32)


def picked(ious: FloatArray, predicted: FloatArray) -> FloatArray:
    """(N, 4) each -> (N,) IoU of the multimask output that the model itself rates highest."""
    return np.asarray(ious[np.arange(len(ious)), 1 + predicted[:, 1:].argmax(1)], np.float32)


def figures(outcomes: Outcomes, rounds: int = 1000, seed: int = 0) -> list[Figure]:
    """All figures of one set of outcomes; see `Figure`. Correlations are over the three multimask outputs."""

    measures: dict[str, Measure] = {}
    for kind in KINDS:
        measures[f"{kind}, best of three"] = partial(_mean_best, kind)
        measures[f"{kind}, own pick"] = partial(_mean_picked, kind)
        measures[f"{kind}, single mask"] = partial(_mean_single, kind)
        measures[f"{kind}, Pearson of own estimate"] = partial(_correlation, kind)
    names, owner = np.unique(outcomes.groups, return_inverse=True)
    members = [np.flatnonzero(owner == index) for index in range(len(names))]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        chosen = np.concatenate([members[i] for i in rng.integers(len(names), size=len(names))])
        sample = outcomes.take(chosen)
        for name, measured in measures.items():
            drawn[name].append(measured(sample))
    return [
        Figure(
            name,
            measured(outcomes),
            float(np.nanpercentile(drawn[name], 2.5)),
            float(np.nanpercentile(drawn[name], 97.5)),
            len(outcomes.area),
            len(names),
        )
        for name, measured in measures.items()
    ]


def _mean_best(kind: str, outcomes: Outcomes) -> float:
    return float(best_of_three(outcomes.iou[kind]).mean())


def _mean_picked(kind: str, outcomes: Outcomes) -> float:
    return float(picked(outcomes.iou[kind], outcomes.predicted[kind]).mean())


def _mean_single(kind: str, outcomes: Outcomes) -> float:
    return float(outcomes.iou[kind][:, 0].mean())


def _correlation(kind: str, outcomes: Outcomes) -> float:
    return _pearson(outcomes.predicted[kind][:, 1:], outcomes.iou[kind][:, 1:])


def _pearson(estimate: FloatArray, truth: FloatArray) -> float:
    a, b = estimate.ravel().astype(np.float64), truth.ravel().astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / norm) if norm > 0 else float("nan")


def first_annotator(records: Iterable[Record]) -> Iterator[Record]:
    """The first record of each image."""
    done = set()
    for record in records:
        if record.image_id not in done:
            done.add(record.image_id)
            yield record


def held_out(records: Iterable[Record], part: Part = "test") -> Iterator[Record]:
    """The records of one part of `nano_split`, one annotator an image: choose on 'heads', measure on 'test'."""
    return first_annotator(record for record in records if nano_split(record.group) == part)
