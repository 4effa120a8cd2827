"""The objects of a whole image, and of its parts where objects are small."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from backend.inference.candidates import propose
from backend.inference.engine import Engine
from backend.inference.model import LoadedModel, ProposalGrid, ProposedObjects, enlarged
from backend.inference.scheduler import finish
from backend.metrics.service import Metrics
from backend.settings import Settings
from tests.discs import HW, discs
from usam.heads.bundled import resolve_heads
from usam.masks.overlap import pairwise_iou
from usam.objects.effort import match_objects
from usam.prompts import Prompt


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(model="nano-m", threads=1, data_dir=tmp_path_factory.mktemp("data"), tiles=2)


@pytest.fixture(scope="module")
def model(settings: Settings) -> LoadedModel:
    return LoadedModel.load("nano-m", settings, Metrics(), resolve_heads("nano-m", "auto"))


@pytest.fixture(scope="module")
def seen(model: LoadedModel, settings: Settings) -> dict[int, ProposedObjects]:
    image, _ = discs()
    embedding = model.encode(image)

    def look(tiles: int) -> ProposedObjects:
        grid = ProposalGrid(8, 100, tiles)
        return finish(propose(model, embedding, (), None, "predicted-iou", settings, grid, lambda: image))

    return {tiles: look(tiles) for tiles in (1, 2)}


def found_discs(seen: ProposedObjects) -> int:
    _, truths = discs()
    masks = enlarged(seen.objects.logits, HW)
    overlap = pairwise_iou(np.concatenate([masks, truths]))[: len(masks), len(masks) :]
    return int((match_objects(overlap) >= 0).sum())


def test_parts_show_small_objects_that_the_whole_does_not(seen: dict[int, ProposedObjects]) -> None:
    assert found_discs(seen[2]) >= found_discs(seen[1]) + 6
    assert len(seen[2].prompts) == len(seen[2].objects) == len(seen[2].layout) == len(seen[2].looks.shapes)


def test_each_object_of_a_part_lies_where_its_prompt_is(seen: dict[int, ProposedObjects]) -> None:
    of_parts = [k for k, source in enumerate(seen[2].objects.source) if source >= 64]
    assert len(of_parts) > 6
    masks = enlarged(seen[2].objects.logits[of_parts], HW)
    for k, mask in zip(of_parts, masks, strict=True):
        x, y = seen[2].prompts[k].points[0]
        near = mask[int(max(y - 20, 0)) : int(y + 20), int(max(x - 20, 0)) : int(x + 20)]
        assert near.any(), seen[2].prompts[k]


def test_without_pixels_or_with_prompts_there_is_no_second_pass(
    model: LoadedModel, settings: Settings, seen: dict[int, ProposedObjects]
) -> None:
    embedding, grid = model.encode(discs()[0]), ProposalGrid(8, 100, 2)
    plain = finish(propose(model, embedding, (), None, "predicted-iou", settings, grid))
    np.testing.assert_array_equal(plain.objects.logits, seen[1].objects.logits)

    def never() -> npt.NDArray[np.uint8]:
        raise AssertionError("an image that somebody prompted is looked at where they say")

    asked = [Prompt(np.array([[55.0, 60.0]], np.float32), np.ones(1, np.int32))]
    given = finish(propose(model, embedding, asked, None, "predicted-iou", settings, grid, never))
    assert given.given
    assert set(given.objects.source.tolist()) == {0}


def test_the_service_loads_the_pixels_of_an_image_that_it_knows(settings: Settings) -> None:
    out = io.BytesIO()
    Image.fromarray(discs()[0]).save(out, "PNG")
    loads: list[Any] = []

    def load() -> bytes:
        loads.append(1)
        return out.getvalue()

    with Engine(settings) as engine:
        engine.wait_ready(60)
        with engine.image("discs", load) as image:
            engine.click(image, [Prompt(np.array([[55.0, 60.0]], np.float32), np.ones(1, np.int32))])
        with engine.image("discs", load) as image:
            assert image.pixels is None
            found = engine.propose(image)
    assert len(loads) == 2
    assert (found.candidates.objects.source >= 64).any()
