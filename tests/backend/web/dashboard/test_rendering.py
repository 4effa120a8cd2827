"""Pages are escaped, load nothing from elsewhere, and renew only what has changed."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.web.dashboard import rendering
from backend.web.dashboard.rendering import (
    HEADERS,
    HTMX_SHA256,
    Place,
    ago,
    assets,
    few,
    moment,
    render_beat,
    render_live,
    render_page,
    render_still,
)
from tests.backend.web.dashboard.reading import Text

HOSTILE = "<script>alert(1)</script>\"'&"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    assets.cache_clear()


def message(text: str) -> str:
    return render_still("message.html", heading=text, text=text, remedy=text)


def test_nothing_from_outside_becomes_markup() -> None:
    page = Text(render_page(Place(HOSTILE, "../../", 3, HOSTILE, "queue", "javascript:"), message(HOSTILE)))
    assert {attributes.get("src", "")[:13] for attributes in page.all("script")} <= {"../../static/"}
    assert "alert(1)" in page


def test_a_page_loads_its_own_files_only() -> None:
    page = Text(render_page(Place("Projects"), message("x")))
    loaded = [one["href"] for one in page.all("link")] + [one["src"] for one in page.all("script")]
    assert loaded
    assert all(address.startswith("static/") for address in loaded)
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    names = {asset.name for asset in assets().values()}
    assert {address.removeprefix("static/") for address in loaded} <= names


def test_no_template_holds_scripts_or_styles_that_the_policy_would_stop() -> None:
    for path in (Path(rendering.FOLDER) / "templates").glob("*.html"):
        text = path.read_text()
        assert " style=" not in text, path.name
        assert "<style" not in text, path.name
        assert " onclick" not in text, path.name
        assert "| safe" not in text, path.name


def test_a_live_part_says_what_it_shows() -> None:
    values = {"heading": "a", "text": "b", "remedy": ""}
    first, digest = render_live("message.html", {"show": "a b"}, **values)
    again, same = render_live("message.html", {"show": "a b"}, **values)
    assert (first, digest) == (again, same)
    assert f"show=a+b&amp;part=live&amp;seen={digest}" in first
    assert render_live("message.html", {}, **{**values, "text": "c"})[1] != digest


def test_each_answer_brings_a_sign_of_life() -> None:
    assert "hx-swap-oob" in render_beat()
    assert "hx-swap-oob" not in render_page(Place("x"), message("x")), "the page has the place for it"


def test_another_htmx_than_the_checked_one_is_not_served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "static" / "htmx"
    path.mkdir(parents=True)
    (path / "htmx.min.js").write_bytes(b"alert(1)")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(rendering, "find_spec", lambda name: spec)
    assert "htmx.js" not in assets()
    page = Text(render_page(Place("x"), message("x")))
    assert page.all("script") == [], "the page stands without it"
    monkeypatch.setattr(rendering, "HTMX_SHA256", hashlib.sha256(b"alert(1)").hexdigest())
    assets.cache_clear()
    assert assets()["htmx.js"].content == b"alert(1)"


def test_without_the_package_pages_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "find_spec", lambda name: None)
    assert "htmx.js" not in assets()


def test_the_package_carries_the_htmx_that_was_checked() -> None:
    pytest.importorskip("js_lib_htmx", reason="needs the package django-js-lib-htmx")
    assert hashlib.sha256(assets()["htmx.js"].content).hexdigest() == HTMX_SHA256


def test_times_are_said_as_people_say_them() -> None:
    assert few(-1) == "0 s"
    assert few(3600 * 24 * 3) == "3 days"
    assert ago(time.time() - 5) == "just now"
    assert ago(time.time() - 180) == "3 min ago"
    assert moment(0).startswith("19")


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -1e300, 1e300])
def test_a_time_that_cannot_be_is_words(at: float) -> None:
    assert moment(at) == "at a time that is not known"
    assert ago(at)


def test_half_a_surrogate_pair_ends_no_page() -> None:
    content, _ = render_live("message.html", {}, heading="\ud800", text="a", remedy="")
    assert render_page(Place("\ud800"), content).encode()
