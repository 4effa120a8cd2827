"""Small things that many tests need: head sets, pictures, configurations, and what stands for Label Studio and SAM."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from PIL import Image

from backend.errors import LabelStudioError, QueueError
from backend.inference.model import ObjectLooks
from backend.label_studio.records import UNCERTAINTY_SAMPLING, Annotation, Prediction, Project, Task
from backend.pool.kept_objects import KeptObjects, Told, covered_cells, prompt_arrays
from backend.pool.proposals import proposal_key
from backend.resources import Resources
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from usam.checkpoints.registry import weights_of
from usam.heads.head_set import HeadSet
from usam.masks import encode_rle
from usam.masks.packed_logits import PackedLogits
from usam.predictor.clean_proposals import Layout
from usam.predictor.object_features import describe_shapes
from usam.prompts import Prompt

HW = (48, 64)
"""Height and width of a picture."""
GAPS = ("model_gap", "prompt_gap", "task_gap")


def head_set(
    seed: int = 0,
    *,
    width: int = 8,
    hidden: int = 4,
    names: Sequence[str] = ("iou_nano_s", *GAPS),
    bias: Mapping[str, float] | None = None,
    scale: float = 0.1,
) -> HeadSet:
    """Random heads for tokens of `width` numbers; `bias` moves a head's output before the sigmoid."""
    rng = np.random.default_rng(seed)
    layers = {
        name: [
            (rng.normal(0, scale, (hidden, 2 * width)).astype(np.float32), np.zeros(hidden, np.float32)),
            (rng.normal(0, scale, (1, hidden)).astype(np.float32), np.full(1, (bias or {}).get(name, 0.0), np.float32)),
        ]
        for name in names
    }
    return HeadSet.from_layers(layers, alignment="aligned", checkpoint=weights_of("nano-s"), quality="iou_nano_s")


