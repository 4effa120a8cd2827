"""The file behind the inbox holds whole events only, hands over what the dead left, and fills no disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from backend.label_studio.records import MAX_ID
from backend.web import journal as module
from backend.web.journal import ASIDE, ASIDE_BYTES, PATTERN, EventNote, Journal


def files(folder: Path) -> list[str]:
    return [path.read_text() for path in folder.glob(PATTERN)]


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(EventNote(3, "X", (1, 2)))
    journal.append(EventNote(4, "Y"))
    journal.close()
    (file,) = tmp_path.glob(PATTERN)
    file.write_bytes(file.read_bytes()[:-5])
    after = Journal(tmp_path)
    assert after.left_over == [EventNote(3, "X", (1, 2))]
    after.close()


def test_the_journal_of_a_process_that_lives_is_left_alone(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.append(EventNote(3, "X"))
    second = Journal(tmp_path)
    assert second.left_over == []
    first.close()
    second.close()
    third = Journal(tmp_path)
    assert third.left_over == [EventNote(3, "X")]
    third.close()


def test_nothing_written_after_the_count_is_cleared(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(EventNote(3, "X"))
    size = journal.size
    journal.append(EventNote(3, "Y"))
    journal.clear(size)
    assert journal.size > size
    journal.clear(journal.size)
    assert journal.size == 0
    journal.close()


def test_an_empty_journal_leaves_no_file_behind(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(EventNote(3, "X"))
    journal.clear(journal.size)
    journal.close()
    assert list(tmp_path.iterdir()) == []


def test_what_the_dead_left_is_in_our_own_file_before_theirs_goes(tmp_path: Path) -> None:
    for action in ("A", "B"):
        dead = Journal(tmp_path / action)
        dead.append(EventNote(3, action, (1,)))
        dead.close()
        (file,) = (tmp_path / action).glob(PATTERN)
        file.rename(tmp_path / file.name)
    journal = Journal(tmp_path)
    assert {note.action for note in journal.left_over} == {"A", "B"}
    (text,) = files(tmp_path)
    assert {json.loads(line)["action"] for line in text.splitlines()} == {"A", "B"}
    journal.close()


def test_keeping_some_events_forgets_the_others_and_goes_on_from_there(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for action in ("A", "B", "C"):
        journal.append(EventNote(3, action))
    journal.keep([EventNote(3, "B")])
    journal.append(EventNote(3, "D"))
    (text,) = files(tmp_path)
    assert [json.loads(line)["action"] for line in text.splitlines()] == ["B", "D"]
    assert journal.size == len(text)
    journal.close()


def fill_disk(patch: pytest.MonkeyPatch) -> None:
    """Let the disk take seven bytes at a time."""
    write = os.write
    patch.setattr(module.os, "write", lambda file, data: write(file, data[:7]))


def test_a_full_disk_spoils_neither_the_lines_before_nor_those_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither half a line that was added, nor a new file of those to be kept."""
    journal = Journal(tmp_path)
    journal.append(EventNote(3, "A"))
    with monkeypatch.context() as patch:
        fill_disk(patch)
        with pytest.raises(OSError, match="7 of"):
            journal.append(EventNote(3, "B"))
        with pytest.raises(OSError, match="full"):
            journal.keep([EventNote(3, "B")])
    journal.append(EventNote(3, "C"))
    (text,) = files(tmp_path)
    assert [json.loads(line)["action"] for line in text.splitlines()] == ["A", "C"]
    assert journal.size == len(text)
    journal.close()


def test_what_no_store_can_hold_is_written_down_with_the_reason_for_its_owner_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.set_aside(EventNote(-1, "A", (7,)), "no such project" + "!" * 999)
    (line,) = (tmp_path / ASIDE).read_text().splitlines()
    found = json.loads(line)
    assert (found["project"], found["action"], found["subjects"]) == (-1, "A", [7])
    assert found["reason"].startswith("no such project")
    assert len(found["reason"]) == 300
    assert (tmp_path / ASIDE).stat().st_mode & 0o077 == 0
    journal.close()


def test_whoever_sends_nonsense_does_not_fill_the_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / ASIDE).write_bytes(b"x" * (ASIDE_BYTES - 10))
    journal.set_aside(EventNote(-1, "A"), "no such project")
    assert (tmp_path / ASIDE).stat().st_size == ASIDE_BYTES - 10
    journal.close()


@pytest.mark.parametrize(
    ("note", "words"),
    [
        (EventNote(0, "A"), "project's number"),
        (EventNote(MAX_ID + 1, "A"), "project's number"),
        (EventNote(3, "A", (1, -1)), "ids are"),
        (EventNote(3, "A", (MAX_ID + 1,)), "ids are"),
        (EventNote(3, "a\0b"), "no text"),
        (EventNote(3, "\udfff"), "no text"),
    ],
)
def test_a_fault_says_why_no_store_can_hold_an_event(note: EventNote, words: str) -> None:
    assert words in note.fault()


def test_an_event_at_the_limits_has_no_fault() -> None:
    assert EventNote(MAX_ID, "ANNOTATION_CREATED \u00e9", (0, MAX_ID)).fault() == ""


def test_what_is_no_file_in_the_inbox_stops_no_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events-a.jsonl")
    (tmp_path / "events-b.jsonl").mkdir()
    (tmp_path / "events-c.jsonl").write_text('{"project":3,"action":"X","subjects":[1]}\n')
    os.mkfifo(tmp_path / ASIDE)
    journal = Journal(tmp_path)
    assert journal.left_over == [EventNote(3, "X", (1,))]
    with pytest.raises(OSError, match="a named pipe, not a file"):
        journal.set_aside(EventNote(3, "X"), "why")
    journal.close()


def test_a_disk_without_room_for_a_new_file_leaves_neither_file_nor_handle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path)
    journal.append(EventNote(3, "A"))
    before = len(os.listdir("/dev/fd")), files(tmp_path)

    def full(_file: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "write", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                journal.keep([EventNote(3, "B")])
    assert (len(os.listdir("/dev/fd")), files(tmp_path)) == before
    journal.close()
