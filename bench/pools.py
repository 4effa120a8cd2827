"""Proposals of labelled images with features, made once: what topics replay projects on without a model.

Legend: K candidates and T true objects of an image, F feature width, h = w side of the low-resolution masks.

What is made is more than the pool keeps (little suppression), so that rules can be applied to it afterwards:
`PoolImage.candidates` is what the service keeps, `shown_clean` what it shows before it has learnt anything, and
`shown_before` what release 0.1 showed.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.rows import Row
from bench.tables import data_folder

MODEL = os.environ.get("USAM_BENCH_MODEL", "nano-m")
SIDE = 8
"""Points a side of the service's grid by default."""
LOWEST_IOU, LOOSE_NMS, MOST = 0.2, 0.85, 200
BEFORE_IOU, BEFORE_NMS, BEFORE_MOST = 0.5, 0.7, 20
"""Release 0.1: everything above the threshold that is no near-copy."""
Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]


def named(rows: Sequence[Row]) -> list[Row]:
    """Figures of another model than nano-m bear its name."""
    return [row if MODEL == "nano-m" else replace(row, figure=f"{MODEL}, {row.figure}") for row in rows]


@dataclass(frozen=True, eq=False)
class PoolImage:
    """One image. Candidates, best first: `rank` predicted IoU, `samscore` (K,), `scores` {head: (K,)}, `features`
    (K, F), `shapes` (K, S), `masks` (K, h, w); `overlap` (K, T) IoU with the truths at the image's size. Truths:
    `categories`, `areas` (T,) as shares of the image, `true_features` (T, F), `true_shapes` (T, S)."""

    name: str
    part: str
    rank: Floats
    samscore: Floats
    scores: dict[str, Floats]
    features: Floats
    shapes: Floats
    packed: npt.NDArray[np.uint8]
    side: int
    overlap: Floats
    categories: list[str]
    areas: Floats
    true_features: Floats
    true_shapes: Floats

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def masks(self) -> npt.NDArray[np.bool_]:
        bits = np.unpackbits(self.packed, axis=1, count=self.side**2)
        return bits.reshape(-1, self.side, self.side).astype(bool)

    @cached_property
    def candidates(self) -> Indices:
        """Rows that the service keeps, best first."""
        from backend.inference.model import CANDIDATES

        return self.kept(CANDIDATES)

    def kept(self, most: int) -> Indices:
        """Rows that the service keeps where it keeps so many at most, best first."""
        from backend.inference.model import LEAST_IOU
        from usam.masks import nms

        good = np.flatnonzero(self.rank >= LEAST_IOU)
        return good[nms(self.masks[good], self.rank[good], BEFORE_NMS)][:most] if len(good) else good

    @cache  # noqa: B019  (images live as long as the program)
    def layout(self, most: int) -> Any:
        """How the candidates lie (`usam.predictor.clean_proposals.Layout`)."""
        from usam.predictor.clean_proposals import Layout

        return Layout.of(self.masks[self.kept(most)])

    def shown_by(self, learnt: Any = None, most: int = 0) -> tuple[Indices, list[str | None]]:
        """Rows that the service shows with what it has learnt (`ProjectHeads`, None for nothing), best first, and the
        label of each, where it keeps `most` candidates (0: its default)."""
        rows, shown = self._choice(learnt, most)
        return rows[shown.rows], [shown.labels[row] for row in shown.rows.tolist()]

    def distinct(self) -> Indices:
        """Rows that are objects of their own before anything is learnt, shown or not, best first."""
        rows, shown = self._choice()
        return np.asarray(rows[shown.distinct])

    def _choice(self, learnt: Any = None, most: int = 0) -> tuple[Indices, Any]:
        from backend.inference.model import CANDIDATES, ObjectLooks
        from backend.inference.shown import choose_shown
        from backend.settings import Settings

        rows = self.kept(most or CANDIDATES)
        version = learnt.features_version if learnt is not None else ""
        looks = ObjectLooks(np.asarray(self.features[rows], np.float16), self.shapes[rows], version)
        return rows, choose_shown(self.layout(len(rows)), looks, self.rank[rows], Settings(model=MODEL), learnt)

    def shown_clean(self) -> Indices:
        """Rows that the service shows before it has learnt anything, best first."""
        return self.shown_by()[0]

    def shown_before(self) -> Indices:
        """Rows that release 0.1 showed by its default settings, best first."""
        from usam.masks import nms

        good = np.flatnonzero(self.rank >= BEFORE_IOU)
        if not len(good):
            return good
        return good[nms(self.masks[good], self.rank[good], BEFORE_NMS)][:BEFORE_MOST]

    def partner(self, rows: Indices, wanted: npt.NDArray[np.bool_], least: float = 0.5) -> Indices:
        """The true object among those `wanted` (T,) that each of `rows` shows, one to one; -1 for none."""
        from usam.objects.effort import match_objects

        return match_objects(np.where(wanted[None], self.overlap[rows], 0.0), least)


