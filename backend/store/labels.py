"""Tasks, annotations and the samples made from them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import sqlalchemy as sql

from backend.label_studio.records import Annotation, Task
from backend.store.database import Database, parts
from backend.store.records import Counts, KnownAnnotation, KnownTask, SampleRow, TaskChanges, data_key
from backend.store.schema import annotation_map, proposals, samples, scores, tasks


class Labels(Database):
    """The store's part about what people answered.

    Legend: D token width; tokens are kept as half floats, (D,) for the IoU token and (4, D) for the mask tokens.
    """

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
            for part in parts(changed):  # what was said of another image says nothing
                for table in (proposals, scores):
                    connection.execute(table.delete().where(table.c.project == project, table.c.task.in_(part)))
        return TaskChanges(tuple(new), tuple(changed))

    def unchecked_tasks(self, project: int) -> set[int]:
        """Tasks that changed since their annotations were last compared."""
        query = sql.select(tasks.c.id).where(tasks.c.project == project, tasks.c.checked != tasks.c.updated_at)
        with self._read() as connection:
            return set(connection.scalars(query))

    def mark_tasks_synced(self, project: int, task_ids: Iterable[int]) -> None:
        """Note that the annotations of these tasks are as the store has them."""
        with self._write() as connection:
            for part in parts(list(task_ids)):
                mine = (tasks.c.project == project, tasks.c.id.in_(part))
                connection.execute(tasks.update().where(*mine).values(checked=tasks.c.updated_at))

    def remove_tasks(self, project: int, task_ids: Iterable[int]) -> None:
        """Drop tasks that Label Studio no longer has, with samples and scores; annotations stay as
        deleted."""
        gone = list(task_ids)
        with self._write() as connection:
            for part in parts(gone):
                for table in (samples, proposals, scores):
                    connection.execute(table.delete().where(table.c.project == project, table.c.task.in_(part)))
                connection.execute(tasks.delete().where(tasks.c.project == project, tasks.c.id.in_(part)))
                mine = (annotation_map.c.project == project, annotation_map.c.task.in_(part))
                connection.execute(annotation_map.update().where(*mine).values(deleted=True))

    def tasks(self, project: int, *, unlabelled: bool = False, only: Sequence[int] | None = None) -> list[KnownTask]:
        """Tasks by id; with `unlabelled` those that Label Studio would still serve, with `only` those of these
        few ids."""
        query = sql.select(tasks).where(tasks.c.project == project).order_by(tasks.c.id)
        if unlabelled:
            query = query.where(*_OPEN)
        if only is not None:
            query = query.where(tasks.c.id.in_(list(only)))
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

    def task_count(self, project: int) -> int:
        """How many tasks are known."""
        query = sql.select(sql.func.count()).select_from(tasks).where(tasks.c.project == project)
        with self._read() as connection:
            return int(connection.scalar(query) or 0)

    def counts(self, project: int) -> Counts:
        """How many tasks and annotations there are."""
        known = sql.select(sql.func.count()).select_from(tasks).where(tasks.c.project == project)
        answered = sql.select(sql.func.count()).select_from(annotation_map)
        answered = answered.where(annotation_map.c.project == project, ~annotation_map.c.deleted)
        with self._read() as connection:
            numbers = [connection.scalar(query) or 0 for query in (known, known.where(*_OPEN), answered)]
        return Counts(*map(int, numbers))

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
            for part in parts(list(annotation_ids)):
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

    def mark_labels_used(self, project: int, run: int, annotation_ids: Iterable[int]) -> None:
        """Note that retraining `run` has seen these annotations."""
        with self._write() as connection:
            for part in parts(list(annotation_ids)):
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


_OPEN = (~tasks.c.labeled, tasks.c.annotations == 0)
"""What Label Studio would still serve."""


def _new(project: int) -> tuple[sql.ColumnElement[bool], ...]:
    known = annotation_map.c
    sampled = sql.exists().where(samples.c.project == known.project, samples.c.annotation == known.id)
    return (known.project == project, ~known.deleted, ~known.cancelled, known.used_in == 0, sampled)