def picture(number: int = 0, hw: tuple[int, int] = HW) -> np.ndarray[Any, Any]:
    """A dark picture (H, W, 3) with a bright thing in its middle."""
    image = np.random.default_rng(abs(number)).integers(0, 60, (*hw, 3), dtype=np.uint8)
    image[hw[0] // 4 : hw[0] // 2, hw[1] // 4 : hw[1] // 2] = (220, 180, 40)
    return image


def picture_address(number: int = 0, hw: tuple[int, int] = HW) -> str:
    """The picture as a `data:` address."""
    return "data:image/png;base64," + base64.b64encode(png(picture(number, hw))).decode()


def png(image: np.ndarray[Any, Any]) -> bytes:
    """An image (H, W, 3) as a file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def label_config(*labels: str, more: str = "") -> str:
    """A configuration with one image and one brush."""
    values = "".join(f'<Label value="{label}"/>' for label in labels or ("thing",))
    return (
        f'<View><Image name="img" value="$image"/><BrushLabels name="brush" toName="img">{values}</BrushLabels>{more}'
        "</View>"
    )


def brush(name: str = "r", hw: tuple[int, int] = HW, **more: Any) -> dict[str, Any]:
    """A region on the bright thing of `picture`."""
    return {
        "id": name,
        "from_name": "brush",
        "to_name": "img",
        "type": "brushlabels",
        "original_width": hw[1],
        "original_height": hw[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_rle(bright(hw)), "brushlabels": ["thing"]},
        **more,
    }


class FakeModel:
    """Gives each prompt the same four masks and small tokens; counts what it encodes."""

    name = "nano-s"
    decoder = ""

    def __init__(self, width: int = 8) -> None:
        self.width, self.encoded = width, 0

    def encode(self, image: np.ndarray[Any, Any]) -> Any:
        self.encoded += 1
        return SimpleNamespace(image_hw=image.shape[:2])

    def looks_version(self, embedding: object) -> str:
        return ""

    def outputs(self, embedding: object, prompts: Sequence[Any]) -> Any:
        count = len(prompts)
        logits = np.full((count, 4, 16, 16), -5.0, np.float32)
        logits[:, :, 4:8, 4:8] = 5.0
        logits[:, 2, 4:12] = 5.0
        tokens = np.linspace(-1, 1, self.width, dtype=np.float32)
        return SimpleNamespace(
            logits=logits,
            ious=np.tile(np.array([0.5, 0.6, 0.7, 0.8], np.float32), (count, 1)),
            iou_token=np.tile(tokens, (count, 1)),
            mask_tokens=np.tile(tokens, (count, 4, 1)),
        )


class FakeEmbeddings:
    """Keeps embeddings in memory."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], Any] = {}

    def get(self, content: str, checkpoint: str) -> Any:
        return self.kept.get((content, checkpoint))

    def put(self, content: str, checkpoint: str, embedding: Any, *, make_room: bool = True) -> None:
        self.kept[content, checkpoint] = embedding


@dataclass
class FakeLabelStudio:
    """One project as Label Studio's client tells it; what is written to it changes it."""

    known: Project = field(default_factory=lambda: Project.read({"id": 1, "label_config": label_config()}))
    task_list: list[Task] = field(default_factory=list)
    annotation_list: list[Annotation] = field(default_factory=list)
    prediction_list: list[Prediction] = field(default_factory=list)
    asked_since: list[str] = field(default_factory=list)
    missing: bool = False
    untold: set[int] = field(default_factory=set)
    """Tasks that it cannot write out."""
    now: datetime | None = None

    def clock(self) -> datetime | None:
        return self.now

    def add_task(self, number: int, *results: Any, updated_at: str = "2026-01-01T00:00:00.000000Z") -> None:
        """A task with an annotation of each of these results, numbered 100 * task + 0, 1, ..."""
        first = 100 * number
        self.annotation_list += [Annotation(first + n, number, updated_at, result) for n, result in enumerate(results)]
        data = {"image": picture_address(number)}
        self.task_list.append(Task(number, data, updated_at, annotations=len(results), is_labeled=bool(results)))

    def project(self, project: int) -> Project:
        if self.missing:
            raise LabelStudioError("a project", "404", "check its number", status=404, is_from_label_studio=True)
        return self.known

    def projects(self) -> list[Project]:
        return [] if self.missing else [self.known]

    def tasks(self, project: int, *, since: str = "", unreadable: list[int] | None = None) -> Iterator[Task]:
        self.asked_since.append(since)
        given = [task for task in self.task_list if task.updated_at > since]
        return iter(self._told(given, [task.id for task in given], unreadable))

    def task_count(self, project: int) -> int:
        return len(self.task_list)

    def annotations(
        self, project: int, task_ids: Collection[int], *, unreadable: list[int] | None = None
    ) -> list[Annotation]:
        given = [one for one in self.annotation_list if one.task in task_ids]
        return self._told(given, [one.task for one in given], unreadable)

    def _told(self, rows: list[Any], tasks: list[int], unreadable: list[int] | None) -> list[Any]:
        """Those of these rows that it can tell."""
        if unreadable is not None:
            unreadable += sorted(self.untold & set(tasks))
        return [row for row, task in zip(rows, tasks, strict=True) if task not in self.untold]

    def annotate(self, task: int, result: Any) -> Annotation:
        number = max((one.id for one in self.annotation_list), default=0) + 1
        made = Annotation(number, task, "2026-01-03T00:00:00.000000Z", [dict(one) for one in result])
        self.annotation_list.append(made)
        self._count(task)
        return made

    def delete_annotation(self, annotation: int) -> None:
        gone = [one for one in self.annotation_list if one.id == annotation]
        if not gone:
            raise LabelStudioError("an annotation", "404", "check its number", status=404, is_from_label_studio=True)
        self.annotation_list.remove(gone[0])
        self._count(gone[0].task)

    def _count(self, task: int) -> None:
        count = sum(one.task == task for one in self.annotation_list)
        changed = {"annotations": count, "is_labeled": count > 0, "updated_at": "2026-01-03T00:00:00.000000Z"}
        self.task_list = [replace(one, **changed) if one.id == task else one for one in self.task_list]

    def predictions(self, project: int, task_ids: Collection[int]) -> list[Prediction]:
        return [one for one in self.prediction_list if one.task in task_ids]

    def import_predictions(self, project: int, items: Any) -> int:
        rows = list(items)
        for number, item in enumerate(rows, max((one.id for one in self.prediction_list), default=0) + 1):
            self.prediction_list.append(Prediction.read({**item, "id": number}, item["task"]))
        return len(rows)

    def set_model_version(self, project: int, version: str) -> None:
        self.known = Project.read(
            {
                "id": 1,
                "label_config": self.known.label_config,
                "model_version": version,
                "sampling": UNCERTAINTY_SAMPLING,
            }
        )

    def model_versions(self, project: int) -> dict[str, int]:
        names = [one.model_version for one in self.prediction_list]
        return {name: names.count(name) for name in names}

    def of_version(self, project: int, version: str, page: int) -> list[int] | None:
        found = [one for one in self.prediction_list if version in one.model_version][25 * (page - 1) : 25 * page]
        return [one.id for one in found if one.model_version == version] if found else None

    def update_prediction(self, prediction: int, *, score: float, result: Any) -> None:
        self.prediction_list = [
            replace(one, score=score, result=list(result)) if one.id == prediction else one
            for one in self.prediction_list
        ]

    def delete_prediction(self, prediction: int) -> None:
        self.prediction_list = [one for one in self.prediction_list if one.id != prediction]

    def delete_version(self, project: int, version: str) -> None:
        self.prediction_list = [one for one in self.prediction_list if one.model_version != version]

    def first_by_score(self, project: int, count: int) -> list[tuple[int, float | None]]:
        rows = [one for one in self.prediction_list if one.model_version == self.known.model_version]
        return [(one.task, one.score) for one in sorted(rows, key=lambda one: one.score or 0.0)[:count]]


class FakeQueue:
    """Takes every job, and remembers."""

    def __init__(self) -> None:
        self.waked: list[str] = []
        self.helpers: list[int] = []
        self.busy = False

    def wake(self, project: int, job: str, *, at_front: bool = False) -> bool:
        self.waked.append(job)
        return True

    def wake_helpers(self, project: int, most: int) -> int:
        self.helpers.append(most)
        return 0

    def others_wait(self, project: int) -> bool:
        return self.busy


class PageQueue:
    """What the service asks of its queue; `lost`: Redis does not answer."""

    def __init__(self) -> None:
        self.jobs: list[tuple[int, str]] = []
        self.lost = False

    def enqueue(self, project: int, job: str, *, at_front: bool = False) -> str:
        if self.lost:
            raise QueueError("Redis to answer", "ConnectionError", "start Redis")
        self.jobs.append((project, job))
        return "id"

    def wake(self, project: int, job: str, *, at_front: bool = False) -> bool:
        return True

    def answers(self) -> bool:
        return not self.lost

    def workers(self) -> int:
        return 1


class FakeImages:
    """Gives the picture of a task, or the file that is its own; `broken` tasks have none."""

    def __init__(self) -> None:
        self.broken: dict[int, Exception] = {}
        self.files: dict[int, bytes] = {}

    def fetch_bytes(self, address: str, task: int) -> bytes:
        if task in self.broken:
            raise self.broken[task]
        return self.files.get(task) or png(picture(task))

    def decode(self, data: bytes) -> np.ndarray[Any, Any]:
        return np.array(Image.open(io.BytesIO(data)))


def resources(folder: Path, model: Any = None, heads: HeadSet | None = None, **settings: Any) -> Resources:
    """What a job works with: a real store and registry in `folder`, fakes for the rest. Without a model, whoever asks
    for it fails."""
    made = Settings.from_environment(
        model="nano-s",
        larger_model="",
        data_dir=folder,
        audit_share=0.0,
        heads="none",
        **{"own_decoder_seconds": 0, **settings},
    )
    store = Store(f"sqlite:///{folder / 'usam.db'}")
    store.join(1)
    parts: Any = (made, store, Registry(folder / "heads"), FakeLabelStudio(), FakeImages(), FakeQueue())
    opened = Resources(*parts)
    known: Any = opened  # their places are for the real ones
    known.heads, known.embeddings, known.model = heads, FakeEmbeddings(), model or _Absent()
    return opened


class _Absent:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"SAM was asked for its {name}")


