"""A decoder of a project's own: learns on embeddings, keeps what it knew, and belongs to one checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.usam.small_sam2 import model
from usam.errors import CheckpointError, TrainingError
from usam.predictor.embedding import ImageEmbedding
from usam.training.decoder_tuning import (
    TunedDecoder,
    TuningImage,
    TuningSettings,
    decoder_in_place,
    load_decoder,
    save_decoder,
    shrink_mask,
    tune_decoder,
)

QUICK = TuningSettings(rate=3e-3, steps=30, check_every=30, images_a_step=2, clicks=1, boxes=1, seconds=1e6)


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


def tuned(**changes: Any) -> TunedDecoder | None:
    torch.manual_seed(0)
    return tune_decoder(model(), images(8), images(4, 5), replace(QUICK, **changes), checkpoint="small")


def test_a_tuned_decoder_is_better_on_images_held_out_and_the_model_stays() -> None:
    before = {key: value.clone() for key, value in model().sam_mask_decoder.state_dict().items()}
    decoder = tuned()
    assert decoder is not None
    assert decoder.figures["gain"] > 0.02
    assert decoder.figures["images"] == 8
    after = model().sam_mask_decoder.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    with decoder_in_place(model(), decoder):
        changed = model().sam_mask_decoder.state_dict()
        assert all(torch.equal(value, changed[key]) for key, value in decoder.weights.items())
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_what_gains_too_little_or_forgets_too_much_is_not_taken() -> None:
    assert tuned(least_gain=0.99) is None
    assert tuned(most_lost=-0.99) is None


def test_a_spent_budget_ends_the_tuning() -> None:
    steps: list[int] = []
    tune_decoder(
        model(),
        images(5),
        (),
        replace(QUICK, seconds=1e-9),
        checkpoint="small",
        on_progress=lambda a, b: steps.append(a),
    )
    assert steps == []


def test_too_few_images_are_refused() -> None:
    with pytest.raises(TrainingError, match="4 labelled images"):
        tune_decoder(model(), images(3), (), QUICK, checkpoint="small")
    with pytest.raises(TrainingError, match="mixed"):
        TuningSettings(mixed=1)


def test_a_file_belongs_to_its_checkpoint(tmp_path: Path) -> None:
    weights = {key: value.clone() for key, value in model().sam_mask_decoder.state_dict().items()}
    decoder = TunedDecoder("small", "abc", weights, {"gain": 0.1})
    path = save_decoder(decoder, tmp_path / "decoder.safetensors")
    again = load_decoder(path, checkpoint="small", checkpoint_sha256="abc")
    assert again.figures == decoder.figures
    for key, value in weights.items():
        torch.testing.assert_close(again.weights[key], value, atol=1e-3, rtol=1e-3)
    with pytest.raises(CheckpointError, match="retrain"):
        load_decoder(path, checkpoint="small", checkpoint_sha256="other")
    path.write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match=r"decoder\.safetensors"):
        load_decoder(path, checkpoint="small", checkpoint_sha256="abc")
    with pytest.raises(CheckpointError, match="fits"), decoder_in_place(model(), replace(decoder, weights={})):
        pass


def test_masks_shrink_to_shares_of_cells() -> None:
    mask = np.zeros((4, 8), bool)
    mask[:, :3] = True
    np.testing.assert_allclose(shrink_mask(mask, 2), [[0.75, 0], [0.75, 0]])