def pool_images(name: str, most: int | None = None, per_side: int = SIDE) -> list[PoolImage]:
    """The images of a labelled set with their candidates, from the folder USAM_BENCH_POOLS (default: a folder of the
    system's temporary one) or made and put there."""
    data = data_folder()
    if data is None:
        raise FileNotFoundError("USAM_SHARED does not lead to the labelled sets")
    name_kept = f"{name}-{MODEL}-{per_side}-{most or 'all'}"
    images: list[PoolImage] = kept_once(name_kept, lambda: _made(records(name, data), most, per_side))
    return images


def seen_by(name: str, groups: Sequence[str], per_side: int, tiles: int) -> list[PoolImage]:
    """Some images of a labelled set, in this order, as another grid sees them, each kept in a file of its own."""
    data = data_folder()
    if data is None:
        raise FileNotFoundError("USAM_SHARED does not lead to the labelled sets")
    known, folder = _records_of(name, data), f"{name}-{MODEL}-{per_side}-{tiles}"
    return [
        kept_once(f"{folder}/{_shuffled(group)[:16]}", partial(_made, [known[group]], None, per_side, tiles))[0]
        for group in groups
    ]


@cache
def _records_of(name: str, data: Path) -> dict[str, Any]:
    return {record.group: record for record in records(name, data)}


def kept_once(name: str, make: Callable[[], Iterable[Any]]) -> list[Any]:
    """What `make` gives, made once and kept in the folder USAM_BENCH_POOLS (default: one of the temporary folder)."""
    folder = Path(os.environ.get("USAM_BENCH_POOLS") or Path(tempfile.gettempdir()) / "usam-bench-pools")
    kept = folder / f"{name}.pickle"
    if not kept.exists():
        from usam.files import replacing

        made = list(make())
        with replacing(kept) as partial:
            partial.write_bytes(pickle.dumps(made))
    found: list[Any] = pickle.loads(kept.read_bytes())  # noqa: S301  (this program wrote it)
    return found


def records(name: str, data: Path) -> Iterable[Any]:
    """The records of a labelled set below `data`, one annotator an image."""
    from usam.research.datasets import open_dataset
    from usam.research.nano.figures import first_annotator

    roots = {
        "coco": ("coco", "coco_subset"),
        "bsds500": ("bsds500", "BSDS500"),
        "nuclei": ("dsb2018", "DSB2018_subset"),
        "pets": ("folders", "OxfordPets_26"),
        "ecssd": ("folders", "ECSSD"),
    }
    if name in roots:
        reader, root = roots[name]
        options = {"pets": {"images": "images", "masks": "trimaps_binary"}}.get(name, {})
        return first_annotator(open_dataset(reader, data / root, **options))
    return _pack(data / "photographs" / name, name)