def bright(hw: tuple[int, int] = HW) -> np.ndarray[Any, Any]:
    """The mask of the bright thing of `picture`."""
    mask = np.zeros(hw, bool)
    mask[hw[0] // 4 : hw[0] // 2, hw[1] // 4 : hw[1] // 2] = True
    return mask


def kept_objects(
    *masks: np.ndarray[Any, Any],
    seed: int = 0,
    width: int = 8,
    samscore: Sequence[float] | None = None,
    labels: Sequence[str | None] | None = None,
    features: np.ndarray[Any, Any] | None = None,
    version: str = "",
    given: bool = False,
    told: Mapping[int, Told] | None = None,
) -> KeptObjects:
    """What a model might have said of an image: an object on each of these masks (H, W), best first."""
    rng, count = np.random.default_rng(seed), len(masks)
    hw = masks[0].shape if masks else HW
    small = [cv2.resize(mask.astype(np.uint8), (64, 64), interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]
    logits = np.where(np.array(small, bool).reshape(count, 64, 64), 5.0, -5.0).astype(np.float32)
    scores = np.linspace(0.9, 0.4, count, dtype=np.float32) if samscore is None else np.array(samscore, np.float32)
    values = np.zeros((count, 0), np.float16) if features is None else features.astype(np.float16)
    return KeptObjects(
        hw=(hw[0], hw[1]),
        image_features=rng.normal(size=16).astype(np.float32),
        given=given,
        labels=tuple(labels or [None] * count),
        prompt_arrays=prompt_arrays([Prompt(np.ones((1, 2), np.float32), np.ones(1, np.int32)) for _ in masks]),
        iou_token=rng.normal(size=(count, width)).astype(np.float16),
        mask_tokens=rng.normal(size=(count, 4, width)).astype(np.float16),
        output=np.ones(count, np.int64),
        samscore=scores,
        entropy=np.full(count, 0.1, np.float32),
        looks=ObjectLooks(values, describe_shapes(logits, scores), version),
        layout=Layout.of(logits > 0),
        cover=covered_cells(logits > 0),
        masks=PackedLogits.of(logits),
        acted=np.zeros(count, np.int64),
        told=told or {},
    )


def keep_proposals(place: Resources, *tasks: int, count: int = 2, width: int = 8) -> None:
    """Keep for each of these tasks what a model might have said of it: `count` objects, the first of them the bright
    thing."""
    known = {task.id: task for task in place.store.tasks(1)}
    config = place.label_studio.project(1).label_config
    for task in tasks:
        masks = [bright(), np.zeros(HW, bool)]
        masks[1][HW[0] // 2 + 4 : -4, HW[1] // 2 + 4 : -4] = True
        scores = np.linspace(0.9, 0.6, count) - task / 100
        kept = kept_objects(*masks[:count], seed=task, width=width, samscore=scores.tolist())
        key = proposal_key(place.settings, config, known[task].data_key, "predicted-iou")
        place.store.put_proposal(1, kept.pack(task, key, {}))
