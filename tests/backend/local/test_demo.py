"""Which pictures of a folder become tasks, and what is said of those that do not."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.cli.up import eager
from backend.errors import SettingsError
from backend.label_studio.config import parse_config
from backend.local.demo import (
    GENERAL_LABELS,
    LABELS,
    PHOTOS_TITLE,
    RETRAIN_AFTER,
    TITLE,
    demo_project,
    describe_left_out,
    instructions,
    labelling_config,
    pictures_in,
)
from backend.local.scenes import FRUIT
from backend.settings import Settings
from tests.backend.cli.conftest import Command
from tests.backend.cli.conftest import command as command  # a fixture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.JPG", "deep/b.webp", "c.heic", "d.HEIC", "e.jfif", "f.tif", ".g.png", "h.txt", "i.jpg/"):
        if name.endswith("/"):
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(b"x")
    return folder


def test_pictures_are_those_that_label_studio_shows(folder: Path) -> None:
    assert [path.name for path in pictures_in(folder)] == ["a.JPG", "b.webp"]


def test_each_kind_that_is_left_out_is_a_sentence_with_names_and_advice(folder: Path) -> None:
    heic, jfif, tif = describe_left_out(folder)
    assert heic == "left out 2 .heic (c.heic, d.HEIC): no browser shows HEIC: save as JPEG"
    assert "rename to .jpg" in jfif
    assert "save as PNG" in tif


def test_a_folder_of_left_out_ones_only_says_which(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"x")
    with pytest.raises(SettingsError, match=r"left out 1 \.tif \(a\.tif\)"):
        pictures_in(tmp_path)


@pytest.mark.parametrize("kind", ["nothing there", "a file", "none"])
def test_images_that_are_none_are_refused_before_anything_starts(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    if kind == "a file":
        (tmp_path / "images").write_text("")
    elif kind == "none":
        (tmp_path / "images").mkdir()
    done = command("up", "--images", "~/images")
    assert done.exit_code == 2
    assert kind in done.stderr
    assert str(tmp_path / "images") in done.stderr, "~ is the home folder"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("labels", [LABELS, GENERAL_LABELS])
def test_one_row_of_labels_serves_masks_points_and_boxes(labels: dict[str, str]) -> None:
    parsed = parse_config(labelling_config(labels))
    assert parsed.output.kind == "brush"
    assert parsed.output.source is not None
    assert parsed.output.source.type == "labels"
    assert parsed.output.labels == tuple(labels)
    assert [control.tag for control in parsed.smart] == ["KeyPoint", "Rectangle"]
    assert set(LABELS) == set(FRUIT)


@pytest.mark.parametrize("title", [TITLE, PHOTOS_TITLE, "usam demo: birds"])
def test_instructions_say_what_to_do_in_five_lines(title: str) -> None:
    said = instructions(title)
    for words in (
        "arrow",
        "Auto-Annotation",
        "Alt+click",
        "green tick",
        "box",
        "Delete",
        "Submit",
        "untouched",
        "audits",
    ):
        assert words in said
    assert "5. " in said
    assert "6. " not in said
    assert ("Lemon" in said) == (title == TITLE)


class Studio:
    """A Label Studio that notes what is made and changed."""

    def __init__(self, *titles: str, folders: dict[int, list[str]] | None = None) -> None:
        self.folders = folders or {}
        self.known = [SimpleNamespace(id=number, title=title) for number, title in enumerate(titles, 1)]
        self.made: dict[str, Any] = {}
        self.imported: list[str] = []

    def projects(self) -> list[Any]:
        return self.known

    def create_project(self, title: str, label_config: str, **fields: Any) -> Any:
        self.made = {"title": title, "label_config": label_config, **fields}
        return SimpleNamespace(id=9, title=title)

    def allow_local_folder(self, project: int, folder: Path) -> None: ...

    def local_folders(self, project: int) -> list[str]:
        return self.folders.get(project, [])

    def tasks(self, project: int) -> list[Any]:
        return []

    def import_tasks(self, project: int, tasks: list[dict[str, Any]]) -> None:
        self.imported += [str(task["data"]["image"]) for task in tasks]


def test_the_demo_is_made_beside_that_of_an_earlier_release(folder: Path) -> None:
    studio: Any = Studio(PHOTOS_TITLE)
    project, fresh = demo_project(studio, folder)
    assert (project.id, fresh) == (9, 2)
    assert studio.made["show_instruction"]
    assert "Orange" in studio.made["label_config"]
    studio = Studio(PHOTOS_TITLE)
    project, _ = demo_project(studio, folder, PHOTOS_TITLE)
    assert project.id == 1
    assert studio.made == {}, "one that is there is not touched"


def test_two_folders_of_one_name_are_two_projects(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "images"
    other.mkdir(parents=True)
    title = f"{PHOTOS_TITLE}: images"
    own, taken, moved = [str(folder.resolve())], [str(other)], [str(tmp_path / "gone" / "images")]
    for folders, titles, made in (
        ({}, [], title),
        ({1: own}, [title], ""),
        ({1: moved}, [title], ""),
        ({1: []}, [title], ""),
        ({1: taken}, [title], f"{title} (2)"),
        ({1: taken, 2: own}, [title, f"{title} (2)"], ""),
        ({1: taken, 2: taken}, [title, f"{title} (2)"], f"{title} (3)"),
    ):
        studio: Any = Studio(*titles, folders=folders)
        demo_project(studio, folder, title, is_ours=False)
        assert studio.made.get("title", "") == made
    studio = Studio(TITLE, folders={1: taken})
    assert demo_project(studio, folder, TITLE)[0].id == 1, "our own pictures are the same wherever they lie"
    studio = Studio()
    demo_project(studio, folder, title + "x" * 99, is_ours=False)
    assert len(studio.made["title"]) == 50


def test_pictures_that_cannot_be_served_are_left_out_in_a_sentence(tmp_path: Path) -> None:
    folder, outside = tmp_path / "images", tmp_path.parent / f"{tmp_path.name}-outside.png"
    folder.mkdir()
    outside.write_bytes(b"x")
    (folder / "a b.png").write_bytes(b"x")
    (folder / "twice.png").symlink_to(folder / "a b.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "round").symlink_to(folder)
    (folder / "linked.png").symlink_to(outside)
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.heic")).write_bytes(b"x")
    said = describe_left_out(folder)
    assert [line for line in said if "caf?.png" in line and "rename it" in line]
    assert [line for line in said if "linked.png" in line and "copy it here" in line]
    assert [line for line in said if "?.heic" in line]
    studio: Any = Studio()
    assert demo_project(studio, folder, "t", is_ours=False)[1] == 1, "a picture is one task under however many names"
    assert studio.imported == ["/data/local-files/?d=images/a%20b.png"]


def test_a_demo_learns_after_ten_labels_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USAM_RETRAIN_AFTER", raising=False)
    assert eager(Settings.from_environment()).retrain_after == RETRAIN_AFTER == 10
    monkeypatch.setenv("USAM_RETRAIN_AFTER", "20")
    assert eager(Settings.from_environment()).retrain_after == 20


def test_pictures_of_both_kinds_are_refused(command: Command, tmp_path: Path) -> None:
    done = command("up", "--images", str(tmp_path), "--photos")
    assert done.exit_code == 2
    assert "--photos" in done.stderr
