"""The engine with the real nano model: what it keeps, in which order it works, and when it says no."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from backend.errors import EngineBusy, EngineStopped
from backend.inference.candidates import propose
from backend.inference.engine import Engine, ObjectMask
from backend.inference.intake import LoadImage
from backend.inference.model import LoadedModel
from backend.inference.scheduler import Priority, Steps, finish
from backend.metrics.service import Metrics
from backend.settings import Settings
from usam.errors import CheckpointError, HeadsError, ImageError, PromptError
from usam.heads.head_set import HeadSet
from usam.predictor.proposals import PromptOutputs, decode_prompts
from usam.prompts import Prompt

MODEL, LARGER, WIDTH = "nano-s", "nano-m", 128
HW = (60, 80)
GAPS = ("task_gap", "prompt_gap", "model_gap")


def settings(**given: object) -> Settings:
    defaults = {"model": MODEL, "heads": "none", "threads": 1, "points_per_side": 3, "pred_iou_thresh": 0.0}
    return Settings(**{**defaults, "embedding_files_bytes": 0, **given})


def picture(seed: int = 0) -> npt.NDArray[np.uint8]:
    image = np.random.default_rng(seed).integers(0, 40, (*HW, 3), dtype=np.uint8)
    image[20:45, 20:50] = (220, 60, 40)
    return image


def png(seed: int = 0) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture(seed)).save(out, "PNG")
    return out.getvalue()


def click(x: float = 35, y: float = 30) -> Prompt:
    return Prompt(np.array([[x, y]], np.float32), np.array([1], np.int32))


def heads(seed: int = 0, checkpoint: str = MODEL, **bias: float) -> HeadSet:
    """Heads of the right width with random weights; `bias` moves one head's output (before the sigmoid)."""
    rng = np.random.default_rng(seed)
    names = ("iou_nano_s", "iou_nano_m", "iou_dense_prompt", "iou_unsupervised", *GAPS)
    layers = {
        name: [
            (rng.normal(0, 0.05, (16, 2 * WIDTH)).astype(np.float32), np.zeros(16, np.float32)),
            (rng.normal(0, 0.05, (1, 16)).astype(np.float32), np.array([bias.get(name, 0.0)], np.float32)),
        ]
        for name in names
    }
    quality = f"iou_{checkpoint.replace('-', '_')}"
    return HeadSet.from_layers(layers, alignment="aligned", checkpoint=checkpoint, quality=quality)


def clicked(engine: Engine, address: str, load: LoadImage, *prompts: Prompt, project: int | None = None) -> ObjectMask:
    """The mask of the first prompt."""
    with engine.image(address, load) as image:
        return engine.click(image, prompts or [click()], project)[0]


def proposed(engine: Engine, address: str, load: LoadImage, *prompts: Prompt, project: int = 0) -> list[ObjectMask]:
    with engine.image(address, load, Priority.BATCH) as image:
        return engine.propose(image, prompts, project).masks


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(settings(data_dir=tmp_path_factory.mktemp("data"))) as running:
        running.wait_ready(60)
        yield running


def refuse() -> bytes:
    raise AssertionError("the image was asked for again")


def test_a_click_gives_a_mask_of_the_image(engine: Engine) -> None:
    found = clicked(engine, "a", png, click())
    assert found.mask.shape == HW
    assert found.mask.dtype == np.bool_
    assert found.mask[30, 35]
    assert 0 <= found.iou <= 1
    assert found.checkpoint == MODEL


def test_a_click_on_an_encoded_image_goes_before_those_that_wait_for_an_encoding(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Priority] = []
    real = engine._scheduler.run

    def run(priority: Priority, steps: Steps[Any]) -> object:
        asked.append(priority)
        return real(priority, steps)

    monkeypatch.setattr(engine._scheduler, "run", run)
    for _ in range(2):
        clicked(engine, "first cold, then warm", lambda: png(77))
    assert asked == [Priority.COLD_CLICK, Priority.CLICK]


def test_masks_equal_the_predictors_own(engine: Engine) -> None:
    """Low-resolution masks enlarged by the caller are what `predict` gives at full size."""
    from usam.predictor.load import load

    found = clicked(engine, "own", png, click())
    predictor = load(MODEL, heads=None)
    predictor.set_image(picture())
    masks, ious, _, _ = predictor.predict(point_coords=[[35, 30]], point_labels=[1])
    best = int(ious.argmax())
    assert (masks[best].astype(bool) != found.mask).mean() < 0.002
    assert found.iou == pytest.approx(float(ious[best]), abs=1e-4)


