"""What `/openapi.json` says is what is answered: requests made from it by schemathesis, in and out of its bounds."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.backend.web.lone_service import service_here, url_of

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "130"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service in this process."""
    with service_here(tmp_path_factory.mktemp("openapi")) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        yield url_of(server)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def schemathesis() -> Any:
    """Loaded by whoever runs these tests, and not by all who collect them."""
    return pytest.importorskip("schemathesis", reason="needs schemathesis, of the extra `dev`")


@pytest.fixture(scope="module")
def described(schemathesis: Any, service: str) -> Any:
    return schemathesis.openapi.from_url(f"{service}/openapi.json")


ROUTES = [("/predict", "POST"), ("/webhook", "POST"), ("/setup", "POST"), ("/versions", "GET"), ("/health", "GET")]
ROUTES += [
    (f"/api/projects/{{project}}/{action}", "POST")
    for action in ("rollback", "train", "rank", "accept", "take-back", "right", "doubt-again")
]
ROUTES += [("/api/projects/{project}/acceptance", "GET")]
OTHERS = [("/metrics", "GET")]


def test_every_route_is_tried(described: Any) -> None:
    operations = {(found.ok().path, found.ok().method.upper()) for found in described.get_all_operations()}
    assert operations == {*ROUTES, *OTHERS}


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_what_is_described_is_what_is_answered(schemathesis: Any, described: Any, path: str, method: str) -> None:
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.response_schema_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.status_code_conformance,
    ]

    @settings(
        max_examples=max(REQUESTS // len(ROUTES), 1),
        deadline=None,
        database=None,
        derandomize=REQUESTS <= 1000,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=described[path][method].as_strategy())
    def look(case: Any) -> None:
        answer = case.call()
        assert answer.status_code < 500, answer.text
        assert b"inside the service" not in answer.content
        case.validate_response(answer, checks=checks)

    look()
