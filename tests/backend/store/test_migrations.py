"""A data folder of the release before there were migrations opens with everything in it.

`before-migrations.tar.gz` was made by that release's own jobs on ten small photographs in a real Label Studio: a killed
and a whole sync, two rankings with refinement, a retraining that was promoted, accepted masks, an event not taken up.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import sqlite3
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sql
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from backend.errors import StoreError
from backend.store import Store, database
from backend.store.head_registry import Registry
from backend.store.migrations import FOLDER, HEAD
from backend.store.pseudo_label_store import PseudoLabelStore
from backend.store.records import Row
from tests import new_store

ARCHIVE = Path(__file__).parent / "before-migrations.tar.gz"
CHAMPION = "2438cc3f786d"
KEPT_AS_THEY_ARE = ("events", "tasks", "annotations", "scores")


@pytest.fixture(autouse=True)
def quick_new_stores() -> None:
    """Not here: the migrations are what is tested."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "before-migrations"


def address(folder: Path) -> str:
    return f"sqlite:///{folder / 'usam.db'}"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    store = Store(address(folder))
    yield store
    store.close()


def rows_of(path: Path, table: str) -> list[dict[str, Any]]:
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
    connection.close()
    return rows


def test_every_row_of_every_table_is_there(folder: Path) -> None:
    before = {table: rows_of(folder / "usam.db", table) for table in (*KEPT_AS_THEY_ARE, "projects", "samples", "runs")}
    Store(address(folder)).close()
    for table in KEPT_AS_THEY_ARE:
        rows = rows_of(folder / "usam.db", table)
        known = [{name: row[name] for name in old} for row, old in zip(rows, before[table], strict=True)]
        assert known == before[table]
    (project,) = rows_of(folder / "usam.db", "projects")
    assert (project.pop("connected"), project.pop("classes")) == (1, "[]")
    assert [project] == before["projects"]
    interrupted = [run | {"state": run["state"].replace("cut-short", "interrupted")} for run in before["runs"]]
    assert rows_of(folder / "usam.db", "runs") == interrupted
    samples = rows_of(folder / "usam.db", "samples")
    old = [{name: value for name, value in row.items() if name != "width"} for row in before["samples"]]
    old.sort(key=lambda row: (row["annotation"], row["region"]))  # which is how they are numbered
    assert [{name: row[name] for name in old[0]} for row in samples] == old
    assert len(old) == 18


def test_labels_proposals_ranking_and_served_version_are_read(store: Store) -> None:
    assert store.projects() == [1]
    assert store.served(1) == f"nano-s+{CHAMPION}.6"
    assert len(store.tasks(1)) == 10
    assert len(store.annotations(1)) == 12
    assert len(store.tasks(1, unlabelled=True)) == len(store.ranking(1)) == 2
    samples = store.samples(1, "nano-s")
    assert len(samples) == 18
    assert {sample.mask_tokens.shape for sample in samples} == {(4, 128)}
    assert all(np.isfinite(sample.targets["iou_nano_s"]).all() for sample in samples)
    (event,) = store.open_events(1)
    assert (event.action, event.subjects) == ("ANNOTATION_CREATED", (7,))
    assert store.proposal_keys(1) == {}, "they are made again, with more candidates"
    assert store.classes(1) == []
    assert store.examples(1) == []


def test_runs_verdicts_gains_and_refinements_are_read(store: Store) -> None:
    states = [(run.job, run.state) for run in reversed(store.runs(1))]
    assert states[0] == ("sync", "interrupted")
    assert ("retrain", "done") in states
    (verdict,) = store.verdicts(1)
    assert (verdict.promote, verdict.tasks, verdict.candidate) == (True, 4, CHAMPION)
    assert verdict.candidate_error < verdict.champion_error
    gain = store.selection_gain(1, CHAMPION)
    assert gain is not None
    assert (gain.value, gain.objects, gain.images) == (0.04527, 18, 8)
    larger = store.refinements(1)["larger"]
    assert (larger.acted, larger.kept, larger.suspended, larger.budget) == (12, 12, False, 0.6)
    assert larger.predicted_gain == pytest.approx(0.2231)


def test_heads_and_accepted_masks_are_read(folder: Path) -> None:
    registry = Registry(folder / "heads")
    assert registry.champion(1) == CHAMPION == registry.load(1, CHAMPION).version
    (record,) = PseudoLabelStore(folder / "pseudo_labels").records(1)
    assert (record.state, len(record.masks)) == ("written", 2)


