"""The service over HTTP, with the real engine, store and registry behind it."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image
from sqlalchemy.exc import OperationalError

from backend.inference.engine import Engine
from backend.label_studio.records import Task
from backend.label_studio.regions import region_to_mask
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.web.app import create_app
from usam.heads.head_set import HeadSet

MODEL = "nano-s"
HW = (60, 80)
CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="out" toName="img"><Label value="A"/><Label value="B"/></BrushLabels>
<KeyPointLabels name="kp" toName="img" smart="true"><Label value="A"/><Label value="B"/></KeyPointLabels></View>"""


class Wakes:
    """A queue that notes what it was woken for."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, str, bool]] = []

    def wake(self, project: int, job: str, *, at_front: bool = False) -> bool:
        self.seen.append((project, job, at_front))
        return True


def settings(tmp_path: Path, **given: object) -> Settings:
    base = {
        "model": MODEL,
        "heads": "none",
        "threads": 1,
        "points_per_side": 2,
        "pred_iou_thresh": 0.0,
        "data_dir": tmp_path,
    }
    return Settings(**{**base, **given})


def heads(seed: int) -> HeadSet:
    rng = np.random.default_rng(seed)
    names = ("iou_nano_s", "task_gap", "prompt_gap", "model_gap")
    layers = {
        name: [
            (rng.normal(0, 0.05, (8, 256)).astype(np.float32), np.zeros(8, np.float32)),
            (rng.normal(0, 0.05, (1, 8)).astype(np.float32), np.zeros(1, np.float32)),
        ]
        for name in names
    }
    return HeadSet.from_layers(layers, alignment="aligned", checkpoint=MODEL, quality="iou_nano_s")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(Settings(model=MODEL, heads="none", threads=1, points_per_side=2, pred_iou_thresh=0.0)) as running:
        running.wait_ready(60)
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/t.db")
    yield opened
    opened.close()


@pytest.fixture
def wakes() -> Wakes:
    return Wakes()


class Running:
    """An application behind a real server."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False, ws="none"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False, verify=False)

    def stop(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture
def serve() -> Iterator[object]:
    running: list[Running] = []

    def start(app: FastAPI) -> Running:
        running.append(Running(app))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def client(serve, tmp_path: Path, engine: Engine, store: Store, wakes: Wakes) -> httpx.Client:  # type: ignore[no-untyped-def]
    running = serve(create_app(settings(tmp_path), engine, store, wakes))  # type: ignore[arg-type]
    running.client.service = running.app.state.service
    return running.client  # type: ignore[no-any-return]


def picture(seed: int = 0) -> str:
    image = np.random.default_rng(seed).integers(0, 40, (*HW, 3), dtype=np.uint8)
    image[20:45, 20:50] = (220, 60, 40)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def click(x: float = 44, y: float = 50, **rest: object) -> dict[str, object]:
    return {
        "original_width": HW[1],
        "original_height": HW[0],
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.5, "keypointlabels": ["B"]},
        "is_positive": True,
        "id": "k",
        "from_name": "kp",
        "to_name": "img",
        "type": "keypointlabels",
        **rest,
    }


def ask(tasks: list[object], context: object = None, config: str = CONFIG) -> dict[str, object]:
    params = {"login": None, "password": None, "context": context}
    return {"tasks": tasks, "project": "3.179", "label_config": config, "params": params}


def task(number: int = 1, image: object = None) -> dict[str, object]:
    return {"id": number, "data": {"image": image or picture()}, "predictions": [], "annotations": []}


def test_health_setup_versions(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "UP", "model_version": MODEL, "engine": "ready"}
    body = {"project": "3.1", "schema": CONFIG, "hostname": "", "access_token": "hush", "extra_params": {"a": 1}}
    assert client.post("/setup", json=body).json() == {"model_version": f"{MODEL}+no-heads"}
    assert client.get("/versions").json() == {"versions": [f"{MODEL}+no-heads"]}


