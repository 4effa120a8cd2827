"""A campaign on the pool's own proposals: what people delete, relabel, correct and add, as the project learns.

Shapes: K candidates and T true objects of an image; F feature width, S shape numbers.

Clicks on true objects cannot tell what is shown for nothing, nor what is not shown at all. Here an image is proposed as
the service does it, shown by what the labels so far have taught, and answered by its truth; then it teaches. Images are
served at random.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from usam.errors import SimulationError
from usam.files import replace_text
from usam.objects.effort import Prices, Work, count_work, match_objects
from usam.objects.project_heads import Examples, ProjectHeads, fit_project
from usam.objects.showing import choose_rows
from usam.predictor.clean_proposals import Layout
from usam.research.datasets.record import Record

Floats = npt.NDArray[np.floating[Any]]
BoolMasks = npt.NDArray[np.bool_]
CANDIDATES, LEAST_IOU = 40, 0.2
"""What the service looks for on an image by default."""
LEAST_LABEL = 0.5
INSIDE = 8.0
MIN_IMAGES = 3


@dataclass(frozen=True, eq=False)
class ProposedImage:
    """One image. Candidates: `layout`, predicted `iou` (K,), `features` (K, F), `shapes` (K, S), `overlap` (K, T) IoU
    with the true objects. Those: `labels` (T,), `true_features` (T, F), `true_shapes` (T, S)."""

    name: str
    layout: Layout
    iou: Floats
    features: Floats
    shapes: Floats
    overlap: Floats
    labels: tuple[str, ...]
    true_features: Floats
    true_shapes: Floats


@dataclass(frozen=True)
class WorkPoint:
    """After so many labelled images and objects: `spent`, the work that these took; `left`, the work that an unseen
    image would take now (a mean); and `by_hand`, seconds to draw all of an unseen image's objects."""

    images: int
    labels: int
    spent: Work
    left: Work
    by_hand: float


def propose_images(
    predictor: Any, records: Iterable[Record], per_side: int = 8, most: int = CANDIDATES
) -> Iterator[ProposedImage]:
    """The images of a labelled set that show an object, with their candidates; `predictor` as `usam.load` gives it."""
    from usam.predictor.object_features import describe_shapes, pool_stages
    from usam.predictor.proposals import propose_masks
    from usam.prompts import grid_points

    predictor.keep_stages = True
    for record in records:
        truths = [(one.category or "object", mask) for one in record.instances if (mask := one.read_mask()).any()]
        if not truths:
            continue
        image = record.read_image()
        predictor.set_image(image)
        points = grid_points((image.shape[0], image.shape[1]), per_side)
        found = propose_masks(predictor, points, pred_iou_thresh=LEAST_IOU, max_masks=most)
        stages, low = predictor.embedding().stages, found.low_res > 0
        true = np.stack([mask for _, mask in truths])
        small = np.stack([_squeezed(mask, found.low_res.shape[-1]) for mask in true])
        logits = np.where(small, INSIDE, -INSIDE)
        yield ProposedImage(
            record.group,
            Layout.of(low),
            np.clip(found.rank, 0, 1),
            pool_stages(stages, low),
            describe_shapes(found.low_res, np.clip(found.ious, 0, 1)),
            _overlaps(found.masks, true),
            tuple(category for category, _ in truths),
            pool_stages(stages, small),
            describe_shapes(logits, np.ones(len(small))),
        )


