"""What the pages of the browser tests show: a project with a queue, versions, audits and a plan, and a new one."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from backend.label_studio.records import Annotation, Task
from backend.learning.kept_plan import CurvePoint, KeptPlan, KeptPlans
from backend.learning.review import Review, ReviewedLabel, keep_review
from backend.local.scenes import Scene, draw_scene
from backend.pool.kept_objects import KeptObjects, Reading
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.overview import UNUSABLE
from backend.store.records import SampleRow, ScoreRow, WorkRow
from tests.factories import head_set, kept_objects
from usam.checkpoints.registry import weights_of
from usam.masks.packed_logits import PackedLogits

SIDE = 128
HW = (360, 480)


def fill(store: Store, registry: Registry, data_dir: Path) -> None:
    """A project with a queue, versions and audits, and another that is new."""
    store.join(3, "2026")
    store.join(4, "2026")
    store.set_classes(3, ["Orange", "Lemon", "Cup"])
    scenes = {number: draw_scene(number) for number in range(1, 7)}
    addresses = {number: address_of(scene) for number, scene in scenes.items()} | {7: "http://127.0.0.1:1/7.jpg"}
    done = [Task(task, {"image": "a.png"}, "t1", 1, is_labeled=True) for task in range(100, 160)]
    store.record_tasks(3, [*(Task(number, {"image": value}, "t1", 0) for number, value in addresses.items()), *done])
    kept = {number: objects_of(scene, number) for number, scene in scenes.items()}
    rows = []
    for number in range(1, 8):
        gap = 0.3 - number / 100
        reason = f"masks doubtful: expected error {gap:.2f}, task gap {gap / 2:.2f} on its 4 objects shown"
        shown = tuple(range(len(kept[number]))) if number in kept else ()
        labels = sorted({one for one in kept[number].labels if one}) if number in kept else []
        rows.append(ScoreRow(number, "v", 0.1, number / 9, number - 1, number == 2, reason, shown, labels))
    rows[5] = ScoreRow(6, "v", UNUSABLE, 1.0, 9, False, "no such file")
    store.put_scores(3, rows)
    for number in range(1, 6):
        store.put_proposal(3, kept[number].pack(number, "key", {}))
    label(store)
    KeptPlans(data_dir).put(3, plan())
    keep_review(Settings(data_dir=data_dir), 3, review())
    figures = {
        "champion_error": 0.04,
        "candidate_error": 0.03,
        "share": 0.9,
        "method": "audit",
        "objects": 9,
        "tasks": 5,
    }
    for seed in (1, 2):
        registry.promote(3, registry.publish(3, head_set(seed), samples=40, figures=figures).version, "better by audit")


def label(store: Store) -> None:
    """Sixty labelled tasks, a third of them shown by an older version."""
    rng = np.random.default_rng(0)
    for task in range(100, 160):
        tokens = rng.normal(size=(5, 8)).astype(np.float16)
        sample = SampleRow(
            task,
            "r",
            weights_of("nano-s"),
            "t1",
            task,
            "A",
            False,
            tokens[0],
            tokens[1:],
            {"iou_nano_s": [0.3, 0.5, 0.7]},
        )
        old = task < 120
        version = f"nano-s+{head_set(1 if old else 2).version}.{1 if old else 2}"
        parts = (4, 3, 1, 2, 2) if old else (7, 1, 1, 1, 1)
        work = WorkRow(task, task, version, *parts, lead_s=31.0 if old else 18.0, at=float(task))
        store.record_annotation(3, Annotation(task, task, "t1", []), [sample], sampled_for="k", work=work)


def plan() -> KeptPlan:
    """A curve that still rises a little."""
    falls = [(labels, 0.78 - 0.12 * float(np.exp(-labels / 90))) for labels in range(0, 381, 20)]
    curve = tuple(CurvePoint(labels, value, value - 0.012, value + 0.012) for labels, value in falls)
    gains = tuple(CurvePoint(more, 0.006 * more / 50, 0.002, 0.012 * more / 50) for more in (50, 100, 200))
    measured = tuple((labels, value + 0.006 * (-1) ** k) for k, (labels, value) in enumerate(falls[:10:2]))
    text = "the next 100 labels are expected to bring 1.2 points (90 %: 0.2 to 2.4): go on"
    return KeptPlan(time.time(), 180, 60, "44 objects of 12 audit tasks", measured, curve, gains, text, "")


def review() -> Review:
    """Three doubts about pictures that are there."""
    about = [
        ("label", "labelled Lemon, looks like Orange (93%)", "change the label to Orange, or leave it"),
        ("outline", "the outline agrees with the model's masks by 0.41 (IoU)", "correct the outline, or leave it"),
        ("not marked", "nobody marked what looks like a Cup (88%)", "mark it, or leave it"),
    ]
    lines = tuple(
        ReviewedLabel(
            task=1 + number,
            annotation=100 + number,
            region="" if reason == "not marked" else "r",
            label="Lemon",
            reason=reason,
            why=why,
            remedy=remedy,
            damage=0.9 - number / 10,
            box=(0.2, 0.2, 0.6, 0.7),
            seen="t1",
        )
        for number, (reason, why, remedy) in enumerate(about)
    )
    return Review(lines, 60, 60, time.time())


def address_of(scene: Scene) -> str:
    """The picture within the task itself."""
    out = io.BytesIO()
    Image.fromarray(scene.image).resize(HW[::-1]).save(out, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def objects_of(scene: Scene, seed: int) -> KeptObjects:
    """The fruit of a picture as a model might have kept it, with soft edges, the last of them in doubt all over; the
    first was asked of a larger model, the second has another reading."""
    masks = [cv2.resize(one.mask.astype(np.uint8), HW[::-1]) > 0 for one in scene.fruit]
    labels = [one.kind for one in scene.fruit]
    kept = kept_objects(*masks, seed=seed, labels=labels, samscore=np.linspace(0.95, 0.55, len(masks)).tolist())
    logits = np.stack([soft(mask) for mask in masks])
    logits[-1] = np.where(logits[-1] > -6, logits[-1] * 0.25, logits[-1])
    larger = {0: Reading(0.96, "large", PackedLogits.of(logits[:1] + 0.8))}
    others = {1: Reading(0.71, "nano-s", PackedLogits.of(logits[1:2] - 3.0))} if len(masks) > 1 else {}
    return replace(kept, masks=PackedLogits.of(logits), larger=larger, alternatives=others)


def soft(mask: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """Logits (SIDE, SIDE) that fall with the distance from the edge of a mask (H, W)."""
    small = cv2.resize(mask.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    inside, outside = (cv2.distanceTransform(one, cv2.DIST_L2, 3) for one in (small, 1 - small))
    return np.clip((inside - outside) * 1.2, -9, 9).astype(np.float32)