def test_a_click_is_answered_with_a_region_of_its_label(client: httpx.Client) -> None:
    answer = client.post("/predict", json=ask([task()], {"result": [click()]}))
    item = answer.json()["results"][0]
    region = item["result"][0]
    assert (region["from_name"], region["type"]) == ("out", "brushlabels")
    assert region["value"]["brushlabels"] == ["B"]
    assert region_to_mask(region, HW)[30, 35]
    assert item["score"] == pytest.approx(region["score"], abs=1e-3)
    assert item["model_version"] == f"{MODEL}+no-heads"


def test_a_batch_has_one_item_a_task_and_bad_ones_harm_none(client: httpx.Client) -> None:
    tasks = [
        task(1),
        task(2, "http://169.254.169.254/latest"),
        "no task",
        task(4, "data:image/png;base64,AAAA"),
        {"id": 5},
        {"id": "six", "data": {"image": picture()}},
        None,
        task(8, picture(1)),
    ]
    items = client.post("/predict", json=ask(tasks)).json()["results"]
    assert len(items) == len(tasks)
    assert [bool(item["result"]) for item in items] == [True, *[False] * 6, True]
    assert [item["reason"] is None for item in items] == [True, *[False] * 6, True]
    assert all(0 <= item["score"] <= 1 for item in items)
    assert "USAM_ALLOWED_HOSTS" in items[1]["reason"]


def test_boxes_of_another_model_are_the_prompts(client: httpx.Client) -> None:
    box = {"x": 25, "y": 33, "width": 38, "height": 42, "rotation": 0, "rectanglelabels": ["B"]}
    given = task() | {
        "predictions": [{"model_version": "detector", "result": [{"type": "rectanglelabels", "value": box}]}]
    }
    result = client.post("/predict", json=ask([given])).json()["results"][0]["result"]
    assert [region["value"]["brushlabels"] for region in result] == [["B"]]
    ours = given["predictions"][0] | {"model_version": "nano-l+no-heads.7"}  # type: ignore[index]
    result = client.post("/predict", json=ask([task() | {"predictions": [ours]}])).json()["results"][0]["result"]
    assert [region["value"].get("brushlabels") for region in result] != [["B"]], "of a checkpoint used before"


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({"result": [click(is_positive=False)]}, "at least one positive"),
        ({"result": [click(original_width=800)]}, "image has changed"),
    ],
)
def test_a_click_that_cannot_be_used_says_why(client: httpx.Client, context: object, said: str) -> None:
    item = client.post("/predict", json=ask([task()], context)).json()["results"][0]
    assert item["result"] == []
    assert said in item["reason"]


def test_configuration_without_a_place_for_masks(client: httpx.Client) -> None:
    item = client.post("/predict", json=ask([task()], config="<View><Image/></View>")).json()["results"][0]
    assert "BrushLabels" in item["reason"]


@pytest.mark.parametrize("route", ["/predict", "/setup", "/webhook"])
def test_bodies_that_are_no_messages(client: httpx.Client, route: str) -> None:
    for body in (b"", b"{", b"[1]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"tasks": 3, "project": []}'):
        answer = client.post(route, content=body)
        assert answer.status_code in (200, 400), body[:10]
        assert isinstance(answer.json(), dict)
        assert "Traceback" not in answer.text
        if answer.status_code == 400:
            assert set(answer.json()) == {"error", "expected", "got", "remedy"}


def test_errors_are_json(client: httpx.Client) -> None:
    assert client.get("/nothing").json()["error"] == "Not Found"
    assert client.get("/predict").status_code == 405
    assert "error" in client.get("/predict").json()


def test_events_are_stored_and_wake_the_sync(client: httpx.Client, store: Store, wakes: Wakes) -> None:
    store.join(3)
    project = {"id": 3, "token": "hush-invite", "task_data_password": "hush-password"}
    for body in (
        {"action": "ANNOTATION_CREATED", "annotation": {"id": 9}, "project": project, "task": {"id": 4}},
        {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 9}], "project": project},
        {"action": "SOMETHING_NEW", "project": project},
        {"action": "START_TRAINING", "project": project},
        {"action": "NO_PROJECT"},
    ):
        assert client.post("/webhook", json=body).json() == {"status": "accepted"}
    client.service.inbox.drain()  # type: ignore[attr-defined]
    found = [(event.action, event.subjects) for event in store.open_events(3)]
    assert found == [
        ("ANNOTATION_CREATED", (9,)),
        ("ANNOTATIONS_DELETED", (9,)),
        ("SOMETHING_NEW", ()),
        ("START_TRAINING", ()),
    ]
    assert {(project, job) for project, job, _ in wakes.seen} == {(3, "sync")}
    assert wakes.seen[-1] == (3, "sync", True), "Start Training goes before what waits"


