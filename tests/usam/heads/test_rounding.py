"""Head sets rounded to half floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from usam.heads.head_set import HeadSet


def some_heads() -> HeadSet:
    rng = np.random.default_rng(0)
    shapes = ((64, 64), (64, 64), (1, 64))
    layers = {
        name: [(rng.normal(0, 0.2, shape), rng.normal(0, 0.2, shape[0])) for shape in shapes]
        for name in ("iou_nano_m", "task_gap")
    }
    return HeadSet.from_layers(layers, alignment="aligned", checkpoint="nano-m", quality="iou_nano_m")


def test_rounded_heads_take_half_the_room_and_say_nearly_the_same(tmp_path: Path) -> None:
    heads = some_heads()
    small = heads.rounded()
    full_file, half_file = heads.save(tmp_path / "full"), small.save(tmp_path / "half")
    assert half_file.stat().st_size < 0.6 * full_file.stat().st_size
    loaded = HeadSet.load(half_file)
    assert loaded.version == small.version != heads.version
    rng = np.random.default_rng(1)
    iou, masks = rng.normal(size=(20, 32)).astype("f4"), rng.normal(size=(20, 4, 32)).astype("f4")
    before, after = heads.score(iou, masks), loaded.score(iou, masks)
    assert all(np.abs(before[name] - after[name]).max() < 1e-3 for name in heads.names)


def test_rounding_twice_changes_nothing() -> None:
    small = some_heads().rounded()
    assert small.rounded().version == small.version
