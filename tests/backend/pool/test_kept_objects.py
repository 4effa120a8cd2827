"""What is kept of a task reads back, is drawn at the image's size, and remembers what was done to it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.errors import StoreError
from backend.pool import kept_objects as module
from backend.pool.kept_objects import KeptObjects, Reading, drawings_of
from backend.store.records import ProposalRow
from tests.factories import HW, bright, kept_objects
from usam.masks import iou
from usam.masks.packed_logits import PackedLogits

OTHER = np.zeros(HW, bool)
OTHER[30:44, 6:30] = True


def test_everything_reads_back() -> None:
    made = kept_objects(bright(), OTHER, labels=["cat", None], features=np.eye(2, 5), version="v", given=True)
    reading = Reading(0.7, "nano-m", PackedLogits.of(np.where(np.eye(32) > 0, 3.0, -3.0)[None].astype(np.float32)))
    made = made.after(1, 1, larger=reading).after(0, 4, alternative=reading)
    row = made.pack(3, "key", {0: made.drawing(0, "brush", 1.5)})
    back = KeptObjects.unpack(row)
    assert (back.hw, back.given, back.labels, back.looks.version) == (HW, True, ("cat", None), "v")
    for name in ("image_features", "iou_token", "mask_tokens", "output", "samscore", "entropy", "cover", "acted"):
        np.testing.assert_array_equal(getattr(back, name), getattr(made, name))
    np.testing.assert_array_equal(back.looks.features, made.looks.features)
    np.testing.assert_allclose(back.layout.both, made.layout.both)
    assert [prompt.points.tolist() for prompt in back.prompts] == [prompt.points.tolist() for prompt in made.prompts]
    assert back.acted.tolist() == [4, 1]
    assert (back.larger.keys(), back.alternatives.keys()) == ({1}, {0})
    assert (back.larger[1].iou, back.larger[1].checkpoint) == (0.7, "nano-m")
    np.testing.assert_array_equal(back.mask(1), made.mask(1))
    assert drawings_of(row) == {0: made.drawing(0, "brush", 1.5)}


def test_masks_have_the_images_size_and_the_larger_models_goes_first() -> None:
    made = kept_objects(bright(), OTHER)
    assert iou(made.mask(0), bright()) > 0.95
    left = np.full((1, 16, 16), -5.0, np.float32)
    left[0, :, :8] = 5.0
    better = made.after(0, 1, larger=Reading(0.9, "nano-m", PackedLogits.of(left)))
    assert better.mask(0)[:, : HW[1] // 2 - 2].all()
    assert iou(better.mask(0, first=True), bright()) > 0.95
    assert made.acted.tolist() == [0, 0], "the first is not changed"


def test_the_uncovered_share_is_what_nothing_shown_lies_on() -> None:
    made = kept_objects(bright(), OTHER)
    share = 1 - bright().mean()
    assert made.uncovered([0]) == pytest.approx(share, abs=0.02)
    assert made.uncovered([0, 1]) == pytest.approx(share - OTHER.mean(), abs=0.03)
    assert made.uncovered([]) == 1.0


def test_an_image_without_candidates_is_kept_too() -> None:
    back = KeptObjects.unpack(kept_objects().pack(1, "key", {}))
    assert len(back) == 0
    assert back.uncovered(np.zeros(0, np.int64)) == 1.0


def test_damage_is_said() -> None:
    row = kept_objects(bright()).pack(3, "key", {})
    for arrays in (row.arrays[:20], b"", row.arrays.replace(b"mask_ends", b"mask_endz")):
        with pytest.raises(StoreError, match="task 3"):
            KeptObjects.unpack(ProposalRow(3, "key", arrays, {}))


def test_what_is_kept_is_read_some_at_a_time_and_memory_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(module, "READ_AT_ONCE", 2)
    monkeypatch.setattr(module, "give_back_memory", lambda: given_back.append(len(read)))
    row, read = kept_objects(bright()).pack(1, "key", {}), list[int]()
    store: Any = SimpleNamespace(proposal_rows=lambda project, tasks: dict.fromkeys(tasks, row))
    for batch in module.read_kept(store, 1, range(1, 10)):
        read += batch.objects
    assert read == list(range(1, 10))
    assert given_back == [4, 8]


def test_handing_back_memory_needs_no_certain_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    module.give_back_memory()
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: object())
    module.give_back_memory()
