"""The search over training settings: it searches, drops, and goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from synthetic_rows import synthetic_rows

from usam.errors import TrainingError
from usam.training import TrainSettings, search_settings
from usam.training import search as search_module
from usam.training.network import Rows

BASE = TrainSettings(hidden=(128, 64), epochs=5, batch=256, precision="float32", device="cpu", patience=2)


@pytest.fixture(scope="module")
def rows() -> tuple[Rows, object]:
    torch.set_num_threads(1)
    data = synthetic_rows(240, width=8)
    targets = {name: data.targets[name] for name in ("iou_nano_m", "task_gap")}
    return Rows.of(data.iou_token, data.mask_tokens, targets, "aligned"), data.groups


def test_a_search_resumes_and_its_best_is_no_worse_than_the_start(
    rows: tuple[Rows, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "HIDDEN", {"128-64": (128, 64), "16-8": (16, 8)})
    storage = tmp_path / "search.journal"
    seen: list[tuple[int, float | None]] = []
    first = search_settings(*rows, 3, base=BASE, storage=storage, progress=lambda *trial: seen.append(trial))
    again = search_settings(*rows, 5, base=BASE, storage=storage, progress=lambda *trial: seen.append(trial))
    assert [number for number, _ in seen] == [0, 1, 2, 3, 4]
    assert again.finished + again.pruned == 5
    assert again.loss <= first.loss <= seen[0][1]
    done = search_settings(*rows, 5, base=BASE, storage=storage, progress=lambda *trial: seen.append(trial))
    assert done == again
    assert len(seen) == 5


def test_a_journal_of_other_heads_is_refused(rows: tuple[Rows, object], tmp_path: Path) -> None:
    table, groups = rows
    storage = tmp_path / "search.journal"
    search_settings(table, groups, 1, base=BASE, storage=storage)
    other = Rows(("iou_nano_s", "task_gap"), table.iou, table.masks, table.targets, table.weights)
    with pytest.raises(TrainingError, match="another folder"):
        search_settings(other, groups, 1, base=BASE, storage=storage)
