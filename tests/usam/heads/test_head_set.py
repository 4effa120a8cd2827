"""Head sets: what they compute, what they keep, and what they refuse to load."""

from __future__ import annotations

import os
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.usam.small_sam2 import random_heads, random_layers
from usam.errors import HeadsError
from usam.heads.files import FILE_NAME
from usam.heads.head_set import PUBLISHED_HEADS, HeadSet

WIDTH = 8


def tokens(prompts: int = 5, width: int = WIDTH, seed: int = 1) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    return (
        random.normal(size=(prompts, width)).astype(np.float32),
        random.normal(size=(prompts, 4, width)).astype(np.float32),
    )


def by_hand(layers: Any, iou_token: Any, mask_token: Any) -> Any:
    """One head on one concatenated pair of tokens, as the paper has it."""
    x = np.concatenate([iou_token, mask_token], axis=-1).astype(np.float64)
    for index, (weight, bias) in enumerate(layers):
        x = x @ np.asarray(weight).T + bias
        x = np.maximum(x, 0) if index < len(layers) - 1 else 1 / (1 + np.exp(-x))
    return x[..., 0]


@pytest.mark.parametrize(("alignment", "reads"), [("aligned", (0, 1, 2, 3)), ("shifted", (0, 0, 1, 2))])
@pytest.mark.parametrize(("columns", "outputs"), [("multimask", (1, 2, 3)), ("single", (0,)), ("all", (0, 1, 2, 3))])
def test_a_score_is_its_head_on_the_token_of_its_column(
    alignment: Any, reads: tuple[int, ...], columns: Any, outputs: tuple[int, ...]
) -> None:
    layers = random_layers(WIDTH)
    iou_token, mask_tokens = tokens()
    scores = HeadSet.from_layers(layers, alignment=alignment).score(iou_token, mask_tokens, columns)
    assert tuple(scores) == PUBLISHED_HEADS
    for name, values in scores.items():
        assert values.shape == (5, len(outputs))
        assert values.dtype == np.float32
        for column, output in enumerate(outputs):
            wanted = by_hand(layers[name], iou_token, mask_tokens[:, reads[output]])
            wanted = wanted - 0.5 if name.endswith("_gap") else wanted
            np.testing.assert_allclose(values[:, column], wanted, atol=1e-6)


@pytest.mark.shared
def test_published_heads_give_the_reference_scores(shared: Path) -> None:
    golden = np.load(shared / "golden" / "usam_heads_sam2.1.npz")
    heads = HeadSet.load(shared / "weights" / "usam_mlps" / "sam2.1")
    assert heads.names == PUBLISHED_HEADS
    assert (heads.alignment, heads.checkpoint, heads.width) == ("shifted", "sam2.1", 256)
    scores = heads.score(golden["iou_token"], golden["mask_tokens"])
    for name in PUBLISHED_HEADS:
        np.testing.assert_allclose(scores[name], golden[f"score_{name}"], atol=1e-5, rtol=0)


def test_scores_do_not_depend_on_autocast_or_on_how_tokens_are_kept() -> None:
    heads = random_heads(WIDTH)
    iou_token, mask_tokens = (torch.from_numpy(t).bfloat16() for t in tokens())
    plain = heads.score(iou_token.float(), mask_tokens.float())
    with torch.autocast("cpu", torch.bfloat16):
        under = heads.score(iou_token, mask_tokens)
    for name in heads.names:
        assert np.array_equal(plain[name], under[name])


def test_a_set_outlives_its_file(tmp_path: Path) -> None:
    heads = HeadSet.from_layers(
        random_layers(WIDTH),
        alignment="aligned",
        checkpoint="nano-m",
        quality="iou_small",
        metadata={"training_data": ["coco"], "figures": {"pearson": 0.7}},
    )
    file = heads.save(tmp_path / "set")
    assert file == tmp_path / "set" / FILE_NAME
    assert sorted(path.name for path in file.parent.iterdir()) == [FILE_NAME]
    for path in (file, file.parent, heads.save(tmp_path / "other.safetensors")):
        again = HeadSet.load(path)
        assert (again.names, again.alignment, again.checkpoint) == (heads.names, "aligned", heads.checkpoint)
        assert (again.quality, again.metadata) == ("iou_small", heads.metadata)
        assert (again.version, again.sha256) == (heads.version, heads.sha256)
        assert again.version == again.sha256[:12]
        for name, wanted in heads.layers().items():
            for (w, b), (w2, b2) in zip(wanted, again.layers()[name], strict=True):
                assert np.array_equal(w, w2)
                assert np.array_equal(b, b2)


