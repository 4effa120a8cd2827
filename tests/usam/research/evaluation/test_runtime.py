"""Seconds for one image: each variant does the work that it is named for."""

from __future__ import annotations

import torch

from usam.research.evaluation.runtime import measure_runtime


def test_variants_cost_what_they_decode_and_encode() -> None:
    torch.set_num_threads(1)
    runtime = measure_runtime("nano-s", repeats=3)
    seconds = runtime.seconds
    assert list(seconds) == ["SAM", "+USAM", "+8 prompts", "+4 augmentations"]
    assert seconds["+4 augmentations"] > 1.3 * seconds["SAM"]
    assert all(value > 0 for value in seconds.values())
