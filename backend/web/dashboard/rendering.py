"""Pages as HTML: templates in which everything shown is escaped, and the files that a page needs, all from here.

A page holds one part that is live: it asks for itself again every few seconds, saying what it shows already, and gets
a new one only where something has changed. htmx does that, from the package that carries it; without it a page is
whole but stands still, and says so.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

FOLDER = Path(__file__).parent
LIVE_EVERY_S = 3
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
FORM_HEADERS = {**HEADERS, "Referrer-Policy": "same-origin"}
"""Of a page with a form: with `no-referrer`, browsers would not say where the form comes from."""
HTMX_SHA256 = "491955cd1810747d7d7b9ccb936400afb760e06d25d53e4572b64b6563b2784e"
"""Of htmx 2.0.3, minified, as its makers publish it: a file with another is not served."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asset:
    """A file that pages load. `name` changes with its content, so that browsers may keep it."""

    name: str
    content: bytes
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """`page.css`, `icon.svg`, and `htmx.js` where it is there as it should be."""
    found = {
        "page.css": ((FOLDER / "static" / "page.css").read_bytes(), "text/css; charset=utf-8"),
        "icon.svg": ((FOLDER / "static" / "icon.svg").read_bytes(), "image/svg+xml"),
    }
    if (script := _htmx()) is not None:
        found["htmx.js"] = (script, "text/javascript; charset=utf-8")
    return {
        name: Asset(f"{hashlib.sha256(content).hexdigest()[:12]}-{name}", content, kind)
        for name, (content, kind) in found.items()
    }


def _htmx() -> bytes | None:
    spec = find_spec("js_lib_htmx")
    if spec is None or spec.origin is None:
        _log.warning("pages do not renew themselves: the package django-js-lib-htmx is not installed")
        return None
    content = (Path(spec.origin).parent / "static" / "htmx" / "htmx.min.js").read_bytes()
    if hashlib.sha256(content).hexdigest() != HTMX_SHA256:
        _log.warning("pages do not renew themselves: the installed htmx is not the one that was checked")
        return None
    return content


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ago=ago, moment=moment, percent=lambda share: f"{share:.0%}", few=few, words=words, sentence=sentence
    )
    environment.filters.update(hundredths=hundredths, points=points)
    return environment


@dataclass(frozen=True)
class Place:
    """Where a page is: its `title`, the way back to the root from it, the project it is about, and its tab."""

    title: str
    root: str = ""
    project: int | None = None
    project_title: str = ""
    tab: str = ""
    link: str = ""
    """The project in Label Studio."""


def render_live(template: str, query: dict[str, str], notices: Sequence[object] = (), **values: Any) -> tuple[str, str]:
    """The live part of a page, below its `notices`, and its digest. `query` is what the page was asked with."""
    content = render_still("standing.html", shown=notices) + render_still(template, **values)
    digest = hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
    again = urlencode({**query, "part": "live", "seen": digest})
    shell = _templates().get_template("live.html")
    return shell.render(content=Markup(content), again=again, every=LIVE_EVERY_S), digest  # noqa: S704 - escaped above


def render_beat() -> str:
    """The sign of life that each answer to a live part brings."""
    return _templates().get_template("beat.html").render(out_of_band=True)


def render_page(place: Place, content: str) -> str:
    """The whole document around what `render_live` or `render_still` made."""
    files = {name: asset.name for name, asset in assets().items()}
    page = _templates().get_template("page.html")
    return _whole(page.render(place=place, content=Markup(content), files=files, out_of_band=False))  # noqa: S704


def render_still(template: str, **values: Any) -> str:
    """A part of a page that stays as it is, in whole letters: names may hold halves of surrogate pairs."""
    return _whole(_templates().get_template(template).render(**values))


def _whole(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def words(text: str) -> Markup:
    """A text for people, what stands between backticks as something to type.

    >>> words("run `usam <x>`")
    Markup('run <code>usam &lt;x&gt;</code>')
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )


def sentence(text: str) -> str:
    """A line as a sentence of its own.

    >>> sentence("the next 100 labels")
    'The next 100 labels.'
    """
    return text[:1].upper() + text[1:].rstrip(".") + "."


def hundredths(value: float) -> str:
    """A figure with two places; nothing is less than nothing.

    >>> hundredths(-0.004), hundredths(-0.006)
    ('0.00', '-0.01')
    """
    return f"{round(value, 2) + 0.0:.2f}"


def points(value: float) -> str:
    """A difference in points of a hundredth, with its sign where it has one.

    >>> points(0.0012), points(-0.0004), points(-0.012)
    ('+0.1', '0.0', '-1.2')
    """
    rounded = round(100 * value, 1) + 0.0
    return f"{rounded:+.1f}" if rounded else "0.0"


def few(seconds: float) -> str:
    """A span of time as people say it.

    >>> few(8), few(100), few(5000), few(200000)
    ('8 s', '2 min', '1 h 23 min', '2 days')
    """
    if not seconds < 1e11:
        return "a time that is not known"
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440 + (minutes % 1440 > 720)} days"


def ago(at: float) -> str:
    """How long ago a time was, to the minute."""
    seconds = time.time() - at
    return "just now" if seconds < 60 else f"{few(seconds)} ago"


def moment(at: float) -> str:
    """A time as date and clock of this machine."""
    try:
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
    except (ValueError, OverflowError, OSError):
        return "at a time that is not known"
