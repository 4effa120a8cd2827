"""Small pictures: masks in colours of their own, within bounds of size, number and disk; a broken one is a sentence."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from backend.errors import FetchError, LabelConfigError
from backend.image_fetcher import ImageFetcher
from backend.label_studio.records import Task
from backend.settings import Settings
from backend.store import Store
from backend.store.records import ProposalRow, ScoreRow
from backend.web.dashboard import thumbnails as module
from backend.web.dashboard.thumbnails import (
    SIDE,
    Thumbnails,
    View,
    colours,
    drawn,
    image_value,
    sentence_picture,
    shown_masks,
    shrunk,
)
from tests.factories import HW, bright, kept_objects, label_config, picture_address


class Counting:
    def __init__(self, images: ImageFetcher) -> None:
        self.images, self.fetched, self.error = images, 0, ""

    def fetch_bytes(self, value: str, task_id: int | None = None) -> bytes:
        self.fetched += 1
        if self.error:
            raise FetchError("an image", self.error)
        return self.images.fetch_bytes(value, task_id)

    def decode(self, data: bytes) -> Any:
        return self.images.decode(data)


@pytest.fixture
def images(settings: Settings) -> Iterator[Counting]:
    fetcher = ImageFetcher(settings)
    yield Counting(fetcher)
    fetcher.close()


@pytest.fixture
def thumbnails(store: Store, images: Counting, tmp_path: Path) -> Thumbnails:
    store.record_tasks(3, [Task(number, {"image": picture_address(number)}, "t1", 0) for number in range(20, 26)])
    store.put_proposal(3, kept_objects(bright()).pack(20, "key", {}))
    store.put_scores(3, [ScoreRow(20, "v", 0, 1, 0, False, "why", shown=(0,))])
    return Thumbnails(store, images, tmp_path / "thumbnails", lambda project: label_config())


def opened(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_masks_are_drawn_into_the_picture(thumbnails: Thumbnails) -> None:
    with_mask, without = thumbnails.picture(3, 20), thumbnails.picture(3, 21)
    assert with_mask is not None
    assert without is not None
    assert (with_mask.media_type, with_mask.failed) == ("image/jpeg", False)
    middle = [opened(one.content)[HW[0] * 3 // 8, HW[1] * 3 // 8] for one in (with_mask, without)]
    assert np.abs(middle[0] - middle[1]).max() > 30, "the bright thing has the mask's colour"
    assert thumbnails.picture(3, 99) is None


def test_it_is_made_once_for_what_it_shows(thumbnails: Thumbnails, images: Counting, store: Store) -> None:
    first = thumbnails.picture(3, 21)
    assert thumbnails.picture(3, 21) == first
    assert images.fetched == 1
    store.put_scores(3, [ScoreRow(21, "w", 0, 1, 0, False, "why")])
    thumbnails.picture(3, 21)
    assert images.fetched == 2, "another ranking may have other masks"


def test_a_picture_that_cannot_be_had_is_a_sentence_for_a_while(
    thumbnails: Thumbnails, images: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.error = "HTTP 404 <&>"
    for _ in range(2):
        found = thumbnails.picture(3, 21)
        assert found is not None
        assert (found.failed, found.media_type) == (True, "image/svg+xml")
        assert "HTTP 404 <&>" in " ".join(ElementTree.fromstring(found.content).itertext())
    assert images.fetched == 1, "not asked for again at each look"
    images.error = ""
    monkeypatch.setattr(module, "FAILURE_KEPT_S", -1.0)
    healed = thumbnails.picture(3, 21)
    assert healed is not None
    assert not healed.failed


def test_a_file_that_is_no_picture_is_a_sentence(store: Store, thumbnails: Thumbnails) -> None:
    store.record_tasks(3, [Task(30, {"image": "data:image/png;base64,AAAA"}, "t1", 0), Task(31, {"x": 1}, "t1", 0)])
    for task in (30, 31):
        found = thumbnails.picture(3, task)
        assert found is not None
        assert found.failed


@pytest.mark.parametrize("damage", [lambda file: b"", lambda file: bytes(len(file)), lambda file: file[:-40]])
def test_a_picture_that_is_damaged_on_disk_is_made_again(
    thumbnails: Thumbnails, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    made = thumbnails.picture(3, 20)
    (path,) = (tmp_path / "thumbnails").glob("*.jpg")
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert thumbnails.picture(3, 20) == made
    assert path.read_bytes() == whole


def test_the_disk_is_used_within_a_bound(
    thumbnails: Thumbnails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "thumbnails"
    thumbnails.picture(3, 20)
    (oldest,) = folder.glob("*.jpg")
    os.utime(oldest, (1, 1))
    monkeypatch.setattr(thumbnails, "_kept_bytes", oldest.stat().st_size * 5 // 2)
    monkeypatch.setattr(thumbnails, "_size", None)
    for task in range(21, 26):
        thumbnails.picture(3, task)
        assert sum(path.stat().st_size for path in folder.glob("*.jpg")) <= thumbnails._kept_bytes
    assert not oldest.exists(), "the least recently shown goes first"
    assert list(folder.glob("*.jpg"))


def test_a_full_disk_does_not_hide_the_picture(thumbnails: Thumbnails, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError("no room")

    monkeypatch.setattr(module, "replacing", full)
    found = thumbnails.picture(3, 21)
    assert found is not None
    assert not found.failed


def test_failures_are_remembered_within_a_bound(thumbnails: Thumbnails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAILURES_KEPT", 2)
    for task in range(5):
        thumbnails._note_failure(f"{task}.jpg", "why")
    assert list(thumbnails._failures) == ["3.jpg", "4.jpg"]


def test_a_failure_under_another_configuration_counts_no_more(store: Store, images: Counting, tmp_path: Path) -> None:
    store.record_tasks(3, [Task(40, {"about": "/about", "image": picture_address()}, "t1", 0)])
    configs = iter(["", label_config()])
    thumbnails = Thumbnails(store, images, tmp_path / "thumbnails", lambda project: next(configs))
    found = [thumbnails.picture(3, 40) for _ in range(2)]
    assert [one is not None and one.failed for one in found] == [True, False]


@pytest.mark.parametrize("hw", [(2000, 1000), (10, 20), (1, 5000), (481, 480)])
def test_no_side_is_longer_than_the_bound(hw: tuple[int, int]) -> None:
    height, width = shrunk(np.zeros((*hw, 3), np.uint8)).shape[:2]
    assert 1 <= min(height, width) <= max(height, width) <= SIDE


def test_what_is_shown_is_drawn_and_what_cannot_be_read_is_left_out() -> None:
    row = kept_objects(bright(), ~bright()).pack(1, "key", {})
    (mask,) = shown_masks(row, (0, 7), (24, 32))
    assert mask.shape == (24, 32)
    assert 0 < mask.mean() < 0.2
    assert len(shown_masks(row, (0, 1), (24, 32))) == 2
    assert shown_masks(ProposalRow(1, "key", b"damage", {}), (0,), (24, 32)) == []
    assert shown_masks(None, (0,), (24, 32)) == []


def test_masks_have_colours_far_from_each_other() -> None:
    palette = colours(8)
    distances = np.linalg.norm(palette[:, None] - palette[None], axis=2) + 1000 * np.eye(8)
    assert distances.min() > 40
    image = np.full((40, 40, 3), 90, np.uint8)
    masks = [np.zeros((40, 40), bool) for _ in range(2)]
    masks[0][:, :20], masks[1][10:30, 25:35] = True, True
    found = drawn(image, masks).astype(int)
    assert np.abs(found[20, 5] - found[20, 30]).max() > 40
    assert (found[35, 38] == 90).all(), "what is in no mask stays as it is"


def test_the_picture_is_the_configurations_else_the_first_text() -> None:
    data = {"note": "x.txt", "image": "a.png"}
    assert image_value(label_config(), data) == "a.png"
    assert image_value("", data) == "x.txt"
    assert image_value("", {"note": "x", "image": "s3://a/b.png"}) == "s3://a/b.png"
    assert image_value("", {"n": 1}) == ""
    with pytest.raises(LabelConfigError):
        image_value(label_config(), {"other": "a.png"})


def test_a_sentence_of_any_signs_is_a_picture() -> None:
    root = ElementTree.fromstring(sentence_picture("<b>\0\ud800 & " + "long " * 200))
    assert root.tag.endswith("svg")


@pytest.mark.parametrize("view", ["small", "proposals", "doubt"])
def test_a_picture_of_more_than_a_hundred_megapixels_is_a_sentence(
    thumbnails: Thumbnails, store: Store, view: View
) -> None:
    out = io.BytesIO()
    Image.new("1", (10_001, 10_000)).save(out, "PNG")
    address = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    store.record_tasks(3, [Task(25, {"image": address}, "t2", 0)])
    picture = thumbnails.picture(3, 25, view)
    assert picture is not None
    assert picture.failed
    assert "pixels" in " ".join(ElementTree.fromstring(picture.content).itertext())
