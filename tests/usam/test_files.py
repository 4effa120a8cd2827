from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from usam.files import open_lock, plain, replace_text, replacing


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.txt"
    replace_text(path, "first")
    replace_text(path, "Zweiter, ü")
    assert path.read_text(encoding="utf-8") == "Zweiter, ü"
    assert list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as partial:
            assert partial.suffix == ".png"
            partial.write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_waits_or_never_ends_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name, said in (("pipe", "a named pipe"), ("socket", "a socket"), ("device", "a device")):
        with pytest.raises(OSError, match=f"{said}, not a file"):
            plain(tmp_path / name)
    (tmp_path / "file").write_text("x")
    for name in ("file", "nothing", "file/below"):
        assert plain(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "nothing", "lock"])
def test_a_lock_is_a_file_whatever_was_in_its_place(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "up.lock"
    made = {"pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "link": lambda: path.symlink_to("nowhere")}
    made.get(kind, lambda: None)()
    if kind == "lock":
        path.touch()
    open_lock(path).close()
    assert path.is_file()
    assert not path.is_symlink()
    assert len(list(tmp_path.iterdir())) == 1 + (kind in made)
