"""`usam-backend connect` and `disconnect` on a project of a real Label Studio, as a shell runs them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from backend.errors import LabelStudioError
from backend.jobs.entry import run_job
from backend.label_studio.setup import BACKEND_TITLE, VIEW_TITLE
from backend.local.label_studio_server import LabelStudioServer
from backend.local.redis_server import RedisServer
from tests.e2e.workplace import CONFIG, Workplace, small_region, workplace

pytestmark = pytest.mark.e2e


@pytest.fixture
def place(tmp_path: Path, label_studio_server: LabelStudioServer, redis_server: RedisServer) -> Iterator[Workplace]:
    with workplace(tmp_path, label_studio_server, redis_server) as place:
        yield place


def command(place: Workplace, *arguments: str) -> tuple[int, str]:
    """Exit status, and what was said, of `usam-backend ARGUMENTS`."""
    whole = [sys.executable, "-m", "backend.cli.main", *arguments]
    done = subprocess.run(whole, env=place.environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_connect_and_disconnect_and_nothing_between(place: Workplace, pictures: list[Path]) -> None:
    client, store = place.label_studio, place.store
    made = client.create_project("connected", CONFIG)
    other = client.create_project("another", CONFIG)
    for project in (made, other):
        client.upload(project.id, pictures[:2])
    number = str(made.id)
    task, second = (task.id for task in client.tasks(made.id))

    status, said = command(place, "connect", "--project", number, "--url", "http://127.0.0.1:1")
    assert status == 1, "nobody answers there"
    assert "is not connected" in said
    assert (store.projects(), client.ml_backends(made.id), client.webhooks(made.id)) == ([], [], [])

    url = place.start_backend()
    status, said = command(place, "connect", "--project", number, "--url", url)
    assert status == 0, said
    assert store.projects() == [made.id]
    assert [(backend.title, backend.state) for backend in client.ml_backends(made.id)] == [(BACKEND_TITLE, "CO")]
    assert [hook.url for hook in client.webhooks(made.id)] == [f"{url}/webhook"]
    assert VIEW_TITLE in [view.title for view in client.views(made.id)]
    assert client.ml_backends(other.id) == [], "no other project is touched"
    status, said = command(place, "connect", "--project", number, "--url", url)
    assert status == 0
    assert "was done  backend" in said

    client.annotate(task, [small_region(task)])
    place.wait("event", lambda: store.open_events(made.id))
    httpx.post(f"{url}/setup", json={"project": f"{other.id}.1"}).raise_for_status()
    httpx.post(f"{url}/webhook", json={"action": "START_TRAINING", "project": {"id": other.id}}).raise_for_status()
    assert store.projects() == [made.id], "naming a project connects it by no route"
    run_job(place.resources, "sync", made.id)
    learnt = len(store.tasks(made.id))
    assert learnt == 2

    status, said = command(place, "disconnect", "--project", number)
    assert status == 0, said
    assert "not looked after any more" in said
    assert (store.projects(), client.ml_backends(made.id), client.webhooks(made.id)) == ([], [], [])
    assert VIEW_TITLE not in [view.title for view in client.views(made.id)]
    runs = len(store.runs(made.id))
    client.annotate(second, [small_region(second)])
    run_job(place.resources, "sync", made.id)
    assert len(store.runs(made.id)) == runs, "it keeps still"
    assert len(client.annotations(made.id, [task, second])) == 2, "labels stay"
    status, said = command(place, "disconnect", "--project", number)
    assert status == 0
    assert "no backend of ours" in said

    status, said = command(place, "connect", "--project", number, "--url", url)
    assert status == 0, said
    assert (store.projects(), len(store.tasks(made.id))) == ([made.id], learnt), "what was learnt was kept"

    headers = {"Authorization": f"Token {place.environment['LABEL_STUDIO_API_KEY']}"}
    httpx.delete(f"{client.url}/api/projects/{made.id}/", headers=headers, timeout=60).raise_for_status()
    with pytest.raises(LabelStudioError, match="404"):
        client.project(made.id)
    status, said = command(place, "disconnect", "--project", number)
    assert status == 0, "a project that is gone can be left too"
    assert f"Label Studio has no project {number}" in said
    assert store.projects() == []
