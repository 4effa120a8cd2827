"""The service as it is run: on the settings' store, queue and registry, which it makes where there are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import QueueError, StoreError
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.web import app as module
from backend.web.service import service_app


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the application was made of; no model is loaded."""
    parts: dict[str, Any] = {}

    def create(settings: Settings, **given: Any) -> str:
        parts.update(given, settings=settings)
        return "the application"

    monkeypatch.setattr(module, "create_app", create)
    yield parts
    if "store" in parts:
        parts["store"].close()


def test_its_parts_are_those_of_the_settings(tmp_path: Path, made: dict[str, Any]) -> None:
    settings = Settings(data_dir=tmp_path / "new" / "data", redis_url="redis://127.0.0.1:9/0")
    app: Any = service_app(settings)
    assert app == "the application"
    assert made["settings"] is settings
    assert made["alone"] is True
    assert isinstance(made["store"], Store)
    assert isinstance(made["registry"], Registry)
    assert (tmp_path / "new" / "data" / "usam.db").is_file()
    made["store"].join(3)
    other = Store(settings.store_url)
    assert other.projects() == [3], "it is the folder's store"
    other.close()


def test_a_redis_that_does_not_answer_stops_no_service(tmp_path: Path, made: dict[str, Any]) -> None:
    service_app(Settings(data_dir=tmp_path, redis_url="redis://127.0.0.1:9/0"))
    assert made["queue"].wake(3, "sync") is False


def test_a_malformed_address_of_redis_is_said_at_the_start(tmp_path: Path, made: dict[str, Any]) -> None:
    with pytest.raises(QueueError, match="redis://host:6379/0"):
        service_app(Settings(data_dir=tmp_path, redis_url="127.0.0.1 6379"))
    assert made == {}


def test_a_store_of_another_make_is_refused(tmp_path: Path, made: dict[str, Any]) -> None:
    (tmp_path / "usam.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError):
        service_app(Settings(data_dir=tmp_path))
    assert made == {}
