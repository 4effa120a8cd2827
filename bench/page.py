"""The results as a page to read: the newest row of each figure, by topic, with what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from bench.rows import Row
from usam.files import replace_text

PAGE = Path(__file__).parent.parent / "docs" / "figures.md"
HEAD = """# Figures

Made by `make bench` from [bench/results.csv](../bench/results.csv), which has hardware, versions and commit of each;
this page shows the newest row of each figure. Ratios come from one run in which both sides took turns. A target
that was missed says so.
"""
VERDICTS = {None: "", True: "reached", False: "**missed**"}


def page(rows: Sequence[Row]) -> str:
    """Markdown with a section for each topic, in the order of their names."""
    newest: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        newest.pop((row.topic, row.figure, row.unit), None)
        newest[row.topic, row.figure, row.unit] = row
    lines = [HEAD]
    for topic in sorted({row.topic for row in newest.values()}):
        chosen = [row for row in newest.values() if row.topic == topic]
        lines += [
            f"## {topic}",
            "",
            summary_of(topic),
            "",
            "| figure | value | target | against | how |",
            "|---|---|---|---|---|",
        ]
        lines += [line_of(row) for row in chosen]
        places = sorted({(row.hardware, row.versions, row.commit) for row in chosen})
        lines += ["", *(f"{hardware}; {versions}; commit {commit}." for hardware, versions, commit in places), ""]
    return "\n".join(lines)


def line_of(row: Row) -> str:
    """One row of the table."""
    aim = f"{row.target} {VERDICTS[row.met]}".strip()
    cells = (row.figure, f"{row.value:.4g} {row.unit}".strip(), aim, row.against, row.note)
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def summary_of(topic: str) -> str:
    """What a topic measures: the first paragraph of its module."""
    try:
        text = import_module(f"bench.{topic}").__doc__ or ""
    except ImportError:
        return ""
    return " ".join(text.split("\n\n")[0].split())


def write_page(rows: Sequence[Row], path: Path = PAGE) -> None:
    """Write the page, whole or not at all."""
    replace_text(path, page(rows))
