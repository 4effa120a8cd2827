"""Masks without their specks, and with their largest island alone, against masks as decoded, on images that no weight
has seen: IoU, and size as RLE.

COCO objects over 1 % of their image, part `nano-test`, one click, SAM's own pick of three.
"""

from __future__ import annotations

import numpy as np

from bench.rows import Row
from bench.tables import data_folder

SMALLEST = 0.01


def run() -> list[Row]:
    """The mean change of IoU with its interval over images, and the ratio of the masks' lengths as RLE."""
    from usam.masks import encode_rle, iou, one_object, resize_logits, without_specks
    from usam.predictor.load import load
    from usam.prompts import centre_point
    from usam.research.datasets import open_dataset
    from usam.research.nano.figures import held_out
    from usam.statistics import bootstrap_mean

    data = data_folder()
    if data is None:
        return []
    predictor = load("nano-m", heads=None)
    changes: dict[str, list[list[float]]] = {"without specks": [], "with the largest island alone": []}
    before = after = 0
    for record in held_out(open_dataset("coco", data / "coco_subset")):
        truths = [mask for each in record.instances if (mask := each.read_mask()).mean() >= SMALLEST]
        if not truths:
            continue
        predictor.set_image(record.read_image())
        gained: dict[str, list[float]] = {name: [] for name in changes}
        for truth in truths:
            masks, ious, low_res, *_ = predictor.predict(centre_point(truth)[None], np.ones(1))
            best = int(ious.argmax())
            mask = masks[best] > 0
            clean = without_specks(mask)
            island = resize_logits(one_object(low_res[best : best + 1]), mask.shape)[0] > 0
            for name, other in zip(gained, (clean, island), strict=True):
                gained[name].append(float(iou(other, truth)) - float(iou(mask, truth)))
            before, after = before + len(encode_rle(mask)), after + len(encode_rle(clean))
        for name, values in gained.items():
            changes[name].append(values)
    rows = []
    for name, of_images in changes.items():
        flat = np.concatenate([np.asarray(each) for each in of_images])
        found = bootstrap_mean(flat, np.repeat(np.arange(len(of_images)), [len(each) for each in of_images]))
        note = f"95 % [{found.low:+.4f}, {found.high:+.4f}] over images; {len(flat)} objects of {len(of_images)} images"
        rows.append(Row(f"masks {name}, nano-m: change of IoU", found.value, "mean IoU", "as decoded", note=note))
    return [*rows, Row("masks without specks, nano-m: length as RLE", after / before, "ratio of bytes", "as decoded")]
