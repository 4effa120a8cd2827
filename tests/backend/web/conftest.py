"""A project as the page shows it: five tasks, four of them ranked, two runs of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from backend.inference.engine import Engine
from backend.label_studio.records import Annotation, Task
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.records import ScoreRow
from backend.web.app import create_app
from tests.factories import PageQueue, head_set

HOSTILE = "<script>alert(1)</script>&\"'.png"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path, model="nano-s", heads="none", threads=1, label_studio_url="http://labels.example:8080"
    )


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Pages ask it for its state alone."""
    folder = tmp_path_factory.mktemp("engine")
    with Engine(Settings(data_dir=folder, model="nano-s", heads="none", threads=1)) as running:
        yield running


@pytest.fixture
def registry(settings: Settings) -> Registry:
    made = Registry(settings.registry_dir)
    for seed in (1, 2):
        made.promote(3, made.publish(3, head_set(seed)).version, "better")
    return made


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    store = Store(settings.store_url)
    store.join(3, "2026-01-01")
    names = ["a.png", "/data/local-files/?d=pictures/b%20c.png", HOSTILE, "data:image/png;base64,AAAA"]
    tasks = [Task(number, {"image": name}, "t1", 0) for number, name in enumerate(names, 1)]
    store.record_tasks(3, [*tasks, Task(9, {"image": "done.png"}, "t1", 1, is_labeled=True)])
    rows = [
        ScoreRow(task.id, "v", 1.0, place / 9, place, place == 1, f"why {HOSTILE}") for place, task in enumerate(tasks)
    ]
    store.put_scores(3, rows)
    store.set_served(3, "nano-s+0123456789ab.7")
    store.record_annotation(3, Annotation(5, 9, "t1", []), [], sampled_for="k")
    run = store.start_run(3, "score_pool", total=8)
    store.update_run(run, done=2, total=8)
    store.finish_run(store.start_run(3, "retrain"), "rejected", "not surely better")
    yield store
    store.close()


@pytest.fixture
def queue() -> PageQueue:
    return PageQueue()


@pytest.fixture
def app(settings: Settings, store: Store, engine: Engine) -> Iterator[FastAPI]:
    """The service, open to everybody."""
    made = create_app(settings, engine, store, registry=Registry(settings.registry_dir))
    yield made
    made.state.service.close()


@pytest.fixture
def guarded(settings: Settings) -> Settings:
    """The same with a password: ann's is `secret`."""
    return settings.model_copy(update={"auth_user": "ann", "auth_password": SecretStr("secret")})


@pytest.fixture
def guarded_app(guarded: Settings, store: Store, engine: Engine) -> Iterator[FastAPI]:
    """The service, for ann alone."""
    made = create_app(guarded, engine, store)
    yield made
    made.state.service.close()
