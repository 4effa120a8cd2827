"""Real corrective clicks: what the model makes of them, for every object of a labelled set, kept on disk.

Legend: N objects, K clicks, H, W image in pixels. The first click is the paper's centre point; each later one goes
where the mask is most wrong, with the mask so far as a prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import SimulationError
from usam.files import replacing
from usam.research.datasets.record import Record
from usam.research.tokens import TokenTable

BoolMask = npt.NDArray[np.bool_]
Float32s = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


def click_curve(predictor: Any, truth: BoolMask, clicks: int) -> Float32s:
    """(K,) IoU of the single mask after 1 to `clicks` clicks on the predictor's image, in [0, 1].

    Once the mask is right to the pixel, it stays.
    """
    from usam.masks import iou
    from usam.prompts import centre_point, correction_point

    points, labels = [centre_point(truth)], [1]
    curve = np.zeros(clicks, np.float32)
    before = None
    for number in range(clicks):
        found = predictor.predict(
            np.stack(points), np.array(labels, np.int32), mask_input=before, multimask_output=False
        )
        mask, before = np.asarray(found[0][0], bool), found[2]
        curve[number] = float(iou(mask, truth))
        if (mask == truth).all():
            curve[number:] = curve[number]
            break
        point, label = correction_point(truth, mask)
        points.append(point)
        labels.append(label)
    return curve


def clicked_objects(
    table: TokenTable,
    records: Iterable[Record],
    load_predictor: Callable[[], Any],
    clicks: int,
    path: Path,
    progress: Progress | None = None,
) -> Float32s:
    """(N, K) IoU after clicks on each object of the table, in its order; read from `path` where it was made before.

    `records` are those that the table was made from. The file is whole or not there; what a stopped run had done is
    done again. Raises `SimulationError` where the records lack an object of the table.
    """
    key = hashlib.sha256(f"{table.manifest.fingerprint}|{clicks}|{table.model_names}".encode()).hexdigest()
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                return np.asarray(stored["clicked"], np.float32)
    texts = table.texts()
    columns = ("image_id", "annotator", "object_id")
    place = {name: row for row, name in enumerate(zip(*(texts[column] for column in columns), strict=True))}
    clicked = np.full((len(place), clicks), np.nan, np.float32)
    predictor, done = load_predictor(), 0
    for record in records:
        wanted = [one for one in record.instances if (record.image_id, record.annotator, one.object_id) in place]
        if not wanted:
            continue
        predictor.set_image(record.read_image())
        for instance in wanted:
            row = place[(record.image_id, record.annotator, instance.object_id)]
            clicked[row] = click_curve(predictor, instance.read_mask(), clicks)
            done += 1
            if progress is not None:
                progress(done, len(place))
    if missing := int(np.isnan(clicked).any(axis=1).sum()):
        raise SimulationError("the records that the tokens were made from", f"{missing} objects not among them")
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, clicked=clicked, key=np.array(key))
    return clicked
