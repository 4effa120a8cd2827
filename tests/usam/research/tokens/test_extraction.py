"""The columns of a table against the model's own predictor, object by object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from usam.predictor.entropy import h_a, h_std, h_t, h_theta, h_xp, h_y
from usam.prompts import box_of, dense_points
from usam.research.datasets import open_dataset
from usam.research.tokens import TokenTable
from usam.research.tokens.ensembles import altered_images
from usam.research.tokens.models import untrained_predictor
from usam.research.tokens.objects import random_of, shuffled
from usam.research.tokens.runner import TimedPredictor

MODELS = ("nano-s", "nano-m")


@pytest.fixture(scope="module")
def table(folder: Path) -> TokenTable:
    return TokenTable.open(folder)


@pytest.fixture(scope="module")
def runners() -> dict[str, TimedPredictor]:
    return {name: TimedPredictor(name, untrained_predictor(name, "cpu")) for name in MODELS}


def test_rows_are_the_objects_in_the_order_of_the_set(table: TokenTable, labelled: Path) -> None:
    records = list(open_dataset("coco", labelled))
    texts = table.texts()
    expected = [instance.object_id for record in records for instance in record.instances]
    assert texts["object_id"].tolist() == expected
    assert len(table) == len(expected) == 14
    assert set(texts["group"]) == {f"coco/{n}" for n in range(1, 8)}
    assert table.problems == {"empty mask": 1}
    for model in MODELS:
        areas = table.arrays(model, ["area"])["area"]
        masks = [instance.read_mask() for record in records for instance in record.instances]
        np.testing.assert_allclose(areas, [mask.mean() for mask in masks], rtol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_tokens_scores_and_ious_are_those_of_the_predictor(
    table: TokenTable, labelled: Path, runners: dict[str, TimedPredictor], model: str
) -> None:
    predictor = runners[model].predictor
    arrays = table.arrays(model)
    row = 0
    for record in list(open_dataset("coco", labelled))[:3]:
        predictor.set_image(record.read_image())
        for instance in record.instances:
            mask = instance.read_mask()
            dense = dense_points(mask, random_of(instance.object_id, 0))
            asked = {
                "": {"point_coords": dense[:1], "point_labels": [1]},
                "dense_": {"point_coords": dense, "point_labels": [1] * 8},
                "box_": {"box": box_of(mask)},
            }
            tokens = predictor.predict_tokens(**asked[""])
            np.testing.assert_allclose(arrays["iou_token"][row], tokens.iou_token[0], atol=3e-3)
            np.testing.assert_allclose(arrays["mask_tokens"][row], tokens.mask_tokens[0], atol=3e-3)
            for prefix, prompt in asked.items():
                masks, ious, _, _ = predictor.predict(**prompt)
                found = [(m.astype(bool) & mask).sum() / (m.astype(bool) | mask).sum() for m in masks]
                np.testing.assert_allclose(arrays[f"{prefix}iou"][row, 1:], found, atol=2e-3)
                np.testing.assert_allclose(arrays[f"{prefix}samscore"][row, 1:], ious, atol=1e-4)
            row += 1
    assert row > 4


def test_output_0_is_the_single_mask(table: TokenTable, labelled: Path, runners: dict[str, TimedPredictor]) -> None:
    runner = runners["nano-s"]
    record = next(iter(open_dataset("coco", labelled)))
    mask = record.instances[0].read_mask()
    runner.predictor.set_image(record.read_image())
    dense = dense_points(mask, random_of(record.instances[0].object_id, 0))
    runner.model.sam_mask_decoder.dynamic_multimask_via_stability = False
    single, iou, _, _ = runner.predictor.predict(dense[:1], [1], multimask_output=False)
    arrays = table.arrays("nano-s", ["iou", "samscore"])
    predicted = single[0].astype(bool)
    assert arrays["iou"][0, 0] == pytest.approx((predicted & mask).sum() / (predicted | mask).sum(), abs=2e-3)
    assert arrays["samscore"][0, 0] == pytest.approx(float(iou[0]), abs=1e-4)


def test_entropies_are_those_of_the_maps_laid_out_in_full(
    table: TokenTable, labelled: Path, runners: dict[str, TimedPredictor]
) -> None:
    record = next(iter(open_dataset("coco", labelled)))
    instance = record.instances[0]
    dense = dense_points(instance.read_mask(), random_of(instance.object_id, 0))
    image = record.read_image()
    side = max(runner.low_res for runner in runners.values())
    kept: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for name, runner in runners.items():
        first = runner.encode(image)
        decoded = [runner.points(first, point[None, None]) for point in dense]
        for other in altered_images(image, record.image_id):
            decoded.append(runner.points(runner.encode(other), dense[None, :1]))
        kept[name] = [(_enlarged(each.logits[0, 1:], side), each.samscore[0, 1:]) for each in decoded]
    everything = [each for pairs in kept.values() for each in pairs]
    for name, pairs in kept.items():
        logits = torch.stack([each for each, _ in pairs])
        arrays = table.arrays(name)
        points, views = logits[:8].transpose(0, 1), logits[[0, 8, 9, 10, 11]].transpose(0, 1)
        models = torch.stack([kept[other][0][0] for other in MODELS], 1)
        expected = {
            "h_std": h_std(logits[0]),
            "h_a": h_a(logits[0], pairs[0][1]),
            "h_xp": h_xp(points),
            "h_theta": h_theta(models),
            "h_t": h_t(views),
            "h_y": h_y(torch.stack([a for a, _ in everything]), torch.stack([b for _, b in everything])),
        }
        for column, values in expected.items():
            wanted = np.broadcast_to(values.numpy(), 3)
            np.testing.assert_allclose(arrays[column][0], wanted, atol=2e-4, err_msg=column)


def _enlarged(logits: torch.Tensor, side: int) -> torch.Tensor:
    import torch.nn.functional as F

    return F.interpolate(logits[None], (side, side), mode="bilinear", align_corners=False)[0]


def test_the_order_in_which_objects_are_chosen_depends_on_names_alone(labelled: Path) -> None:
    instances = [instance for record in open_dataset("coco", labelled) for instance in record.instances]
    order = [instances[place].object_id for place in shuffled(instances, seed=1)]
    turned = instances[::-1]
    assert sorted(order) == sorted(instance.object_id for instance in instances)
    assert [turned[place].object_id for place in shuffled(turned, seed=1)] == order
    assert [instances[place].object_id for place in shuffled(instances, seed=2)] != order
