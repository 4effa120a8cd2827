"""Reading tables, refusing what is not one, and the targets of the heads."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from usam.errors import TokensError
from usam.research.tokens import TokenTable
from usam.research.tokens.shards import shard_path
from usam.training.targets import head_name, head_targets


def test_columns_types_and_ranges(folder: Path) -> None:
    table = TokenTable.open(folder)
    assert table.model_names == ("nano-s", "nano-m")
    for model in table.model_names:
        arrays = table.arrays(model)
        count, width = arrays["iou_token"].shape
        assert arrays["mask_tokens"].shape == (count, 4, width)
        assert arrays["iou_token"].dtype == arrays["mask_tokens"].dtype == np.float16
        for column in ("iou", "samscore", "dense_iou", "dense_samscore", "box_iou", "box_samscore"):
            assert arrays[column].shape == (count, 4)
            assert arrays[column].min() >= 0
            assert arrays[column].max() <= 1
        for column in ("h_std", "h_a", "h_xp", "h_theta", "h_t", "h_y"):
            assert arrays[column].shape == (count, 3)
            assert arrays[column].min() >= 0
            assert arrays[column].max() <= 1
        assert arrays["object_id"].shape == (count,)
    assert 0 < table.share_outside < 1
    assert table.entropies


def test_unknown_models_and_columns_are_named(folder: Path) -> None:
    table = TokenTable.open(folder)
    with pytest.raises(TokensError, match="one of nano-s, nano-m, got 'large'"):
        table.arrays("large")
    with pytest.raises(TokensError, match="got colour"):
        table.arrays("nano-s", ["iou", "colour"])


def test_targets_follow_their_definitions(folder: Path) -> None:
    table = TokenTable.open(folder)
    small, large = (table.arrays(name) for name in table.model_names)
    targets = head_targets(table, "nano-m")
    assert set(targets) == {
        "iou_nano_s", "iou_nano_m", "iou_dense_prompt", "iou_unsupervised", "model_gap", "prompt_gap", "task_gap",
    }  # fmt: skip
    assert all(values.shape == (len(table), 3) and values.dtype == np.float32 for values in targets.values())
    for row in range(len(table)):
        best_s, best_m = small["iou"][row, 1:].max(), large["iou"][row, 1:].max()
        pick = large["iou"][row, 1 + large["samscore"][row, 1:].argmax()]
        dense = large["dense_iou"][row, 1:].max()
        np.testing.assert_allclose(targets["iou_nano_m"][row], large["iou"][row, 1:])
        np.testing.assert_allclose(targets["iou_nano_s"][row], best_s)
        np.testing.assert_allclose(targets["iou_dense_prompt"][row], dense)
        np.testing.assert_allclose(targets["iou_unsupervised"][row], pick)
        np.testing.assert_allclose(targets["model_gap"][row], np.clip(0.5 + best_m - best_s, 0, 1), atol=1e-6)
        np.testing.assert_allclose(targets["prompt_gap"][row], np.clip(0.5 + dense - best_m, 0, 1), atol=1e-6)
        np.testing.assert_allclose(targets["task_gap"][row], np.clip(0.5 + best_m - pick, 0, 1), atol=1e-6)
    turned = head_targets(table, "nano-s", small="nano-m", large="nano-s")
    np.testing.assert_allclose(turned["model_gap"], 1 - targets["model_gap"], atol=1e-6)
    assert "model_gap" not in head_targets(table, "nano-s", small="nano-s", large="nano-s")


@pytest.mark.parametrize(
    ("model", "head"),
    [("sam2.1_hiera_tiny", "iou_tiny"), ("sam2_hiera_base_plus", "iou_base_plus"), ("nano-s", "iou_nano_s")],
)
def test_names_of_heads(model: str, head: str) -> None:
    assert head_name(model) == head


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(TokensError, match=r"manifest.json in .*got none"):
        TokenTable.open(tmp_path)


def test_missing_foreign_and_damaged_shards(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shard_path(copy, 1).unlink()
    with pytest.raises(TokensError, match=r"4 shards in .*got 3; run the same usam tokens command"):
        TokenTable.open(copy)
    assert len(TokenTable.open(copy, partial=True)) < len(TokenTable.open(folder))
    whole = shard_path(folder, 1).read_bytes()
    shard_path(copy, 1).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TokensError, match=r"a shard of tokens in .*000001"):
        TokenTable.open(copy)
    shard_path(copy, 1).write_bytes(whole)
    manifest = copy / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1', 1))
    with pytest.raises(TokensError, match=r"000000.safetensors of another"):
        TokenTable.open(copy)
    manifest.write_text('{"format": "usam-tokens-9"}')
    with pytest.raises(TokensError, match="usam-tokens-9"):
        TokenTable.open(copy)
