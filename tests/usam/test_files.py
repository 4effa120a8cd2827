from __future__ import annotations

from pathlib import Path

import pytest

from usam.files import replace_text, replacing


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
