"""ADE20k in full, SceneParse150, BSDS500."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_layouts import HEIGHT, WIDTH, disc, picture, save
from scipy.io import savemat

from usam.errors import DatasetError
from usam.research.datasets import open_dataset

SCENE = "ADE_train_00000007"


def ade(root: Path, objects: list[dict[str, Any]]) -> Path:
    place = root / "images" / "ADE" / "training" / "urban" / "street"
    save(place / f"{SCENE}.jpg", picture())
    (place / f"{SCENE}.json").write_text(json.dumps({"annotation": {"object": objects}}))
    return place


def listed(number: int, parent: Any = (), name: str = "house") -> dict[str, Any]:
    return {
        "id": number,
        "name": name,
        "parts": {"ispartof": list(parent) if isinstance(parent, tuple) else parent, "hasparts": []},
        "instance_mask": f"{SCENE}/instance_{number:03d}_{SCENE}.png",
    }


def test_objects_parts_and_what_is_hidden(tmp_path: Path) -> None:
    place = ade(
        tmp_path, [listed(0), listed(1, 0, "door"), listed(2, (1,), "knob"), listed(3), listed(4), listed(5), {"id": 6}]
    )
    seen, hidden = disc(30, 20, 12), disc(30, 20, 6)
    amodal = seen * 255
    amodal[hidden] = 128
    save(place / SCENE / f"instance_000_{SCENE}.png", amodal)
    save(place / SCENE / f"instance_001_{SCENE}.png", disc(5, 5, 3) * 255)
    save(place / SCENE / f"instance_002_{SCENE}.png", disc(5, 5, 1) * 255)
    save(place / SCENE / f"instance_003_{SCENE}.png", disc() * 128)
    save(place / SCENE / f"instance_004_{SCENE}.png", np.ones((7, 7)) * 255)
    dataset = open_dataset("ade20k", tmp_path)
    (record,) = dataset
    house, door, knob = record.instances
    assert np.array_equal(house.read_mask(), seen & ~hidden)
    assert (house.parent_id, door.parent_id, knob.parent_id) == ("", house.object_id, door.object_id)
    assert (record.split, record.group, door.category) == ("training", f"ade20k/{SCENE}", "door")
    assert dataset.problems.counts == {
        "empty mask": 1,
        "mask of another size": 1,
        "missing mask": 1,
        "object without id, parts or instance_mask": 1,
    }
    (whole,) = open_dataset("ade20k", tmp_path, amodal=True, parts=False)
    assert np.array_equal(whole.instances[0].read_mask(), seen)
    assert [instance.object_id[-1] for instance in whole.instances] == ["0", "3"]


def test_scene_without_a_readable_annotation(tmp_path: Path) -> None:
    place = ade(tmp_path, [])
    (place / f"{SCENE}.json").write_text("{")
    save(place / "ADE_train_00000008.jpg", picture())
    dataset = open_dataset("ade20k", tmp_path)
    assert list(dataset) == []
    assert dataset.problems.counts == {"unreadable annotation": 1, "missing annotation": 1}
    with pytest.raises(DatasetError, match="no images/ADE/ or ADE20K_2021_17_01/images/ADE/"):
        open_dataset("ade20k", tmp_path / "images")


def test_regions_of_classes(tmp_path: Path) -> None:
    labels = disc(12, 20, 8) * 3 + disc(45, 20, 8) * 3 + disc(28, 20, 2) * 3
    save(tmp_path / "images" / "validation" / "v.jpg", picture())
    save(tmp_path / "annotations" / "validation" / "v.png", labels)
    (tmp_path / "objectInfo150.csv").write_text("Idx,Ratio,Train,Val,Stuff,Name\n3,0.1,1,1,1,sky\n")
    dataset = open_dataset("sceneparse150", tmp_path, "validation")
    (record,) = dataset
    assert [instance.category for instance in record.instances] == ["sky", "sky"]
    assert sum(instance.read_mask().sum() for instance in record.instances) == 2 * disc(12, 20, 8).sum()
    assert dataset.problems.counts == {"speck": 1}
    (whole,) = open_dataset("sceneparse150", tmp_path, regions=False)
    assert np.array_equal(whole.instances[0].read_mask(), labels > 0)


def test_labels_that_are_none_of_the_classes(tmp_path: Path) -> None:
    save(tmp_path / "images" / "v.jpg", picture())
    save(tmp_path / "annotations" / "v.png", disc() * 200)
    save(tmp_path / "images" / "w.jpg", picture())
    dataset = open_dataset("sceneparse150", tmp_path)
    assert list(dataset) == []
    assert dataset.problems.counts == {"unreadable mask": 1, "missing mask": 1}
    with pytest.raises(DatasetError, match="images without splits"):
        open_dataset("sceneparse150", tmp_path, "validation")


def bsds(root: Path, name: str, sheets: list[Any]) -> None:
    save(root / "data" / "images" / "val" / f"{name}.jpg", picture())
    cells = np.empty((1, len(sheets)), object)
    for place, sheet in enumerate(sheets):
        cells[0, place] = {"Segmentation": sheet.astype(np.uint16), "Boundaries": sheet > 1}
    (root / "data" / "groundTruth" / "val").mkdir(parents=True, exist_ok=True)
    savemat(root / "data" / "groundTruth" / "val" / f"{name}.mat", {"groundTruth": cells})


def test_a_record_for_each_annotator(tmp_path: Path) -> None:
    bsds(tmp_path, "11", [1 + disc() * 1, 1 + disc(20) * 1 + disc(50, 10, 4) * 2])
    bsds(tmp_path, "12", [np.ones((5, 5))])
    save(tmp_path / "data" / "images" / "val" / "13.jpg", picture())
    dataset = open_dataset("bsds500", tmp_path)
    assert len(dataset) == 3
    first, second = dataset
    assert (first.annotator, second.annotator) == ("0", "1")
    assert first.image_id == second.image_id == "11"
    assert first.group == second.group == "bsds500/11"
    assert [len(first.instances), len(second.instances)] == [2, 3]
    assert np.array_equal(first.instances[1].read_mask(), disc())
    assert np.array_equal(second.instances[2].read_mask(), disc(50, 10, 4))
    assert dataset.problems.counts == {"missing annotation": 1, "mask of another size": 1}


def test_a_damaged_mat_file_is_named(tmp_path: Path) -> None:
    bsds(tmp_path, "11", [1 + disc() * 1])
    bsds(tmp_path, "12", [1 + disc() * 1])
    (tmp_path / "data" / "groundTruth" / "val" / "12.mat").write_bytes(b"MATLAB 5.0" + bytes(200))
    dataset = open_dataset("bsds500", tmp_path)
    assert [record.image_id for record in dataset] == ["11"]
    assert dataset.problems.counts == {"unreadable annotation": 1}


@pytest.mark.shared
def test_real_scenes(shared: Path) -> None:
    scenes = list(open_dataset("ade20k", shared / "data" / "ADE20K_full"))
    objects = {instance.object_id for record in scenes for instance in record.instances}
    parents = {i.parent_id for record in scenes for i in record.instances if i.parent_id}
    assert (len(scenes), len(objects)) == (3, 139)
    assert parents
    assert parents <= objects
    parsed = list(open_dataset("sceneparse150", shared / "data" / "ADE20K_sceneparsing" / "sampleData"))
    assert {instance.category for instance in parsed[0].instances} >= {"wall"}
    sheets = open_dataset("bsds500", shared / "data" / "BSDS500", "val")
    assert len(sheets) > 400
    record = next(iter(sheets))
    covered = sum(instance.read_mask().astype(int) for instance in record.instances)
    assert (np.asarray(covered) == 1).all()
    assert covered.shape in ((321, 481), (481, 321))


def test_sizes_are_those_of_the_picture() -> None:
    assert picture().shape == (HEIGHT, WIDTH, 3)
