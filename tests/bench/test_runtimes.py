"""Ways to run an encoder: held to torch's masks, and named where they do not work."""

from __future__ import annotations

from typing import Any

import torch

from bench.runtimes import ways_rows


def same(maps: Any, example: Any, threads: int) -> Any:
    return maps


def wrong(maps: Any, example: Any, threads: int) -> Any:
    return lambda images: [-part for part in maps(images)]


def absent(maps: Any, example: Any, threads: int) -> Any:
    raise ImportError("not installed")


def test_a_way_with_other_masks_or_none_is_named_and_not_timed() -> None:
    rows = ways_rows("nano-s", torch.get_num_threads(), 2, {"itself": same, "another": wrong, "none": absent})
    (row,) = rows
    assert "encoder by itself" in row.figure
    assert row.value > 0
    assert "none: ImportError" in row.note
    assert "another: IoU with torch's masks" in row.note