def _pack(root: Path, name: str) -> Iterator[Any]:
    """Records of a folder whose masks number the objects 1..n; 255 (65535) is to be ignored and is no object."""
    import cv2

    from usam.research.datasets.record import Instance, Record

    for path in sorted((root / "images").glob("*.jpg")):
        labels = cv2.imread(str(root / "masks" / f"{path.stem}.png"), cv2.IMREAD_UNCHANGED)
        ignored = 65535 if labels.dtype == np.uint16 else 255
        instances = tuple(
            Instance(f"{name}/{path.stem}/{value}", lambda labels=labels, value=value: labels == value, name)
            for value in np.unique(labels)
            if value not in (0, ignored)
        )
        yield Record(name, path.stem, f"{name}/{path.stem}", path, instances)


def _made(labelled: Iterable[Any], most: int | None, per_side: int, tiles: int = 1) -> Iterator[PoolImage]:
    from backend.inference.model import ProposalGrid

    model, settings = _model()
    chosen: Sequence[Any] = sorted(labelled, key=lambda record: _shuffled(record.group))[:most]
    for record in chosen:
        made = _one(model, settings, record, ProposalGrid(per_side, MOST, tiles))
        if made is not None:
            yield made


@cache
def _model() -> tuple[Any, Any]:
    """The service's model, and settings that keep more than the service does."""
    from backend.inference.model import LoadedModel
    from backend.metrics.service import Metrics
    from backend.settings import Settings
    from usam.heads.bundled import resolve_heads

    settings = Settings(model=MODEL, threads=1, data_dir=Path("unused"), pred_iou_thresh=LOWEST_IOU, nms_iou=LOOSE_NMS)
    return LoadedModel.load(MODEL, settings, Metrics(), resolve_heads(MODEL, "auto")), settings


def _shuffled(group: str) -> str:
    import hashlib

    return hashlib.sha256(f"pool/{group}".encode()).hexdigest()


def _one(model: Any, settings: Any, record: Any, grid: Any) -> PoolImage | None:
    from backend.inference.candidates import propose
    from backend.inference.model import enlarged
    from backend.inference.scheduler import finish
    from backend.learning.examples import INSIDE, _squeezed
    from usam.research.nano.stored_images import nano_split

    truths = [(each.category, mask) for each in record.instances if (mask := each.read_mask()).any()]
    if not truths:
        return None
    image = record.read_image()
    embedding = model.encode(image)
    found = finish(propose(model, embedding, (), None, "predicted-iou", settings, grid, lambda: image))
    objects, side = found.objects, found.objects.logits.shape[-1]
    true_masks = np.stack([mask for _, mask in truths])
    small = np.stack([_squeezed(mask, side) for mask in true_masks])
    true_looks = model.looks(
        embedding, np.where(small, INSIDE, -INSIDE).astype(np.float32), np.ones(len(small), np.float32)
    )
    return PoolImage(
        name=record.group,
        part=nano_split(record.group),
        rank=objects.iou,
        samscore=objects.samscore,
        scores=objects.scores,
        features=found.looks.features,
        shapes=found.looks.shapes,
        packed=np.packbits((objects.logits > 0).reshape(len(objects), -1), axis=1),
        side=side,
        overlap=_overlaps(enlarged(objects.logits, found.hw), true_masks),
        categories=[category for category, _ in truths],
        areas=true_masks.mean((1, 2)),
        true_features=true_looks.features,
        true_shapes=true_looks.shapes,
    )


def _overlaps(masks: npt.NDArray[np.bool_], truths: npt.NDArray[np.bool_]) -> Floats:
    """IoU (K, T) of (K, H, W) with (T, H, W)."""
    rows, columns = (part.reshape(len(part), -1).astype(np.float32) for part in (masks, truths))
    both = rows @ columns.T
    return np.asarray(both / np.maximum(rows.sum(1)[:, None] + columns.sum(1)[None] - both, 1), np.float32)
