"""Which of a prompt's masks is shown, and in which order prompts are decoded; without a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.inference.model import DecodedObjects, LoadedModel, in_chunks, selected
from backend.inference.scheduler import finish
from backend.metrics.service import Metrics
from backend.settings import Settings
from tests.factories import FakeModel, head_set
from usam.prompts import Prompt

OUTPUTS = FakeModel().outputs(None, [1, 2])


def point(x: float) -> Prompt:
    return Prompt(np.array([[x, 1.0]], np.float32), np.ones(1, np.int32))


class Recording(LoadedModel):
    """Decodes with fakes, and notes how many prompts came at once."""

    def __init__(self) -> None:
        self.name, self.own_heads, self.sizes = "nano-s", None, [0][:0]
        self.metrics = Metrics()

    def outputs(self, embedding: Any, prompts: Any) -> Any:
        self.sizes.append(len(prompts))
        found = FakeModel().outputs(embedding, prompts)
        found.iou_token[:, 0] = [prompt.points[0, 0] for prompt in prompts]
        return found


def test_without_heads_the_mask_of_sams_own_best_score_comes_first() -> None:
    first, second, third = selected(OUTPUTS, None, "nano-s", "predicted-iou")
    assert [part.output.tolist() for part in (first, second, third)] == [[3, 3], [2, 2], [1, 1]]
    assert first.iou.tolist() == first.samscore.tolist() == pytest.approx([0.8, 0.8])
    assert first.scores == {}
    np.testing.assert_array_equal(second.logits, OUTPUTS.logits[:, 2])


def test_with_heads_the_predicted_iou_decides_unless_samscore_is_selected() -> None:
    tokens = np.random.default_rng(0).normal(size=(2, 4, 8)).astype(np.float32)
    outputs = FakeModel().outputs(None, [1, 2])
    outputs.mask_tokens = tokens
    heads = head_set(scale=2.0)
    iou = heads.score(outputs.iou_token, tokens)["iou_nano_s"]
    best = selected(outputs, heads, "nano-s", "predicted-iou")[0]
    assert best.output.tolist() == (iou.argmax(axis=1) + 1).tolist()
    assert best.iou.tolist() == pytest.approx(iou.max(axis=1).tolist())
    by_sam = selected(outputs, heads, "nano-s", "samscore")[0]
    assert by_sam.output.tolist() == [3, 3]
    assert by_sam.iou.tolist() == pytest.approx(iou[:, 2].tolist()), "its predicted IoU is still given"


def test_objects_are_taken_and_joined_with_all_that_belongs_to_them() -> None:
    first, second, _ = selected(OUTPUTS, head_set(), "nano-s", "samscore")
    both = DecodedObjects.join([first, second])
    assert len(both) == 4
    back = both.take(np.array([3, 0]))
    assert back.output.tolist() == [second.output[1], first.output[0]]
    for name, values in back.scores.items():
        assert values.tolist() == [second.scores[name][1], first.scores[name][0]]


@pytest.mark.parametrize(("size", "sizes"), [(2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_decoding_in_steps_keeps_the_order_and_the_size_of_a_step(size: int, sizes: list[int]) -> None:
    model: Any = Recording()
    objects = finish(model.decode_steps(None, [point(n) for n in range(5)], None, "samscore", size))
    assert model.sizes == sizes
    assert objects.source.tolist() == objects.iou_token[:, 0].tolist() == list(range(5))


def test_chunks_leave_none_out() -> None:
    assert list(in_chunks([1, 2, 3], 2)) == [[1, 2], [3]]
    assert list(in_chunks([], 2)) == []


def test_numpy_counts_on_one_thread_beside_a_model() -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(2, "blas"):
        LoadedModel.load("nano-s", Settings(threads=1), Metrics(), None)
        threads = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert threads
    assert set(threads) == {1}
