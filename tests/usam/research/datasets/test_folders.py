"""Plain folders, trimaps, nuclei."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_layouts import HEIGHT, WIDTH, disc, picture, save

from usam.errors import DatasetError
from usam.research.datasets import open_dataset
from usam.research.datasets.folders import foreground
from usam.research.datasets.overlap import shared_pictures


def pairs(root: Path, count: int = 3, masks: str = "ground_truth_mask") -> Path:
    for number in range(count):
        save(root / "images" / f"{number:04d}.jpg", picture(number))
        save(root / masks / f"{number:04d}.png", disc(20 + number) * 255)
    return root


@pytest.mark.parametrize("masks", ["ground_truth_mask", "masks", "gt"])
def test_images_and_masks_by_name(tmp_path: Path, masks: str) -> None:
    dataset = open_dataset("folders", pairs(tmp_path / "ECSSD", masks=masks))
    records = list(dataset)
    assert dataset.name == "ecssd"
    assert [record.group for record in records] == ["ecssd/0000", "ecssd/0001", "ecssd/0002"]
    assert np.array_equal(records[2].instances[0].read_mask(), disc(22))


def test_what_has_no_partner_or_no_object_is_counted(tmp_path: Path) -> None:
    pairs(tmp_path, 4)
    (tmp_path / "images" / "0001.jpg").unlink()
    (tmp_path / "ground_truth_mask" / "0002.png").unlink()
    save(tmp_path / "ground_truth_mask" / "0003.png", np.zeros((HEIGHT, WIDTH)))
    dataset = open_dataset("folders", tmp_path, name="mine")
    assert len(dataset) == 2
    assert [len(record.instances) for record in dataset] == [1, 0]
    assert dataset.problems.counts == {"missing mask": 1, "missing image": 1, "empty mask": 1}


def test_layout_of_another_kind(tmp_path: Path) -> None:
    pairs(tmp_path, masks="labels")
    with pytest.raises(DatasetError, match=r"no ground_truth_mask/ or masks/ .*which has images, labels"):
        open_dataset("folders", tmp_path)
    assert len(open_dataset("folders", tmp_path, masks="labels")) == 3
    with pytest.raises(DatasetError, match="plain folders have none"):
        open_dataset("folders", tmp_path, "val")
    with pytest.raises(DatasetError, match="options that folders knows"):
        open_dataset("folders", tmp_path, colour="red")


def test_names_to_exclude(tmp_path: Path) -> None:
    pairs(tmp_path)
    (tmp_path / "overlap.txt").write_text("0001.jpg 100075.jpg\n0002\n")
    dataset = open_dataset("folders", tmp_path, exclude="overlap.txt")
    assert [record.image_id for record in dataset] == ["0000"]
    assert dataset.problems.counts == {"excluded": 2}
    with pytest.raises(DatasetError, match="names of images to leave out"):
        open_dataset("folders", tmp_path, exclude="nothing.txt")


def trimap() -> Any:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[disc(30, 20, 15)] = 255
    labels[disc(30, 20, 9)] = 1
    return labels


@pytest.mark.parametrize(("band", "radius"), [("object", 15), ("background", 9), ("nearest", 12)])
def test_the_band_of_a_trimap_goes_where_it_is_told(band: Any, radius: int) -> None:
    mask = foreground(trimap(), band)
    wrong = mask ^ disc(30, 20, radius)
    assert wrong.sum() <= (0 if band != "nearest" else 20)


def test_labels_of_oxford_pets() -> None:
    labels = np.array([0, 1, 2, 3], np.uint8)[(trimap() == 0) * 2 + (trimap() == 255) * 3 + (trimap() == 1) * 1]
    assert np.array_equal(foreground(labels, "nearest"), foreground(trimap(), "nearest"))
    assert np.array_equal(foreground(labels, "background"), disc(30, 20, 9))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 255], [False, True]),
        ([0, 1], [False, True]),
        ([0, 7], [False, True]),
        ([0, 9, 200, 255], [False, False, True, True]),
    ],
)
def test_two_valued_masks(values: list[int], expected: list[bool]) -> None:
    assert foreground(np.array([values], np.uint8)).tolist() == [expected]


def test_nuclei(tmp_path: Path) -> None:
    place = tmp_path / "stage1_train" / "abc"
    save(place / "images" / "abc.png", picture())
    save(place / "masks" / "n1.png", disc(10, 10, 4) * 255)
    save(place / "masks" / "n2.png", disc(40, 20, 5) * 255)
    save(place / "masks" / "n3.png", disc(40, 20, 5, 20, 20) * 255)
    save(place / "masks" / "n4.png", np.zeros((HEIGHT, WIDTH)))
    (tmp_path / "stage1_train" / "torn" / "images").mkdir(parents=True)
    dataset = open_dataset("dsb2018", tmp_path)
    (record,) = dataset
    assert [instance.object_id for instance in record.instances] == ["dsb2018/abc/n1", "dsb2018/abc/n2"]
    assert np.array_equal(record.instances[1].read_mask(), disc(40, 20, 5))
    assert dataset.problems.counts == {
        "folder without images/ or masks/": 1,
        "mask of another size": 1,
        "empty mask": 1,
    }
    with pytest.raises(DatasetError, match="the split stage1_train"):
        open_dataset("dsb2018", tmp_path, "test")


def test_pictures_in_two_sets_are_found_at_another_size(tmp_path: Path) -> None:
    pairs(tmp_path / "a", 4)
    save(tmp_path / "b" / "images" / "x.jpg", picture(2, 2 * HEIGHT, 2 * WIDTH))
    save(tmp_path / "b" / "masks" / "x.png", disc(height=2 * HEIGHT, width=2 * WIDTH) * 255)
    save(tmp_path / "b" / "images" / "y.jpg", picture(77))
    save(tmp_path / "b" / "masks" / "y.png", disc() * 255)
    found = shared_pictures(open_dataset("folders", tmp_path / "a"), open_dataset("folders", tmp_path / "b"))
    assert [(first, second) for first, second, _ in found] == [("a/0002", "b/x")]
    assert 0.97 <= found[0][2] <= 1.001


@pytest.mark.shared
def test_real_folders(shared: Path) -> None:
    for name, count in (("ECSSD", 100), ("OxfordPets_26", 26)):
        dataset = open_dataset("folders", shared / "data" / name)
        assert sum(len(record.instances) for record in dataset) == count
        assert dataset.problems.counts == {}
    assert len(open_dataset("dsb2018", shared / "data" / "DSB2018_subset")) == 55