def test_a_copy_from_before_is_kept_and_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = {table: rows_of(folder / "usam.db", table) for table in ("samples", "runs")}
    with caplog.at_level(logging.WARNING):
        Store(address(folder)).close()
    copy = folder / f"usam.db.before-{HEAD}"
    assert {table: rows_of(copy, table) for table in before} == before
    assert copy.stat().st_mode & 0o777 == 0o600
    assert f"from revision 0001 to {HEAD}; as it was before, it is in {copy}" in caplog.text
    written = copy.stat().st_mtime_ns
    caplog.clear()
    Store(address(folder)).close()
    assert (caplog.text, copy.stat().st_mtime_ns) == ("", written)
    assert sorted(path.name for path in folder.glob("*.before-*")) == [copy.name]


def open_store(url: str, results: Any) -> None:
    store = Store(url)
    results.put(len(store.samples(1, "nano-s")))
    store.close()


def test_two_processes_that_start_at_once_migrate_once(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=open_store, args=(address(folder), results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=120) for _ in processes] == [18] * 2
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 2


def test_a_step_that_fails_leaves_the_store_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rows_of(folder / "usam.db", "samples")
    with sqlite3.connect(folder / "usam.db") as connection:
        connection.execute("CREATE TABLE numbered (x)")  # in the way of a step
    connection.close()
    with pytest.raises(StoreError, match="a store that opens"):
        Store(address(folder))
    assert rows_of(folder / "usam.db", "samples") == before
    with sqlite3.connect(folder / "usam.db") as connection:
        connection.execute("DROP TABLE numbered")
    connection.close()
    store = Store(address(folder))
    assert len(store.samples(1, "nano-s")) == 18
    store.close()


def test_an_old_store_on_postgresql_opens_with_everything_in_it(folder: Path, postgres_url: str) -> None:
    old = sql.MetaData()
    source, target = sql.create_engine(address(folder)), sql.create_engine(postgres_url)
    script = ScriptDirectory(str(FOLDER)).get_revision("0001").module
    script.metadata.create_all(target)
    old.reflect(source)
    with source.connect() as reader, target.begin() as writer:
        for name in ("about", "projects", *KEPT_AS_THEY_ARE, "samples", "runs"):
            rows = [dict(row._mapping) for row in reader.execute(sql.select(script.metadata.tables[name]))]
            writer.execute(script.metadata.tables[name].insert(), rows)
    source.dispose()
    store = Store(postgres_url)
    test_labels_proposals_ranking_and_served_version_are_read(store)
    test_runs_verdicts_gains_and_refinements_are_read(store)
    store.close()
    check_schema(target)
    target.dispose()


def check_schema(engine: sql.Engine) -> None:
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Row.metadata) == []


@pytest.mark.parametrize("kind", ["new", "migrated"])
def test_steps_lead_to_the_tables_of_this_release(folder: Path, kind: str) -> None:
    url = address(folder) if kind == "migrated" else f"sqlite:///{folder / 'new.db'}"
    Store(url).close()
    engine = sql.create_engine(url)
    check_schema(engine)
    engine.dispose()
    assert bool(list(folder.glob("*.before-*"))) == (kind == "migrated")


def test_the_newest_step_is_the_head() -> None:
    assert ScriptDirectory(str(FOLDER)).get_heads() == [HEAD]


@pytest.mark.parametrize("name", ["usam.db", "new.db"])
def test_releases_from_before_refuse_the_store(folder: Path, name: str) -> None:
    Store(f"sqlite:///{folder / name}").close()
    (about,) = rows_of(folder / name, "about")
    assert about["value"] != "1", "those releases go on where they read 1, or nothing"


def test_details_that_nobody_can_read_are_passed_over(folder: Path) -> None:
    with sqlite3.connect(folder / "usam.db") as connection:
        connection.execute("UPDATE runs SET details = ? WHERE id = 5", (json.dumps({"choice": [1], "gate": "x"}),))
    connection.close()
    store = Store(address(folder))
    assert (store.verdicts(1), store.selection_gain(1, CHAMPION)) == ([], None)
    assert store.refinements(1).keys() == {"larger", "alternatives"}
    store.close()


def test_new_stores_of_other_tests_are_those_that_the_migrations_make(tmp_path: Path) -> None:
    made, quick = f"sqlite:///{tmp_path / 'made.db'}", f"sqlite:///{tmp_path / 'quick.db'}"
    Store(made).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "migrate", new_store.migrate)
        Store(quick).close()
    dumps = []
    for name in ("made.db", "quick.db"):
        connection = sqlite3.connect(tmp_path / name)
        dumps.append(list(connection.iterdump()))
        connection.close()
    assert dumps[0] == dumps[1]
