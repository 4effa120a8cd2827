"""Which pictures of a folder become tasks, and what is said of those that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import SettingsError
from backend.local.demo import describe_left_out, pictures_in
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
