"""In which type images are encoded, and that no type's embeddings are taken for another's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.errors import SettingsError
from backend.inference import precision
from backend.inference.cache import EmbeddingFiles
from backend.inference.model import LoadedModel
from backend.inference.precision import compiled_encoder, encoder_dtype, kept_as
from backend.metrics.service import Metrics
from backend.settings import Settings
from tests.usam.small_sam2 import model, picture, plain
from usam.predictor.patch import patch

TINY = "sam2.1_hiera_tiny"


def settings(**given: Any) -> Settings:
    return Settings(device="cpu", **given)


@pytest.fixture(params=[True, False])
def processor_has_bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: request.param)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    precision._fastest.cache_clear()
    yield bool(request.param)
    precision._fastest.cache_clear()


def test_by_itself_the_type_follows_the_processor(processor_has_bfloat16: bool) -> None:
    wanted = torch.bfloat16 if processor_has_bfloat16 else None
    assert encoder_dtype(settings(), TINY) is wanted
    assert kept_as(settings(), TINY) == ("bfloat16" if processor_has_bfloat16 else "")


def test_the_setting_wins_but_for_the_nano_family(processor_has_bfloat16: bool) -> None:
    assert encoder_dtype(settings(encoder_dtype="float32"), TINY) is None
    assert encoder_dtype(settings(encoder_dtype="bfloat16"), TINY) is torch.bfloat16
    for asked in ("auto", "bfloat16"):
        assert encoder_dtype(settings(encoder_dtype=asked), "nano-m") is None
    assert encoder_dtype(settings(), "no checkpoint of ours") is None


def test_another_type_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USAM_ENCODER_DTYPE", "float16")
    with pytest.raises(SettingsError, match="USAM_ENCODER_DTYPE"):
        Settings.from_environment()


def test_a_model_of_the_service_encodes_in_that_type(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def load(name: str, device: str, heads: Any, *, weights: bool) -> Any:
        given.update(name=name, weights=weights)
        return patch(plain(model()), heads)

    monkeypatch.setattr("usam.predictor.load.load", load)
    embeds = {}
    for asked in ("float32", "bfloat16"):
        loaded = LoadedModel.load(TINY, settings(encoder_dtype=asked, random_weights=True), Metrics(), None)
        embedding = loaded.encode(picture())
        embeds[asked] = embedding.image_embed
        assert embedding.image_embed.dtype == torch.float32
        assert embedding.stages
    assert given == {"name": TINY, "weights": False}
    change = (embeds["bfloat16"] - embeds["float32"]).norm() / embeds["float32"].norm()
    assert 0 < float(change) < 0.05


def test_an_embedding_on_disk_is_found_by_its_own_type_alone(tmp_path: Path) -> None:
    predictor = patch(plain(model()))
    predictor.checkpoint_name = TINY
    predictor.set_image(picture())
    files = {
        asked: EmbeddingFiles.of(settings(data_dir=tmp_path, encoder_dtype=asked)) for asked in ("float32", "bfloat16")
    }
    assert files["float32"].put("a", TINY, predictor.embedding())
    assert files["bfloat16"].get("a", TINY) is None
    assert files["bfloat16"].put("a", TINY, predictor.embedding())
    assert len(list((tmp_path / "embeddings").glob("*.safetensors"))) == 2
    of_old = EmbeddingFiles(tmp_path / "embeddings", 1 << 30)
    assert of_old._path("a", TINY) == files["float32"]._path("a", TINY), "an upgrade keeps what is there"


def test_another_runtime_is_used_where_it_is_asked_for_and_torch_with_a_word_otherwise(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = [(object(), ""), (None, "the package openvino is not installed")]
    monkeypatch.setattr("usam.predictor.compiled.CompiledEncoder.of", lambda *_: given.pop(0))
    predictor: Any = patch(plain(model()))
    assert compiled_encoder(settings(), predictor) is None
    asked = settings(encoder_runtime="openvino")
    assert compiled_encoder(asked, predictor) is not None
    assert compiled_encoder(asked, predictor) is None
    assert "by torch, not by openvino: the package openvino is not installed" in caplog.text
    predictor.encoder_dtype = torch.bfloat16
    assert compiled_encoder(asked, predictor) is None
    assert given == []
