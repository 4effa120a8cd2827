"""Images beside one indexed mask file an image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_layouts import HEIGHT, WIDTH, disc, picture, save

from usam.errors import DatasetError
from usam.research.datasets import open_dataset
from usam.research.datasets.masks import object_numbers


def two_discs() -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    labels[disc(20)] = 1
    labels[disc(28)] = 7
    return labels


def pairs(root: Path, labels: np.ndarray, count: int = 1) -> Path:
    for number in range(count):
        save(root / "images" / f"{number:04d}.jpg", picture(number))
        path = root / "masks" / f"{number:04d}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), labels)
    return root


@pytest.mark.parametrize(("depth", "ignored"), [(np.uint8, 255), (np.uint16, 65535)])
def test_each_number_is_an_object_and_the_highest_is_ignored(tmp_path: Path, depth: type, ignored: int) -> None:
    labels = two_discs().astype(depth)
    labels[:3] = ignored
    (record,) = open_dataset("masks", pairs(tmp_path / "Mine", labels), licence="CC0")
    assert [instance.object_id for instance in record.instances] == ["mine/0000/1", "mine/0000/7"]
    assert record.read_ignored is not None
    np.testing.assert_array_equal(record.read_ignored(), labels == ignored)
    assert (record.dataset, record.group, record.licence) == ("mine", "mine/0000", "CC0")


def test_where_objects_overlap_the_upper_one_has_the_pixels(tmp_path: Path) -> None:
    (record,) = open_dataset("masks", pairs(tmp_path, two_discs()))
    below, above = (instance.read_mask() for instance in record.instances)
    np.testing.assert_array_equal(above, disc(28))
    np.testing.assert_array_equal(below, disc(20) & ~disc(28))
    assert record.read_ignored is None


def test_more_objects_than_eight_bits_hold() -> None:
    labels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    assert object_numbers(labels) == list(range(1, 600))


def test_an_image_without_objects_stays(tmp_path: Path) -> None:
    (record,) = open_dataset("masks", pairs(tmp_path, np.zeros((HEIGHT, WIDTH), np.uint8)))
    assert record.instances == ()


def test_groups_come_from_the_table(tmp_path: Path) -> None:
    pairs(tmp_path, two_discs(), 3)
    (tmp_path / "files.tsv").write_text("file\tgroup\n0000\tclip\n0002.jpg\tclip\n")
    records = list(open_dataset("masks", tmp_path, name="mine"))
    assert [record.group for record in records] == ["mine/clip", "mine/0001", "mine/clip"]
    (tmp_path / "files.tsv").write_text("file\tobjects\n0000\t2\n")
    assert next(iter(open_dataset("masks", tmp_path, name="mine"))).group == "mine/0000"


def test_one_bad_pair_is_named_and_passed_over(tmp_path: Path) -> None:
    pairs(tmp_path, two_discs(), 5)
    (tmp_path / "masks" / "0000.png").unlink()
    (tmp_path / "images" / "0001.jpg").unlink()
    save(tmp_path / "masks" / "0002.png", picture(2))
    save(tmp_path / "masks" / "0003.png", np.ones((HEIGHT, WIDTH + 1)))
    dataset = open_dataset("masks", tmp_path)
    assert [record.image_id for record in dataset] == ["0004"]
    assert dataset.problems.counts == {
        "missing mask": 1,
        "missing image": 1,
        "mask that is not one channel of 8 or 16 bits": 1,
        "mask of another size": 1,
    }


def test_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images/ in"):
        open_dataset("masks", tmp_path)
    pairs(tmp_path, two_discs())
    with pytest.raises(DatasetError, match="folders of masks have none"):
        open_dataset("masks", tmp_path, "val")
