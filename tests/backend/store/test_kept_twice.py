"""A damaged file is mended from its copy, and nothing that was written whole is lost."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from backend.store.kept_twice import add_copy, copy_of, read_either, write_private, write_twice


def number(content: bytes) -> int:
    """A parser: raises `ValueError` for damage."""
    return int(content)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "n.json"
    write_twice(written, b"7")
    return written


def test_a_file_and_its_copy_hold_the_same_and_are_their_owners_alone(path: Path) -> None:
    for file in (path, copy_of(path)):
        assert file.read_bytes() == b"7"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {entry.name for entry in path.parent.iterdir()} == {"n.json", "n.json.copy"}


def test_a_damaged_file_is_mended_from_its_copy_and_kept_aside(path: Path) -> None:
    path.write_bytes(b"garbage")
    assert read_either(path, number) == 7
    assert path.read_bytes() == b"7"
    assert path.with_name("n.json.damaged").read_bytes() == b"garbage"


def test_a_file_that_went_missing_is_written_again_from_its_copy(path: Path) -> None:
    path.unlink()
    assert read_either(path, number) == 7
    assert path.read_bytes() == b"7"


def test_a_damaged_copy_does_no_harm_while_the_file_is_in_order(path: Path) -> None:
    copy_of(path).write_bytes(b"garbage")
    assert read_either(path, number) == 7
    assert copy_of(path).read_bytes() == b"garbage"


def test_where_both_are_damaged_the_files_own_error_is_raised_and_both_stay(path: Path) -> None:
    path.write_bytes(b"first")
    copy_of(path).write_bytes(b"second")
    with pytest.raises(ValueError, match="first"):
        read_either(path, number)
    assert (path.read_bytes(), copy_of(path).read_bytes()) == (b"first", b"second")


def test_a_lost_file_whose_copy_is_damaged_is_not_taken_for_one_that_never_was(path: Path) -> None:
    path.unlink()
    copy_of(path).write_bytes(b"{")
    with pytest.raises(ValueError, match="Expecting"):
        read_either(path, json.loads)


def test_where_neither_is_there_the_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_either(tmp_path / "none.json", number)


def test_a_copy_is_added_where_it_is_missing_or_differs_and_only_there(path: Path) -> None:
    assert not add_copy(path, number)
    copy_of(path).unlink()
    assert add_copy(path, number)
    copy_of(path).write_bytes(b"garbage")
    assert add_copy(path, number)
    assert copy_of(path).read_bytes() == b"7"


def test_no_good_copy_is_overwritten_with_a_damaged_file(path: Path) -> None:
    path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match="garbage"):
        add_copy(path, number)
    assert copy_of(path).read_bytes() == b"7"


def test_a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_private(path, b"8")
    assert path.read_bytes() == b"7"
    assert {entry.name for entry in path.parent.iterdir()} == {"n.json", "n.json.copy"}


def test_what_cannot_be_mended_on_disk_is_still_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(b"garbage")

    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("backend.store.kept_twice.write_private", refuse)
    assert read_either(path, number) == 7
