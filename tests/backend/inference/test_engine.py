"""The engine with the real nano model: what it keeps, in which order it works, and when it says no."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from backend.errors import EngineBusy, EngineStopped
from backend.inference.cache import EmbeddingCache, ImageIndex, ImageRef, content_hash
from backend.inference.engine import Engine
from backend.inference.refinement import denser
from backend.inference.scheduler import Priority, Steps, StepScheduler
from backend.metrics.service import Metrics
from backend.settings import Settings
from usam.errors import CheckpointError, HeadsError, ImageError, PromptError
from usam.heads.head_set import HeadSet
from usam.prompts import Prompt

MODEL, LARGER, WIDTH = "nano-s", "nano-m", 128
HW = (60, 80)
GAPS = ("task_gap", "prompt_gap", "model_gap")


def settings(**given: object) -> Settings:
    return Settings(
        **{"model": MODEL, "heads": "none", "threads": 1, "points_per_side": 3, "pred_iou_thresh": 0.0, **given}
    )


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


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(settings()) as running:
        running.wait_ready(60)
        yield running


def refuse() -> bytes:
    raise AssertionError("the image was asked for again")


def test_a_click_gives_a_mask_of_the_image(engine: Engine) -> None:
    found = engine.click("a", png, click())[0]
    assert found.mask.shape == HW
    assert found.mask.dtype == np.bool_
    assert found.mask[30, 35]
    assert 0 <= found.iou <= 1
    assert found.checkpoint == MODEL


def test_masks_equal_the_predictors_own(engine: Engine) -> None:
    """Low-resolution masks enlarged by the caller are what `predict` gives at full size."""
    from usam.predictor.load import load

    found = engine.click("own", png, click())[0]
    predictor = load(MODEL, heads=None)
    predictor.set_image(picture())
    masks, ious, _, _ = predictor.predict(point_coords=[[35, 30]], point_labels=[1])
    best = int(ious.argmax())
    assert (masks[best].astype(bool) != found.mask).mean() < 0.002
    assert found.iou == pytest.approx(float(ious[best]), abs=1e-4)


def test_a_warm_click_never_asks_for_the_image(engine: Engine) -> None:
    cold = engine.click("warm", png, click())[0]
    assert engine.is_warm("warm")
    again = engine.click("warm", refuse, click())[0]
    assert (again.mask == cold.mask).all()


def test_one_picture_at_two_addresses_is_encoded_once(engine: Engine) -> None:
    engine.click("first", lambda: png(7), click())
    encoded = engine.metrics.encoded.labels(MODEL)._value.get()
    engine.click("second", lambda: png(7), click())
    assert engine.metrics.encoded.labels(MODEL)._value.get() == encoded


def test_prompts_are_made_for_the_size_and_keep_their_order(engine: Engine) -> None:
    seen = []

    def prompts(hw: tuple[int, int]) -> list[Prompt]:
        seen.append(hw)
        box = Prompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int32), np.array([20, 20, 50, 45], np.float32))
        return [click(), box, click(5, 5)]

    found = engine.click("order", png, prompts)
    assert seen == [HW]
    assert [one.prompt.box is None for one in found] == [True, False, True]
    alone = engine.click("order", refuse, click(5, 5))[0]
    assert (alone.mask != found[2].mask).mean() < 0.005


def test_errors_reach_the_caller(engine: Engine) -> None:
    with pytest.raises(PromptError):
        engine.click("a", png, click(500, 5))
    with pytest.raises(ImageError):
        engine.click("broken", lambda: b"no image", click())
    with pytest.raises(OSError, match="lost"):
        engine.click("lost", lambda: (_ for _ in ()).throw(OSError("lost")), click())
    assert engine.state == "ready"


def test_proposals_are_sorted_distinct_and_know_their_prompt(engine: Engine) -> None:
    found = engine.propose("grid", png)
    assert found.prompts == 9
    assert found.features.shape == (WIDTH,)
    ious = [one.iou for one in found.objects]
    assert ious == sorted(ious, reverse=True)
    assert len(found.objects) <= 9
    given = engine.propose("grid", refuse, [[35, 30], [5, 5]])
    assert given.prompts == 2
    assert all(given.objects[k].prompt.points[0].tolist() == [[35, 30], [5, 5]][s] for k, s in enumerate(given.sources))


def test_tokens(engine: Engine) -> None:
    tokens = engine.tokens("tokens", png, [click(x, 30) for x in range(10, 21)])
    assert tokens.iou_token.shape == (11, WIDTH)
    assert tokens.mask_tokens.shape == (11, 4, WIDTH)
    assert tokens.ious.shape == (11, 4)


def test_heads_are_per_project_and_change_the_version(engine: Engine) -> None:
    assert engine.model_version() == f"{MODEL}+no-heads"
    first, second = heads(1), heads(2)
    engine.set_heads(5, first)
    assert engine.model_version(5) == f"{MODEL}+{first.version}"
    assert engine.model_version(6) == f"{MODEL}+no-heads"
    mine = engine.click("a", png, click(), project=5)[0]
    assert set(mine.gaps) == set(GAPS)
    assert engine.click("a", refuse, click(), project=6)[0].scores == {}
    engine.set_heads(5, second)
    assert engine.click("a", refuse, click(), project=5)[0].scores != mine.scores
    engine.set_heads(5, None)
    assert engine.model_version(5) == f"{MODEL}+no-heads"
    with pytest.raises(HeadsError):
        engine.set_heads(5, heads(checkpoint="sam2.1_hiera_tiny"))


def test_the_mask_is_chosen_by_predicted_iou(engine: Engine) -> None:
    chosen = heads(3)
    engine.set_heads(8, chosen)
    found = engine.click("a", png, click(), project=8)[0]
    tokens = engine.tokens("a", refuse, [click()])
    scores = chosen.score(tokens.iou_token, tokens.mask_tokens)["iou_nano_s"][0]
    assert found.iou == pytest.approx(float(scores.max()), abs=1e-5)
    engine.set_heads(8, None)


def test_prefetch_makes_the_next_click_warm(engine: Engine) -> None:
    engine.prefetch("next", lambda: png(11))
    deadline = time.monotonic() + 20
    while not engine.is_warm("next") and time.monotonic() < deadline:
        time.sleep(0.01)
    engine.click("next", refuse, click())


def test_concurrent_clicks_load_an_image_once(engine: Engine) -> None:
    loads = []

    def load() -> bytes:
        loads.append(1)
        time.sleep(0.2)
        return png(12)

    with ThreadPoolExecutor(4) as pool:
        masks = list(pool.map(lambda _: engine.click("shared", load, click())[0].mask, range(4)))
    assert len(loads) <= 2  # one, unless the encoding had not yet begun when a second caller looked
    assert all((mask == masks[0]).all() for mask in masks)


def test_a_click_overtakes_a_batch(engine: Engine) -> None:
    engine.click("a", png, click())
    done: list[str] = []
    chunks = 40 * engine.settings.points_per_batch

    def batch() -> None:
        engine.tokens("a", refuse, [click(x % 80, 30) for x in range(chunks)])
        done.append("batch")

    thread = threading.Thread(target=batch)
    thread.start()
    time.sleep(0.1)
    engine.click("a", refuse, click())
    done.append("click")
    thread.join()
    assert done == ["click", "batch"]


@pytest.mark.parametrize("gain", [True, False])
def test_the_larger_model_is_asked_where_the_gap_is_high(gain: bool) -> None:
    unsure = heads(1, iou_nano_s=-3.0 if gain else 12.0, model_gap=5.0)
    with Engine(settings(larger_model=LARGER, larger_budget=1.0, larger_margin=0.0, budget_warm_up=1)) as engine:
        engine.wait_ready(60)
        engine.set_heads(2, heads(1, model_gap=-5.0))
        sure = engine.click("a", png, click(), project=2)[0]
        assert sure.checkpoint == MODEL
        engine.set_heads(1, unsure)
        found = engine.click("b", lambda: png(1), click(), project=1)[0]
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
    with Engine(settings(larger_model=LARGER, larger_budget=0.3, budget_warm_up=5, points_per_side=6)) as engine:
        engine.wait_ready(60)
        engine.set_heads(1, heads(1, model_gap=1.0))
        for number in range(2):
            engine.propose(f"p{number}", lambda n=number: png(n), project=1)
        seen = counted(engine, "action_considered_total", "larger")
        taken = counted(engine, "action_taken_total", "larger")
        assert seen == 72
        assert 0.15 * seen < taken <= 0.3 * seen
        assert 0 < counted(engine, "action_threshold", "larger") <= 0.5
    with Engine(settings(larger_model=LARGER, larger_budget=0.0)) as engine:
        engine.wait_ready(60)
        engine.set_heads(1, heads(1, model_gap=5.0))
        assert engine.click("a", png, click(), project=1)[0].checkpoint == MODEL


def test_what_labels_suspended_is_left_alone_and_taken_up_again() -> None:
    with Engine(settings(larger_model=LARGER, larger_budget=1.0, budget_warm_up=1)) as engine:
        engine.wait_ready(60)
        engine.set_heads(1, heads(1, iou_nano_s=-3.0, model_gap=5.0))
        engine.suspend(1, ["larger"])
        assert engine.click("a", png, click(), project=1)[0].checkpoint == MODEL
        assert counted(engine, "action_considered_total", "larger") == 0
        engine.suspend(1, [])
        assert engine.click("b", lambda: png(1), click(), project=1)[0].checkpoint == LARGER


def test_more_points_are_put_inside_the_mask_where_the_prompt_gap_is_high() -> None:
    with Engine(settings(points_budget=1.0, budget_warm_up=1)) as engine:
        engine.wait_ready(60)
        engine.set_heads(1, heads(1, prompt_gap=-5.0))
        engine.click("a", png, click(), project=1)
        assert counted(engine, "action_taken_total", "points") == 0
        decoded = engine.metrics.decoded.labels(MODEL)._value.get()
        engine.set_heads(1, heads(1, prompt_gap=5.0))
        engine.click("a", refuse, click(), project=1)
        assert counted(engine, "action_taken_total", "points") == 1
        assert engine.metrics.decoded.labels(MODEL)._value.get() == decoded + 2


def test_added_points_lie_in_the_mask_and_are_the_same_again() -> None:
    logits = np.full((64, 64), -1.0, np.float32)
    logits[10:20, 30:40] = 1.0
    first, second = (denser(click(35, 15), logits, HW) for _ in range(2))
    assert first.points.tolist() == second.points.tolist()
    assert len(first.points) == 8
    assert all(logits[int(y * 64 / HW[0]), int(x * 64 / HW[1])] > 0 for x, y in first.points[1:])


def test_alternatives_are_offered_where_the_task_gap_is_high() -> None:
    with Engine(settings(click_alternatives_budget=1.0, budget_warm_up=1)) as engine:
        engine.wait_ready(60)
        engine.set_heads(1, heads(1, task_gap=5.0))
        found = engine.click("a", png, click(), project=1)[0]
        assert len(found.alternatives) == 2
        assert found.iou >= found.alternatives[0].iou >= found.alternatives[1].iou
        assert found.alternatives[0].mask.shape == HW
        assert counted(engine, "action_taken_total", "alternatives") == 1
        engine.set_heads(1, heads(1, task_gap=-5.0))
        assert engine.click("a", refuse, click(), project=1)[0].alternatives == ()


def test_masks_are_chosen_by_what_is_set() -> None:
    with Engine(settings()) as engine:
        engine.wait_ready(60)
        tokens = engine.tokens("a", png, [click()])
        best = float(tokens.ious[0, 1:].max())
        worst = int(tokens.ious[0, 1:].argmin())
        opposite = next(
            one
            for seed in range(200)
            if (one := heads(seed)).score(tokens.iou_token, tokens.mask_tokens)["iou_nano_s"][0].argmax() == worst
        )
        engine.set_heads(1, opposite)
        assert engine.click("a", refuse, click(), project=1)[0].samscore < best
        engine.set_choice(1, "samscore")
        chosen = engine.click("a", refuse, click(), project=1)[0]
        assert chosen.samscore == pytest.approx(best, abs=1e-4)
        assert chosen.iou == pytest.approx(chosen.scores["iou_nano_s"], abs=1e-6), "its predicted IoU is still told"
    with Engine(settings(mask_choice="predicted-iou")) as engine:
        engine.set_choice(1, "samscore")
        assert engine.choice(1) == "predicted-iou"


def test_embeddings_dropped_for_room_are_made_again() -> None:
    with Engine(settings()) as probe:
        probe.wait_ready(60)
        probe.click("a", png, click())
        size = probe.cache.bytes
    with Engine(settings(cache_bytes=size + size // 2)) as engine:
        engine.wait_ready(60)
        engine.click("a", png, click())
        engine.click("b", lambda: png(1), click())
        assert not engine.is_warm("a")
        assert engine.cache.bytes <= engine.cache.max_bytes
        assert engine.cache.evictions == 1
        with pytest.raises(AssertionError, match="asked for again"):
            engine.click("a", refuse, click())
        assert engine.click("a", png, click())[0].mask.shape == HW
    with Engine(settings(cache_bytes=0)) as none:
        none.wait_ready(60)
        assert none.click("a", png, click())[0].mask.shape == HW


def test_images_that_wait_are_bounded() -> None:
    big = np.zeros((700, 800, 3), np.uint8)
    with Engine(settings(pending_bytes=1024 * 1024, queue_limit=1000)) as engine:
        with ThreadPoolExecutor(3) as pool:
            results = [pool.submit(engine.click, f"k{n}", lambda: big, click()) for n in range(3)]
        errors = [result.exception() for result in results]
    assert sum(isinstance(error, EngineBusy) for error in errors) == 2
    assert all(error.retry_after >= 1 for error in errors if isinstance(error, EngineBusy))


def test_a_model_that_is_missing_says_so() -> None:
    with Engine(settings(model="sam2.1_hiera_large", heads="none")) as engine:
        with pytest.raises(CheckpointError):
            engine.wait_ready(60)
        assert engine.state == "failed"
        with pytest.raises(CheckpointError):
            engine.click("a", png, click())


def test_a_closed_engine_says_so() -> None:
    engine = Engine(settings())
    engine.close()
    assert engine.state == "stopped"
    with pytest.raises(EngineStopped):
        engine.click("a", png, click())


def test_version_is_known_before_the_model_is(tmp_path: object) -> None:
    from pathlib import Path

    stored = heads(4)
    path = stored.save(Path(str(tmp_path)) / "h.safetensors")
    with Engine(settings(heads=str(path))) as engine:
        started = time.monotonic()
        assert engine.model_version() == f"{MODEL}+{stored.version}"
        assert time.monotonic() - started < 2
        engine.wait_ready(60)
        assert engine.model_version() == f"{MODEL}+{stored.version}"


# turns


def turns(**given: object) -> StepScheduler:
    options = {"queue_limit": 2, "wait_seconds": 5.0, "metrics": Metrics(), "out_of_memory": lambda: None, **given}
    return StepScheduler(lambda: None, **options)  # type: ignore[arg-type]


def test_urgent_jobs_go_first_after_every_step() -> None:
    running = turns(queue_limit=10)
    log: list[str] = []
    started, go = threading.Event(), threading.Event()

    def job(name: str, steps: int) -> Steps[None]:
        for number in range(steps):
            if name == "batch" and number == 1:
                started.set()
                go.wait(5)
            log.append(f"{name}{number}")
            yield

    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(running.do, Priority.BATCH, job("batch", 3))]
        started.wait(5)
        waiting.append(pool.submit(running.do, Priority.AHEAD, job("ahead", 1)))
        waiting.append(pool.submit(running.do, Priority.CLICK, job("click", 2)))
        time.sleep(0.1)
        go.set()
        for one in waiting:
            one.result(5)
    running.close()
    assert log == ["batch0", "batch1", "click0", "click1", "batch2", "ahead0"]


def test_too_many_waiting_jobs_are_refused_and_late_ones_given_up() -> None:
    running = turns(wait_seconds=0.3)
    go, begun = threading.Event(), threading.Event()

    def block() -> Steps[None]:
        begun.set()
        go.wait(10)
        return
        yield

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(running.do, Priority.CLICK, block())
        assert begun.wait(5)
        others = [pool.submit(running.do, Priority.CLICK, block()) for _ in range(3)]
        refused = [other.exception(5) for other in others]
        assert all(isinstance(error, EngineBusy) for error in refused)
        assert sum("wait already" in str(error) for error in refused) == 1
        assert sum("no turn within" in str(error) for error in refused) == 2
        assert isinstance(first.exception(5), EngineBusy)
        go.set()
    deadline = time.monotonic() + 10
    while True:  # those that were given up leave the queue when their turn would come
        try:
            assert running.do(Priority.CLICK, block()) is None
            break
        except EngineBusy:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    running.close()


def test_no_memory_makes_room_and_says_busy() -> None:
    freed = []
    running = turns(out_of_memory=lambda: freed.append(1))

    def greedy() -> Steps[None]:
        raise MemoryError
        yield

    with pytest.raises(EngineBusy, match="no memory"):
        running.do(Priority.BATCH, greedy())
    running.close()
    assert freed == [1]


# what is remembered


class Blob:
    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def test_cache_is_bounded_and_drops_the_oldest() -> None:
    cache = EmbeddingCache(100)
    for name in "abc":
        cache.put(name, "m", Blob(40))
        cache.get("a", "m")
    assert ("a", "m") in cache
    assert ("b", "m") not in cache
    assert (cache.bytes, cache.evictions, len(cache)) == (80, 1, 2)
    cache.put("a", "m", Blob(60))
    assert cache.bytes == 100
    cache.put("huge", "m", Blob(101))
    assert ("huge", "m") not in cache
    assert cache.get("a", "other checkpoint") is None
    cache.clear()
    assert cache.bytes == len(cache) == 0


def test_index_forgets_the_least_used_address() -> None:
    index = ImageIndex(limit=2)
    for name in ("a", "b"):
        index.put(name, ImageRef(name, HW))
    index.get("a")
    index.put("c", ImageRef("c", HW))
    assert index.get("b") is None
    assert index.get("a") == ImageRef("a", HW)


def test_content_hash_tells_shapes_apart() -> None:
    flat = np.zeros((4, 6, 3), np.uint8)
    assert content_hash(flat) != content_hash(flat.reshape(6, 4, 3))
    assert content_hash(flat) == content_hash(flat.copy())
    assert content_hash(b"a") != content_hash(b"b")
