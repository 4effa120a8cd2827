"""The results file and the verdict on a figure."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import main, topics
from bench.page import page, write_page
from bench.rows import RESULTS, Row, append, read


@pytest.mark.parametrize(
    ("value", "target", "met"),
    [
        (0.5, "<= 0.5", True),
        (0.51, "<= 0.5", False),
        (1e-6, "<= 1e-5", True),
        (3.0, ">= 2", True),
        (2.0, "> 2", False),
        (1.0, "< 2", True),
        (1.0, "", None),
        (1.0, "no leak", None),
    ],
)
def test_a_row_knows_whether_its_target_is_met(value: float, target: str, met: bool | None) -> None:
    assert Row("figure", value, "s", target=target).met is met


def test_a_row_says_where_it_was_measured() -> None:
    row = Row("figure", 1.0, "s")
    assert "cores" in row.hardware
    assert "torch" in row.versions


def test_rows_are_appended_below_one_header(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    append([Row("a, b", 0.123456789, "s", note='says "so"')], file)
    append([Row("c", 2.0, "ms"), Row("d", 3.0, "ms")], file)
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["figure"] for row in rows] == ["a, b", "c", "d"]
    assert rows[0]["value"] == "0.123457"
    assert rows[0]["note"] == 'says "so"'


def test_every_topic_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert {"patch", "rle"} <= set(topics())
    assert not {"rows", "__main__"} & set(topics())
    assert main(["no-such-topic"]) == 2
    assert "no-such-topic" in capsys.readouterr().err


def test_asking_for_an_unknown_topic_does_not_import_torch() -> None:
    code = "import sys; from bench.__main__ import main; main(['x']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr


def test_the_page_shows_the_newest_row_of_each_figure_with_its_verdict(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    append([Row("old | new", 2.0, "s", target="<= 1", topic="rle"), Row("other", 1.0, "", topic="rle")], file)
    append([Row("old | new", 0.5, "s", target="<= 1", topic="rle", note="again")], file)
    text = page(read(file))
    assert "| old / new | 0.5 s | <= 1 reached |  | again |" in text
    assert "| other | 1 |  |" in text
    assert "| 2 s |" not in text
    assert text.count("## rle") == 1
    write_page(read(file), tmp_path / "figures.md")
    assert (tmp_path / "figures.md").read_text() == text


def test_the_page_in_the_docs_is_that_of_the_results() -> None:
    figures = Path(__file__).parents[2] / "docs" / "figures.md"
    assert figures.read_text(encoding="utf-8") == page(read(RESULTS)), "run python -m bench --page"
