"""Many sets of photographs: which pictures belong together, and which may be learnt from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_layouts import disc, picture, save

from usam.errors import DatasetError
from usam.research.datasets import open_dataset
from usam.research.datasets.photographs import may_be_learnt, picture_group, provenance_of


@pytest.mark.parametrize(
    ("dataset", "first", "second", "together"),
    [
        ("facades", "train/IMG_1_scaled_0_png_jpg.rf.12ab.jpg", "test/IMG_1_scaled_1_png_jpg.rf.34cd.jpg", True),
        ("facades", "train/IMG_1_scaled_0_png_jpg.rf.12ab.jpg", "test/IMG_2_scaled_0_png_jpg.rf.34cd.jpg", False),
        ("davis_frames", "DAVIS/480p/camel/00000.jpg", "DAVIS/480p/camel/00055.jpg", True),
        ("davis_frames", "DAVIS/480p/camel/00000.jpg", "DAVIS/480p/goat/00000.jpg", False),
        ("granules", "4919_L_jpg.rf.ab.jpg", "4919_TR_jpg.rf.cd.jpg", True),
        ("vehicles", "Highway_1168_2020-07-30_jpg.rf.a.jpg", "Highway_1101_2020-07-30_jpg.rf.b.jpg", True),
        ("vehicles", "Highway_1168_2020-07-30_jpg.rf.a.jpg", "Highway_1201_2020-07-30_jpg.rf.b.jpg", False),
        ("potholes", "GX011043_000168_jpg.rf.a.jpg", "GX011043_000161_jpg.rf.b.jpg", True),
        ("cats", "group0564_jpg.rf.ab.jpg", "group0565_jpg.rf.ab.jpg", False),
        ("cats", "group0564_jpg.rf.ab.jpg", "group0564_jpg.rf.cd.jpg", True),
    ],
)
def test_siblings_share_a_group(dataset: str, first: str, second: str, together: bool) -> None:
    assert (picture_group(dataset, first) == picture_group(dataset, second)) is together


def test_sets_do_not_share_groups() -> None:
    assert picture_group("cats", "0001.jpg") != picture_group("plants", "0001.jpg")


def test_pictures_of_unknown_licence_are_not_learnt_from() -> None:
    assert not may_be_learnt("animals7", "train/000000000757_jpg.rf.ab12.jpg")
    assert may_be_learnt("animals7", "train/rhesus-monkey_0046_jpg.rf.ab12.jpg")
    assert may_be_learnt("warehouse", "000000000757.jpg")


def test_what_is_not_said_is_not_trusted() -> None:
    assert provenance_of("provenance A: own pictures") == "A"
    assert provenance_of("") == "B"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = ["name\tsource_repo@commit\tlicence_as_stated\tnotes"]
    for name, provenance, sources in (
        ("cats", "B", ["group1_jpg.rf.a.jpg", "group2_jpg.rf.b.jpg"]),
        ("animals7", "B", ["000000000757_jpg.rf.a.jpg", "otter_1_jpg.rf.b.jpg"]),
        ("facades", "A", ["IMG_1_scaled_0_jpg.rf.a.jpg"]),
    ):
        lines.append(f"{name}\tx/y@1\tCC BY 4.0\tprovenance {provenance}: words")
        rows = ["file\tsource_path\tgit_blob\tobjects"]
        for number, source in enumerate(sources):
            save(tmp_path / name / "images" / f"{number:04d}.jpg", picture(number))
            labels = disc(20).astype(np.uint8)
            labels[0] = 255
            save(tmp_path / name / "masks" / f"{number:04d}.png", labels)
            rows.append(f"{number:04d}\ttrain/{source}\tabc\t1")
        (tmp_path / name / "files.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "SOURCES.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_sets_come_one_after_the_other(folder: Path) -> None:
    dataset = open_dataset("photographs", folder)
    records = list(dataset)
    assert [(record.dataset, record.group) for record in records] == [
        ("animals7", "animals7/animals7-otter_1"),
        ("cats", "cats/cats-group1"),
        ("cats", "cats/cats-group2"),
        ("facades", "facades/facades-IMG_1"),
    ]
    assert len({record.image_id for record in records}) == 4
    assert dataset.problems.counts == {"licence not known": 1}
    assert {record.licence for record in records} == {"CC BY 4.0"}
    by_set = {record.dataset: record for record in records}
    assert by_set["cats"].read_ignored is not None
    assert by_set["facades"].read_ignored is None, "walls are no part of a window"


def test_sets_are_chosen_by_name_and_by_provenance(folder: Path) -> None:
    assert {record.dataset for record in open_dataset("photographs", folder, provenance="A")} == {"facades"}
    assert {record.dataset for record in open_dataset("photographs", folder, "cats")} == {"cats"}
    with pytest.raises(DatasetError, match="one of the splits"):
        open_dataset("photographs", folder, "dogs")
    with pytest.raises(DatasetError, match=r"SOURCES\.tsv"):
        open_dataset("photographs", folder / "cats")