def replay_work(
    images: Sequence[ProposedImage],
    *,
    budget: int = 200,
    step: int = 20,
    seed: int = 0,
    test_share: float = 0.33,
    prices: Prices | None = None,
) -> list[WorkPoint]:
    """Label images at random, learn after each `step` labels (objects) until `budget`; a point before the first label
    and one after each learning. A share of the images is held out, and measured on alone.

    The same arguments give the same points. Raises `SimulationError` where fewer than three images can be labelled, or
    none can be held out.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    held = max(1, round(test_share * len(images)))
    test, pool = [images[k] for k in order[:held]], [images[k] for k in order[held:]]
    if len(pool) < MIN_IMAGES or budget < 1 or step < 1:
        got = f"{len(images)} images, budget {budget}, step {step}"
        raise SimulationError("at least 3 images to label beside those held out, a budget and a step above 0", got)
    classes = sorted({label for image in images for label in image.labels})
    by_hand = (prices or Prices.by_hand()).add * float(np.mean([len(image.labels) for image in test]))
    learnt: ProjectHeads | None = None
    spent, labels, taught, last = Work(), 0, 0, 0
    points = [WorkPoint(0, 0, spent, _mean_work(test, None, classes[0]), by_hand)]
    for number, image in enumerate(pool, 1):
        spent += work_on(image, learnt, classes[0])
        labels, taught = labels + len(image.labels), number
        if labels < min(last + step, budget) and number < len(pool):
            continue
        last = labels
        if taught >= MIN_IMAGES:
            learnt = fit_project(_examples(pool[:taught]), classes, features_version="", checkpoint="", seed=seed)
        points.append(WorkPoint(taught, labels, spent, _mean_work(test, learnt, classes[0]), by_hand))
        if labels >= budget:
            break
    return points


def work_on(image: ProposedImage, learnt: ProjectHeads | None, first_label: str) -> Work:
    """What is left to do on an image that is shown by what was `learnt`; before a label is learnt, all objects
    have the `first_label`."""
    wanted: Floats = np.full(len(image.iou), np.nan)
    names = [first_label] * len(image.iou)
    if learnt is not None:
        wanted, classes = learnt.judge(image.features, image.shapes)
        if not np.isnan(classes).any():
            likeliest = zip(classes.argmax(1), classes.max(1), strict=True)
            names = [learnt.classes[k] if sure >= LEAST_LABEL else "" for k, sure in likeliest]
    threshold = learnt.threshold.value if learnt is not None else 0.0
    rows, _ = choose_rows(image.layout, image.iou, wanted, threshold)
    partner = match_objects(image.overlap[rows])
    iou = np.array([image.overlap[row, k] if k >= 0 else 0.0 for row, k in zip(rows, partner, strict=True)])
    right = np.array(
        [k >= 0 and image.labels[k] == names[row] for row, k in zip(rows, partner, strict=True)], dtype=bool
    )
    return count_work(partner, iou, right, len(image.labels))


def write_work(runs: Sequence[Sequence[WorkPoint]], path: Path, prices: Prices) -> Path:
    """One row a seed and point, as CSV: counts of what an unseen image takes, actions, seconds, and their share of
    drawing everything."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    names = ("kept", "deleted", "relabelled", "corrected", "added")
    writer.writerow(["seed", "images", "labels", *names, "actions", "seconds", "share_of_drawing_all", "spent_seconds"])
    for seed, points in enumerate(runs):
        for point in points:
            seconds = point.left.seconds(prices)
            counts = [f"{getattr(point.left, name):.4f}" for name in names]
            times = [f"{point.left.actions:.4f}", f"{seconds:.3f}", f"{seconds / max(point.by_hand, 1e-9):.4f}"]
            row = [seed, point.images, point.labels, *counts, *times, f"{point.spent.seconds(prices):.1f}"]
            writer.writerow(row)
    replace_text(path, buffer.getvalue())
    return path


def _mean_work(images: Sequence[ProposedImage], learnt: ProjectHeads | None, first_label: str) -> Work:
    total = sum((work_on(image, learnt, first_label) for image in images), Work())
    return Work(*(value / len(images) for value in vars(total).values()))


def _examples(images: Sequence[ProposedImage]) -> Examples:
    """What finished images teach: their candidates and their true objects."""
    overlaps, labels, regions, names, proposed = [], [], [], [], []
    for image in images:
        count, best = len(image.labels), image.overlap.max(1, initial=0.0)
        nearest = image.overlap.argmax(1) if len(best) else np.zeros(0, np.int64)
        labels += [(image.labels[k],) if iou >= 0.5 else () for k, iou in zip(nearest, best, strict=True)]
        labels += [(label,) for label in image.labels]
        regions += [f"{image.name}/{k}" for k in (*nearest, *range(count))]
        names += [image.name] * (len(best) + count)
        overlaps += [best, np.ones(count)]
        proposed += [np.ones(len(best), bool), np.zeros(count, bool)]
    features = np.concatenate([part for image in images for part in (image.features, image.true_features)])
    shapes = np.concatenate([part for image in images for part in (image.shapes, image.true_shapes)])
    return Examples(features, shapes, names, regions, labels, np.concatenate(overlaps), np.concatenate(proposed))


def _overlaps(masks: BoolMasks, truths: BoolMasks) -> Floats:
    """IoU (K, T)."""
    rows, columns = (part.reshape(len(part), -1).astype(np.float32) for part in (masks, truths))
    both = rows @ columns.T
    return np.asarray(both / np.maximum(rows.sum(1)[:, None] + columns.sum(1)[None] - both, 1), np.float32)


def _squeezed(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.bool_]:
    cells = cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cells >= min(0.5, cells.max()))
