"""One answer that is none proves nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudio
from backend.pool.absence import APART_S, KEPT_S, LONGEST_GAP_S, Absences, is_missing
from tests.unprivileged import bound_by_permissions

HOUR = 3600.0


@dataclass(frozen=True)
class Listed:
    id: int


class Lister:
    def __init__(self, *ids: int) -> None:
        self.ids = ids

    def projects(self) -> list[Listed]:
        return [Listed(number) for number in self.ids]


def error_of(answer: httpx.Response) -> LabelStudioError:
    """What the client says of an answer to its question for project 7."""
    with (
        LabelStudio("http://ls", "x" * 40, transport=httpx.MockTransport(lambda _: answer)) as client,
        pytest.raises(LabelStudioError) as caught,
    ):
        client.project(7)
    return caught.value


NOT_FOUND = {"detail": "No Project matches the given query.", "status_code": 404}


@pytest.mark.parametrize(
    ("answer", "listed", "missing"),
    [
        (httpx.Response(404, json=NOT_FOUND), (1, 2), True),
        (httpx.Response(404, json=NOT_FOUND), (7,), False),
        (httpx.Response(404, html="<h1>404 Not Found</h1>nginx"), (1,), False),
        (httpx.Response(404, text=""), (1,), False),
        (httpx.Response(404, json=[]), (1,), False),
        (httpx.Response(410, json=NOT_FOUND), (1,), False),
        (httpx.Response(403, json=NOT_FOUND), (1,), False),
    ],
)
def test_a_project_is_missing_only_where_label_studio_says_so_twice(
    answer: httpx.Response, listed: tuple[int, ...], missing: bool
) -> None:
    assert is_missing(Lister(*listed), 7, error_of(answer)) is missing


def test_it_is_forgotten_after_days_of_looking_in_vain(tmp_path: Path) -> None:
    absences = Absences(tmp_path / "absent")
    assert not any(absences.note(7, minute * 60.0) for minute in range(60))
    assert not absences.note(7, LONGEST_GAP_S + HOUR)
    assert not absences.note(8, KEPT_S), "another project's days are its own"
    assert absences.note(7, KEPT_S + HOUR)


def test_a_clock_that_jumps_and_a_machine_that_was_off_make_no_days(tmp_path: Path) -> None:
    absences, year = Absences(tmp_path), 365 * 24 * HOUR
    assert not absences.note(7, 0.0), "before the clock was set"
    assert not any(absences.note(7, 50 * year + look * HOUR) for look in range(30))
    assert not any(absences.note(7, look * HOUR) for look in range(5)), "set back"
    assert any(absences.note(7, 50 * year + look * HOUR) for look in range(80))


def test_a_project_that_is_there_again_has_all_its_days_again(tmp_path: Path) -> None:
    absences = Absences(tmp_path)
    for look in range(100):
        absences.note(7, look * APART_S / 2)
    absences.clear(7)
    absences.clear(7)
    assert not absences.note(7, KEPT_S * 2)


@pytest.mark.parametrize("content", ["", "{", "3", '["a"]', "[null]"])
def test_a_damaged_note_begins_the_days_again(tmp_path: Path, content: str) -> None:
    (tmp_path / "7.json").write_text(content)
    assert not Absences(tmp_path).note(7, KEPT_S * 9)


def test_a_folder_that_cannot_be_written_stops_no_sync(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "absent").mkdir(mode=0o000)
    (tmp_path / "file").touch()
    absences = Absences(tmp_path / "absent")
    assert bound_by_permissions(lambda: absences.note(7)) is False
    bound_by_permissions(lambda: absences.clear(7))
    assert "was not noted" in caplog.text
    assert Absences(tmp_path / "file").note(7) is False, "a full disk looks alike"
