"""A page to keep or to send: one HTML file that needs nothing else, pictures within it, light or dark as the reader's
screen is.

    page = Report("Masks of horse.jpg")
    page.text("One point.")
    page.table(["mask", "predicted IoU"], [[1, 0.93]])
    page.picture(pixels, "the masks side by side")
    page.write(Path("report.html"))
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usam.errors import UsamError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ReportFile = Annotated[
    Path | None, typer.Option("--report", metavar="FILE.html", help="Write a page of it, in one file, too.")
]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --paper: #fbfbf9; --pale: #66707a; --line: #d8dcdf; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --paper: #14181c; --pale: #9aa4ad; --line: #343b42; --link: #7db8f0; }
}
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--paper); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; } a { color: var(--link); }
table { border-collapse: collapse; margin: 1rem 0; } 
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; } th { color: var(--pale); font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; background: #fff; } figcaption { color: var(--pale); }
""".strip()
_PICTURE = re.compile(r"!\[(.*)\]\((.+)\)")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def check_report(path: Path) -> None:
    """Raise `UsamError` for a file that is no page, before anything is worked out for it."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsamError("--report FILE.html", str(path), "a report is one HTML file")
    if path.is_dir():
        raise UsamError("--report FILE.html", f"{path}, a folder", "name a file in it")


class Report:
    """A page that grows from above. Everything told to it is text: nothing of it is read as markup."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """A heading below the title."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, *lines: str) -> None:
        """A paragraph for each line that is not empty."""
        self._parts += [f"<p>{escape(line)}</p>" for line in lines if line]

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]], *, links: Sequence[str] = ()) -> None:
        """A table; `links`: where the first cell of each row leads, empty for nowhere."""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
        body = []
        for number, row in enumerate(rows):
            cells = [_cell(value) for value in row]
            if number < len(links) and links[number].startswith(("http://", "https://")):
                cells[0] = f'<td><a href="{escape(links[number])}" rel="noopener">{escape(str(row[0]))}</a></td>'
            body.append(f"<tr>{''.join(cells)}</tr>")
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        self._parts.append(f'<div class="wide">{table}</div>')

    def picture(self, picture: Path | npt.NDArray[np.uint8], caption: str) -> None:
        """A picture, of a PNG file or of pixels (H, W, 3), with a sentence that says what it shows."""
        if isinstance(picture, Path):
            content = picture.read_bytes()
        else:
            from PIL import Image

            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            content = file.getvalue()
        code, words = base64.b64encode(content).decode(), escape(caption)
        self._parts.append(
            f'<figure><img src="data:image/png;base64,{code}" alt="{words}"><figcaption>{words}</figcaption></figure>'
        )

    def add_markdown(self, path: Path) -> None:
        """A report.md of ours below its title: headings, tables, lists, paragraphs and the pictures beside it."""
        text = path.read_text(encoding="utf-8").partition("\n")[2]
        for block in text.split("\n\n"):
            lines = [line for line in block.strip().splitlines() if line]
            if not lines:
                continue
            if lines[0].startswith("## "):
                self.heading(lines.pop(0)[3:])
            if lines and lines[0].startswith("|"):
                header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
                self.table(header, [[_number(cell) for cell in row] for row in rows])
            elif found := [_PICTURE.fullmatch(line) for line in lines]:
                for line, picture in zip(lines, found, strict=True):
                    if picture is not None:
                        self.picture(path.parent / picture[2], picture[1])
                    else:
                        self.text(line)

    def html(self) -> str:
        """The whole document."""
        title = escape(self.title)
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            f"<title>{title}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
            + "\n".join(self._parts)
            + "\n</body>\n</html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises `UsamError` where it cannot be written."""
        from usam.files import replace_text

        try:
            replace_text(path, self.html())
        except OSError as error:
            raise UsamError(f"to write {path}", (error.strerror or str(error)).lower()) from error


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _cell(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f'<td class="number">{text}</td>' if number else f"<td>{escape(text)}</td>"