def test_events_wait_for_a_store_that_fails(serve, tmp_path: Path, engine: Engine, wakes: Wakes) -> None:  # type: ignore[no-untyped-def]
    broken = Store(f"sqlite:///{tmp_path}/broken.db")
    broken.join(3)
    real = broken.add_events
    broken.add_events = lambda *_: (_ for _ in ()).throw(OSError("disk full"))  # type: ignore[method-assign]
    running = serve(create_app(settings(tmp_path), engine, broken, wakes))
    assert running.client.post("/webhook", json={"action": "X", "project": {"id": 3}}).status_code == 200
    inbox = running.app.state.service.inbox
    assert not inbox.drain(0.3)
    assert wakes.seen == []
    broken.add_events = real  # type: ignore[method-assign]
    assert inbox.drain()
    assert [event.action for event in broken.open_events(3)] == ["X"]
    assert wakes.seen == [(3, "sync", False)]
    broken.close()


def test_secrets_are_not_logged(client: httpx.Client, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store.join(3)
    project = {"id": 3, "token": "hush-invite", "task_data_password": "hush-password"}
    client.post("/webhook", json={"action": "PROJECT_UPDATED", "project": project})
    client.post("/setup", json={"project": "3.1", "schema": CONFIG, "access_token": "hush-token"})
    client.post("/predict", json=ask([task(1, "http://a:hush-url@host/x.png?sig=hush-sig")]))
    client.service.inbox.drain()  # type: ignore[attr-defined]
    assert "hush" not in caplog.text
    assert "PROJECT_UPDATED" in caplog.text


def test_health_and_webhook_answer_while_the_engine_works(client: httpx.Client) -> None:
    with ThreadPoolExecutor(2) as pool:
        batch = pool.submit(client.post, "/predict", json=ask([task(n, picture(n)) for n in range(6)]))
        seconds: dict[str, list[float]] = {"/health": [], "/setup": [], "/webhook": []}
        while not batch.done():
            for method, route, body in (
                ("GET", "/health", None),
                ("POST", "/webhook", {"action": "X", "project": {"id": 3}}),
                ("POST", "/setup", {"project": "3.1"}),
            ):
                started = time.perf_counter()
                assert client.request(method, route, json=body).status_code == 200
                seconds[route].append(time.perf_counter() - started)
        assert len(batch.result().json()["results"]) == 6
    limits = {"/health": 1.0, "/setup": 3.0, "/webhook": 1.0}  # Label Studio's own patience
    for route, limit in limits.items():
        assert np.quantile(seconds[route], 0.9) < limit, route


def test_health_and_setup_answer_while_the_model_loads(serve, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    running = serve(create_app(settings(tmp_path)))
    started = time.perf_counter()
    assert running.client.get("/health").json()["status"] == "UP"
    assert time.perf_counter() - started < 1
    setup = running.client.post("/setup", json={"project": "3.1"})
    assert setup.json() == {"model_version": f"{MODEL}+no-heads"}
    assert time.perf_counter() - started < 3
    item = running.client.post("/predict", json=ask([task()], {"result": [click()]})).json()["results"][0]
    assert item["result"]


def test_a_busy_engine_says_when_to_come_back(serve, tmp_path: Path, engine: Engine) -> None:  # type: ignore[no-untyped-def]
    running = serve(create_app(settings(tmp_path, wait_seconds=0.2), engine))
    engine._scheduler._wait_seconds, before = 0.05, engine._scheduler._wait_seconds
    try:
        go = threading.Event()

        def block():  # type: ignore[no-untyped-def]
            go.wait(20)
            yield

        from backend.inference.scheduler import Priority

        blocker = threading.Thread(target=lambda: _quietly(lambda: engine._scheduler.run(Priority.CLICK, block())))
        blocker.start()
        time.sleep(0.1)
        answer = running.client.post("/predict", json=ask([task(1, picture(50))], {"result": [click()]}))
        go.set()
        blocker.join()
    finally:
        engine._scheduler._wait_seconds = before
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "try again" in answer.json()["remedy"]


def _quietly(work) -> None:  # type: ignore[no-untyped-def]
    from backend.errors import EngineBusy

    with pytest.raises(EngineBusy):
        work()


def test_the_registrys_champion_is_used_as_soon_as_it_moves(
    serve,  # type: ignore[no-untyped-def]
    tmp_path: Path,
    engine: Engine,
    store: Store,
) -> None:
    registry = Registry(tmp_path / "registry")
    running = serve(create_app(settings(tmp_path), engine, store, None, registry))

    def version() -> str:
        return str(running.client.post("/setup", json={"project": "3.1"}).json()["model_version"])

    first, second = heads(1), heads(2)
    registry.publish(3, first)
    assert version() == f"{MODEL}+no-heads"
    registry.promote(3, first.version)
    assert version() == f"{MODEL}+{first.version}"
    item = running.client.post("/predict", json=ask([task()], {"result": [click()]})).json()["results"][0]
    assert item["model_version"] == f"{MODEL}+{first.version}"
    assert "task gap" in item["result"][0]["meta"]["text"][0]
    registry.publish(3, second)
    registry.promote(3, second.version)
    assert version() == f"{MODEL}+{second.version}"
    assert running.client.get("/versions?project=3").json()["versions"] == [
        f"{MODEL}+{second.version}",
        f"{MODEL}+{first.version}",
    ]
    assert running.client.post("/setup", json={"project": "4.1"}).json() == {"model_version": f"{MODEL}+no-heads"}
    store.join(3)
    store.set_served(3, f"{MODEL}+{second.version}.r7")
    assert version() == f"{MODEL}+{second.version}.r7"
    registry.rollback(3, first.version)
    assert version() == f"{MODEL}+{first.version}"
    engine.set_heads(3, None)


def test_every_route_but_health_asks_for_the_password(serve, tmp_path: Path, engine: Engine) -> None:  # type: ignore[no-untyped-def]
    given = settings(tmp_path, auth_user="me", auth_password="word", auth_token="sesame")
    running = serve(create_app(given, engine))
    for method, route in (("POST", "/setup"), ("POST", "/webhook"), ("GET", "/metrics"), ("GET", "/openapi.json")):
        assert running.client.request(method, route).status_code == 401, route
        assert running.client.request(method, route, headers={"Authorization": "Bearer sesame"}).status_code == 200
    assert running.client.get("/health").status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_are_capped_while_they_arrive(serve, tmp_path: Path, engine: Engine, chunked: bool) -> None:  # type: ignore[no-untyped-def]
    running = serve(create_app(settings(tmp_path, request_bytes=10_000), engine))
    parts = (b"x" * 1000 for _ in range(20))
    answer = running.client.post("/webhook", content=parts if chunked else b"".join(parts))
    assert answer.status_code == 413
    assert "USAM_REQUEST_BYTES" in answer.json()["error"]
    assert running.client.post("/webhook", content=b"{}").status_code == 200


def test_metrics_and_openapi(client: httpx.Client) -> None:
    for _ in range(2):  # the second click is a warm one
        client.post("/predict", json=ask([task()], {"result": [click()]}))
    text = client.get("/metrics").text
    assert 'usam_requests_total{route="/predict",status="200"}' in text
    assert 'usam_click_seconds_count{warm="yes"}' in text
    assert "usam_embedding_bytes" in text
    document = client.get("/openapi.json").json()
    assert {"/health", "/setup", "/predict", "/webhook", "/versions", "/metrics"} <= set(document["paths"])
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"tasks", "project", "label_config", "params"} <= set(body["properties"])
    assert "$ref" not in json.dumps(body)


def test_metrics_show_what_the_workers_do(client: httpx.Client, store: Store) -> None:
    store.join(3)
    store.record_tasks(3, [Task(1, {"image": "a"}, "t", 0), Task(2, {"image": "b"}, "t", 1, is_labeled=True)])
    run = store.start_run(3, "score_pool")
    store.update_run(run, done=1, total=4)
    store.finish_run(store.start_run(3, "retrain"), "rejected")
    text = client.get("/metrics").text
    assert 'usam_job_state{job="score_pool",project="3",state="running"} 1.0' in text
    assert 'usam_job_progress{job="score_pool",project="3"} 0.25' in text
    assert 'usam_job_state{job="retrain",project="3",state="rejected"} 1.0' in text
    assert 'usam_tasks{labelled="no",project="3"} 1.0' in text
    assert 'usam_new_labels{project="3"} 0.0' in text


def test_next_tasks_are_computed_ahead(client: httpx.Client, store: Store, engine: Engine) -> None:
    from backend.store.records import ScoreRow

    images = {number: picture(60 + number) for number in range(1, 5)}
    store.join(3)
    store.record_tasks(3, [Task(number, {"image": image}, "2026") for number, image in images.items()])
    rows = [ScoreRow(n, "v", 1.0, 0.1, place, False, "") for place, n in enumerate((2, 1, 4, 3))]
    store.put_scores(3, rows)
    client.post("/predict", json=ask([task(2, images[2])], {"result": [click()]}))
    deadline = time.monotonic() + 20
    while not (engine.is_warm(images[1]) and engine.is_warm(images[4])) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [engine.is_warm(images[n]) for n in (2, 1, 4, 3)] == [True, True, True, False]


PAGE_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize(
    "route", ["/", "/health", "/docs", "/redoc", "/openapi.json", "/metrics", "/nothing", "/predict"]
)
def test_every_answer_refuses_frames_and_sniffing(client: httpx.Client, route: str) -> None:
    answer = client.get(route, headers={"Accept": "text/html"})
    assert {name: answer.headers[name] for name in PAGE_HEADERS} == PAGE_HEADERS
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("route", ["/docs", "/redoc"])
def test_the_protocol_is_a_page_that_loads_nothing(client: httpx.Client, route: str) -> None:
    page = client.get(route).text
    assert "POST /predict" in page
    assert "label_config" in page
    assert "script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert "src=" not in page


def test_a_forged_host_is_neither_answered_nor_followed(client: httpx.Client) -> None:
    for route in ("/", "/docs", "/metrics", "/versions", "/versions/"):
        answer = client.get(route, headers={"Host": "evil.example"})
        assert answer.status_code == 421
        assert "evil" not in answer.text + str(answer.headers)
        assert "USAM_HOSTS" in answer.json()["error"]
    answer = client.get("/versions/", follow_redirects=False)
    assert answer.status_code == 200
    assert "location" not in answer.headers


def test_a_web_page_cannot_send_an_event(client: httpx.Client, store: Store, wakes: Wakes) -> None:
    store.join(3)
    event = json.dumps({"action": "START_TRAINING", "project": {"id": 3}}).encode()
    for headers, status in (
        ({"Origin": "https://evil.example", "Content-Type": "application/json"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Host": "evil.example", "Content-Type": "application/json"}, 421),
    ):
        assert client.post("/webhook", content=event, headers=headers).status_code == status
    client.service.inbox.drain()  # type: ignore[attr-defined]
    assert wakes.seen == []
    assert client.post("/webhook", json={"action": "START_TRAINING", "project": {"id": 4}}).status_code == 200
    client.service.inbox.drain()  # type: ignore[attr-defined]
    assert (wakes.seen, store.projects(), store.open_events()) == ([], [3], [])


def test_naming_a_project_connects_it_by_no_route(client: httpx.Client, store: Store, wakes: Wakes) -> None:
    store.join(5)
    store.leave(5)
    for project in (4, 5):
        named = f"{project}.179"
        assert client.post("/setup", json={"project": named, "schema": CONFIG}).status_code == 200
        assert client.post("/predict", json={"project": named, "label_config": CONFIG, "tasks": []}).status_code == 200
        assert client.get("/versions", params={"project": named}).status_code == 200
        client.post("/webhook", json={"action": "START_TRAINING", "project": {"id": project}})
    client.service.inbox.drain()  # type: ignore[attr-defined]
    assert (wakes.seen, store.projects(), store.open_events()) == ([], [], [])


@pytest.mark.parametrize(
    "project",
    ["2147483648", "9" * 18, str(2**63 - 1), str(2**63), "-1", "\ud800", "\0", "1e400", "9" * 5000, "0"],
)
def test_a_project_that_cannot_be_is_answered(client: httpx.Client, store: Store, project: str) -> None:
    headers = {"Content-Type": "application/json"}
    for route, message in (("/setup", {"project": project}), ("/predict", {"project": project, "tasks": []})):
        answer = client.post(route, content=json.dumps(message).encode(), headers=headers)
        assert answer.status_code in (200, 400), answer.text
    answer = client.get("/versions", params={"project": project.encode("utf-8", "surrogatepass")})
    assert answer.status_code == 200
    assert store.projects() == []


def test_a_large_event_is_left_to_the_timer(client: httpx.Client) -> None:
    body = b'{"action": "X", "project": 3, "annotation": [' + b"[]," * 300_000 + b"[]]}"
    assert client.post("/webhook", content=body).json()["status"].startswith("dropped")
    assert client.post("/predict", content=body).status_code == 413
    assert client.post("/setup", content=b" " * 5 * 2**20).status_code == 413


def test_a_warm_click_does_not_wait_for_cold_ones(client: httpx.Client, engine: Engine) -> None:
    from backend.web.app import COLD_THREADS

    shown = picture(77)
    click_on = lambda image: client.post("/predict", json=ask([task(1, image)], {"result": [click()]}))  # noqa: E731
    assert click_on(shown).json()["results"][0]["result"]
    service, go = client.service, threading.Event()  # type: ignore[attr-defined]
    fetch = service.fetcher.fetch_bytes

    def slow(value: str, task_id: int | None = None) -> bytes:
        go.wait(60)
        return fetch(value, task_id)  # type: ignore[no-any-return]

    service.fetcher.fetch_bytes = slow
    with ThreadPoolExecutor(COLD_THREADS + 2) as pool:
        cold = [pool.submit(click_on, picture(100 + number)) for number in range(COLD_THREADS + 2)]
        try:
            while service._cold_waiting < COLD_THREADS + 2:
                time.sleep(0.01)
            assert click_on(shown).json()["results"][0]["result"], "all others wait still"
            assert not any(waiting.done() for waiting in cold)
        finally:
            go.set()
        assert all(waiting.result().json()["results"][0]["result"] for waiting in cold)


def test_a_store_that_does_not_answer_is_said_and_clicks_go_on(client: httpx.Client, store: Store) -> None:
    def nothing(*_: object, **__: object) -> object:
        raise OperationalError("SELECT", None, ConnectionError("the server closed the connection"))

    for name in ("projects", "served", "ranking", "counts", "refinements"):
        setattr(store, name, nothing)
    page = client.get("/", headers={"Accept": "text/html"})
    assert page.status_code in (200, 503)
    assert "inside the service" not in page.text
    answer = client.post("/predict", json=ask([task(1, picture(1))]))
    assert answer.status_code == 200
    assert answer.json()["results"][0]["reason"] is None
    for route in ("/health", "/metrics", "/versions?project=3"):
        assert client.get(route).status_code == 200
    assert client.post("/setup", json={"project": "3.1"}).status_code == 200
    assert client.post("/webhook", json={"action": "X", "project": {"id": 3}}).status_code == 200
