"""Training: it learns, it keeps to its budget, it goes on where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from usam.checkpoints.nano import SIZES, NanoSize, build_size, decode, encode_images, load_nano
from usam.errors import TrainingError
from usam.research.nano import training
from usam.research.nano.cheap_layers import freeze_costly, use_plain_attention
from usam.research.nano.samples import PromptCounts, draw_batch
from usam.research.nano.stored_images import StoredImage
from usam.research.nano.trainer import NanoSettings, Trainer, learning_rate, normalise
from usam.research.nano.training import Clock, load_start, scale_neck, train_nano

TINY = NanoSize("tiny", "tf_efficientnet_lite0", 64, 32, mlp_dim=32, num_heads=2)
SETTINGS = NanoSettings(
    minutes=0.05, batch=2, prompts=PromptCounts(2, 2, 1), corrected=4, warm_up_steps=2, workers=1, save_every=0.5
)


@pytest.fixture
def store() -> list[StoredImage]:
    image = np.full((64, 64, 3), 60, np.uint8)
    image[16:48, 16:48] = 220
    mask = np.zeros((1, 32, 32), np.uint8)
    mask[:, 8:24, 8:24] = 255
    return [StoredImage(image, mask)]


@pytest.fixture
def tiny_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", TINY)


def test_learns_one_batch(store: list[StoredImage]) -> None:
    torch.manual_seed(0)
    model = build_size(TINY)
    scale_neck(model, store)
    trainer = Trainer(model, replace(SETTINGS, rate=3e-3, trunk_rate=0.05, corrected=0))
    batch = draw_batch(store, 2, 64, PromptCounts(1, 2, 0), np.random.default_rng(0), 0, 0)
    losses = [trainer.step(batch, 0.0)["loss"] for _ in range(25)]
    assert losses[-1] < 0.7 * losses[0]
    average = trainer.averaged()
    assert not average.training
    assert not torch.equal(average.no_mem_embed, torch.zeros_like(average.no_mem_embed))


def test_rate_warms_up_holds_and_falls() -> None:
    settings = NanoSettings(rate=1.0, warm_up_steps=10, decay_share=0.5)
    assert learning_rate(settings, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(settings, 9, 0.1) == 1.0
    assert learning_rate(settings, 500, 0.5) == 1.0
    assert learning_rate(settings, 500, 0.75) == pytest.approx(0.5)
    assert learning_rate(settings, 500, 1.0) == 0.0


def test_clock_leaves_pauses_out() -> None:
    times = iter([0.0, 1.0, 2.0, 3.0, 303.0, 304.0])
    clock = Clock(5.0, lambda: next(times))
    assert [clock.tick() for _ in range(5)] == pytest.approx([6, 7, 8, 9, 10])


def test_faster_layers_change_nothing() -> None:
    torch.manual_seed(0)
    model = build_size(TINY)
    image, points = torch.randn(1, 3, 64, 64), torch.tensor([[[20.0, 30.0]]])
    labels, owner = torch.ones(1, 1, dtype=torch.int32), torch.tensor([0])
    with torch.no_grad():
        before = decode(model, encode_images(model, image), owner, points, labels, None)
        freeze_costly(model, 3)
        use_plain_attention(model)
        after = decode(model, encode_images(model, image), owner, points, labels, None)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-4)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert any("conv_stem" in name for name in frozen)
    assert not any("sam_mask_decoder" in name for name in frozen)


def test_normalises_as_sam2_does(store: list[StoredImage]) -> None:
    from torchvision.transforms import functional as vision

    tensor = vision.to_tensor(store[0].image)
    expected = vision.normalize(tensor, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normalise(store[0].image[None])[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("tiny_family")
def test_run_saves_and_goes_on(store: list[StoredImage], tmp_path: Path) -> None:
    lines: list[str] = []
    path = train_nano("tiny", store, tmp_path, SETTINGS, start={}, log=lines.append)
    assert path == tmp_path / "tiny.safetensors"
    assert load_nano("tiny", path).image_size == 64
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob(".*"))
    first = torch.load(tmp_path / "state.pt", weights_only=True)
    assert first["seconds"] >= 3.0
    train_nano("tiny", store, tmp_path, replace(SETTINGS, minutes=0.08), start={}, log=lines.append)
    second = torch.load(tmp_path / "state.pt", weights_only=True)
    assert second["steps"] > first["steps"]
    assert second["seconds"] >= 4.8
    again = len(lines)
    train_nano("tiny", store, tmp_path, replace(SETTINGS, minutes=0.08), start={}, log=lines.append)
    assert len(lines) == again + 1
    start = load_start(tmp_path / "stable.pt")
    assert set(start) == set(load_start(path))


@pytest.mark.usefixtures("tiny_family")
def test_a_budget_of_steps_is_kept_to_the_step(store: list[StoredImage], tmp_path: Path) -> None:
    settings = replace(SETTINGS, minutes=1e-6, steps=3, joined=0.5)
    train_nano("tiny", store, tmp_path, settings, start={}, log=lambda _: None)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["steps"] == 3
    assert (tmp_path / "stable.pt").is_file(), "the rate falls by steps, too"
    train_nano("tiny", store, tmp_path, replace(settings, steps=5), start={}, log=lambda _: None)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["steps"] == 5


@pytest.mark.usefixtures("tiny_family")
def test_two_workers_share_a_run(store: list[StoredImage], tmp_path: Path) -> None:
    path = train_nano("tiny", store, tmp_path, replace(SETTINGS, workers=2), start={}, log=lambda _: None)
    assert path.is_file()
    assert torch.load(tmp_path / "state.pt", weights_only=True)["steps"] > 0


def test_no_weights_to_begin_from_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="weights to begin from"):
        load_start(tmp_path / "none.pt")


def test_another_trunk_begins_with_the_decoder_of_the_start_and_a_neck_fitted_to_it(
    store: list[StoredImage], tiny_family: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    wider = replace(TINY, name="wider", trunk="tf_efficientnet_lite1")
    monkeypatch.setattr(training, "build_size", lambda size, pretrained_trunk=False: build_size(size))
    teacher = build_size(TINY)
    start = {key: value.clone() for key, value in teacher.state_dict().items()}
    model = training.begin_model(wider, start, store)
    ours = model.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in start.items() if not key.startswith("image_encoder."))
    images = normalise(draw_batch(store, 4, 64, PromptCounts(1, 0, 0), np.random.default_rng(1)).images)
    with torch.no_grad():
        wanted, given = encode_images(teacher, images).image, encode_images(model, images).image
        untrained = encode_images(build_size(wider), images).image
    assert float((given - wanted).pow(2).mean()) < 0.5 * float((untrained - wanted).pow(2).mean())
    same = training.begin_model(TINY, start, store).state_dict()
    assert all(torch.equal(same[key], value) for key, value in start.items())
