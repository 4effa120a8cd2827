"""A project's labels on top of given heads: ten do no harm, fifty help where the data have shifted."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_rows import HEADS, Synthetic, synthetic_rows

from usam.errors import TrainingError
from usam.heads.head_set import HeadSet
from usam.training import TrainSettings, fit_heads
from usam.training.adaptation import FOLDS, _Problem
from usam.training.fitting import FitResult
from usam.training.network import Rows
from usam.training.split import group_folds

WIDTH, NOISE = 16, 1.2


@pytest.fixture(scope="module")
def heads() -> HeadSet:
    data = synthetic_rows(1600, width=WIDTH, noise=NOISE)
    settings = TrainSettings(hidden=(48, 24), epochs=6, batch=64, members=1, precision="float32", device="cpu")
    return fit_heads(
        data.iou_token, data.mask_tokens, data.targets, data.groups, settings=settings, checkpoint="nano-m"
    ).heads


def adapt(heads: HeadSet, data: Synthetic, seed: int = 0, **options: object) -> FitResult:
    return fit_heads(
        data.iou_token,
        data.mask_tokens,
        data.targets,
        np.arange(len(data.groups)),
        init=heads,
        checkpoint="nano-m",
        settings=TrainSettings(seed=seed),
        **options,
    )


def errors(heads: HeadSet, data: Synthetic) -> np.ndarray:
    """Squared error of each head, (T,)."""
    scores = heads.score(data.iou_token, data.mask_tokens)
    shift = {name: 0.5 * name.endswith("_gap") for name in HEADS}
    return np.array([((scores[name] + shift[name] - data.targets[name]) ** 2).mean() for name in HEADS])


@pytest.mark.parametrize(("count", "rise"), [(10, 1.03), (50, 1.02)])
def test_labels_of_the_same_kind_do_no_harm(heads: HeadSet, count: int, rise: float) -> None:
    unseen = synthetic_rows(1500, width=WIDTH, noise=NOISE, seed=999)
    before = errors(heads, unseen)
    ratios = [
        errors(adapt(heads, synthetic_rows(count, width=WIDTH, noise=NOISE, seed=seed), seed).heads, unseen) / before
        for seed in range(100, 106)
    ]
    assert np.mean(ratios) < rise


@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_fifty_labels_help_where_the_data_have_shifted(heads: HeadSet, shift: float) -> None:
    unseen = synthetic_rows(1500, width=WIDTH, noise=NOISE, seed=999, shift=shift)
    before = errors(heads, unseen)
    result = adapt(heads, synthetic_rows(50, width=WIDTH, noise=NOISE, seed=7, shift=shift))
    after = errors(result.heads, unseen)
    assert (after < before).all()
    assert np.mean(after / before) < 0.75
    for name in HEADS:
        figures = result.figures[name]
        assert figures["mse"] < figures["mse_before"]
        assert figures["calibration_error"] < figures["calibration_error_before"]


def test_images_left_out_have_no_say_in_centre_and_directions(heads: HeadSet) -> None:
    """Of the objects of one fold, one is changed: what the other folds teach of the rest stays what it was."""
    data = synthetic_rows(40, width=WIDTH, noise=NOISE, seed=3, shift=1.0)
    folds = group_folds(data.groups, FOLDS, 0)
    odd = int(np.flatnonzero(folds == 0)[0])
    rest = np.repeat((folds == 0) & (np.arange(40) != odd), 3)
    moves = []
    for times in (1, 100):
        mask_tokens = data.mask_tokens.copy()
        mask_tokens[odd] *= times
        rows = Rows.of(data.iou_token, mask_tokens, {"iou_nano_m": data.targets["iou_nano_m"]}, heads.alignment)
        problem = _Problem.of(heads.layers()["iou_nano_m"], rows, 0, folds, data.groups)
        assert problem is not None
        moves.append(problem.cross_validate())
    for name, before in moves[0].items():
        np.testing.assert_allclose(moves[1][name][rest], before[rest], atol=1e-9, err_msg=name)


def test_the_result_is_a_plain_head_set_with_its_history(heads: HeadSet, tmp_path: object) -> None:
    result = adapt(heads, synthetic_rows(60, width=WIDTH, seed=3, shift=1.0), metadata={"project": 4})
    result.heads.save(tmp_path)
    again = HeadSet.load(tmp_path)
    assert again.version == result.heads.version != heads.version
    assert (again.alignment, again.quality, again.names) == (heads.alignment, heads.quality, heads.names)
    assert again.metadata["parent"] == heads.version
    assert again.metadata["project"] == 4
    assert again.metadata["training"]["adaptation"] == result.adaptation.chosen
    for name in HEADS:
        for (weight, bias), (new_weight, new_bias) in zip(
            heads.layers()[name][:-1], again.layers()[name][:-1], strict=True
        ):
            assert (weight == new_weight).all()
            assert (bias == new_bias).all()


def test_the_more_labels_say_so_the_more_of_a_head_moves(heads: HeadSet) -> None:
    unmoved = []
    for count in (8, 100):
        adaptation = adapt(heads, synthetic_rows(count, width=WIDTH, noise=NOISE, seed=7, shift=0.7)).adaptation
        weights = adaptation.weights
        assert all(sum(shares.values()) == pytest.approx(1) for shares in weights.values())
        assert {name: max(shares, key=shares.get) for name, shares in weights.items()} == adaptation.chosen
        unmoved.append(np.mean([shares["none"] for shares in weights.values()]))
    assert unmoved[1] < 0.2
    assert unmoved[1] < 0.5 * unmoved[0]


def test_heads_without_labels_stay(heads: HeadSet) -> None:
    data = synthetic_rows(40, width=WIDTH, seed=3, shift=1.0)
    targets = {name: data.targets[name] for name in ("iou_nano_m", "task_gap")}
    targets["model_gap"] = np.full((40, 3), np.nan, np.float32)
    targets["model_gap"][:2] = 0.5
    targets["iou_nano_s"] = np.full((40, 3), np.nan, np.float32)
    result = adapt(heads, Synthetic(data.iou_token, data.mask_tokens, targets, data.groups))
    assert result.adaptation.chosen["model_gap"] == "none"
    assert set(result.adaptation.chosen) == {"iou_nano_m", "task_gap", "model_gap"}
    for name in ("prompt_gap", "model_gap", "iou_nano_s"):
        assert (result.heads.layers()[name][-1][0] == heads.layers()[name][-1][0]).all()
    assert (result.heads.layers()["task_gap"][-1][0] != heads.layers()["task_gap"][-1][0]).any()


def test_rows_without_weight_do_not_count(heads: HeadSet) -> None:
    good = synthetic_rows(40, width=WIDTH, seed=3, shift=1.0)
    bad = {name: np.concatenate([values, np.zeros((40, 3), np.float32)]) for name, values in good.targets.items()}
    both = Synthetic(np.tile(good.iou_token, (2, 1)), np.tile(good.mask_tokens, (2, 1, 1)), bad, np.arange(80))
    weights = np.repeat([1.0, 0.0], 40)
    unseen = synthetic_rows(800, width=WIDTH, seed=999, shift=1.0)
    weighed = errors(adapt(heads, both, weights=weights).heads, unseen).mean()
    misled = errors(adapt(heads, both).heads, unseen).mean()
    assert weighed < 0.8 * errors(heads, unseen).mean()
    assert weighed < 0.5 * misled


def test_heads_of_another_make_are_refused(heads: HeadSet) -> None:
    data = synthetic_rows(20, width=8)
    with pytest.raises(TrainingError, match="width 16"):
        adapt(heads, data)
    data = synthetic_rows(20, width=WIDTH)
    with pytest.raises(TrainingError, match="heads of nano-s"):
        fit_heads(data.iou_token, data.mask_tokens, data.targets, data.groups, init=heads, checkpoint="nano-s")
    odd = Synthetic(data.iou_token, data.mask_tokens, {"iou_odd": data.targets["task_gap"]}, data.groups)
    with pytest.raises(TrainingError, match="iou_odd"):
        adapt(heads, odd)
