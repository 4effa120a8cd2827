"""The durable truth of the service on disk: SQLite (WAL) by default, any SQLAlchemy address otherwise.

Every write is one transaction; several processes may use one store at once. Images and secrets are never
stored.

Legend: D token width; tokens are kept as half floats, (D,) for the IoU token and (4, D) for the mask tokens.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection, Engine

from backend.errors import StoreError
from backend.label_studio_records import Annotation, Json, Task
from backend.schema import (
    SCHEMA_VERSION,
    about,
    annotation_map,
    events,
    leases,
    metadata,
    projects,
    proposals,
    runs,
    samples,
    scores,
    tasks,
)
from backend.store_records import (
    Event,
    KnownAnnotation,
    KnownTask,
    ProposalRow,
    Run,
    SampleRow,
    ScoreRow,
    TaskChanges,
    data_key,
)

BUSY_MS = 30_000
_BATCH = 500


class Store:
    """The store at `url` (SQLAlchemy), made on first use. Safe to share between threads and processes.

    Raises `StoreError` where it cannot be opened or was made by a newer release.
    """

    def __init__(self, url: str) -> None:
        self._engine = _open(url)
        self._sqlite = self._engine.dialect.name == "sqlite"
        try:
            metadata.create_all(self._engine)
            with self._write() as connection:
                self._upsert(connection, about, [{"name": "schema", "value": str(SCHEMA_VERSION)}], keep_existing=True)
                made_by = connection.scalar(sql.select(about.c.value).where(about.c.name == "schema"))
        except sql.exc.SQLAlchemyError as error:
            raise StoreError(
                "a store that opens", type(error).__name__, "check USAM_DATABASE_URL and the folder's rights"
            ) from error
        if made_by != str(SCHEMA_VERSION):
            raise StoreError(
                f"a store of schema {SCHEMA_VERSION}", str(made_by), "use the release that made it, or a new folder"
            )

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # projects

    def join(self, project: int, stamp: str = "") -> None:
        """Note that `project` is ours to look after. Another `stamp` under the same id empties it first."""
        with self._write() as connection:
            row = connection.execute(sql.select(projects.c.stamp).where(projects.c.id == project)).first()
            if row is None:
                fresh = {"id": project, "stamp": stamp, "cursor": "", "served": "", "synced_at": 0.0}
                self._upsert(connection, projects, [fresh], keep_existing=True)
            elif stamp and row.stamp and row.stamp != stamp:
                self._empty(connection, project)
                connection.execute(
                    projects.update().where(projects.c.id == project).values(stamp=stamp, cursor="", served="")
                )
            elif stamp and not row.stamp:
                connection.execute(projects.update().where(projects.c.id == project).values(stamp=stamp))

    def forget(self, project: int) -> None:
        """Drop a project with all that is known of it."""
        with self._write() as connection:
            self._empty(connection, project)
            connection.execute(projects.delete().where(projects.c.id == project))

    def projects(self) -> list[int]:
        """Projects that are ours to look after."""
        with self._read() as connection:
            return list(connection.scalars(sql.select(projects.c.id).order_by(projects.c.id)))

    def served(self, project: int) -> str:
        """The prediction version in use, empty where nothing was ever scored."""
        return str(self._of_project(project, projects.c.served) or "")

    def set_served(self, project: int, version: str) -> None:
        """Note which prediction version is in use."""
        self._set_project(project, served=version)

    def cursor(self, project: int) -> str:
        """The largest `updated_at` of a task that a finished sync has seen, empty before the first."""
        return str(self._of_project(project, projects.c.cursor) or "")

    def synced_at(self, project: int) -> float:
        """When a sync last looked at every task, 0 before the first."""
        return float(self._of_project(project, projects.c.synced_at) or 0.0)

    def set_cursor(self, project: int, cursor: str) -> None:
        """Note what a sync that looked at every task has seen."""
        self._set_project(project, cursor=cursor, synced_at=time.time())

    def advance_cursor(self, project: int, cursor: str) -> None:
        """Note what a sync that looked at changes only has seen."""
        if cursor > self.cursor(project):
            self._set_project(project, cursor=cursor)

    # events

    def add_event(self, project: int, action: str, subjects: Sequence[int] = ()) -> int:
        """Keep an event of Label Studio's; `subjects` are ids of what it was about. Returns its number."""
        row = {
            "project": project,
            "action": action[:60],
            "subjects": json.dumps(list(subjects)[:1000]),
            "received_at": time.time(),
            "handled": False,
        }
        with self._write() as connection:
            key = connection.execute(events.insert().values(**row)).inserted_primary_key
        return int(key[0]) if key else 0

    def open_events(self, project: int | None = None) -> list[Event]:
        """Events no sync has taken up yet, oldest first."""
        query = sql.select(events).where(~events.c.handled).order_by(events.c.id)
        if project is not None:
            query = query.where(events.c.project == project)
        with self._read() as connection:
            return [
                Event(row.id, row.project, row.action, tuple(json.loads(row.subjects)), row.received_at)
                for row in connection.execute(query)
            ]

    def handle_events(self, project: int, up_to: int, keep: int = 1000) -> None:
        """Mark events up to number `up_to` as taken up; of all such the last `keep` stay for the record."""
        mine = events.c.project == project
        with self._write() as connection:
            connection.execute(events.update().where(mine, events.c.id <= up_to).values(handled=True))
            connection.execute(events.delete().where(mine, events.c.handled, events.c.id <= up_to - keep))

    # tasks and annotations

    def record_tasks(self, project: int, seen: Iterable[Task]) -> TaskChanges:
        """Take over tasks as Label Studio has them; says which are new and whose data changed."""
        known = {task.id: task for task in self.tasks(project)}
        new, changed, rows = [], [], []
        for task in seen:
            key = data_key(task.data)
            before = known.get(task.id)
            if before is None:
                new.append(task.id)
            elif before.data_key != key:
                changed.append(task.id)
            rows.append(
                {
                    "project": project,
                    "id": task.id,
                    "updated_at": task.updated_at,
                    "data": json.dumps(task.data, sort_keys=True),
                    "data_key": key,
                    "annotations": task.annotations,
                    "cancelled": task.cancelled,
                    "predictions": task.predictions,
                    "labeled": task.is_labeled,
                    "checked": "",
                }
            )
        with self._write() as connection:
            self._upsert(connection, tasks, rows, keep=("checked",))
            for part in _parts(changed):  # what was said of another image says nothing
                for table in (proposals, scores):
                    connection.execute(table.delete().where(table.c.project == project, table.c.task.in_(part)))
        return TaskChanges(tuple(new), tuple(changed))

    def unchecked_tasks(self, project: int) -> set[int]:
        """Tasks that changed since their annotations were last compared."""
        query = sql.select(tasks.c.id).where(tasks.c.project == project, tasks.c.checked != tasks.c.updated_at)
        with self._read() as connection:
            return set(connection.scalars(query))

    def check_tasks(self, project: int, task_ids: Iterable[int]) -> None:
        """Note that the annotations of these tasks are as the store has them."""
        with self._write() as connection:
            for part in _parts(list(task_ids)):
                mine = (tasks.c.project == project, tasks.c.id.in_(part))
                connection.execute(tasks.update().where(*mine).values(checked=tasks.c.updated_at))

    def remove_tasks(self, project: int, task_ids: Iterable[int]) -> None:
        """Drop tasks that Label Studio no longer has, with samples and scores; annotations stay as
        deleted."""
        gone = list(task_ids)
        with self._write() as connection:
            for part in _parts(gone):
                for table in (samples, proposals, scores):
                    connection.execute(table.delete().where(table.c.project == project, table.c.task.in_(part)))
                connection.execute(tasks.delete().where(tasks.c.project == project, tasks.c.id.in_(part)))
                mine = (annotation_map.c.project == project, annotation_map.c.task.in_(part))
                connection.execute(annotation_map.update().where(*mine).values(deleted=True))

    def tasks(self, project: int, *, unlabelled: bool = False) -> list[KnownTask]:
        """Tasks by id; with `unlabelled` those that Label Studio would still serve."""
        query = sql.select(tasks).where(tasks.c.project == project).order_by(tasks.c.id)
        if unlabelled:
            query = query.where(~tasks.c.labeled, tasks.c.annotations == 0)
        with self._read() as connection:
            return [
                KnownTask(
                    row.id,
                    json.loads(row.data),
                    row.data_key,
                    row.updated_at,
                    row.annotations,
                    row.cancelled,
                    row.predictions,
                    row.labeled,
                )
                for row in connection.execute(query)
            ]

    def annotations(self, project: int, *, deleted: bool = False) -> list[KnownAnnotation]:
        """Annotations by id, without deleted ones unless asked."""
        query = sql.select(annotation_map).where(annotation_map.c.project == project).order_by(annotation_map.c.id)
        if not deleted:
            query = query.where(~annotation_map.c.deleted)
        with self._read() as connection:
            return [
                KnownAnnotation(
                    row.id,
                    row.task,
                    row.updated_at,
                    row.cancelled,
                    row.deleted,
                    row.sampled_for,
                    row.used_in,
                    row.reason,
                )
                for row in connection.execute(query)
            ]

    def task_of(self, project: int, annotation: int) -> int | None:
        """The task an annotation is or was on; deletion events do not say it."""
        query = sql.select(annotation_map.c.task).where(
            annotation_map.c.project == project, annotation_map.c.id == annotation
        )
        with self._read() as connection:
            found: int | None = connection.scalar(query)
        return found

    def record_annotation(
        self, project: int, seen: Annotation, made: Sequence[SampleRow], *, sampled_for: str, reason: str = ""
    ) -> None:
        """Take over one annotation together with the samples made from it, in place of earlier ones.

        `sampled_for` names the checkpoint and targets; `reason` says why there are no samples or fewer.
        """
        row = {
            "project": project,
            "id": seen.id,
            "task": seen.task,
            "updated_at": seen.updated_at,
            "cancelled": seen.cancelled,
            "deleted": False,
            "sampled_for": sampled_for,
            "used_in": 0,
            "reason": reason,
        }
        with self._write() as connection:
            self._upsert(connection, annotation_map, [row])
            connection.execute(samples.delete().where(samples.c.project == project, samples.c.annotation == seen.id))
            if made:
                connection.execute(samples.insert(), [sample.as_row(project) for sample in made])

    def delete_annotations(self, project: int, annotation_ids: Iterable[int]) -> None:
        """Mark annotations as deleted and drop their samples."""
        with self._write() as connection:
            for part in _parts(list(annotation_ids)):
                connection.execute(
                    annotation_map.update()
                    .where(annotation_map.c.project == project, annotation_map.c.id.in_(part))
                    .values(deleted=True)
                )
                connection.execute(samples.delete().where(samples.c.project == project, samples.c.annotation.in_(part)))

    def new_labels(self, project: int) -> int:
        """How many annotations with samples no retraining has seen as they are now."""
        with self._read() as connection:
            return int(
                connection.scalar(sql.select(sql.func.count()).select_from(annotation_map).where(*_new(project))) or 0
            )

    def use_labels(self, project: int, run: int, annotation_ids: Iterable[int]) -> None:
        """Note that retraining `run` has seen these annotations."""
        with self._write() as connection:
            for part in _parts(list(annotation_ids)):
                connection.execute(
                    annotation_map.update().where(*_new(project), annotation_map.c.id.in_(part)).values(used_in=run)
                )

    def samples(self, project: int, checkpoint: str) -> list[SampleRow]:
        """All samples for `checkpoint`, in a fixed order."""
        query = (
            sql.select(samples)
            .where(samples.c.project == project, samples.c.checkpoint == checkpoint)
            .order_by(samples.c.annotation, samples.c.region)
        )
        with self._read() as connection:
            return [SampleRow.of_row(row) for row in connection.execute(query)]

    # proposals and scores

    def proposal_keys(self, project: int) -> dict[int, str]:
        """Task -> key of what is cached for it."""
        query = sql.select(proposals.c.task, proposals.c.key).where(proposals.c.project == project)
        with self._read() as connection:
            return {row.task: row.key for row in connection.execute(query)}

    def proposal(self, project: int, task: int, key: str) -> ProposalRow | None:
        """What is cached for a task under `key`, else None."""
        query = sql.select(proposals).where(
            proposals.c.project == project, proposals.c.task == task, proposals.c.key == key
        )
        with self._read() as connection:
            row = connection.execute(query).first()
        return ProposalRow(row.task, row.key, row.arrays, json.loads(row.regions), row.reason) if row else None

    def proposal_rows(self, project: int, task_ids: Sequence[int]) -> dict[int, ProposalRow]:
        """What is cached for these tasks, whatever the key."""
        query = sql.select(proposals).where(proposals.c.project == project, proposals.c.task.in_(list(task_ids)))
        with self._read() as connection:
            return {
                row.task: ProposalRow(row.task, row.key, row.arrays, json.loads(row.regions), row.reason)
                for row in connection.execute(query)
            }

    def put_proposal(self, project: int, row: ProposalRow) -> None:
        """Keep what the model said of one task, in place of what was kept before."""
        values = {
            "project": project,
            "task": row.task,
            "key": row.key,
            "arrays": row.arrays,
            "regions": json.dumps(row.regions, separators=(",", ":")),
            "reason": row.reason,
            "made_at": time.time(),
        }
        with self._write() as connection:
            self._upsert(connection, proposals, [values])

    def put_scores(self, project: int, rows: Sequence[ScoreRow]) -> None:
        """Replace the whole ranking of a project."""
        values = [
            {
                "project": project,
                "task": row.task,
                "version": row.version,
                "acquisition": row.acquisition,
                "confidence": row.confidence,
                "place": row.place,
                "is_audit": row.is_audit,
                "reason": row.reason,
            }
            for row in rows
        ]
        with self._write() as connection:
            connection.execute(scores.delete().where(scores.c.project == project))
            for part in _parts(values):
                connection.execute(scores.insert(), part)

    def ranking(self, project: int, limit: int | None = None) -> list[ScoreRow]:
        """The last ranking, first to be served first."""
        query = sql.select(scores).where(scores.c.project == project).order_by(scores.c.place).limit(limit)
        with self._read() as connection:
            return [
                ScoreRow(
                    row.task,
                    row.version,
                    row.acquisition,
                    row.confidence,
                    row.place,
                    row.is_audit,
                    row.reason,
                )
                for row in connection.execute(query)
            ]

    # runs

    def start_run(self, project: int, job: str, *, fingerprint: str = "", total: int = 0) -> int:
        """Begin a run record; an earlier one of the same job still open is closed as cut short. Returns
        its number."""
        now = time.time()
        row = {
            "project": project,
            "job": job,
            "state": "running",
            "fingerprint": fingerprint,
            "done": 0,
            "total": total,
            "reason": "",
            "details": "{}",
            "started_at": now,
            "changed_at": now,
            "finished_at": None,
        }
        with self._write() as connection:
            connection.execute(
                runs.update()
                .where(runs.c.project == project, runs.c.job == job, runs.c.state == "running")
                .values(state="cut-short", reason="the worker ended before it", finished_at=now)
            )
            key = connection.execute(runs.insert().values(**row)).inserted_primary_key
        return int(key[0]) if key else 0

    def update_run(self, run: int, **values: Any) -> None:
        """Change `done`, `total`, `fingerprint`, `reason` or `details` of a run."""
        if "details" in values:
            values["details"] = json.dumps(values["details"], sort_keys=True)
        with self._write() as connection:
            connection.execute(runs.update().where(runs.c.id == run).values(**values, changed_at=time.time()))

    def finish_run(self, run: int, state: str, reason: str = "", details: Mapping[str, Any] | None = None) -> None:
        """Close a run: `done`, `rejected`, `skipped` or `failed`, with the reason and figures."""
        now = time.time()
        values: Json = {"state": state, "reason": reason[:2000], "changed_at": now, "finished_at": now}
        if details is not None:
            values["details"] = json.dumps(dict(details), sort_keys=True)
        with self._write() as connection:
            connection.execute(runs.update().where(runs.c.id == run).values(**values))

    def runs(self, project: int | None = None, job: str | None = None, limit: int = 20) -> list[Run]:
        """Runs, newest first."""
        query = sql.select(runs).order_by(runs.c.id.desc()).limit(limit)
        if project is not None:
            query = query.where(runs.c.project == project)
        if job is not None:
            query = query.where(runs.c.job == job)
        with self._read() as connection:
            return [Run.of_row(row) for row in connection.execute(query)]

    def last_run(self, project: int, job: str, states: Sequence[str] = ()) -> Run | None:
        """The newest run of a job, in one of `states` if given."""
        query = sql.select(runs).where(runs.c.project == project, runs.c.job == job)
        if states:
            query = query.where(runs.c.state.in_(list(states)))
        with self._read() as connection:
            row = connection.execute(query.order_by(runs.c.id.desc()).limit(1)).first()
        return Run.of_row(row) if row else None

    # leases

    def acquire(self, name: str, holder: str, seconds: float) -> bool:
        """Take or renew the lease `name` for `seconds`. False while another holder has it.

        `holder` is `host:pid`; a holder on this host that is dead loses its lease at once.
        """
        now = time.time()
        with self._write() as connection:
            query = sql.select(leases.c.holder, leases.c.until).where(leases.c.name == name)
            row = connection.execute(query if self._sqlite else query.with_for_update()).first()
            if row is not None and row.holder != holder and row.until > now and not _is_dead(row.holder):
                return False
            self._upsert(connection, leases, [{"name": name, "holder": holder, "until": now + seconds}])
        return True

    def release(self, name: str, holder: str) -> None:
        """Give a lease back."""
        with self._write() as connection:
            connection.execute(leases.delete().where(leases.c.name == name, leases.c.holder == holder))

    # connections

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """One transaction. SQLite's is immediate: it waits for its turn instead of failing half-way."""
        with self._engine.connect() as connection:
            if self._sqlite:
                connection = connection.execution_options(usam_immediate=True)
            with connection.begin():
                yield connection

    def _upsert(
        self,
        connection: Connection,
        table: sql.Table,
        rows: Sequence[Json],
        *,
        keep_existing: bool = False,
        keep: Sequence[str] = (),
    ) -> None:
        if self._sqlite:
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
        keys = [column.name for column in table.primary_key]
        for part in _parts(rows):
            statement = insert(table)
            if keep_existing:
                connection.execute(statement.on_conflict_do_nothing(index_elements=keys), part)
                continue
            rest = {name: statement.excluded[name] for name in part[0] if name not in (*keys, *keep)}
            connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=rest), part)

    def _of_project(self, project: int, column: sql.Column[Any]) -> Any:
        with self._read() as connection:
            return connection.scalar(sql.select(column).where(projects.c.id == project))

    def _set_project(self, project: int, **values: Any) -> None:
        with self._write() as connection:
            connection.execute(projects.update().where(projects.c.id == project).values(**values))

    @staticmethod
    def _empty(connection: Connection, project: int) -> None:
        for table in (samples, proposals, scores, annotation_map, tasks, events, runs):
            connection.execute(table.delete().where(table.c.project == project))


def _new(project: int) -> tuple[sql.ColumnElement[bool], ...]:
    known = annotation_map.c
    sampled = sql.exists().where(samples.c.project == known.project, samples.c.annotation == known.id)
    return (known.project == project, ~known.deleted, ~known.cancelled, known.used_in == 0, sampled)


def _open(url: str) -> Engine:
    try:
        parsed = sql.make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = sql.create_engine(parsed, pool_pre_ping=parsed.get_backend_name() != "sqlite")
    except (sql.exc.ArgumentError, sql.exc.NoSuchModuleError, ImportError, OSError) as error:
        raise StoreError(
            "a store address that SQLAlchemy can open", type(error).__name__, "correct USAM_DATABASE_URL"
        ) from error
    if engine.dialect.name == "sqlite":
        sql.event.listen(engine, "connect", _prepare_sqlite)
        sql.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not by the driver
    for pragma in (f"busy_timeout={BUSY_MS}", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("usam_immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _is_dead(holder: str) -> bool:
    host, _, pid = holder.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _parts(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), _BATCH):
        yield rows[start : start + _BATCH]