def test_the_version_follows_the_content() -> None:
    heads = random_heads(WIDTH)
    assert random_heads(WIDTH).version == heads.version
    others = [
        random_heads(WIDTH, seed=1),
        random_heads(WIDTH, alignment="shifted"),
        random_heads(WIDTH, checkpoint="sam2.1"),
        heads.subset(["iou_large", "task_gap"]),
    ]
    assert len({other.version for other in (heads, *others)}) == 5


def test_a_subset_scores_as_the_whole_set_does() -> None:
    heads = random_heads(WIDTH)
    part = heads.subset(["task_gap", "iou_tiny"])
    assert (part.names, part.quality) == (("task_gap", "iou_tiny"), None)
    whole, scores = heads.score(*tokens()), part.score(*tokens())
    for name in part.names:
        np.testing.assert_allclose(scores[name], whole[name], atol=1e-6)


def test_a_set_can_be_sent_to_another_process() -> None:
    heads = random_heads(WIDTH)
    heads.score(*tokens())
    again = pickle.loads(pickle.dumps(heads))
    assert again.version == heads.version
    assert np.array_equal(again.score(*tokens())["task_gap"], heads.score(*tokens())["task_gap"])


@pytest.mark.parametrize(
    ("heads_for", "checkpoint", "fits"),
    [
        ("sam2.1", "sam2.1_hiera_tiny", True),
        ("sam2", "sam2_hiera_large", True),
        ("sam2", "sam2.1_hiera_tiny", False),
        ("sam2.1_hiera_tiny", "sam2.1_hiera_tiny", True),
        ("sam2.1_hiera_tiny", "sam2.1_hiera_small", False),
        ("nano-s", "nano-m", False),
        ("", "nano-m", True),
        ("sam2.1", None, True),
    ],
)
def test_heads_know_their_checkpoint(heads_for: str, checkpoint: str | None, fits: bool) -> None:
    assert random_heads(WIDTH, checkpoint=heads_for).fits(checkpoint) is fits


def test_the_quality_head_is_the_one_of_the_checkpoints_size() -> None:
    heads = random_heads(WIDTH)
    assert heads.quality_for("sam2.1_hiera_base_plus") == "iou_base_plus"
    assert heads.quality_for("nano-m") == heads.quality_for(None) == "iou_large"


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def published(folder: Path, names: Any = PUBLISHED_HEADS) -> Any:
    """Write heads in the published layout; returns their layers."""
    layers = random_layers(WIDTH, names)
    for name, head in layers.items():
        state = {}
        for i, (weight, bias) in enumerate(head):
            state[f"layers.{i}.weight"] = torch.tensor(weight, dtype=torch.float32)
            state[f"layers.{i}.bias"] = torch.tensor(bias, dtype=torch.float32)
        (folder / name).mkdir(parents=True)
        torch.save(state, folder / name / "model.pth")
    return layers


def test_the_published_layout_loads_with_its_shift(tmp_path: Path) -> None:
    layers = published(tmp_path / "sam2.0", PUBLISHED_HEADS[3:])
    heads = HeadSet.load(tmp_path / "sam2.0")
    assert (heads.names, heads.alignment, heads.checkpoint) == (PUBLISHED_HEADS[3:], "shifted", "sam2")
    assert HeadSet.load(tmp_path / "sam2.0", checkpoint="sam2.1").checkpoint == "sam2.1"
    iou_token, mask_tokens = tokens()
    wanted = by_hand(layers["iou_large"], iou_token, mask_tokens[:, 2])
    np.testing.assert_allclose(heads.score(iou_token, mask_tokens)["iou_large"][:, 2], wanted, atol=1e-6)


@pytest.mark.parametrize("old_format", [False, True])
def test_pickled_code_never_runs(tmp_path: Path, old_format: bool) -> None:
    published(tmp_path / "heads")
    mark = tmp_path / "mark"
    file = tmp_path / "heads" / "task_gap" / "model.pth"
    torch.save({"layers.0.weight": Bomb(mark)}, file, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(HeadsError, match=r"model\.pth"):
        HeadSet.load(tmp_path / "heads")
    assert not mark.exists()


def altered_state(folder: Path, change: Any) -> None:
    file = folder / "task_gap" / "model.pth"
    state = torch.load(file, weights_only=True)
    change(state)
    torch.save(state, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["layers.1.weight"].fill_(torch.nan), "finite weights in layer 1 of task_gap"),
        (lambda s: s.pop("layers.2.bias"), "layers.<i>.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "layers.<i>.weight"),
        (lambda s: s.update({"layers.1.weight": torch.zeros(16, 15)}), "layer 1 of task_gap"),
        (lambda s: s.update({"layers.0.weight": torch.zeros(16, 18)}), "in every head"),
        (lambda s: s.update({"layers.2.weight": torch.zeros(2, 16), "layers.2.bias": torch.zeros(2)}), "to 1"),
    ],
)
def test_published_heads_that_are_not_right_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    published(tmp_path)
    altered_state(tmp_path, change)
    with pytest.raises(HeadsError, match=message):
        HeadSet.load(tmp_path)


