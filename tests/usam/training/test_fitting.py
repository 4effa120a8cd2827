"""Heads learnt from tokens: what they find, what they refuse, and that nothing leaks between images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic_rows import HEADS, Synthetic, synthetic_rows

from usam.errors import TrainingError
from usam.heads.head_set import HeadSet
from usam.training import PRESETS, Preset, TrainSettings, fit_heads, split_groups
from usam.training.fitting import predict
from usam.training.loop import train_together
from usam.training.network import Rows, Scale, StackedHeads, merge_layers
from usam.training.settings import preset_for
from usam.training.split import group_folds

QUICK = TrainSettings(
    hidden=(64, 32), epochs=8, batch=32, learning_rate=5e-3, members=1, precision="float32", device="cpu"
)


@pytest.fixture(scope="module")
def data() -> Synthetic:
    return synthetic_rows(1600, width=16)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def fit(data: Synthetic, settings: TrainSettings | Preset = QUICK, **options: object) -> object:
    return fit_heads(
        data.iou_token,
        data.mask_tokens,
        data.targets,
        data.groups,
        settings=settings,
        checkpoint="nano-m",
        **options,
    )


@pytest.fixture(scope="module")
def fitted(data: Synthetic) -> object:
    """What several tests look at: one shared layer, mean squared error."""
    return fit(data)


@pytest.mark.parametrize(("shared_layers", "loss"), [(0, "bce"), (2, "mse")])
def test_heads_learn_what_the_tokens_tell(data: Synthetic, fitted: object, shared_layers: int, loss: str) -> None:
    for result in (fitted, fit(data, replace(QUICK, shared_layers=shared_layers, loss=loss))):
        for name in HEADS:
            assert result.figures[name]["pearson"] > 0.75, name
            assert result.figures[name]["mse"] < 0.5 * result.figures[name]["variance"]
            assert result.figures[name]["calibration_error"] < 0.08


def test_saved_heads_answer_like_the_figures_say(data: Synthetic, fitted: object, tmp_path: object) -> None:
    result = fitted
    result.heads.save(tmp_path)
    heads = HeadSet.load(tmp_path)
    test = data.take(result.split.test)
    scores = heads.score(test.iou_token, test.mask_tokens)
    for name in HEADS:
        shift = 0.5 if name.endswith("_gap") else 0.0
        error = ((scores[name] + shift - test.targets[name]) ** 2).mean()
        assert error == pytest.approx(result.figures[name]["mse"], rel=1e-3)
    assert heads.quality == "iou_nano_m"
    assert heads.metadata["training"]["rows"]["test"] == len(result.split.test)
    assert heads.metadata["training"]["figures"] == result.figures


@pytest.mark.parametrize(("offset", "expected"), [(1, "aligned"), (0, "shifted")])
def test_the_better_alignment_is_kept(offset: int, expected: str) -> None:
    result = fit(synthetic_rows(800, width=16, offset=offset), alignment="both")
    assert result.heads.alignment == expected
    other = {"aligned": "shifted", "shifted": "aligned"}[expected]
    assert result.alignment_losses[expected] < 0.7 * result.alignment_losses[other]


def test_the_single_mask_is_learnt_where_it_has_targets(data: Synthetic) -> None:
    single = synthetic_rows(1600, width=16, offset=0)
    targets = {
        name: np.concatenate([single.targets[name][:, :1], data.targets[name]], axis=1)
        for name in ("iou_nano_m", "task_gap")
    }
    result = fit(replace(data, targets=targets))
    test = data.take(result.split.test)
    scores = result.heads.score(test.iou_token, test.mask_tokens, "all")["iou_nano_m"]
    truth = targets["iou_nano_m"][result.split.test]
    for output in range(4):
        assert np.corrcoef(scores[:, output], truth[:, output])[0, 1] > 0.8
    assert result.figures["iou_nano_m"]["rows"] == truth[:, 1:].size


def test_a_run_repeats_by_seed_and_leaves_the_random_state_alone(data: Synthetic) -> None:
    settings = replace(QUICK, epochs=2)
    state = torch.random.get_rng_state()
    first, second, third = (fit(data, replace(settings, seed=seed)) for seed in (3, 3, 4))
    assert first.heads.version == second.heads.version != third.heads.version
    assert torch.equal(state, torch.random.get_rng_state())


def test_unknown_targets_and_weightless_rows_teach_nothing(data: Synthetic) -> None:
    known = np.random.default_rng(0).random(len(data.groups)) < 0.7
    nonsense = {name: np.where(known[:, None], values, 0.5).astype(np.float32) for name, values in data.targets.items()}
    unknown = {name: np.where(known[:, None], values, np.nan) for name, values in data.targets.items()}
    settings = replace(QUICK, epochs=3)
    weighed = fit(replace(data, targets=nonsense), settings, weights=known.astype(float))
    left_out = fit(replace(data, targets=unknown), settings)
    taught = fit(replace(data, targets=nonsense), settings)
    rows = Rows.of(data.iou_token, data.mask_tokens, data.targets, "aligned")
    held_out = left_out.split.test

    def error(result: object) -> float:
        layers = result.heads.layers()
        return np.mean(
            [
                ((predict(layers[name], rows, held_out) - rows.targets[held_out, :, index]) ** 2).mean()
                for index, name in enumerate(rows.names)
            ]
        )

    assert error(weighed) == pytest.approx(error(left_out), rel=0.02)
    assert error(left_out) < error(taught)


def test_images_kept_for_figures_have_no_say_in_where_training_starts(data: Synthetic) -> None:
    small = data.take(np.arange(160))
    split = split_groups(small.groups, 0.2, 0.3, 0)
    other = {name: values.copy() for name, values in small.targets.items()}
    for values in other.values():
        values[split.test] = 1 - values[split.test]
    trained = [
        train_together(Rows.of(small.iou_token, small.mask_tokens, targets, "aligned"), split, replace(QUICK, epochs=1))
        for targets in (small.targets, other)
    ]
    for name in HEADS:
        for (weight, bias), (same_weight, same_bias) in zip(*(one.layers[name] for one in trained), strict=True):
            np.testing.assert_array_equal(weight, same_weight)
            np.testing.assert_array_equal(bias, same_bias)


def test_each_head_keeps_its_own_best_epoch(data: Synthetic) -> None:
    small = data.take(np.arange(160))
    result = fit(small, replace(QUICK, epochs=25, patience=25, learning_rate=1e-2, schedule="constant"))
    best = {name: int(np.argmin([epoch[name] for epoch in result.history])) for name in HEADS}
    assert len(set(best.values())) > 1
    rows = Rows.of(small.iou_token, small.mask_tokens, small.targets, "aligned")
    for index, name in enumerate(HEADS):
        values = predict(result.heads.layers()[name], rows, result.split.validation)
        error = ((values - rows.targets[result.split.validation, :, index]) ** 2).mean()
        assert error == pytest.approx(min(epoch[name] for epoch in result.history), rel=1e-3)


def test_patience_ends_a_run_that_gains_nothing(data: Synthetic) -> None:
    small = data.take(np.arange(120))
    settings = replace(QUICK, epochs=200, patience=2, learning_rate=2e-2, schedule="constant")
    assert len(fit(small, settings).history) < 200


def test_a_split_keeps_groups_together_and_survives_reordering() -> None:
    groups = np.repeat([f"image-{index}" for index in range(50)], 3)
    split = split_groups(groups, 0.2, 0.1, seed=1)
    parts = [set(groups[part]) for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in parts] == [35, 10, 5]
    assert not (parts[0] & parts[1])
    assert not (parts[1] & parts[2])
    assert not (parts[0] & parts[2])
    backwards = split_groups(groups[::-1], 0.2, 0.1, seed=1)
    assert set(groups[::-1][backwards.test]) == parts[2]
    folds = group_folds(groups, 10, seed=0)
    assert all(len(set(folds[groups == name])) == 1 for name in groups)
    assert np.bincount(folds).tolist() == [15] * 10


def test_too_few_images_are_refused() -> None:
    with pytest.raises(TrainingError, match="more than 2 groups"):
        split_groups(["a", "a", "b"], 0.2, 0.1, seed=0)


def test_folding_standardisation_into_the_first_layer_changes_nothing(data: Synthetic) -> None:
    rows = Rows.of(data.iou_token, data.mask_tokens, data.targets, "aligned")
    scale = Scale.of(rows, np.arange(500))
    network = StackedHeads(rows.width, len(rows.names), (12, 8), shared=1)
    iou, masks = scale.apply(rows, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        expected = network(iou[:20], masks[:20]).sigmoid().numpy()
    for index in range(len(rows.names)):
        raw = scale.fold(network.layers(index))
        assert predict(raw, rows, np.arange(20)) == pytest.approx(expected[..., index], abs=2e-4)
        for (weight, bias), (again, offset) in zip(network.layers(index), scale.unfold(raw), strict=True):
            assert again == pytest.approx(weight, abs=1e-5)
            assert offset == pytest.approx(bias, abs=1e-4)


def test_a_network_from_layers_computes_them(data: Synthetic) -> None:
    network = StackedHeads(16, 3, (12, 8), shared=2)
    again = StackedHeads.from_layers([network.layers(index) for index in range(3)])
    iou, masks = torch.randn(5, 16), torch.randn(5, 3, 16)
    with torch.no_grad():
        assert torch.allclose(network(iou, masks), again(iou, masks), atol=1e-5)


def test_half_width_training_is_as_good(data: Synthetic, fitted: object) -> None:
    half = fit(data, replace(QUICK, precision="bfloat16"))
    assert half.figures["iou_nano_m"]["mse"] < 1.25 * fitted.figures["iou_nano_m"]["mse"]


def test_gradient_training_from_given_heads_helps_and_keeps_other_heads(fitted: object) -> None:
    start = fitted.heads
    shifted = synthetic_rows(900, width=16, seed=5, shift=0.7)
    targets = {name: shifted.targets[name] for name in HEADS[:3]}
    settings = replace(QUICK, epochs=2, adapt_up_to=0, learning_rate=1e-3, pull=0.01)
    result = fit(replace(shifted, targets=targets), settings, init=start)
    rows = Rows.of(shifted.iou_token, shifted.mask_tokens, targets, "aligned")
    for index, name in enumerate(HEADS[:3]):
        truth = rows.targets[result.split.test, :, index]
        before = ((predict(start.layers()[name], rows, result.split.test) - truth) ** 2).mean()
        assert result.figures[name]["mse"] < 0.7 * before
    assert result.heads.names == start.names
    kept = result.heads.layers()["task_gap"][0][0]
    assert (kept == start.layers()["task_gap"][0][0]).all()
    assert result.heads.metadata["parent"] == start.version


def test_hopeless_training_from_given_heads_returns_them(data: Synthetic, fitted: object) -> None:
    start = fitted.heads
    settings = replace(QUICK, epochs=1, adapt_up_to=0, learning_rate=3.0, schedule="constant")
    result = fit(data, settings, init=start)
    rows = Rows.of(data.iou_token, data.mask_tokens, data.targets, "aligned")
    for name in HEADS:
        expected = predict(start.layers()[name], rows, np.arange(10))
        assert predict(result.heads.layers()[name], rows, np.arange(10)) == pytest.approx(expected, abs=1e-3)


def test_members_are_averaged_in_one_network_and_beat_a_single_one() -> None:
    data = synthetic_rows(500, width=16, noise=1.0)
    single, several = (fit(data, replace(QUICK, members=members)) for members in (1, 4))
    assert several.heads.layers()["task_gap"][0][0].shape == (4 * 64, 32)
    errors = [
        np.mean([row["mse"] / row["variance"] for row in result.figures.values()]) for result in (single, several)
    ]
    assert errors[1] < errors[0]


def test_merged_layers_answer_with_the_mean_logit(data: Synthetic) -> None:
    rows = Rows.of(data.iou_token, data.mask_tokens, data.targets, "aligned")
    members = [StackedHeads(16, 2, (12, 8), shared=0).layers(index) for index in range(2)]
    values = [predict(member, rows, np.arange(30)) for member in members]
    logits = np.mean([np.log(each / (1 - each)) for each in values], axis=0)
    assert predict(merge_layers(members), rows, np.arange(30)) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)


def test_our_settings_follow_the_size_of_the_table() -> None:
    assert preset_for(5_000).default.members > 1
    assert preset_for(100_000).default.members == 1


def test_presets_hold_what_the_paper_published() -> None:
    assert (PRESETS["coco"].default.batch, PRESETS["coco"].default.epochs) == (189, 36)
    assert PRESETS["sav"].default.learning_rate == 0.00871
    assert PRESETS["ade20k"].of("task_gap").momentum == 0.246
    assert PRESETS["ade20k"].of("iou_large").momentum == 0.830
    assert PRESETS["davis"].of("prompt_gap").epochs == 40
    assert all(preset.default.optimiser == "sgd" for name, preset in PRESETS.items() if name in ("coco", "sav"))
    assert PRESETS["davis"].replace(seed=9).of("model_gap").seed == 9


def test_heads_with_settings_of_their_own_are_trained_apart(data: Synthetic) -> None:
    preset = Preset(replace(QUICK, epochs=2), {"task_gap": replace(QUICK, epochs=5)})
    result = fit(data, preset)
    assert [len(epoch) for epoch in result.history] == [7, 7, 1, 1, 1]
    assert result.heads.names == HEADS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning rate above 0"),
        ({"epochs": 0}, "at least one epoch"),
        ({"validation": 0.7, "test": 0.4}, "sum below 1"),
        ({"shared_layers": 3}, "shared layers"),
    ],
)
def test_settings_that_teach_nothing_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        replace(QUICK, **change)


def test_rows_that_do_not_fit_are_refused(data: Synthetic) -> None:
    few = data.take(np.arange(8))
    cases = [
        (few.iou_token[:, :4], few.mask_tokens, few.targets, "N, 4, D"),
        (few.iou_token, few.mask_tokens, {"iou_large": few.targets["task_gap"][:3]}, r"\(8, 3 or 4\)"),
        (few.iou_token, few.mask_tokens, {"iou_large": few.targets["task_gap"] + 2}, r"in \[0, 1\]"),
        (few.iou_token, few.mask_tokens, {"iou_large": np.full((8, 3), np.nan)}, "NaN everywhere"),
        (few.iou_token, few.mask_tokens, {}, "at least one head"),
        (few.iou_token * np.float16(np.inf), few.mask_tokens, few.targets, "finite tokens"),
    ]
    for iou_token, mask_tokens, targets, message in cases:
        with pytest.raises(TrainingError, match=message):
            Rows.of(iou_token, mask_tokens, targets, "aligned")
    with pytest.raises(TrainingError, match="weights"):
        Rows.of(few.iou_token, few.mask_tokens, few.targets, "aligned", -np.ones(8))


def test_a_diverged_run_is_named(data: Synthetic) -> None:
    rows = Rows.of(data.iou_token, data.mask_tokens, {"iou_a": data.targets["task_gap"]}, "aligned")
    split = split_groups(data.groups, 0.2, 0.1, seed=0)
    settings = replace(QUICK, optimiser="sgd", learning_rate=1e30, schedule="constant", epochs=1)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        train_together(rows, split, settings)
