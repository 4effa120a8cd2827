"""What a screen shows of all projects and of the head of one queue: counted and cut by the database, not loaded.

Proposals are not read here: what comes after their packed arrays in a row costs reading these.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sql

from backend.label_studio.records import Json
from backend.store.database import Database, parts
from backend.store.labels import IS_NEW, IS_OPEN
from backend.store.records import KnownAnnotation, KnownTask, ProjectRow, ProposalRow, Run, SampleRow, ScoreRow

UNUSABLE = -1.0
"""Acquisition from which downward a task could not be used: its reason says why."""
ORDINARY = ("", "skipped by the annotator", "nothing is marked")
"""Reasons of annotations that nobody has to look after."""
CAME_TO_SOMETHING = ("done", "rejected")
"""States of runs whose outcome is worth a line."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class ProjectOverview:
    """One project in numbers. `set_aside` counts annotations that were not learnt from whole, `unusable` open tasks
    that could not be ranked; each with the reason of one of them."""

    project: int
    served: str
    tasks: int = 0
    unlabelled: int = 0
    annotations: int = 0
    new_labels: int = 0
    unusable: int = 0
    unusable_reason: str = ""
    set_aside: int = 0
    set_aside_reason: str = ""
    runs: Mapping[str, Run] = field(default_factory=dict, repr=False)
    """The newest run of each job."""
    ended: Mapping[str, Run] = field(default_factory=dict, repr=False)
    """The newest run of each job that came to something: one that found nothing to do hides none."""


@dataclass(frozen=True)
class RankedTask:
    """One open task of a ranking. `proposals` names what is kept of it, empty where nothing is."""

    task: int
    place: int
    is_audit: bool
    acquisition: float
    reason: str
    version: str
    data: Json = field(repr=False)
    data_key: str = ""
    proposals: str = ""


@dataclass(frozen=True)
class ReasonKind:
    """Tasks whose reasons differ by their numbers alone; `patterns` find them by SQL's LIKE with a backslash."""

    name: str
    count: int
    patterns: tuple[str, ...] = field(repr=False)


