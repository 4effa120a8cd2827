"""What the label of an object is worth that a class head gives it, among eight classes of COCO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.pools import MODEL, PoolImage, pool_images
from bench.rows import Row
from usam.objects.project_heads import Examples, fit_project
from usam.statistics import bootstrap_mean

DRAWS = 5
EIGHT = ("person", "chair", "bowl", "cup", "dining table", "bottle", "wine glass", "potted plant")


def label_accuracy(count: int, target: float) -> list[Row]:
    """Accuracy of the label among eight classes after so many marked objects, on marked objects of unseen images over
    0.5 % of the image, and of the proposals that show such an object best, where there is one; the first label of the
    configuration and the commonest beside. As in the service, proposals on
    the images of marked objects are there too: one that shows a marked object teaches its label, of the others it is
    not said what they are."""

    def objects(images: Sequence[PoolImage]) -> tuple[Any, ...]:
        chosen = [
            (image, index)
            for image in images
            for index, (name, area) in enumerate(zip(image.categories, image.areas, strict=True))
            if name in EIGHT and area >= 0.005
        ]
        features = np.array([image.true_features[index] for image, index in chosen])
        shapes = np.array([image.true_shapes[index] for image, index in chosen])
        return features, shapes, chosen, [image.categories[index] for image, index in chosen]

    images = pool_images("coco")
    train, test = (objects([image for image in images if (image.part == "train") == part]) for part in (True, False))
    found = [(image, index, image.overlap[image.candidates, index]) for image, index in test[2]]
    best = [
        (image, index, image.candidates[ious.argmax()]) for image, index, ious in found if max(ious, default=0) >= 0.5
    ]
    judged = {
        "": (test[0], test[1], test[2]),
        ", as proposed": (
            np.array([image.features[row] for image, _, row in best]),
            np.array([image.shapes[row] for image, _, row in best]),
            [(image, index) for image, index, _ in best],
        ),
    }
    right: dict[str, list[npt.NDArray[np.float64]]] = {way: [] for way in judged}
    for draw in range(DRAWS):
        rows = np.random.default_rng(draw).permutation(len(train[2]))[:count]
        looks, overlap = [(train[0][rows], train[1][rows])], [np.ones(len(rows))]
        marked = [train[2][row] for row in rows]
        names, regions = [image.name for image, _ in marked], [f"{image.name}/{index}" for image, index in marked]
        labels: list[tuple[str, ...]] = [(image.categories[index],) for image, index in marked]
        for image in {image.name: image for image, _ in marked}.values():
            columns = np.array([index for other, index in marked if other.name == image.name])
            ious = image.overlap[image.candidates][:, columns]
            nearest, best = columns[ious.argmax(1)], ious.max(1)
            looks.append((image.features[image.candidates], image.shapes[image.candidates]))
            names += [image.name] * len(best)
            regions += [f"{image.name}/{index}" for index in nearest]
            labels += [(image.categories[i],) if iou >= 0.5 else () for i, iou in zip(nearest, best, strict=True)]
            overlap.append(np.where(best >= 0.5, best, np.nan))
        features, shapes = (np.concatenate(part) for part in zip(*looks, strict=True))
        proposed = np.arange(len(names)) >= len(rows)
        known = Examples(features, shapes, names, regions, labels, np.concatenate(overlap), proposed)
        heads = fit_project(known, EIGHT, features_version="bench", checkpoint=MODEL)
        for way, (looks_like, lies, objects_of) in judged.items():
            likeliest = heads.judge(looks_like, lies)[1].argmax(1)
            true = [image.categories[index] for image, index in objects_of]
            right[way].append(np.array([EIGHT[int(k)] == name for k, name in zip(likeliest, true, strict=True)], float))
    rows_made = []
    for way, (_, _, objects_of) in judged.items():
        interval = bootstrap_mean(np.mean(right[way], axis=0), np.array([image.name for image, _ in objects_of]))
        first = float(np.mean([image.categories[index] == EIGHT[0] for image, index in objects_of]))
        note = f"95 % [{interval.low:.3f}, {interval.high:.3f}] over images, {len(objects_of)} objects, {DRAWS} draws"
        note += f"; first label of the configuration, also the commonest: {first:.3f}; one of eight at random: 0.125"
        what = f"8 classes on COCO, accuracy of the label{way} after {count} marked objects"
        rows_made.append(Row(what, interval.value, "share", "", f">= {target}", note=note))
    return rows_made
