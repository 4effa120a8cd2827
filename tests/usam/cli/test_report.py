"""A page in one file: whole, safe, and the same figures as elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usam.cli.report import Report, check_report
from usam.errors import UsamError


class Tags(HTMLParser):
    """Counts tags, and collects every address that a reader's browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.sources += [value or "" for name, value in attributes if name == "src"]


def test_a_page_needs_nothing_else_and_reads_nothing_as_markup(tmp_path: Path) -> None:
    page = Report("<script>alert(1)</script>")
    page.heading("Masks & more")
    page.text("a <b>line</b>", "")
    page.picture(np.zeros((4, 6, 3), np.uint8), '"quoted" picture')
    page.table(
        ["task", "why"],
        [[12, "<img src=x>"], [13, 0.98765]],
        links=["http://127.0.0.1:8080/x?task=12", "javascript:alert(1)"],
    )
    page.write(tmp_path / "deep" / "page.html")
    text = (tmp_path / "deep" / "page.html").read_text(encoding="utf-8")
    tags = Tags(text)
    assert "script" not in tags.names
    assert tags.names.count("img") == 1
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert "javascript:" not in text
    assert '<a href="http://127.0.0.1:8080/x?task=12"' in text
    assert "0.9877" in text
    assert not re.search(r"url\(|@import|<link", text)


def test_a_report_in_markdown_becomes_one_page(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "plot.png")
    lines = ["# Title", "", "A line.", "", "| a | b |", "|---|---|", "| x | 0.25 |", "", "![a plot](plot.png)", ""]
    lines += ["![another](plot.png)", "", "## When to stop", "", "- random: go on", "- task: stop"]
    (tmp_path / "report.md").write_text("\n".join(lines), encoding="utf-8")
    page = Report("Title")
    page.add_markdown(tmp_path / "report.md")
    text = page.html()
    tags = Tags(text)
    assert [tags.names.count(tag) for tag in ("table", "img", "h2", "h1")] == [1, 2, 1, 1]
    assert '<td class="number">0.25</td>' in text
    assert "task: stop" in text
    assert 'alt="a plot"' in text


def test_another_ending_is_refused_before_anything_is_worked_out(tmp_path: Path) -> None:
    with pytest.raises(UsamError, match=r"--report FILE.html"):
        check_report(tmp_path / "page.pdf")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsamError, match="a folder"):
        check_report(tmp_path / "folder.html")
    with pytest.raises(UsamError, match="to write"):
        Report("x").write(tmp_path / "folder.html")
