"""A decoder's file belongs to its checkpoint, and predictors with different decoders never see each other's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.usam.small_sam2 import model, picture, plain
from usam import patch
from usam.errors import CheckpointError, TrainingError
from usam.predictor.own_decoder import TunedDecoder, decoder_file, load_decoder, with_decoder


def decoder(factor: float = 1.0) -> TunedDecoder:
    weights = {key: (factor * value).half().float() for key, value in model().sam_mask_decoder.state_dict().items()}
    return TunedDecoder("small", "abc", weights, {"gain": 0.1}, ("1", "2"))


def test_a_file_belongs_to_its_checkpoint(tmp_path: Path) -> None:
    made, path = decoder(), tmp_path / "decoder.safetensors"
    path.write_bytes(decoder_file(made))
    again = load_decoder(path)
    assert (again.checkpoint, again.checkpoint_sha256) == ("small", "abc")
    assert (again.figures, again.learnt, again.version) == (made.figures, made.learnt, made.version)
    assert all(torch.equal(value, again.weights[key]) for key, value in made.weights.items())
    assert made.version != decoder(0.5).version
    path.write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match=r"decoder\.safetensors"):
        load_decoder(path)


def test_weights_that_are_not_finite_are_not_written() -> None:
    with pytest.raises(TrainingError, match="infinities"):
        decoder_file(decoder(1e9))


def test_each_predictor_decodes_with_its_own_however_they_are_interleaved() -> None:
    base = patch(plain(), None)
    tuned = with_decoder(base, decoder(0.7))
    base.set_image(picture(1))
    own = base.embedding()
    base.set_image(picture(2))
    tuned.set_embedding(own)
    before = base.predict(point_coords=[[40, 30]], point_labels=[1])[2]
    other = tuned.predict(point_coords=[[40, 30]], point_labels=[1])[2]
    assert np.array_equal(base.predict(point_coords=[[40, 30]], point_labels=[1])[2], before)
    base.set_embedding(own)
    assert not np.allclose(base.predict(point_coords=[[40, 30]], point_labels=[1])[2], other)
    assert tuned.model.image_encoder is base.model.image_encoder
    with pytest.raises(CheckpointError, match="fits"):
        with_decoder(base, replace(decoder(), weights={}))
