"""COCO's readers, on files that are right and on files that are wrong in every way they are known to be."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_layouts import HEIGHT, WIDTH, coco, disc, picture, run_lengths, save

from usam.errors import DatasetError
from usam.research.datasets import open_dataset

SQUARE = [10, 5, 30, 5, 30, 25, 10, 25]


def compressed(mask: Any) -> dict[str, Any]:
    from pycocotools import mask as official

    code = official.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def test_polygons_and_run_lengths_give_the_same_masks(tmp_path: Path) -> None:
    truth = disc()
    coco(
        tmp_path,
        [
            {"segmentation": [SQUARE]},
            {"segmentation": run_lengths(truth)},
            {"segmentation": compressed(truth)},
        ],
    )
    (record,) = open_dataset("coco", tmp_path)

    square, plain, short = (instance.read_mask() for instance in record.instances)
    assert square.shape == (HEIGHT, WIDTH)
    assert square.sum() == 20 * 20
    assert square[5:25, 10:30].all()
    assert np.array_equal(plain, truth)
    assert np.array_equal(short, truth)
    assert record.licence == "Attribution License"
    assert record.group == "coco/1"
    assert record.instances[0].category == "train"
    assert record.read_image().shape == (HEIGHT, WIDTH, 3)


def test_parts_of_one_object_are_joined(tmp_path: Path) -> None:
    coco(tmp_path, [{"segmentation": [[0, 0, 10, 0, 10, 10, 0, 10], [20, 20, 30, 20, 30, 30, 20, 30]]}])
    (record,) = open_dataset("coco", tmp_path)
    assert record.instances[0].read_mask().sum() == 200


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ({"segmentation": run_lengths(disc()), "iscrowd": 1}, "crowd"),
        ({"segmentation": run_lengths(disc(height=50))}, "mask of another size"),
        ({"segmentation": run_lengths(np.zeros((HEIGHT, WIDTH)))}, "empty mask"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [5, 10]}}, "bad run lengths"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [-5, 2405]}}, "bad run lengths"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "0PPPPPPPPPPPPP"}}, "bad run lengths"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "\x01\x02"}}, "bad run lengths"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": "o" * 40}}, "bad run lengths"),
        ({"segmentation": {"counts": [2400]}}, "bad run lengths"),
        ({"segmentation": None}, "bad run lengths"),
        ({"segmentation": {"size": None, "counts": [2400]}}, "bad run lengths"),
        ({"segmentation": {"size": [HEIGHT, WIDTH], "counts": [None]}}, "bad run lengths"),
        ({"segmentation": []}, "bad polygon"),
        ({"segmentation": [[1, 2, 3, 4]]}, "bad polygon"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "bad polygon"),
        ({"segmentation": [["a", "b", "c", "d", "e", "f"]]}, "bad polygon"),
        ({"segmentation": [[0, 0, 1e9, 0, 1e9, 1e9]]}, "bad polygon"),
        ({"segmentation": [[0, 0, float("nan"), 0, 5, 5]]}, "bad polygon"),
        ({"segmentation": [[10, 10, 10.1, 10, 10.1, 10.1]]}, "empty mask"),
    ],
)
def test_what_cannot_be_used_is_named_and_counted(tmp_path: Path, annotation: dict[str, Any], kind: str) -> None:
    dataset = open_dataset("coco", coco(tmp_path, [annotation, {"segmentation": [SQUARE]}]))
    (record,) = dataset
    assert [instance.object_id for instance in record.instances] == ["coco/101"]
    assert dict(dataset.problems.counts) == {kind: 1}
    assert "coco/100" in dataset.problems.summary()
    list(dataset)
    assert dataset.problems.counts[kind] == 1


def test_images_that_are_missing_broken_or_of_another_size_are_left_out(tmp_path: Path) -> None:
    coco(tmp_path, [{"segmentation": [SQUARE]}], images=4)
    (tmp_path / "val2017" / f"{2:012d}.jpg").unlink()
    (tmp_path / "val2017" / f"{3:012d}.jpg").write_bytes(b"no picture")
    save(tmp_path / "val2017" / f"{4:012d}.jpg", picture(4, 33, 44))
    dataset = open_dataset("coco", tmp_path)
    assert len(dataset) == 4
    assert [record.image_id for record in dataset] == ["1"]
    assert dict(dataset.problems.counts) == {
        "missing image": 1,
        "unreadable image": 1,
        "image of another size": 1,
    }


def test_an_annotation_without_an_image_is_counted(tmp_path: Path) -> None:
    coco(tmp_path, [{"segmentation": [SQUARE]}, {"segmentation": [SQUARE], "image_id": 9}])
    assert open_dataset("coco", tmp_path).problems.counts["annotation of an unlisted image"] == 1


def test_a_wrong_folder_says_what_was_expected_and_what_came(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"annotations/instances_<split>.json.*no folder"):
        open_dataset("coco", tmp_path / "nothing")
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DatasetError, match=r"no annotations/ in .*which has pictures"):
        open_dataset("coco", tmp_path)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(DatasetError, match="with nothing"):
        open_dataset("coco", tmp_path)
    (tmp_path / "annotations" / "instances_val2017.json").write_text("{}")
    with pytest.raises(DatasetError, match="no val2017/"):
        open_dataset("coco", tmp_path)
    (tmp_path / "val2017").mkdir()
    with pytest.raises(DatasetError, match=r"with 'images' and 'annotations', got KeyError"):
        open_dataset("coco", tmp_path)


def test_entries_without_what_they_need(tmp_path: Path) -> None:
    coco(tmp_path, [{"segmentation": [SQUARE]}])
    path = tmp_path / "annotations" / "instances_val2017.json"
    whole = json.loads(path.read_text())
    for place, key in (("annotations", "image_id"), ("images", "height")):
        torn = json.loads(path.read_text())
        del torn[place][0][key]
        path.write_text(json.dumps(torn))
        with pytest.raises(DatasetError, match=rf"coco: entries with .*{key}"):
            open_dataset("coco", tmp_path)
        path.write_text(json.dumps(whole))


def test_a_split_is_found_by_its_beginning(tmp_path: Path) -> None:
    coco(tmp_path, [{"segmentation": [SQUARE]}])
    assert len(open_dataset("coco", tmp_path, "val")) == 1
    with pytest.raises(DatasetError, match="one of the splits val2017, got 'test'"):
        open_dataset("coco", tmp_path, "test")


def test_records_travel_to_other_processes(tmp_path: Path) -> None:
    (record,) = open_dataset(
        "coco", coco(tmp_path, [{"segmentation": [SQUARE]}, {"segmentation": run_lengths(disc())}])
    )
    copy = pickle.loads(pickle.dumps(record))
    for ours, theirs in zip(record.instances, copy.instances, strict=True):
        assert np.array_equal(ours.read_mask(), theirs.read_mask())


def panoptic(root: Path, colours: Any, segments: list[dict[str, Any]]) -> Path:
    coco(root, [])
    save(root / "annotations" / "panoptic_val2017" / f"{1:012d}.png", colours)
    document = {
        "images": [{"id": 1, "file_name": f"{1:012d}.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"image_id": 1, "file_name": f"{1:012d}.png", "segments_info": segments}],
        "categories": [{"id": 7, "name": "train"}],
    }
    (root / "annotations" / "panoptic_val2017.json").write_text(json.dumps(document))
    return root


def test_panoptic_segments_by_colour(tmp_path: Path) -> None:
    truth = disc()
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[truth] = (1, 2, 3)
    segments = [
        {"id": 1 + 2 * 256 + 3 * 65536, "category_id": 7, "iscrowd": 0},
        {"id": 5, "category_id": 7, "iscrowd": 0},
        {"id": 0, "category_id": 7, "iscrowd": 1},
    ]
    dataset = open_dataset("coco-panoptic", panoptic(tmp_path, colours, segments))
    (record,) = dataset
    assert np.array_equal(record.instances[0].read_mask(), truth)
    assert record.group == "coco/1"
    assert dict(dataset.problems.counts) == {"empty mask": 1, "crowd": 1}


def test_panoptic_map_of_another_size(tmp_path: Path) -> None:
    dataset = open_dataset("coco-panoptic", panoptic(tmp_path, np.zeros((9, 9, 3)), []))
    assert list(dataset) == []
    assert dict(dataset.problems.counts) == {"mask of another size": 1}


@pytest.mark.shared
def test_real_coco(shared: Path) -> None:
    instances = open_dataset("coco", shared / "data" / "coco_subset")
    records = list(instances)
    assert len(records) == len(instances) == 343
    assert sum(len(record.instances) for record in records) == 2945
    assert dict(instances.problems.counts) == {"crowd": 29}
    panoptic_set = open_dataset("coco-panoptic", shared / "data" / "coco_subset")
    assert sum(len(record.instances) for record in panoptic_set) == 1105
    assert panoptic_set.problems.counts == {"crowd": 6}
