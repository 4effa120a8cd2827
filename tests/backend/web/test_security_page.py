"""SECURITY.md names each route that the service has, with the largest body that it takes."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi.routing import APIRoute

from backend.settings import Settings
from backend.web.app import create_app
from backend.web.request_rules import MIB, body_bytes

PAGE = (Path(__file__).resolve().parents[3] / "SECURITY.md").read_text()
ROW = re.compile(r"^\| (`(?:GET|POST) /.*?)\| .*? \| (\d+ [KM]B)", re.M)


def test_every_route_is_there_with_its_bound(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, random_weights=True, model="nano-s", heads="none")
    app = create_app(settings)
    app.state.service.close()
    app.state.service.engine.close()
    routes = {route.path for route in app.routes if isinstance(route, APIRoute)} | {"/openapi.json"}
    told = {path: bound for cell, bound in ROW.findall(PAGE) for path in re.findall(r"`(?:\w+ )?(/[\w./{}-]*)`", cell)}
    assert told.keys() == routes
    for path, bound in told.items():
        number, unit = bound.split()
        assert body_bytes(path, settings) == int(number) * (MIB if unit == "MB" else 1024), path
