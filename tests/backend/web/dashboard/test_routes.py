"""Which address shows what, to whom; and what stands there instead of a broken page."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sql
from fastapi import FastAPI

from backend.inference.engine import Engine
from backend.label_studio.records import Project, Task
from backend.settings import Settings
from backend.store import Store
from backend.web.app import create_app
from backend.web.dashboard.rendering import assets
from backend.web.dashboard.surroundings import Notice, Seen
from tests.backend.web.dashboard.reading import Text, ask
from tests.factories import picture_address
from tests.unprivileged import give_up_overrides


def bound_threads() -> ThreadPoolExecutor:
    """Threads that may do nothing which permissions forbid."""
    return ThreadPoolExecutor(1, initializer=give_up_overrides)


def test_a_browser_gets_the_overview_and_a_program_the_state(app: FastAPI) -> None:
    answer = ask(app)
    assert "Project 3" in Text(answer.text)
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert ask(app, headers={"Accept": "application/json"}).json()["status"] == "UP"


def test_only_what_has_changed_is_sent_again(app: FastAPI, store: Store) -> None:
    page = Text(ask(app).text)
    again = "/" + next(one["hx-get"] for one in page.all("div") if "hx-get" in one)
    live = {"Accept": "*/*", "HX-Request": "true"}
    answer = ask(app, again, headers=live)
    assert answer.headers["hx-reswap"] == "none"
    assert 'id="live"' not in answer.text
    assert 'id="beat"' in answer.text
    store.join(4)
    app.state.service.board._overview = None
    answer = ask(app, again, headers=live)
    assert "hx-reswap" not in answer.headers
    assert "Project 4" in Text(answer.text)
    assert "<html" not in answer.text


def test_it_asks_for_the_password_at_every_address(guarded_app: FastAPI) -> None:
    for path in ("/", f"/static/{assets()['page.css'].name}"):
        refused = ask(guarded_app, path)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Basic")
        assert ask(guarded_app, path, auth=("ann", "secret")).status_code == 200


def test_files_of_the_pages_may_be_kept_by_browsers(app: FastAPI) -> None:
    answer = ask(app, f"/static/{assets()['page.css'].name}")
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-type"].startswith("text/css")
    missing = ask(app, "/static/page.css")
    assert missing.status_code == 404
    assert "Not found" in Text(missing.text)


def test_a_store_that_does_not_answer_is_a_sentence(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> None:
        raise sql.exc.OperationalError("SELECT 1", {}, Exception("secret"))

    monkeypatch.setattr(app.state.service.board.store, "overviews", lost)
    answer = ask(app)
    assert answer.status_code == 503
    assert "cannot be shown now" in Text(answer.text)
    assert "secret" not in answer.text


def test_without_projects_it_says_how_to_connect_one(settings: Settings, engine: Engine) -> None:
    app = create_app(settings, engine)
    assert "usam-backend connect" in Text(ask(app).text)
    app.state.service.close()


@pytest.mark.parametrize("page", ["queue", "learning", "trust", "versions", "review", "tasks/1"])
def test_each_page_of_a_project_says_that_label_studio_has_it_no_more(app: FastAPI, page: str) -> None:
    surroundings = app.state.service.board.surroundings
    surroundings._looked_at = float("inf")
    words = "Label Studio does not show this project"
    surroundings._seen = Seen({3: Project(3, "Cats", "<View/>", "", "", "2026")})
    assert words not in Text(ask(app, f"/projects/3/{page}").text)
    surroundings._seen = Seen({}, (Notice("Redis does not answer."),))
    shown = Text(ask(app, f"/projects/3/{page}").text)
    assert words in shown
    assert "Redis does not answer" in shown


def test_the_queue_shows_tasks_and_their_pictures(app: FastAPI) -> None:
    page = Text(ask(app, "/projects/3/queue").text)
    assert "why <script>" in page
    assert "http://labels.example:8080/projects/3/data?task=1" in page.links
    addresses = [one["src"] for one in page.all("img")]
    assert len(addresses) == 4
    answer = ask(app, f"/projects/3/{addresses[0]}")
    assert answer.headers["content-type"] == "image/svg+xml"
    assert answer.headers["cache-control"] == "no-store"
    assert "cannot be shown" in answer.text


@pytest.mark.parametrize("project", ["7", "x", "9" * 40, "-3", "0"])
def test_a_project_that_is_not_there_is_a_sentence(app: FastAPI, project: str) -> None:
    answer = ask(app, f"/projects/{project}/queue")
    assert answer.status_code == 404
    assert "is not looked after here" in Text(answer.text)
    assert "not known any more" in ask(app, f"/projects/{project}/tasks/1/thumbnail").text


def test_pictures_never_leave_without_the_password(guarded_app: FastAPI, store: Store) -> None:
    store.record_tasks(3, [Task(20, {"image": picture_address()}, "t1", 0)])
    path = "/projects/3/tasks/20/thumbnail"
    for given in (None, ("ann", "wrong")):
        refused = ask(guarded_app, path, auth=given)
        assert refused.status_code == 401
        assert refused.headers["content-type"] == "application/json"
    answer = ask(guarded_app, path, auth=("ann", "secret"))
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"].startswith("private")
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_the_page_of_trust_stands_without_audits(app: FastAPI) -> None:
    page = Text(ask(app, "/projects/3/trust").text)
    assert "Nobody can tell yet" in page
    assert "queue?show=audits" in page.links
    assert ask(app, "/projects/9/trust").status_code == 404


@pytest.mark.parametrize("page", ["trust", "learning", "tasks/1", "versions", "queue"])
@pytest.mark.parametrize("damage", ["pointer", "rights"])
def test_heads_that_cannot_be_read_are_a_sentence_beside_the_rest(
    app: FastAPI, settings: Settings, page: str, damage: str
) -> None:
    (settings.registry_dir / "3").mkdir(parents=True)
    if damage == "pointer":
        (settings.registry_dir / "3" / "champion.json").write_text("{")
        answer, remedy = ask(app, f"/projects/3/{page}"), "repair"
    else:
        settings.registry_dir.chmod(0)
        try:
            app.state.service.board._threads = bound_threads()
            answer, remedy = ask(app, f"/projects/3/{page}"), "correct its rights"
        finally:
            settings.registry_dir.chmod(0o700)
    assert answer.status_code == 200
    assert (remedy in Text(answer.text)) == (page != "queue")


def test_accepted_masks_that_cannot_be_read_are_a_sentence_on_each_page(app: FastAPI, settings: Settings) -> None:
    folder = settings.data_dir / "pseudo_labels"
    folder.mkdir(mode=0o000)
    app.state.service.board._threads = bound_threads()
    for page in ("/", "/projects/3/trust"):
        answer = ask(app, page)
        assert answer.status_code == 200
        assert "ermission denied" in Text(answer.text)
