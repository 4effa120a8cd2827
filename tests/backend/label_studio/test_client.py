"""The client's own rules, against a small HTTP server. What Label Studio really answers is in tests/e2e."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from backend.errors import LabelStudioError
from backend.label_studio.client import LabelStudio
from backend.label_studio.http import AnswerTooLarge

TOKEN = "0123456789abcdef0123456789abcdef01234567"


class Script:
    """Answers to give, in order, and the requests that came."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = []
        self.requests: list[tuple[str, str, bytes]] = []
        self.url = ""


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script.requests.append((self.command, self.path, body))
            status, text = script.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.send_header("Content-Type", "application/json" if text[:1] in "[{" else "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    yield script
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def client(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStudio]:
    monkeypatch.setattr("backend.label_studio.http.time.sleep", lambda seconds: None)
    with LabelStudio(script.url, TOKEN) as client:
        yield client


PROJECT = '{"id": 1, "title": "a", "model_version": null}'


def test_predictions_go_in_chunks_by_number(script: Script, client: LabelStudio) -> None:
    script.answers = [(201, '{"created": 2}'), (201, '{"created": 1}')]
    rows = [{"task": n, "result": [], "score": 0.5, "model_version": "v"} for n in range(3)]
    assert client.import_predictions(1, iter(rows), chunk=2) == 3
    assert [len(json.loads(body)) for _, _, body in script.requests] == [2, 1]


def test_predictions_go_in_chunks_by_size(script: Script, client: LabelStudio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.label_studio.batches.BYTES", 150)
    script.answers = [(201, '{"created": 1}')] * 2
    rows = [{"task": n, "result": ["x" * 60], "score": 0.5} for n in range(2)]
    assert client.import_predictions(1, rows) == 2


@pytest.mark.parametrize("score", [None, float("nan"), float("inf"), "0.5", True])
def test_a_score_that_breaks_the_queue_is_never_sent(script: Script, client: LabelStudio, score: object) -> None:
    with pytest.raises(LabelStudioError):
        client.import_predictions(1, [{"task": 1, "result": [], "score": score}])
    assert script.requests == []


def test_predictions_of_a_version_are_found_among_those_whose_version_has_it_in_its_name(
    script: Script, client: LabelStudio
) -> None:
    found = [{"id": 7, "model_version": "v1"}, {"id": 8, "model_version": "v10"}]
    script.answers = [
        (200, json.dumps({"tasks": [{"id": 1, "predictions": found}], "total": 1})),
        (200, json.dumps({"tasks": [{"id": 1, "predictions": found[1:]}], "total": 1})),
        (404, '{"detail": "Invalid page."}'),
    ]
    assert [client.of_version(1, "v1", page) for page in (1, 1, 2)] == [[7], [], None]


def test_a_prediction_that_is_gone_already_is_no_error(script: Script, client: LabelStudio) -> None:
    script.answers = [(204, ""), (404, "{}"), (403, "{}")]
    client.delete_prediction(7)
    client.delete_prediction(7)
    with pytest.raises(LabelStudioError):
        client.delete_prediction(7)


def test_fewer_predictions_stored_than_sent_is_an_error(script: Script, client: LabelStudio) -> None:
    script.answers = [(201, '{"created": 1}')]
    with pytest.raises(LabelStudioError, match="2 predictions stored"):
        client.import_predictions(1, [{"task": n, "result": [], "score": 1} for n in range(2)])


def test_one_unreadable_item_of_many_is_left_out_by_name(
    script: Script, client: LabelStudio, caplog: pytest.LogCaptureFixture
) -> None:
    annotations = [{"id": 10**30, "result": []}, {"id": None}, {"id": 3, "result": [None, {"id": "r"}]}]
    script.answers = [(200, json.dumps({"tasks": [{"id": 1, "annotations": annotations}], "total": 1}))]
    assert [(one.id, one.task, one.result) for one in client.annotations(1, [1])] == [(3, 1, [{"id": "r"}])]
    assert "annotation of task 1 1000000" in caplog.text
    script.answers = [(200, json.dumps({"tasks": [{"id": -1}, {"id": 2, "data": 7}], "total": 2}))]
    assert [(task.id, task.data) for task in client.tasks(1)] == [(2, {})]
    predictions = [{"id": 5, "score": 10**400, "result": 3}]
    script.answers = [(200, json.dumps({"tasks": [{"id": 1, "predictions": predictions}], "total": 1}))]
    assert [(one.score, one.result) for one in client.predictions(1, [1])] == [(None, [])]


def test_what_is_nested_without_end_is_nothing_and_the_rest_is_read(script: Script, client: LabelStudio) -> None:
    """Label Studio on a newer Python takes what this one cannot read."""
    deep = "[" * 100_000 + '"\\"]"' + "]" * 100_000
    rows = [{"id": 1, "data": {"image": "a", "x": "deep", "y": "[{"}}, {"id": 2, "data": {"image": "b"}}]
    script.answers = [(200, json.dumps({"tasks": rows, "total": 2}).replace('"deep"', deep))]
    first, second = client.tasks(1)
    assert (first.data["image"], first.data["y"], second.data) == ("a", "[{", {"image": "b"})
    json.dumps(first.data)
    script.answers = [(200, "[" * 100_000)]
    with pytest.raises(LabelStudioError, match="JSON from"):
        client.project(1)


def test_one_odd_project_hides_no_other(script: Script, client: LabelStudio) -> None:
    """Label Studio takes a negative number of annotations."""
    odd = '{"id": 2, "maximum_annotations": -1}, {"id": 3, "task_number": "x"}, {"id": null}'
    script.answers = [(200, f'{{"results": [{PROJECT}, {odd}], "next": null}}')]
    assert [(one.id, one.maximum_annotations) for one in client.projects()] == [(1, 1), (2, 1), (3, 1)]


def test_pages_that_repeat_themselves_without_end_are_given_up(script: Script, client: LabelStudio) -> None:
    script.answers = [(200, f'{{"results": [{PROJECT}], "next": "more"}}')] * 3
    with pytest.raises(LabelStudioError, match="further projects"):
        client.projects()
    script.answers = [(200, '{"tasks": [{"id": 1}], "total": 1000000}')] * 3
    with pytest.raises(LabelStudioError, match="further tasks"):
        list(client.tasks(1))
    script.answers = [(200, '{"results": [], "next": "more"}')]
    with pytest.raises(LabelStudioError, match="further projects"):
        client.projects()


@pytest.mark.parametrize("second", [(404, "<html>no such page"), (200, '{"tasks": [], "total": 3}'), (200, '{"tasks"')])
def test_a_list_that_ends_too_early_is_not_the_whole_list(
    script: Script, client: LabelStudio, second: tuple[int, str]
) -> None:
    """Else what is missing would count as deleted."""
    script.answers = [(200, '{"tasks": [{"id": 1}, {"id": 2}], "total": 3}'), second]
    with pytest.raises(LabelStudioError):
        list(client.tasks(1))
    script.answers = [(200, '{"tasks": [{"id": 1}, {"id": 2}], "total": 3}'), (404, '{"detail": "Invalid page."}')]
    assert [task.id for task in client.tasks(1)] == [1, 2], "they have become fewer, as Label Studio itself says"


def test_tasks_whose_answer_is_too_large_are_asked_for_in_smaller_parts(
    script: Script, client: LabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(*tasks: int) -> str:
        rows = [{"id": task, "annotations": [{"id": 10 * task, "result": [{"id": "x" * 600}]}]} for task in tasks]
        return json.dumps({"tasks": rows, "total": len(rows)})

    monkeypatch.setattr("backend.label_studio.http.ANSWER_BYTES", 1000)
    monkeypatch.setattr("backend.label_studio.pages.PAGE", 4)
    ids = '{"tasks": [{"id": 1}, {"id": 2}, {"id": 3}], "total": 3}'
    script.answers = [(200, told(1, 2, 3)), (200, ids)]
    script.answers += [(200, told(task).replace('"total": 1', '"total": 3')) for task in (1, 2, 3)]
    assert [one.id for one in client.annotations(1, [1, 2, 3])] == [10, 20, 30]
    sizes = [re.search("page=(.)&page_size=(.)", path) for _, path, _ in script.requests]
    asked = [found[1] + "/" + found[2] for found in sizes if found]
    assert asked == ["1/4", "1/4", "1/1", "2/1", "3/1"]
    monkeypatch.setattr("backend.label_studio.pages.PAGE", 1)
    script.answers = [(200, told(1, 2))]
    with pytest.raises(AnswerTooLarge):
        client.annotations(1, [1])
