"""A decoder of a project's own: learns on embeddings, and is taken only where unseen images say so."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.usam.small_sam2 import model
from usam.errors import TrainingError
from usam.predictor.embedding import ImageEmbedding
from usam.predictor.own_decoder import TunedDecoder
from usam.training.decoder_tuning import (
    DecoderVerdict,
    TuningImage,
    TuningSettings,
    distil_image,
    gains_by_others,
    shrink_mask,
    tune_decoder,
)

QUICK = TuningSettings(rate=8e-3, steps=8, images_a_step=2, clicks=1, boxes=1, blends=(0.5, 1.0), seconds=1e6)


def images(count: int, seed: int = 0) -> list[TuningImage]:
    """Embeddings in which the object's cells stand out, for the small SAM 2 at 128 px: E = 8, m = 32."""
    sam = model()
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        mask = np.zeros((32, 32), np.float32)
        y, x = rng.integers(2, 14, 2)
        mask[y : y + 14, x : x + 14] = 1
        cells = torch.from_numpy(mask)[None, None]
        deep = torch.nn.functional.avg_pool2d(cells, 4) * 2 + 0.1 * torch.randn(1, 256, 8, 8)
        fine = (cells.expand(1, 32, 32, 32) * 2, torch.nn.functional.avg_pool2d(cells, 2).expand(1, 64, 16, 16) * 2)
        assert sam.sam_image_embedding_size == 8
        made.append(TuningImage(ImageEmbedding(deep, fine, (128, 128)), mask[None], f"image {number}"))
    return made


@cache
def tuned_once() -> tuple[TunedDecoder | None, DecoderVerdict]:
    """What the images alone teach: tuned once for all tests that only look at it."""
    return tuned()


def tuned(
    audits: list[TuningImage] | None = None, in_use: TunedDecoder | None = None, **changes: Any
) -> tuple[TunedDecoder | None, DecoderVerdict]:
    torch.manual_seed(0)
    settings = replace(QUICK, **changes)
    return tune_decoder(model(), images(8), audits or (), images(4, 5), settings, checkpoint="small", in_use=in_use)


def test_a_tuned_decoder_is_better_on_images_left_out_and_the_model_stays() -> None:
    before = {key: value.clone() for key, value in model().sam_mask_decoder.state_dict().items()}
    decoder, verdict = tuned_once()
    assert decoder is not None
    assert decoder.figures["gain"] > 0.02
    assert decoder.figures["images"] == 8
    assert decoder.learnt == tuple(f"image {number}" for number in range(8))
    assert (verdict.promote, verdict.method, verdict.images) == (True, "images left out", 8)
    assert verdict.after - verdict.before > 0.02
    after = model().sam_mask_decoder.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert any(not torch.equal(value, after[key]) for key, value in decoder.weights.items())


def test_the_best_of_several_blends_is_no_gain_by_itself() -> None:
    """Where no blend gains anything, neither does the choice between them; judged on the images that chose, it did."""
    rng, folds = np.random.default_rng(0), np.arange(20) % 2
    drawn = [rng.normal(0, 1, (4, 20)) for _ in range(400)]
    assert np.mean([gains.mean(1).max() for gains in drawn]) > 0.2
    assert np.mean([gains_by_others(gains, folds).mean() for gains in drawn]) == pytest.approx(0.0, abs=0.03)


def test_audit_images_judge_where_there_are_enough() -> None:
    decoder, verdict = tuned(audits=images(6, 9))
    assert decoder is not None
    assert (verdict.method, verdict.images) == ("audit", 6)
    assert "audit" in verdict.reason
    assert tuned(audits=images(2, 9), steps=1)[1].method == "images left out"


def test_what_is_not_surely_better_is_not_taken() -> None:
    decoder, verdict = tuned(least_share=1.1)
    assert decoder is None
    assert "stays" in verdict.reason


def test_the_decoder_in_use_is_judged_only_by_images_that_it_has_not_learnt() -> None:
    decoder, _ = tuned_once()
    assert decoder is not None
    again, verdict = tuned(in_use=decoder)
    assert again is None
    assert verdict.reason == "decoder: nothing new to judge by"
    half = replace(decoder, learnt=decoder.learnt[:5])
    assert tuned(in_use=half, steps=1)[1].images == 3


def test_masks_that_agree_with_the_labels_are_left_alone() -> None:
    decoder, verdict = tuned(good_enough=0.0)
    assert decoder is None
    assert verdict.reason.startswith("decoder: nothing to gain, masks agree with the labels at IoU 0.")


def test_a_spent_budget_ends_the_tuning() -> None:
    steps: list[int] = []
    settings = replace(QUICK, seconds=1e-9)
    tune_decoder(model(), images(5), (), (), settings, checkpoint="small", on_progress=lambda a, b: steps.append(a))
    assert steps == []


def test_too_few_images_are_refused() -> None:
    with pytest.raises(TrainingError, match="4 labelled images"):
        tune_decoder(model(), images(3), (), (), QUICK, checkpoint="small")
    with pytest.raises(TrainingError, match="mixed"):
        TuningSettings(mixed=1)


def test_an_unlabelled_image_teaches_what_the_decoder_finds_on_it() -> None:
    image = images(1)[0]
    made = distil_image(model(), image.embedding, "pool")
    assert made.masks.shape[1:] == (32, 32)
    assert set(np.unique(made.masks)) <= {0, 1}
    assert len(made.masks) <= 12


def test_masks_shrink_to_shares_of_cells() -> None:
    mask = np.zeros((4, 8), bool)
    mask[:, :3] = True
    np.testing.assert_allclose(shrink_mask(mask, 2), [[0.75, 0], [0.75, 0]])
