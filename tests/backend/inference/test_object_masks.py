"""What the engine hands out: masks at the image's size, the larger model's where it is kept, and learnt labels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.inference.model import DecodedObjects, ObjectLooks
from backend.inference.object_masks import clicked_labels, object_masks
from backend.inference.refinement import Refinement
from tests.backend.inference.test_shown import SHAPES, VERSION, learnt
from usam.prompts import Prompt

POINT = Prompt(np.ones((1, 2), np.float32), np.ones(1, np.int32))


def decoded(count: int = 2) -> DecodedObjects:
    logits = np.full((count, 16, 16), -5.0, np.float32)
    logits[:, 4:8, 4:8] = 5.0
    return DecodedObjects(
        source=np.arange(count),
        output=np.ones(count, np.int64),
        logits=logits,
        iou=np.linspace(0.8, 0.6, count, dtype=np.float32),
        samscore=np.full(count, 0.7, np.float32),
        scores={"task_gap": np.full(count, 0.1, np.float32), "iou_nano_s": np.full(count, 0.8, np.float32)},
        iou_token=np.zeros((count, 4), np.float32),
        mask_tokens=np.zeros((count, 4, 4), np.float32),
    )


def test_masks_have_the_images_size_and_keep_their_order() -> None:
    first, second = object_masks("nano-s", decoded(), [POINT, POINT], {}, (32, 48), [("cat", 0.9), (None, None)])
    assert first.mask.shape == (32, 48)
    assert first.mask[10:14, 14:20].all()
    assert (first.iou, second.iou) == (pytest.approx(0.8), pytest.approx(0.6))
    assert (first.label, first.label_score, second.label) == ("cat", 0.9, None)
    assert first.gaps == {"task_gap": pytest.approx(0.1)}


@pytest.mark.parametrize("kept", [True, False])
def test_a_larger_models_mask_is_shown_where_it_is_kept_and_gaps_stay(kept: bool) -> None:
    logits = np.full((16, 16), 5.0, np.float32)
    better = Refinement(logits, 0.95, 0.9, {"iou_nano_m": 0.95, "task_gap": -0.4}, "nano-m", 0.1, kept)
    (one,) = object_masks("nano-s", decoded(1), [POINT], {0: better}, (32, 48))
    assert (one.checkpoint, bool(one.mask.all())) == (("nano-m", True) if kept else ("nano-s", False))
    assert one.gaps == {"task_gap": pytest.approx(0.1)}, "they say what the first model has to learn"


class Looking:
    """A model that tells what objects look like."""

    def looks(self, _embedding: object, logits: np.ndarray[Any, Any], _samscore: object) -> ObjectLooks:
        features = np.tile(np.array([[1, 1]], np.float16), (len(logits), 1))
        return ObjectLooks(features, np.zeros((len(logits), SHAPES), np.float32), VERSION)


def test_a_click_gets_the_label_that_was_learnt_and_an_empty_mask_none() -> None:
    model: Any = Looking()
    embedding: Any = SimpleNamespace()
    objects = decoded(2)
    objects.logits[1] = -5.0
    (name, sure), nothing = clicked_labels(model, embedding, objects, learnt())
    assert name == "cat"
    assert sure is not None
    assert sure > 0.9
    assert nothing == (None, None)
    assert clicked_labels(model, embedding, objects, None) == []