def test_a_published_folder_of_an_unknown_head_is_refused(tmp_path: Path) -> None:
    published(tmp_path, ["iou_tiny", "iou_gigantic"])
    with pytest.raises(HeadsError, match="unknown iou_gigantic"):
        HeadSet.load(tmp_path)


def test_a_truncated_published_file_is_refused(tmp_path: Path) -> None:
    published(tmp_path)
    file = tmp_path / "iou_tiny" / "model.pth"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(HeadsError, match="iou_tiny"):
        HeadSet.load(tmp_path)


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    file = random_heads(WIDTH).save(tmp_path)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(HeadsError, match="the file was altered"):
        HeadSet.load(file)


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = random_heads(WIDTH).save(tmp_path)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(HeadsError, match=r"heads\.safetensors"):
        HeadSet.load(file)


@pytest.mark.parametrize("header", [None, {"format": "usam-heads-1"}, {"format": "usam-heads-1", "heads": "[3]"}])
def test_other_safetensors_files_are_refused(tmp_path: Path, header: Any) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, file, header)
    with pytest.raises(HeadsError, match=r"x\.safetensors"):
        HeadSet.load(file)


def test_a_missing_set_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(HeadsError, match="no such file"):
        HeadSet.load(tmp_path / "nowhere")
    with pytest.raises(HeadsError, match="a folder with heads"):
        HeadSet.load(tmp_path)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ({}, {}, "at least one head"),
        (random_layers(WIDTH, ["beauty"]), {}, "'beauty'"),
        (random_layers(WIDTH, ["../iou_x"]), {}, "iou_x"),
        (random_layers(WIDTH), {"alignment": "sideways"}, "'sideways'"),
        (random_layers(WIDTH), {"quality": "iou_huge"}, "'iou_huge'"),
        (random_layers(4, ["iou_a"]) | random_layers(5, ["iou_b"]), {}, "in every head"),
        ({"iou_a": [(np.ones((1, 8)), np.zeros(1))]}, {}, "two or more layers"),
        ({"iou_a": [(np.ones((4, 7)), np.zeros(4)), (np.ones((1, 4)), np.zeros(1))]}, {}, "2 D"),
        ({"iou_a": [(np.ones((4, 8)), np.zeros(3)), (np.ones((1, 4)), np.zeros(1))]}, {}, "layer 0 of iou_a"),
        ({"iou_a": [(np.full((4, 8), np.inf), np.zeros(4)), (np.ones((1, 4)), np.zeros(1))]}, {}, "finite"),
    ],
)
def test_layers_that_make_no_set_are_refused(layers: Any, options: Any, message: str) -> None:
    with pytest.raises(HeadsError, match=message):
        HeadSet.from_layers(layers, **{"alignment": "aligned", **options})


@pytest.mark.parametrize(
    ("iou_token", "mask_tokens", "message"),
    [
        (np.zeros((2, 9)), np.zeros((2, 4, 9)), "tokens of width 8"),
        (np.zeros((2, 8)), np.zeros((3, 4, 8)), "tokens of width 8"),
        (np.zeros((2, 8)), np.zeros((2, 3, 8)), "tokens of width 8"),
        (np.zeros(8), np.zeros((4, 8)), "tokens of width 8"),
        (np.full((2, 8), np.nan), np.zeros((2, 4, 8)), "finite tokens"),
        (np.zeros((2, 8)), np.full((2, 4, 8), np.nan), "finite tokens"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(iou_token: Any, mask_tokens: Any, message: str) -> None:
    with pytest.raises(HeadsError, match=message):
        random_heads(WIDTH).score(iou_token, mask_tokens)


def test_unknown_heads_and_columns_are_refused() -> None:
    heads = random_heads(WIDTH)
    with pytest.raises(HeadsError, match="one of the heads iou_tiny"):
        heads.subset(["iou_huge"])
    with pytest.raises(HeadsError, match="multimask, single, all"):
        heads.score(*tokens(), columns="both")  # type: ignore[arg-type]


def test_no_prompts_give_no_scores() -> None:
    assert random_heads(WIDTH).score(np.zeros((0, WIDTH)), np.zeros((0, 4, WIDTH)))["task_gap"].shape == (0, 3)


def test_a_full_disk_leaves_the_old_set(tmp_path: Path) -> None:
    old = random_heads(WIDTH)
    file = old.save(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(HeadsError, match="room and rights to write"):
            random_heads(WIDTH, seed=1).save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert HeadSet.load(file).version == old.version


def test_a_set_cannot_be_saved_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadsError, match="room and rights"):
        random_heads(WIDTH).save(tmp_path / "file" / "set")
