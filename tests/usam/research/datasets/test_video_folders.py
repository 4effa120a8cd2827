"""DAVIS, MOSE and SA-V."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from dataset_layouts import HEIGHT, WIDTH, disc, picture, save, video

from usam.errors import DatasetError, ImageError
from usam.research.datasets import open_dataset


def davis(root: Path) -> Path:
    video(root, "JPEGImages/480p", "Annotations/480p")
    video(root, "JPEGImages/480p", "Annotations/480p", frames=2, name="walk")
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("walk\nlost\n")
    return root


def test_davis_frames_objects_and_groups(tmp_path: Path) -> None:
    dataset = open_dataset("davis", davis(tmp_path))
    records = list(dataset)
    assert [record.image_id for record in records][:2] == ["dance/00000", "dance/00001"]
    assert {record.group for record in records} == {"davis/dance", "davis/walk"}
    assert {record.split for record in records} == {"", "val"}
    first, second = records[1].instances
    assert first.object_id == "davis/dance/00001/1"
    assert np.array_equal(first.read_mask(), disc(12, 15, 6))
    assert np.array_equal(second.read_mask(), disc(45, 25, 8))


def test_davis_split_and_stride(tmp_path: Path) -> None:
    davis(tmp_path)
    val = open_dataset("davis", tmp_path, "val")
    assert [record.group for record in val] == ["davis/walk"] * 2
    assert val.problems.counts == {"missing video": 1}
    assert len(open_dataset("davis", tmp_path, "2017/val", every=2)) == 1
    assert len(open_dataset("davis", tmp_path, every=3)) == 3
    with pytest.raises(DatasetError, match="2017/val, got 'train'"):
        open_dataset("davis", tmp_path, "train")


def test_label_255_alone_is_an_object_and_beside_others_void(tmp_path: Path) -> None:
    davis(tmp_path)
    labels = tmp_path / "Annotations" / "480p" / "dance"
    save(labels / "00000.png", disc() * 255)
    save(labels / "00001.png", disc() * 255 + disc(5, 5, 3) * 1)
    save(labels / "00002.png", disc() * 0)
    save(labels / "00003.png", np.ones((9, 9)))
    dataset = open_dataset("davis", tmp_path)
    by_id = {record.image_id: record for record in dataset}
    assert np.array_equal(by_id["dance/00000"].instances[0].read_mask(), disc())
    assert [each.object_id for each in by_id["dance/00001"].instances] == ["davis/dance/00001/1"]
    assert by_id["dance/00002"].instances == ()
    assert "dance/00003" not in by_id
    assert dataset.problems.counts == {
        "void pixels": 1,
        "frame without an object": 1,
        "mask of another size": 1,
    }


def test_frames_without_labels_are_counted(tmp_path: Path) -> None:
    davis(tmp_path)
    (tmp_path / "Annotations" / "480p" / "walk" / "00001.png").unlink()
    dataset = open_dataset("davis", tmp_path)
    assert len(dataset) == 5
    assert dataset.problems.counts == {"frame without labels": 1}


def test_mose_flat_and_in_splits(tmp_path: Path) -> None:
    video(tmp_path / "flat", "JPEGImages", "Annotations")
    flat = open_dataset("mose", tmp_path / "flat")
    assert len(list(flat)) == 4
    with pytest.raises(DatasetError, match="no train/"):
        open_dataset("mose", tmp_path / "flat", "train")
    video(tmp_path / "deep", "train/JPEGImages", "train/Annotations")
    video(tmp_path / "deep", "valid/JPEGImages", "valid/Annotations", name="other", frames=1)
    assert len(open_dataset("mose", tmp_path / "deep")) == 5
    (record,) = open_dataset("mose", tmp_path / "deep", "valid")
    assert (record.group, record.split) == ("mose/other", "valid")
    (tmp_path / "wrong" / "train").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"no JPEGImages/ in .*which has train"):
        open_dataset("mose", tmp_path / "wrong")


def film(path: Path, frames: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 24, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    writer.release()


def masklets(path: Path, masks: list[list[Any]], frame_count: float) -> None:
    from pycocotools import mask as official

    coded = [
        [
            {"size": [48, 64], "counts": official.encode(np.asfortranarray(m.astype(np.uint8)))["counts"].decode()}
            for m in frame
        ]
        for frame in masks
    ]
    document = {
        "video_id": path.name[:10],
        "video_frame_count": frame_count,
        "video_height": 48.0,
        "video_width": 64.0,
        "masklet": coded,
        "masklet_id": list(range(len(masks[0]))),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def moving(number: int) -> Any:
    return disc(10 + 10 * number, 20, 7, 48, 64)


def test_sav_video_with_masklets(tmp_path: Path) -> None:
    film(tmp_path / "sav_000" / "sav_000001.mp4", 9)
    empty = np.zeros((48, 64))
    masklets(tmp_path / "sav_000" / "sav_000001_manual.json", [[moving(n), empty] for n in range(3)], 9.0)
    masklets(tmp_path / "sav_000" / "sav_000001_auto.json", [[moving(2)]] * 3, 9.0)
    dataset = open_dataset("sav", tmp_path)
    records = list(dataset)
    assert len(dataset) == 3
    assert [record.image_id for record in records] == [f"sav_000001/{n:05d}" for n in (0, 4, 8)]
    assert dataset.problems.counts == {"object out of sight": 3}
    for number, record in enumerate(records):
        assert np.array_equal(record.instances[0].read_mask(), moving(number))
        assert abs(float(record.read_image().mean()) - 40 * number) < 4
    assert abs(float(records[1].read_image().mean()) - 40) < 4
    both = list(open_dataset("sav", tmp_path, "train", auto=True, every=2))
    assert [len(record.instances) for record in both] == [2, 2]
    assert both[0].instances[1].object_id == "sav/sav_000001/auto-0/00000"


def test_sav_video_that_ends_early_is_no_image(tmp_path: Path) -> None:
    film(tmp_path / "sav_000001.mp4", 3)
    masklets(tmp_path / "sav_000001_manual.json", [[moving(n)] for n in range(3)], 9.0)
    records = list(open_dataset("sav", tmp_path))
    with pytest.raises(ImageError, match="a frame 8"):
        records[2].read_image()
    (tmp_path / "sav_000001.mp4").write_bytes(b"no film")
    with pytest.raises(ImageError, match="a video that OpenCV reads"):
        next(iter(open_dataset("sav", tmp_path))).read_image()


def test_sav_without_its_videos(tmp_path: Path) -> None:
    masklets(tmp_path / "sav_000001_manual.json", [[moving(0)]], 4.0)
    with pytest.raises(DatasetError, match=r"<video>.mp4 beside.*missing video: 1 .*sav_000001.mp4"):
        open_dataset("sav", tmp_path)
    film(tmp_path / "sav_000002.mp4", 4)
    masklets(tmp_path / "sav_000002_manual.json", [[moving(0)]], 4.0)
    dataset = open_dataset("sav", tmp_path)
    assert len(list(dataset)) == 1
    assert dataset.problems.counts == {"missing video": 1}


def test_sav_val_frames(tmp_path: Path) -> None:
    root = tmp_path / "sav_val"
    for number in range(5):
        save(root / "JPEGImages_24fps" / "sav_9" / f"{number:05d}.jpg", picture(number))
    for number in (0, 4):
        save(root / "Annotations_6fps" / "sav_9" / "000" / f"{number:05d}.png", disc() * 255)
    save(root / "Annotations_6fps" / "sav_9" / "001" / "00004.png", np.zeros((HEIGHT, WIDTH)))
    (root / "sav_val.txt").write_text("sav_9\nsav_10\n")
    for place in (root, tmp_path):
        dataset = open_dataset("sav", place, "val")
        records = list(dataset)
        assert [record.image_id for record in records] == ["sav_9/00000", "sav_9/00004"]
        assert np.array_equal(records[1].instances[0].read_mask(), disc())
        assert dataset.problems.counts == {"missing video": 1, "object out of sight": 1}
    with pytest.raises(DatasetError, match="train, val or test"):
        open_dataset("sav", root, "test")


@pytest.mark.shared
def test_real_videos(shared: Path) -> None:
    davis_set = open_dataset("davis", shared / "data" / "DAVIS")
    assert sum(len(record.instances) for record in davis_set) == 99
    assert davis_set.problems.counts == {}
    chairs = list(open_dataset("mose", shared / "data" / "PUMaVOS_chair", licence="CC BY 4.0"))
    assert len(chairs) == 60
    assert {record.group for record in chairs} == {"mose/chair"}
    with pytest.raises(DatasetError, match=r"missing video: 1 .*sav_000001.mp4"):
        open_dataset("sav", shared / "data" / "SAV_example")
