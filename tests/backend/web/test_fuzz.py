"""Requests that nobody thought of: no route fails inside, and none holds up `/health`. `make fuzz` sends 100,000
and says what memory they cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backend.web.lone_service import LoneService, lone_service

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "200"))
TEXTS = st.text(st.characters(), max_size=12) | st.sampled_from(
    [
        "\ud800",
        "\0",
        "3",
        "3.17",
        "9" * 30,
        "ANNOTATION_CREATED",
        "START_TRAINING",
        "data:image/png;base64,AA",
        "http://[",
    ]
)
NUMBERS = st.integers(-(10**40), 10**40) | st.floats() | st.sampled_from([2**31, 2**63, -1, 0, 10**400])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
CONFIG = (
    '<View><Image name="img" value="$image"/><BrushLabels name="out" toName="img"><Label value="A"/></BrushLabels>'
    '<KeyPointLabels name="kp" toName="img" smart="true"><Label value="A"/></KeyPointLabels></View>'
)
REGIONS = st.fixed_dictionaries(
    {"type": st.sampled_from(["keypointlabels", "rectanglelabels", "brushlabels"]) | VALUES, "value": VALUES},
    optional={"id": VALUES, "from_name": VALUES, "original_width": VALUES, "original_height": VALUES},
)
TASKS = st.fixed_dictionaries(
    {}, optional={"id": VALUES, "data": VALUES | st.fixed_dictionaries({"image": VALUES}), "predictions": VALUES}
)
FIELDS = {
    "action": VALUES,
    "project": VALUES | st.fixed_dictionaries({"id": VALUES}),
    "annotation": VALUES,
    "annotations": VALUES,
    "schema": VALUES,
    "tasks": VALUES | st.lists(TASKS | VALUES, max_size=3),
    "label_config": VALUES | st.just(CONFIG),
    "params": VALUES
    | st.fixed_dictionaries({"context": VALUES | st.fixed_dictionaries({"result": st.lists(REGIONS, max_size=2)})}),
}
MESSAGES = st.fixed_dictionaries({}, optional=FIELDS) | VALUES
BODIES = MESSAGES.map(lambda message: json.dumps(message).encode()) | st.binary(max_size=60)
PAGES = [
    "/static/x",
    *(f"/projects/{tail}" for tail in ("3/queue", "9/trust", "x/versions", "3/train", "3/confirm/rank")),
]
ROUTES = st.sampled_from(["/predict", "/setup", "/webhook", "/versions", "/health", "/", "/docs", "/nothing", *PAGES])
METHODS = st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"])


MEMORY_MIB = 200
"""How much the service may hold more after the requests than after the first of them."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoneService]:
    with lone_service(tmp_path_factory.mktemp("fuzz")) as started:
        yield started


@pytest.fixture(scope="module")
def served(service: LoneService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        for route in ("/predict", "/setup", "/webhook"):  # what is loaded at the first request of a kind
            client.post(route, content=b"{}")
        before = service.memory()
        yield client
        after = service.memory()
        print(f"{REQUESTS} requests: {before:.0f} MiB before, {after:.0f} MiB after")
        assert after - before < MEMORY_MIB


@settings(
    max_examples=REQUESTS,
    deadline=None,
    database=None,
    derandomize=REQUESTS <= 1000,
    suppress_health_check=list(HealthCheck),
)
@given(method=METHODS, route=ROUTES, body=BODIES, project=TEXTS)
def test_no_request_fails_inside(served: httpx.Client, method: str, route: str, body: bytes, project: str) -> None:
    query = {"project": project.encode("utf-8", "surrogatepass")}
    answer = served.request(method, route, content=body, params=query)
    assert answer.status_code < 500, answer.text
    assert "Traceback" not in answer.text
    assert "inside the service" not in answer.text


MIB = 2**20
HEAVY = {
    "64 MB of lists": lambda: b"[" + b"[]," * (21 * MIB) + b"[]]",
    "a million tasks": lambda: b'{"tasks": [' + b"{}," * 1_000_000 + b"{}]}",
    "64 MB of text": lambda: b'{"action": "' + b"a" * (63 * MIB) + b'"}',
    "64 MB of escapes": lambda: b'{"action": "' + rb"\n" * (31 * MIB) + b'"}',
    "a number of 60 MB": lambda: b'{"project": ' + b"9" * (60 * MIB) + b"}",
    "four million numbers": lambda: b'{"params": [' + b"255," * 3_999_000 + b"1]}",
}
"""Bodies, made when they are sent: together they are a third of a gigabyte."""


@pytest.mark.parametrize("route", ["/predict", "/webhook", "/setup"])
@pytest.mark.parametrize("name", HEAVY)
def test_no_body_fails_inside_and_health_is_answered_beside_it(served: httpx.Client, route: str, name: str) -> None:
    waits = []
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(served.post, route, content=HEAVY[name]())
        while not sent.done():
            started = time.perf_counter()
            assert served.get("/health").status_code == 200
            waits.append(time.perf_counter() - started)
        assert sent.result().status_code in (200, 400, 413)
    print(f"{route}, {name}: health waited {max(waits, default=0):.3f} s at most")
