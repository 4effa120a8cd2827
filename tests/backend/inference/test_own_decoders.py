"""Projects with decoders of their own on one engine: each gets its masks, whoever else asks in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from backend.inference.engine import Engine
from backend.inference.scheduler import Priority
from backend.settings import Settings
from tests.decoders import WIDTH, shaken_decoder
from tests.factories import head_set, picture, png
from usam.prompts import Prompt

ADDRESSES = ("a", "b")
PROJECTS = (1, 2, 3)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("data")
    made = Settings.from_environment(model="nano-s", heads="none", threads=1, data_dir=folder, points_per_side=3)
    with Engine(made) as running:
        running.wait_ready(60)
        heads = head_set(width=WIDTH)
        running.set_heads(1, heads, decoder=shaken_decoder(1))
        running.set_heads(2, heads, decoder=shaken_decoder(2))
        running.set_heads(3, heads)
        yield running


def masks(engine: Engine, project: int, address: str) -> np.ndarray:
    prompt = Prompt(np.array([[30, 24]], np.float32), np.ones(1, np.int32))
    with engine.image(address, lambda: png(picture(ord(address)))) as image:
        return np.stack([one.mask for one in engine.click(image, [prompt], project)])


def proposed(engine: Engine, project: int, address: str) -> np.ndarray:
    with engine.image(address, lambda: png(picture(ord(address))), Priority.BATCH) as image:
        return engine.propose(image, (), project).candidates.objects.logits


def test_a_project_s_decoder_never_shows_in_another_s_masks(engine: Engine) -> None:
    alone = {(p, a): (masks(engine, p, a), proposed(engine, p, a)) for a in ADDRESSES for p in PROJECTS}
    for address in ADDRESSES:
        tokens = [alone[project, address][1] for project in PROJECTS]
        assert all(
            one.shape != other.shape or not np.allclose(one, other)
            for k, one in enumerate(tokens)
            for other in tokens[:k]
        )
    start = threading.Barrier(6)

    def again(project: int, address: str) -> None:
        start.wait()
        for _ in range(4):
            seen = masks(engine, project, address), proposed(engine, project, address)
            for one, other in zip(seen, alone[project, address], strict=True):
                np.testing.assert_array_equal(one, other)

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(again, p, a) for p in PROJECTS for a in ADDRESSES]:
            done.result()


def test_another_version_of_a_project_decodes_with_its_own(engine: Engine) -> None:
    first, plain = proposed(engine, 1, "a"), proposed(engine, 3, "a")
    heads = head_set(width=WIDTH)
    engine.set_heads(1, heads)
    np.testing.assert_array_equal(proposed(engine, 1, "a"), plain)
    engine.set_heads(1, heads, decoder=shaken_decoder(1))
    np.testing.assert_array_equal(proposed(engine, 1, "a"), first)
