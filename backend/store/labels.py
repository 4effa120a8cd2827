"""Tasks, annotations and the samples made from them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import sqlalchemy as sql

from backend.label_studio.records import Annotation, Task
from backend.store.database import Database, parts
from backend.store.records import (
    Counts,
    ExampleRow,
    KnownAnnotation,
    KnownTask,
    ProposalRow,
    SampleRow,
    ScoreRow,
    TaskChanges,
    WorkRow,
    data_key,
    storable_text,
)


class Labels(Database):
    """The store's part about what people answered.

    Legend: D token width; tokens are kept as half floats, (D,) for the IoU token and (4, D) for the mask tokens.
    """

    def record_tasks(self, project: int, seen: Iterable[Task]) -> TaskChanges:
        """Take over tasks as Label Studio has them; says which are new and whose data changed. Of the latter nothing
        that was made of the earlier image stays, and samples are to be made anew."""
        seen = list(seen)
        known = self._data_keys(project, [task.id for task in seen])
        new, changed, rows = [], [], []
        for task in seen:
            key = data_key(task.data)
            before = known.get(task.id)
            if before is None:
                new.append(task.id)
            elif before != key:
                changed.append(task.id)
            now = KnownTask(
                task.id,
                task.data,
                key,
                task.updated_at,
                task.annotations,
                task.cancelled,
                task.predictions,
                task.is_labeled,
            )
            rows.append(now.columns(project=project))
        with self._write() as connection:
            self._upsert(connection, KnownTask, rows, keep=("checked",))
            for part in parts(changed):  # what was said of another image says nothing
                for kind in (ProposalRow, ScoreRow):
                    connection.execute(sql.delete(kind).where(kind.project == project, kind.task.in_(part)))
                mine = (KnownAnnotation.project == project, KnownAnnotation.task.in_(part))
                connection.execute(sql.update(KnownAnnotation).where(*mine).values(sampled_for=""))
        return TaskChanges(tuple(new), tuple(changed))

    def _data_keys(self, project: int, task_ids: Sequence[int]) -> dict[int, str]:
        query = sql.select(KnownTask.id, KnownTask.data_key).where(KnownTask.project == project)
        with self._read() as connection:
            return {
                row.id: row.data_key
                for part in parts(task_ids)
                for row in connection.execute(query.where(KnownTask.id.in_(part)))
            }

    def task_ids(self, project: int) -> set[int]:
        """Numbers of all tasks that are known."""
        with self._read() as connection:
            return set(connection.scalars(sql.select(KnownTask.id).where(KnownTask.project == project)))

    def miscounted_tasks(self, project: int, key: str) -> set[int]:
        """Tasks of which Label Studio counts more or fewer annotations than are known, or whose samples are of another
        model; `key` is what samples are made for now (`learning.samples.sampling_key`)."""
        mine = (KnownAnnotation.project == project, ~KnownAnnotation.deleted)
        count = sql.select(KnownAnnotation.task, sql.func.count().label("known")).where(*mine)
        counts = count.group_by(KnownAnnotation.task).subquery()
        counted = sql.select(KnownTask.id).join(counts, counts.c.task == KnownTask.id, isouter=True)
        differs = KnownTask.annotations + KnownTask.cancelled != sql.func.coalesce(counts.c.known, 0)
        stale = sql.select(KnownAnnotation.task).where(*mine, KnownAnnotation.sampled_for.not_in(("", key)))
        with self._read() as connection:
            wrong = connection.scalars(counted.where(KnownTask.project == project, differs)).all()
            return {*wrong, *connection.scalars(stale.distinct())}

    def unsampled_tasks(self, project: int) -> set[int]:
        """Tasks with an annotation whose samples could not be made, and may be later."""
        mine = (KnownAnnotation.project == project, ~KnownAnnotation.deleted, KnownAnnotation.sampled_for == "")
        with self._read() as connection:
            return set(connection.scalars(sql.select(KnownAnnotation.task).where(*mine).distinct()))

    def unchecked_tasks(self, project: int) -> set[int]:
        """Tasks that changed since their annotations were last compared."""
        query = sql.select(KnownTask.id).where(KnownTask.project == project, KnownTask.checked != KnownTask.updated_at)
        with self._read() as connection:
            return set(connection.scalars(query))

    def mark_tasks_synced(self, project: int, task_ids: Iterable[int]) -> None:
        """Note that the annotations of these tasks are as the store has them."""
        with self._write() as connection:
            for part in parts(list(task_ids)):
                mine = (KnownTask.project == project, KnownTask.id.in_(part))
                connection.execute(sql.update(KnownTask).where(*mine).values(checked=KnownTask.updated_at))

    def remove_tasks(self, project: int, task_ids: Iterable[int]) -> None:
        """Drop tasks that Label Studio no longer has, with samples and scores; annotations stay as
        deleted."""
        gone = list(task_ids)
        with self._write() as connection:
            for part in parts(gone):
                for kind in (SampleRow, ExampleRow, ProposalRow, ScoreRow):
                    connection.execute(sql.delete(kind).where(kind.project == project, kind.task.in_(part)))
                connection.execute(sql.delete(KnownTask).where(KnownTask.project == project, KnownTask.id.in_(part)))
                mine = (KnownAnnotation.project == project, KnownAnnotation.task.in_(part))
                connection.execute(sql.update(KnownAnnotation).where(*mine).values(deleted=True))

    def tasks(self, project: int, *, unlabelled: bool = False, only: Sequence[int] | None = None) -> list[KnownTask]:
        """Tasks by id; with `unlabelled` those that Label Studio would still serve, with `only` those of these
        ids."""
        query = sql.select(KnownTask).where(KnownTask.project == project).order_by(KnownTask.id)
        if unlabelled:
            query = query.where(*IS_OPEN)
        if only is None:
            return self._all(query)
        return [task for part in parts(sorted(only)) for task in self._all(query.where(KnownTask.id.in_(part)))]

    def task_count(self, project: int) -> int:
        """How many tasks are known."""
        query = sql.select(sql.func.count()).select_from(KnownTask).where(KnownTask.project == project)
        with self._read() as connection:
            return int(connection.scalar(query) or 0)

    def counts(self, project: int) -> Counts:
        """How many tasks and annotations there are."""
        known = sql.select(sql.func.count()).select_from(KnownTask).where(KnownTask.project == project)
        answered = sql.select(sql.func.count()).select_from(KnownAnnotation)
        answered = answered.where(KnownAnnotation.project == project, ~KnownAnnotation.deleted)
        with self._read() as connection:
            numbers = [connection.scalar(query) or 0 for query in (known, known.where(*IS_OPEN), answered)]
        return Counts(*map(int, numbers))

    def annotations(
        self, project: int, *, deleted: bool = False, on: Collection[int] | None = None
    ) -> list[KnownAnnotation]:
        """Annotations by id, without deleted ones unless asked; with `on` those of these tasks."""
        query = sql.select(KnownAnnotation).where(KnownAnnotation.project == project).order_by(KnownAnnotation.id)
        if not deleted:
            query = query.where(~KnownAnnotation.deleted)
        if on is None:
            return self._all(query)
        found = [one for part in parts(sorted(on)) for one in self._all(query.where(KnownAnnotation.task.in_(part)))]
        return sorted(found, key=lambda one: one.id)

    def task_of(self, project: int, annotation: int) -> int | None:
        """The task an annotation is or was on; deletion events do not say it."""
        query = sql.select(KnownAnnotation.task).where(
            KnownAnnotation.project == project, KnownAnnotation.id == annotation
        )
        with self._read() as connection:
            found: int | None = connection.scalar(query)
        return found

    def record_annotation(
        self,
        project: int,
        seen: Annotation,
        made: Sequence[SampleRow],
        *,
        sampled_for: str,
        reason: str = "",
        used_in: int = 0,
        examples: ExampleRow | None = None,
        work: WorkRow | None = None,
    ) -> None:
        """Take over one annotation together with the samples and examples made from it, in place of earlier ones.

        `sampled_for` names the checkpoint and targets; `reason` says why there are no samples or fewer; `used_in` the
        retraining that has seen the annotation as it is; `work` is added to what is known, where it could be counted.
        """
        reason = storable_text(reason)
        known = KnownAnnotation(
            seen.id, seen.task, seen.updated_at, seen.cancelled, False, sampled_for, used_in, reason, seen.content
        )
        mine = (SampleRow.project == project, SampleRow.annotation == seen.id)
        with self._write() as connection:
            self._upsert(connection, KnownAnnotation, [known.columns(project=project)])
            connection.execute(sql.delete(SampleRow).where(*mine))
            old = (ExampleRow.project == project, ExampleRow.annotation == seen.id)
            connection.execute(sql.delete(ExampleRow).where(*old))
            if work is not None:
                self._upsert(connection, WorkRow, [work.columns(project=project)])
            if examples is not None:
                connection.execute(sql.insert(ExampleRow), [examples.columns(project=project)])
            if made:
                rows = [sample.columns(project=project, number=number) for number, sample in enumerate(made)]
                connection.execute(sql.insert(SampleRow), rows)

    def delete_annotations(self, project: int, annotation_ids: Iterable[int]) -> None:
        """Mark annotations as deleted and drop their samples."""
        with self._write() as connection:
            for part in parts(list(annotation_ids)):
                connection.execute(
                    sql.update(KnownAnnotation)
                    .where(KnownAnnotation.project == project, KnownAnnotation.id.in_(part))
                    .values(deleted=True)
                )
                for kind in (SampleRow, ExampleRow, WorkRow):
                    connection.execute(sql.delete(kind).where(kind.project == project, kind.annotation.in_(part)))

    def new_labels(self, project: int) -> int:
        """How many annotations with samples no retraining has seen as they are now."""
        with self._read() as connection:
            return int(
                connection.scalar(sql.select(sql.func.count()).select_from(KnownAnnotation).where(*_new(project))) or 0
            )

    def mark_labels_used(self, project: int, run: int, annotation_ids: Iterable[int]) -> None:
        """Note that retraining `run` has seen these annotations."""
        with self._write() as connection:
            for part in parts(list(annotation_ids)):
                connection.execute(
                    sql.update(KnownAnnotation).where(*_new(project), KnownAnnotation.id.in_(part)).values(used_in=run)
                )

    def samples(self, project: int, checkpoint: str) -> list[SampleRow]:
        """All samples for `checkpoint` that can be read, in a fixed order."""
        mine = (SampleRow.project == project, SampleRow.checkpoint == checkpoint)
        rows = self._all(sql.select(SampleRow).where(*mine).order_by(SampleRow.annotation, SampleRow.number))
        width = max((len(row.iou_token) for row in rows), default=0)
        return [row for row in rows if row.is_whole(width)]

    def examples(self, project: int) -> list[ExampleRow]:
        """All examples of a project, in a fixed order."""
        return self._all(sql.select(ExampleRow).where(ExampleRow.project == project).order_by(ExampleRow.annotation))

    def work(self, project: int) -> list[WorkRow]:
        """What annotators changed of the masks that they were shown, oldest first."""
        return self._all(sql.select(WorkRow).where(WorkRow.project == project).order_by(WorkRow.at, WorkRow.annotation))


IS_OPEN = (~KnownTask.labeled, KnownTask.annotations == 0)
"""What Label Studio would still serve."""
IS_NEW = (
    ~KnownAnnotation.deleted,
    ~KnownAnnotation.cancelled,
    KnownAnnotation.used_in == 0,
    sql.exists().where(SampleRow.project == KnownAnnotation.project, SampleRow.annotation == KnownAnnotation.id),
)
"""Annotations with samples that no retraining has seen as they are now."""


def _new(project: int) -> tuple[sql.ColumnElement[bool], ...]:
    return (KnownAnnotation.project == project, *IS_NEW)
