"""The measured gain of choosing by predicted IoU, and what follows from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from usam.active.mask_selection import choice_gain, choice_gains, decide, picked
from usam.active.refinement import Gain
from usam.errors import UsamError
from usam.heads.head_set import HeadSet

WIDTH = 4


def knowing_heads(sign: float) -> HeadSet:
    """Heads whose predicted IoU rises (or falls) with the first value of a mask token."""
    first = np.zeros((2, 2 * WIDTH), np.float32)
    first[0, WIDTH], first[1, WIDTH] = 1.0, -1.0
    layers = [(first, np.zeros(2)), (sign * np.array([[1.0, -1.0]]), np.zeros(1))]
    return HeadSet.from_layers({"iou_nano_s": layers}, alignment="aligned", checkpoint="nano-s", quality="iou_nano_s")


def batch(count: int = 40) -> dict[str, Any]:
    """Objects whose tokens tell how good each mask is, and of which SAM picks the middle one."""
    rng = np.random.default_rng(0)
    iou = rng.uniform(0, 1, (count, 3)).astype(np.float32)
    tokens = np.zeros((count, 4, WIDTH), np.float32)
    tokens[:, 1:, 0] = iou - 0.5
    return {
        "iou_token": np.zeros((count, WIDTH), np.float32),
        "mask_tokens": tokens,
        "targets": {"iou_nano_s": iou, "iou_unsupervised": np.repeat(np.median(iou, axis=1)[:, None], 3, axis=1)},
        "groups": np.arange(count) // 2,
    }


def test_heads_that_know_gain_and_heads_that_err_lose() -> None:
    objects = batch()
    iou = objects["targets"]["iou_nano_s"]
    right = choice_gains(knowing_heads(1.0), "nano-s", objects)
    np.testing.assert_allclose(right, iou.max(axis=1) - np.median(iou, axis=1), atol=1e-6)
    assert decide(choice_gain(right, objects["groups"])) == "predicted-iou"
    wrong = choice_gain(choice_gains(knowing_heads(-1.0), "nano-s", objects), objects["groups"])
    assert wrong.pays is False
    assert decide(wrong) == "samscore"


def test_what_is_not_known_decides_nothing() -> None:
    objects = batch(6)
    few = choice_gain(choice_gains(knowing_heads(1.0), "nano-s", objects), objects["groups"])
    assert decide(few, "samscore") == "samscore"
    assert decide(None) == "predicted-iou"
    unclear = Gain(0.01, -0.02, 0.03, 100, 50)
    assert decide(unclear, "samscore") == "samscore"
    del objects["targets"]["iou_unsupervised"]
    assert np.isnan(choice_gains(knowing_heads(1.0), "nano-s", objects)).all()


def test_unknown_ious_are_left_out() -> None:
    objects = batch()
    objects["targets"]["iou_nano_s"][:10] = np.nan
    gains = choice_gains(knowing_heads(1.0), "nano-s", objects)
    assert choice_gain(gains, objects["groups"]).objects == 30


def test_shapes_are_checked() -> None:
    with pytest.raises(UsamError, match=r"\(N, M\)"):
        picked(np.zeros((2, 3)), np.zeros((2, 4)))
