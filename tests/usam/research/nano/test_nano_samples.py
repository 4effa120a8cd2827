"""Training samples: what is drawn lies where it must."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from usam.errors import DatasetError
from usam.research.datasets import open_dataset
from usam.research.datasets.photographs import picture_group
from usam.research.datasets.record import Instance, Record
from usam.research.nano.samples import (
    COCO_SHARE,
    PromptCounts,
    box_around,
    choose_masks,
    click_in,
    correction_clicks,
    crop_scene,
    degrade,
    draw_batch,
    inset,
    paste_object,
    picture_shares,
)
from usam.research.nano.scenes import Scene
from usam.research.nano.stored_images import (
    MOST_FRAMES,
    MOST_MASKS,
    MappedStore,
    StoredImage,
    nano_split,
    sets_named,
    store_record,
    training_records,
)


def disc(side: int, x: float, y: float, radius: float) -> np.ndarray:
    ys, xs = np.mgrid[:side, :side]
    return (xs - x) ** 2 + (ys - y) ** 2 <= radius**2


@pytest.fixture
def stored() -> StoredImage:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
    masks = np.stack([disc(64, 20, 20, 12), disc(64, 45, 40, 8)]).astype(np.uint8) * 255
    return StoredImage(image, masks)


def test_split_is_fixed_and_ignores_spelling() -> None:
    assert nano_split("000000000139") == nano_split("139") == nano_split("train2017/000000000139.jpg")
    parts = Counter(nano_split(str(number)) for number in range(4000))
    assert parts["train"] / 4000 == pytest.approx(0.70, abs=0.03)
    assert parts["heads"] / 4000 == pytest.approx(0.15, abs=0.02)
    assert parts["test"] / 4000 == pytest.approx(0.15, abs=0.02)


def test_record_is_stored_small(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((600, 960, 3), 128, np.uint8))
    big, dot = np.zeros((600, 960), bool), np.zeros((600, 960), bool)
    big[100:300, 200:500] = True
    dot[:4, :4] = True
    record = Record("d", "a", "a", tmp_path / "a.png", (Instance("1", lambda: big), Instance("2", lambda: dot)))
    small = store_record(record)
    assert small is not None
    assert small.image.shape == (300, 480, 3)
    assert small.masks.shape == (1, 150, 240)
    assert (small.masks > 0).mean() == pytest.approx(big.mean(), rel=0.05)
    only_dot = Record("d", "a", "a", tmp_path / "a.png", (Instance("2", lambda: dot),))
    assert store_record(only_dot) is None
    with pytest.raises(DatasetError, match="images with masks"):
        MappedStore.of([only_dot], tmp_path / "none")
    frames = [Record("d", str(i), "clip", tmp_path / "a.png", record.instances) for i in range(MOST_FRAMES + 5)]
    store = MappedStore.of(frames, tmp_path / "pixels", longest=240)
    assert len(store) == MOST_FRAMES
    read = pickle.loads(pickle.dumps(store))[-1]
    assert read.image.shape == (150, 240, 3)
    assert (read.masks == small.masks[:, ::2, ::2]).mean() > 0.99
    assert (read.ignored, read.dataset) == (None, "d")


def test_no_training_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="training data"):
        list(training_records(tmp_path))


@pytest.mark.shared
def test_only_the_training_part_is_read(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "coco_subset").symlink_to(shared / "data" / "coco_subset")
    records = training_records(tmp_path)
    assert {nano_split(next(records).group) for _ in range(20)} == {"train"}


@pytest.mark.parametrize("seed", range(8))
def test_crop_moves_image_and_masks_together(seed: int) -> None:
    """An image that is white exactly where its mask is stays so."""
    mask = disc(64, 30, 34, 14)
    image = np.kron(mask, np.ones((2, 2)))[..., None].repeat(3, 2).astype(np.uint8) * 255
    scene = crop_scene(StoredImage(image, mask[None].astype(np.uint8) * 255), 64, np.random.default_rng(seed))
    assert scene.image.shape == (64, 64, 3)
    if len(scene.masks):
        bright = scene.image.astype(float).mean(2)
        coverage = np.kron(scene.masks[0], np.ones((4, 4)))
        assert np.corrcoef(bright.ravel(), coverage.ravel())[0, 1] > 0.85


def test_paste_hides_what_lies_below(stored: StoredImage) -> None:
    scene = Scene(np.zeros((64, 64, 3), np.uint8), np.ones((1, 16, 16), np.float32))
    rng = np.random.default_rng(2)
    pasted = paste_object(scene, stored, rng)
    assert len(pasted.masks) == 2
    np.testing.assert_allclose(pasted.masks.sum(0), 1.0, atol=1e-5)
    assert pasted.image.any()
    assert not scene.image.any()


def test_clicks_lie_in_the_mask() -> None:
    mask = disc(16, 5, 9, 4).astype(np.float32)
    points = click_in(mask, 50, np.random.default_rng(0), centred=True)
    cells = np.floor((points + 0.5) / 4).astype(int)
    assert (mask[cells[:, 1], cells[:, 0]] > 0.5).all()
    np.testing.assert_allclose(points[0], (np.array([5.5, 9.5]) * 4 - 0.5), atol=2.5)


def test_box_is_tight_to_a_fraction_of_a_cell() -> None:
    mask = np.zeros((16, 16), np.float32)
    mask[4:8, 3:10] = 1
    mask[4:8, 10] = 0.5
    box = box_around(mask, np.random.default_rng(0), jitter=False)
    np.testing.assert_allclose(box, np.array([[12, 16], [42, 32]]) - 0.5)
    shaken = box_around(mask, np.random.default_rng(0), jitter=True)
    assert 0 < np.abs(shaken - box).max() < 5


def test_every_mask_is_chosen_before_any_again() -> None:
    masks = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)
    chosen = choose_masks(masks, 6, np.random.default_rng(1))
    assert set(chosen[:4]) == {0, 1, 2, 3}
    assert len(chosen) == 6


def test_corrections_say_what_was_missed() -> None:
    truth = np.zeros((3, 8, 8), np.float32)
    truth[:, 2:6, 2:6] = 1
    logits = np.where(truth > 0, 1.0, -1.0).astype(np.float32)
    logits[0, 2, 2] = -1
    logits[1, 7, 7] = 1
    points, labels = correction_clicks(logits, truth, np.random.default_rng(0))
    assert labels[:, 0].tolist() == [1, 0, -1]
    np.testing.assert_allclose(points[0, 0], [9.5, 9.5])
    np.testing.assert_allclose(points[1, 0], [29.5, 29.5])


def test_batch_is_whole_and_repeatable(stored: StoredImage) -> None:
    counts = PromptCounts(2, 2, 1)
    first, again = (
        draw_batch([stored], 3, 64, counts, np.random.default_rng(5), synthetic=0.5, pasted=0.5) for _ in range(2)
    )
    assert first.images.shape == (3, 64, 64, 3)
    assert [group.kind for group in first.groups] == ["click", "box", "points"]
    for group, same in zip(first.groups, again.groups, strict=True):
        assert len(group.owner) == len(group.points) == len(group.labels) == len(group.targets)
        assert set(group.owner) == {0, 1, 2}
        np.testing.assert_array_equal(group.points, same.points)
        assert (group.points >= -0.5).all()
        assert (group.points < 64).all()


def test_every_set_counts_by_the_root_of_its_size(stored: StoredImage) -> None:
    store = [replace(stored, dataset=name) for name in ["cats"] * 16 + ["needles"] * 4 + ["coco"] * 4]
    shares = picture_shares(store)
    assert shares.sum() == pytest.approx(1)
    cats, needles, coco = shares[:16].sum(), shares[16:20].sum(), shares[20:].sum()
    assert cats == pytest.approx(2 * needles)
    assert coco == pytest.approx(COCO_SHARE * needles)


def test_many_objects_leave_some_of_every_size(tmp_path: Path) -> None:
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), np.full((300, 400, 3), 128, np.uint8))
    masks = [disc(400, 200, 150, radius)[:300] for radius in np.linspace(10, 120, 3 * MOST_MASKS)]
    instances = tuple(Instance(str(number), lambda mask=mask: mask) for number, mask in enumerate(masks))
    kept = store_record(Record("d", "a", "a", tmp_path / "a.png", instances))
    assert kept is not None
    assert len(kept.masks) == MOST_MASKS
    areas = kept.masks.mean((1, 2)) / 255
    assert areas[0] > 0.3
    assert areas[-1] < 0.005


def test_ignored_pixels_move_with_the_image() -> None:
    """A scene that is gray exactly where nothing is known stays so."""
    mask = np.zeros((64, 64), np.uint8)
    mask[4:30, 4:30] = 255
    ignored = np.zeros((64, 64), np.uint8)
    ignored[36:60, 20:60] = 255
    image = np.kron(ignored, np.ones((2, 2), np.uint8))[..., None].repeat(3, 2)
    for seed in range(6):
        scene = crop_scene(StoredImage(image, mask[None], ignored), 64, np.random.default_rng(seed))
        assert scene.ignored is not None
        bright = scene.image.astype(float).mean(2).reshape(16, 4, 16, 4).mean((1, 3))
        if 0.05 < scene.ignored.mean() < 0.9:
            assert np.corrcoef(bright.ravel(), scene.ignored.ravel())[0, 1] > 0.85
        for index in range(len(scene.masks)):
            target = scene.target(index)
            assert ((target < 0) == ((scene.ignored > 0.5) & (scene.masks[index] < 0.5))).all()


def test_no_correction_where_nothing_is_known() -> None:
    truth = np.full((1, 8, 8), -1, np.float32)
    truth[0, 2:6, 2:6] = 1
    logits = np.ones((1, 8, 8), np.float32)
    assert correction_clicks(logits, truth, np.random.default_rng(0))[1].tolist() == [[-1]]


def test_an_inset_brings_its_objects_and_hides_what_it_covers() -> None:
    outer = Scene(np.zeros((64, 64, 3), np.uint8), np.ones((1, 16, 16), np.float32), np.ones((16, 16), np.float32))
    inner = Scene(np.full((64, 64, 3), 200, np.uint8), np.ones((1, 16, 16), np.float32))
    both = inset(outer, inner, np.random.default_rng(0))
    np.testing.assert_allclose(both.masks.sum(0), 1.0)
    bright = both.image[::4, ::4, 0] > 100
    np.testing.assert_array_equal(bright, both.masks[1] > 0.5)
    assert both.ignored is not None
    np.testing.assert_array_equal(both.ignored < 0.5, bright)
    assert not outer.image.any()


def test_degraded_pictures_stay_pictures() -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    rng = np.random.default_rng(1)
    made = [degrade(image, rng) for _ in range(40)]
    assert all(each.shape == image.shape and each.dtype == np.uint8 for each in made)
    assert any(not np.array_equal(each, image) for each in made)
    assert any(np.array_equal(each, image) for each in made)


@pytest.mark.parametrize(
    ("licence", "forbidden"),
    [
        ("Attribution-NoDerivs License", True),
        ("Attribution-NonCommercial-NoDerivs License", True),
        ("Attribution-NonCommercial License", False),
        ("CC BY 4.0", False),
        ("", False),
    ],
)
def test_licences_without_derivatives_are_known(licence: str, forbidden: bool) -> None:
    record = Record("d", "a", "a", Path("a.jpg"), (), licence=licence)
    assert record.forbids_derivatives is forbidden


def test_sets_to_train_on_go_by_name() -> None:
    assert [sets_named(name) for name in ("old", "A", "AB")] == ["old", "A", "AB"]
    with pytest.raises(DatasetError, match="one of old, A, AB"):
        sets_named("B")


@pytest.mark.shared
def test_every_domain_has_pictures_in_every_part(shared: Path) -> None:
    """By name alone: the files of the sets are not opened."""
    dataset = open_dataset("photographs", shared / "data" / "photographs")
    parts: dict[str, Counter[str]] = {}
    groups: dict[str, set[str]] = {}
    for name, index in dataset._entries:
        source = list(dataset._source_paths[name].values())[index]
        group = picture_group(name, source)
        part = nano_split(f"{name}/{group}")
        parts.setdefault(name, Counter())[part] += 1
        groups.setdefault(group, set()).add(part)
    assert len(parts) == 24
    assert all(min(found[part] for part in ("train", "heads", "test")) > 0 for found in parts.values())
    assert all(len(found) == 1 for found in groups.values())