def test_a_warm_click_never_asks_for_the_image(engine: Engine) -> None:
    cold = clicked(engine, "warm", png, click())
    assert engine.is_warm("warm")
    again = clicked(engine, "warm", refuse, click())
    assert (again.mask == cold.mask).all()


def test_one_picture_at_two_addresses_is_encoded_once(engine: Engine) -> None:
    clicked(engine, "first", lambda: png(7), click())
    encoded = engine.metrics.encoded.labels(MODEL)._value.get()
    clicked(engine, "second", lambda: png(7), click())
    assert engine.metrics.encoded.labels(MODEL)._value.get() == encoded


def test_masks_keep_the_order_of_their_prompts(engine: Engine) -> None:
    box = Prompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int32), np.array([20, 20, 50, 45], np.float32))
    with engine.image("order", png) as image:
        assert image.hw == HW
        found = engine.click(image, [click(), box, click(5, 5)])
    assert [one.prompt.box is None for one in found] == [True, False, True]
    assert [one.source for one in found] == [0, 1, 2]
    alone = clicked(engine, "order", refuse, click(5, 5))
    assert (alone.mask != found[2].mask).mean() < 0.005
    with engine.image("order", refuse) as image:
        assert engine.click(image, []) == []


def test_errors_reach_the_caller(engine: Engine) -> None:
    with pytest.raises(PromptError):
        clicked(engine, "a", png, click(500, 5))
    with pytest.raises(ImageError):
        clicked(engine, "broken", lambda: b"no image", click())
    with pytest.raises(OSError, match="lost"):
        clicked(engine, "lost", lambda: (_ for _ in ()).throw(OSError("lost")), click())
    assert engine.state == "ready"


def test_proposals_are_sorted_distinct_and_know_their_prompt(engine: Engine) -> None:
    found = proposed(engine, "grid", png)
    ious = [one.iou for one in found]
    assert ious == sorted(ious, reverse=True)
    assert 1 <= len(found) <= engine.settings.max_regions
    prompts = [click(35, 30), click(5, 5)]
    given = proposed(engine, "grid", refuse, *prompts)
    assert {one.source for one in given} <= {0, 1}
    assert all(one.prompt.points.tolist() == prompts[one.source].points.tolist() for one in given)


def test_heads_are_per_project_and_change_the_version(engine: Engine) -> None:
    assert engine.model_version() == f"{MODEL}+no-heads"
    first, second = heads(1), heads(2)
    engine.set_heads(5, first)
    assert engine.model_version(5) == f"{MODEL}+{first.version}"
    assert engine.model_version(6) == f"{MODEL}+no-heads"
    mine = clicked(engine, "a", png, click(), project=5)
    assert set(mine.gaps) == set(GAPS)
    assert clicked(engine, "a", refuse, click(), project=6).scores == {}
    engine.set_heads(5, second)
    assert clicked(engine, "a", refuse, click(), project=5).scores != mine.scores
    engine.set_heads(5, None)
    assert engine.model_version(5) == f"{MODEL}+no-heads"
    with pytest.raises(HeadsError):
        engine.set_heads(5, heads(checkpoint="sam2.1_hiera_tiny"))


def outputs_of_a_click() -> PromptOutputs:
    from usam.predictor.load import load

    predictor = load(MODEL, heads=None)
    predictor.set_image(picture())
    return decode_prompts(predictor, predictor.prepare([[[35, 30]]], [[1]]))


def scores_of_a_click(heads: HeadSet) -> dict[str, list[float]]:
    outputs = outputs_of_a_click()
    return {name: values[0].tolist() for name, values in heads.score(outputs.iou_token, outputs.mask_tokens).items()}


def test_the_mask_is_chosen_by_predicted_iou(engine: Engine) -> None:
    chosen = heads(3)
    engine.set_heads(8, chosen)
    found = clicked(engine, "a", png, click(), project=8)
    assert found.iou == pytest.approx(max(scores_of_a_click(chosen)["iou_nano_s"]), abs=1e-5)
    engine.set_heads(8, None)


def test_prefetch_makes_the_next_click_warm(engine: Engine) -> None:
    engine.prefetch("next", lambda: png(11))
    deadline = time.monotonic() + 20
    while not engine.is_warm("next") and time.monotonic() < deadline:
        time.sleep(0.01)
    clicked(engine, "next", refuse, click())


