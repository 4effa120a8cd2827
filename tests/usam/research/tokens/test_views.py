from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usam.errors import TokensError
from usam.research.datasets.record import Instance, Record
from usam.research.tokens.manifest import Manifest, TokenSettings
from usam.research.tokens.objects import prepare
from usam.research.tokens.views import SEEN, View

HW = (90, 140)


def disc(y: int, x: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[: HW[0], : HW[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A white disc on black, labelled, and a small one in a corner."""
    mask, corner = disc(45, 70, 20), disc(5, 5, 4)
    Image.fromarray(np.repeat((mask * 255).astype(np.uint8)[..., None], 3, 2)).save(tmp_path / "disc.png")
    instances = (Instance("disc", lambda: mask), Instance("corner", lambda: corner))
    return Record("drawn", "disc.png", "disc.png", tmp_path / "disc.png", instances)


@pytest.mark.parametrize("number", range(1, 30))
def test_masks_stay_on_their_objects(record: Record, number: int) -> None:
    prepared = prepare(record, view=number)
    hw = prepared.image.shape[:2]
    assert all(0.35 * whole <= side <= whole for side, whole in zip(hw, HW, strict=True))
    for instance, truth in zip(prepared.instances, prepared.truths, strict=True):
        assert truth.mask.shape == hw
        if instance.object_id == "disc":
            inside, outside = prepared.image[truth.mask], prepared.image[~truth.mask]
            assert inside.min() > 100
            assert inside.min() > outside.max(initial=0)
            assert truth.pixels >= SEEN * disc(45, 70, 20).sum()
    assert len(prepared.instances) + prepared.problems["object outside the view"] == 2


def test_a_number_is_a_view_and_nought_is_the_image(record: Record) -> None:
    first, again, other = (prepare(record, view=view) for view in (1, 1, 2))
    np.testing.assert_array_equal(first.image, again.image)
    assert first.image.shape != other.image.shape or (first.image != other.image).any()
    np.testing.assert_array_equal(prepare(record).image, record.read_image())


def test_views_are_mirrored_half_of_the_time_and_reach_every_edge() -> None:
    rng = np.random.default_rng(0)
    views = [View.draw(HW, rng) for _ in range(400)]
    assert 0.4 < np.mean([view.mirrored for view in views]) < 0.6
    assert min(view.top for view in views) == 0
    assert max(view.top + view.hw[0] for view in views) == HW[0]
    assert all(view.hw[0] >= 1 and view.left + view.hw[1] <= HW[1] for view in views)


def test_one_pixel_has_views() -> None:
    view = View.draw((1, 1), np.random.default_rng(0))
    assert view.of_image(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1, 3)


def test_tokens_of_a_view_are_another_make_and_plain_ones_stay_the_make_they_were() -> None:
    made = {view: Manifest({"records": 1}, {}, TokenSettings(view=view)) for view in (0, 1, 2)}
    assert len({manifest.fingerprint for manifest in made.values()}) == 3
    assert '"view"' not in made[0]._text()
    with pytest.raises(TokensError, match="view"):
        TokenSettings(view=-1)
