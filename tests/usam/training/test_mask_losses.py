"""Losses: right masks cost least, one good mask of three is enough, estimates are pulled to the truth."""

from __future__ import annotations

import pytest
import torch

from usam.training.mask_losses import LossWeights, mask_loss, prompt_loss, true_ious

TARGET = torch.zeros(2, 8, 8)
TARGET[:, 2:6, 2:6] = 1
RIGHT = torch.where(TARGET > 0, 8.0, -8.0)
EMPTY = torch.full((2, 8, 8), -8.0)


def test_right_masks_cost_least() -> None:
    costs = mask_loss(torch.stack([RIGHT, EMPTY, -RIGHT], 1), TARGET, LossWeights())
    assert costs.shape == (2, 3)
    assert (costs[:, 0] < 0.01).all()
    assert (costs[:, 0] < costs[:, 1]).all()
    assert (costs[:, 1] < costs[:, 2]).all()


def test_true_iou_by_hand() -> None:
    half = RIGHT.clone()
    half[:, 4:6] = -8
    ious = true_ious(torch.stack([RIGHT, half, EMPTY, -RIGHT], 1), TARGET)
    assert ious[0].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert true_ious(EMPTY[:, None], torch.zeros(2, 8, 8)).tolist() == [[0.0], [0.0]]


def test_one_good_mask_of_three_is_enough() -> None:
    weights = LossWeights(single=0, iou=0, spread=0)
    one_good = torch.stack([EMPTY, EMPTY, RIGHT, EMPTY], 1)
    estimate = torch.full((2, 4), 0.5)
    loss = prompt_loss(one_good, estimate, TARGET, weights, one_click=True)
    assert loss.total.item() < 0.01
    assert loss.best_iou.tolist() == [1.0, 1.0]
    kept_alive = prompt_loss(one_good, estimate, TARGET, LossWeights(single=0, iou=0, spread=0.1), one_click=True)
    assert kept_alive.total > loss.total


def test_a_further_answer_is_asked_of_another_mask_than_the_objects() -> None:
    weights = LossWeights(single=0, iou=0, spread=0)
    wider = torch.zeros(2, 8, 8)
    wider[:, 2:6] = 1
    wide = torch.where(wider > 0, 8.0, -8.0)
    estimate = torch.full((2, 4), 0.5)

    def total(*masks: torch.Tensor, further: torch.Tensor | None = wider) -> float:
        logits = torch.stack([EMPTY, *masks], 1)
        return prompt_loss(logits, estimate, TARGET, weights, one_click=True, further=further).total.item()

    assert total(EMPTY, wide, RIGHT) < 0.01
    assert total(EMPTY, EMPTY, RIGHT) > 0.5
    assert total(RIGHT, RIGHT, EMPTY, further=TARGET) < 0.01
    assert total(EMPTY, RIGHT, EMPTY, further=TARGET) > 0.5, "one mask does not answer twice"
    none = torch.full_like(wider, -1)
    assert total(EMPTY, RIGHT, EMPTY, further=none) == pytest.approx(total(EMPTY, RIGHT, EMPTY, further=None))


def test_single_mask_counts_less_for_one_click() -> None:
    logits = torch.stack([EMPTY, RIGHT, RIGHT, RIGHT], 1)
    estimate = torch.tensor([[0.0, 1.0, 1.0, 1.0]]).expand(2, 4)
    clicked = prompt_loss(logits, estimate, TARGET, LossWeights(), one_click=True).total
    boxed = prompt_loss(logits, estimate, TARGET, LossWeights(), one_click=False).total
    assert boxed.item() == pytest.approx(3 * clicked.item(), rel=0.01)


def test_estimates_are_pulled_to_the_true_iou() -> None:
    logits = torch.stack([EMPTY, RIGHT, EMPTY, EMPTY], 1).requires_grad_()
    estimate = torch.full((2, 4), 0.5, requires_grad=True)
    prompt_loss(logits, estimate, TARGET, LossWeights(), one_click=False).total.backward()
    assert estimate.grad is not None
    assert (estimate.grad[:, 1] < 0).all()
    assert (estimate.grad[:, [0, 2, 3]] > 0).all()


def test_what_is_not_known_counts_for_nothing() -> None:
    unknown = TARGET.clone()
    unknown[:, 6:] = -1
    spilt = RIGHT.clone()
    spilt[:, 6:] = 8
    masks = torch.stack([RIGHT, spilt], 1)
    costs = mask_loss(masks, unknown, LossWeights())
    torch.testing.assert_close(costs[:, 0], costs[:, 1])
    assert true_ious(masks, unknown).tolist() == [[1.0, 1.0]] * 2
    assert (mask_loss(masks, TARGET, LossWeights())[:, 1] > costs[:, 1] + 0.5).all()