def test_concurrent_clicks_load_an_image_once(engine: Engine) -> None:
    loads = []

    def load() -> bytes:
        loads.append(1)
        time.sleep(0.2)
        return png(12)

    with ThreadPoolExecutor(4) as pool:
        masks = list(pool.map(lambda _: clicked(engine, "shared", load, click()).mask, range(4)))
    assert len(loads) <= 2  # one, unless the encoding had not yet begun when a second caller looked
    assert all((mask == masks[0]).all() for mask in masks)


def test_a_click_overtakes_a_batch(engine: Engine) -> None:
    clicked(engine, "a", png, click())
    done: list[str] = []
    grid = [click(x % 80, 30 + x // 80) for x in range(300)]

    def batch() -> None:
        proposed(engine, "a", refuse, *grid)
        done.append("batch")

    thread = threading.Thread(target=batch)
    thread.start()
    time.sleep(0.1)
    clicked(engine, "a", refuse, click())
    done.append("click")
    thread.join()
    assert done == ["click", "batch"]


@pytest.mark.parametrize("gain", [True, False])
def test_the_larger_model_is_asked_where_the_gap_is_high(gain: bool) -> None:
    unsure = heads(1, iou_nano_s=-3.0 if gain else 12.0, model_gap=5.0)
    with Engine(settings(larger_model=LARGER, larger_budget=1.0, larger_margin=0.0, budget_warm_up=1)) as engine:
        engine.wait_ready(60)
        engine.set_heads(2, heads(1, model_gap=-5.0))
        sure = clicked(engine, "a", png, click(), project=2)
        assert sure.checkpoint == MODEL
        engine.set_heads(1, unsure)
        found = clicked(engine, "b", lambda: png(1), click(), project=1)
        assert counted(engine, "action_considered_total", "larger") == 2
        assert counted(engine, "action_taken_total", "larger") == 1
        assert counted(engine, "action_kept_total", "larger") == gain
        assert counted(engine, "action_seconds_total", "larger") > 0
        assert (found.checkpoint == LARGER) is gain
        assert found.gaps["model_gap"] == pytest.approx(0.5, abs=0.02), "the gaps are the first model's"
        assert (counted(engine, "action_predicted_gain", "larger") > 0) is gain


def counted(engine: Engine, name: str, action: str) -> float:
    value = engine.metrics.registry.get_sample_value(f"usam_{name}", {"action": action})
    return 0.0 if value is None else value


def test_a_budget_bounds_how_often_the_larger_model_is_asked() -> None:
    given = {"larger_budget": 0.3, "budget_warm_up": 5, "points_per_side": 6, "nms_iou": 0.95, "max_regions": 40}
    with Engine(settings(larger_model=LARGER, **given)) as engine:
        engine.wait_ready(60)
        engine.set_heads(1, heads(1, model_gap=1.0))
        objects = [one for n in range(3) for one in proposed(engine, f"p{n}", lambda n=n: png(n), project=1)]
        seen = counted(engine, "action_considered_total", "larger")
        taken = counted(engine, "action_taken_total", "larger")
        assert seen == len(objects) > 20
        assert 0.15 * seen < taken <= 0.3 * seen
        assert 0 < counted(engine, "action_threshold", "larger") <= 0.5
    with Engine(settings(larger_model=LARGER, larger_budget=0.0)) as engine:
        engine.wait_ready(60)
        engine.set_heads(1, heads(1, model_gap=5.0))
        assert clicked(engine, "a", png, click(), project=1).checkpoint == MODEL


def test_what_labels_suspended_is_left_alone_and_taken_up_again() -> None:
    with Engine(settings(larger_model=LARGER, larger_budget=1.0, budget_warm_up=1)) as engine:
        engine.wait_ready(60)
        engine.set_heads(1, heads(1, iou_nano_s=-3.0, model_gap=5.0))
        engine.suspend(1, ["larger"])
        assert clicked(engine, "a", png, click(), project=1).checkpoint == MODEL
        assert counted(engine, "action_considered_total", "larger") == 0
        engine.suspend(1, [])
        assert clicked(engine, "b", lambda: png(1), click(), project=1).checkpoint == LARGER


def test_masks_are_chosen_by_what_is_set() -> None:
    with Engine(settings()) as engine:
        engine.wait_ready(60)
        outputs = outputs_of_a_click()
        best = float(outputs.ious[0, 1:].max())
        worst = int(outputs.ious[0, 1:].argmin())
        opposite = next(
            one
            for seed in range(200)
            if (one := heads(seed)).score(outputs.iou_token, outputs.mask_tokens)["iou_nano_s"][0].argmax() == worst
        )
        engine.set_heads(1, opposite)
        assert clicked(engine, "a", png, click(), project=1).samscore < best
        engine.set_mask_selection(1, "samscore")
        chosen = clicked(engine, "a", refuse, click(), project=1)
        assert chosen.samscore == pytest.approx(best, abs=1e-4)
        assert chosen.iou == pytest.approx(chosen.scores["iou_nano_s"], abs=1e-6), "its predicted IoU is still told"
    with Engine(settings(mask_choice="predicted-iou")) as engine:
        engine.set_mask_selection(1, "samscore")
        assert engine.mask_selection(1) == "predicted-iou"


def test_embeddings_dropped_for_room_are_made_again() -> None:
    with Engine(settings()) as probe:
        probe.wait_ready(60)
        clicked(probe, "a", png, click())
        size = probe.cache.bytes
    with Engine(settings(cache_bytes=size + size // 2)) as engine:
        engine.wait_ready(60)
        clicked(engine, "a", png, click())
        clicked(engine, "b", lambda: png(1), click())
        assert not engine.is_warm("a")
        assert engine.cache.bytes <= engine.cache.max_bytes
        assert engine.cache.evictions == 1
        with pytest.raises(AssertionError, match="asked for again"):
            clicked(engine, "a", refuse, click())
        assert clicked(engine, "a", png, click()).mask.shape == HW
    with Engine(settings(cache_bytes=0)) as none:
        none.wait_ready(60)
        assert clicked(none, "a", png, click()).mask.shape == HW


def test_images_that_wait_are_bounded() -> None:
    big = np.zeros((700, 800, 3), np.uint8)
    with Engine(settings(pending_bytes=1024 * 1024, queue_limit=1000)) as engine:
        with ThreadPoolExecutor(3) as pool:
            results = [pool.submit(clicked, engine, f"k{n}", lambda: big, click()) for n in range(3)]
        errors = [result.exception() for result in results]
    assert sum(isinstance(error, EngineBusy) for error in errors) == 2
    assert all(error.retry_after >= 1 for error in errors if isinstance(error, EngineBusy))


def test_a_model_that_is_missing_says_so() -> None:
    with Engine(settings(model="sam2.1_hiera_large", heads="none")) as engine:
        with pytest.raises(CheckpointError):
            engine.wait_ready(60)
        assert engine.state == "failed"
        with pytest.raises(CheckpointError):
            clicked(engine, "a", png, click())


def test_a_closed_engine_says_so() -> None:
    engine = Engine(settings())
    engine.close()
    assert engine.state == "stopped"
    with pytest.raises(EngineStopped):
        clicked(engine, "a", png, click())


def test_version_is_known_before_the_model_is(tmp_path: Path) -> None:
    stored = heads(4)
    path = stored.save(tmp_path / "h.safetensors")
    with Engine(settings(heads=str(path))) as engine:
        started = time.monotonic()
        assert engine.model_version() == f"{MODEL}+{stored.version}"
        assert time.monotonic() - started < 2
        engine.wait_ready(60)
        assert engine.model_version() == f"{MODEL}+{stored.version}"


def test_an_image_that_another_process_encoded_is_not_encoded_again(tmp_path: Path) -> None:
    given = {"data_dir": tmp_path, "embedding_files_bytes": 1 << 30}
    with Engine(settings(**given)) as first:
        mask = clicked(first, "a", png, click()).mask
    assert len(list((tmp_path / "embeddings").iterdir())) == 1
    with Engine(settings(**given)) as second:
        assert (clicked(second, "another address", png, click()).mask == mask).all()
        assert second.metrics.encoded.labels(MODEL)._value.get() == 0
        assert clicked(second, "b", lambda: png(3), click()).mask.shape == HW
        assert second.metrics.encoded.labels(MODEL)._value.get() == 1


def test_between_two_steps_of_a_batch_other_images_and_heads_may_be_set() -> None:
    """A batch in steps gives what it gives at once, whatever the model did between two steps."""
    made = settings(points_per_side=4)
    model = LoadedModel.load(MODEL, made, Metrics(), None)
    first, other = model.encode(picture()), model.encode(picture(1))
    for prompts in ([], [click(), click(5, 5), click(60, 50), Prompt([[40, 30], [2, 2]], [1, 0])] * 4):
        alone = finish(propose(model, first, prompts, heads(1), "predicted-iou", made)).objects
        steps = propose(model, first, prompts, heads(1), "predicted-iou", made)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                between = done.value.objects
                break
            model.decode(other, [click(7, 7)], heads(2))
        assert (between.logits == alone.logits).all()
        assert between.scores["iou_nano_s"].tolist() == alone.scores["iou_nano_s"].tolist()
        assert between.source.tolist() == alone.source.tolist()