class Overviews(Database):
    """The store's part about what is shown."""

    def overviews(self) -> list[ProjectOverview]:
        """All projects by number, in a handful of queries whatever their number."""
        task, note = KnownTask, KnownAnnotation
        odd = (~note.deleted, note.reason.not_in(ORDINARY), ~note.reason.startswith("accepted by "))
        score = (ScoreRow.acquisition <= UNUSABLE, *_JOINED, *IS_OPEN)
        newest = sql.select(sql.func.max(Run.id)).group_by(Run.project, Run.job)
        ended = newest.where(Run.state.in_(CAME_TO_SOMETHING))
        with self._read() as connection:

            def counted(project: Any, *what: Any, where: Sequence[Any] = ()) -> dict[int, Any]:
                query = sql.select(project, *what).where(*where).group_by(project)
                return {row[0]: row[1:] for row in connection.execute(query)}

            open_tasks = sql.func.sum(sql.case((sql.and_(*IS_OPEN), 1), else_=0))
            tasks = counted(task.project, sql.func.count(), open_tasks)
            notes = counted(note.project, sql.func.count(), where=(~note.deleted,))
            new = counted(note.project, sql.func.count(), where=IS_NEW)
            aside = counted(note.project, sql.func.count(), sql.func.min(note.reason), where=odd)
            unusable = counted(ScoreRow.project, sql.func.count(), sql.func.min(ScoreRow.reason), where=score)
            known = connection.execute(sql.select(ProjectRow.id, ProjectRow.served).order_by(ProjectRow.id)).all()
        runs, results = self._by_project(newest), self._by_project(ended)
        nothing, none_of = (0,), (0, "")
        return [
            ProjectOverview(
                number,
                served or "",
                tasks=int(tasks.get(number, nothing)[0]),
                unlabelled=int(tasks.get(number, nothing)[-1]),
                annotations=int(notes.get(number, nothing)[0]),
                new_labels=int(new.get(number, nothing)[0]),
                unusable=int(unusable.get(number, none_of)[0]),
                unusable_reason=str(unusable.get(number, none_of)[1]),
                set_aside=int(aside.get(number, none_of)[0]),
                set_aside_reason=str(aside.get(number, none_of)[1]),
                runs=runs.get(number, {}),
                ended=results.get(number, {}),
            )
            for number, served in known
        ]

    def _by_project(self, ids: Any) -> dict[int, dict[str, Run]]:
        """The runs that a query finds, by project and job."""
        found: dict[int, dict[str, Run]] = {}
        for run in self._all(sql.select(Run).where(Run.id.in_(ids))):
            found.setdefault(run.project, {})[run.job] = run
        return found

    def ranked_tasks(
        self,
        project: int,
        *,
        audit: bool | None = None,
        patterns: Sequence[str] = (),
        unusable: bool = False,
        label: str = "",
        start: int = 0,
        count: int = 24,
    ) -> tuple[list[RankedTask], int]:
        """Open tasks in the order in which they are served, `count` of them from the `start`-th on, and how many there
        are in all. `patterns` are those of a `ReasonKind`; `label` is one that the
        ranking shows on them."""
        where: list[Any] = [ScoreRow.project == project, *_JOINED, *IS_OPEN]
        if audit is not None:
            where.append(ScoreRow.is_audit == audit)
        if unusable:
            where.append(ScoreRow.acquisition <= UNUSABLE)
        if label:
            where.append(sql.type_coerce(ScoreRow.labels, sql.Text).contains(json.dumps(label), autoescape=True))
        if patterns:
            where.append(sql.or_(*(ScoreRow.reason.like(pattern, escape="\\") for pattern in patterns)))
        kept = sql.and_(ProposalRow.project == ScoreRow.project, ProposalRow.task == ScoreRow.task)
        query = (
            sql.select(
                ScoreRow.task,
                ScoreRow.place,
                ScoreRow.is_audit,
                ScoreRow.acquisition,
                ScoreRow.reason,
                ScoreRow.version,
                KnownTask.data,
                KnownTask.data_key,
                ProposalRow.key,
            )
            .select_from(sql.join(sql.join(ScoreRow, KnownTask, sql.and_(*_JOINED)), ProposalRow, kept, isouter=True))
            .where(*where)
            .order_by(ScoreRow.place)
            .offset(start)
            .limit(count)
        )
        total = sql.select(sql.func.count()).select_from(ScoreRow, KnownTask).where(*where)
        with self._read() as connection:
            rows = [RankedTask(*row[:8], row[8] or "") for row in connection.execute(query)]
            return rows, int(connection.scalar(total) or 0)

    def picture_key(self, project: int, task: int) -> str | None:
        """What a task's picture with its masks depends on; None for a task that is not known."""
        score = sql.and_(ScoreRow.project == KnownTask.project, ScoreRow.task == KnownTask.id)
        kept = sql.and_(ProposalRow.project == KnownTask.project, ProposalRow.task == KnownTask.id)
        query = (
            sql.select(KnownTask.data_key, ProposalRow.key, ScoreRow.version)
            .select_from(KnownTask)
            .join(ScoreRow, score, isouter=True)
            .join(ProposalRow, kept, isouter=True)
            .where(KnownTask.project == project, KnownTask.id == task)
        )
        with self._read() as connection:
            row = connection.execute(query).first()
        return None if row is None else "|".join(part or "" for part in row)

    def sampled_tasks(self, project: int, checkpoint: str) -> list[int]:
        """Tasks with samples for `checkpoint`, by number; no sample is read for it."""
        mine = (SampleRow.project == project, SampleRow.checkpoint == checkpoint)
        with self._read() as connection:
            return list(connection.scalars(sql.select(SampleRow.task).where(*mine).distinct().order_by(SampleRow.task)))

    def newest_sample(self, project: int, checkpoint: str) -> tuple[int, str]:
        """How many samples there are for `checkpoint`, and when the last changed annotation among them was."""
        mine = (SampleRow.project == project, SampleRow.checkpoint == checkpoint)
        query = sql.select(sql.func.count(), sql.func.max(SampleRow.updated_at)).where(*mine)
        with self._read() as connection:
            count, newest = connection.execute(query).one()
        return int(count), newest or ""

    def open_task_ids(self, project: int) -> list[int]:
        """Tasks that Label Studio would still serve, by number; their data are not read."""
        query = sql.select(KnownTask.id).where(KnownTask.project == project, *IS_OPEN).order_by(KnownTask.id)
        with self._read() as connection:
            return list(connection.scalars(query))

    def samples_of(self, project: int, checkpoint: str, tasks: Sequence[int]) -> list[SampleRow]:
        """The samples of these tasks, in a fixed order."""
        mine = (SampleRow.project == project, SampleRow.checkpoint == checkpoint)
        query = sql.select(SampleRow).where(*mine).order_by(SampleRow.annotation, SampleRow.number)
        return [row for part in parts(list(tasks)) for row in self._all(query.where(SampleRow.task.in_(part)))]

    def shown_labels(self, project: int) -> dict[str, int]:
        """On how many open tasks the ranking shows each label, the most frequent first."""
        query = sql.select(ScoreRow.labels).where(ScoreRow.project == project, *_JOINED, *IS_OPEN)
        with self._read() as connection:
            counts = Counter(label for labels in connection.scalars(query) for label in labels)
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def reason_kinds(self, project: int) -> list[ReasonKind]:
        """The kinds of reasons of a project's open tasks, the most frequent first; tasks that could not be used are
        not among them."""
        query = sql.select(ScoreRow.reason).where(ScoreRow.project == project, ScoreRow.acquisition > UNUSABLE)
        with self._read() as connection:
            counts = Counter(connection.scalars(query.where(*_JOINED, *IS_OPEN)))
        names: dict[str, tuple[int, set[str]]] = {}
        for reason, count in counts.items():
            name, pattern = kind_of(reason)
            before, patterns = names.get(name, (0, set()))
            names[name] = before + count, patterns | {pattern}
        found = [ReasonKind(name, count, tuple(sorted(patterns))) for name, (count, patterns) in names.items()]
        return sorted(found, key=lambda kind: (-kind.count, kind.name))


def kind_of(reason: str) -> tuple[str, str]:
    """A reason without its numbers: its name for people, and the pattern for SQL's LIKE that finds its like.

    >>> kind_of("task gap 0.12 on its 3 most doubtful of 9 objects")
    ('task gap', 'task gap % on its % most doubtful of % objects')
    >>> kind_of("masks doubtful: expected error 0.31, task gap 0.12 on its 4 objects shown")[0]
    'masks doubtful'
    """
    escaped = reason.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    figures, found, _ = reason.partition(" on its ")
    lead, colon, _ = figures.partition(": ")
    name = " ".join(_NUMBER.sub("", lead if found and colon else figures).split())
    return name[:60] or "no reason", _NUMBER.sub("%", escaped)


_JOINED = (ScoreRow.project == KnownTask.project, ScoreRow.task == KnownTask.id)
