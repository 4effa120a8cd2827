"""Labels that a model doubted and a person said are right. What was said holds for the annotation as it was then."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import sqlalchemy as sql
from sqlalchemy.orm import Mapped, mapped_column

from backend.store.database import Database, parts
from backend.store.records import Key, KnownAnnotation, Name40, Row, storable_text


class RightLabel(Row):
    """One label that is right. `place`: the region's id, or `@` with the box of what nobody marked; `reason`: why it
    was doubted; `content` and `seen`: digest and `updated_at` of the annotation when it was said, by `who`, `at`."""

    __tablename__ = "right_labels"
    project: Mapped[Key]
    annotation: Mapped[Key]
    place: Mapped[str] = mapped_column(sql.String(400), primary_key=True)
    reason: Mapped[Name40] = mapped_column(primary_key=True)
    content: Mapped[Name40]
    seen: Mapped[Name40]
    who: Mapped[str]
    at: Mapped[float]


class RightLabels(Database):
    """The store's part about labels that are said to be right."""

    def put_right_labels(self, project: int, labels: Sequence[tuple[int, str, str]], who: str) -> None:
        """Note that these are right: annotation, place and reason. Annotations that are not known are passed over; what
        was said of annotations that have changed since is dropped."""
        said = self._all(_said(project))
        now = self._present(project, {*(label[0] for label in labels), *(one.annotation for one in said)})
        rows = [
            RightLabel(
                project,
                annotation,
                storable_text(place, 400),
                reason,
                known.content,
                known.updated_at,
                storable_text(who, 200),
                time.time(),
            ).columns()
            for annotation, place, reason in labels
            if (known := now.get(annotation)) is not None
        ]
        stale = {one.annotation for one in said if not _holds(one, now.get(one.annotation))}
        with self._write(durable=True) as connection:
            for annotation in sorted(stale):
                mine = (RightLabel.project == project, RightLabel.annotation == annotation)
                connection.execute(sql.delete(RightLabel).where(*mine))
            self._upsert(connection, RightLabel, rows)

    def drop_right_labels(self, project: int, labels: Sequence[tuple[int, str, str]]) -> None:
        """Forget that these were said to be right."""
        with self._write(durable=True) as connection:
            for annotation, place, reason in labels:
                connection.execute(
                    sql.delete(RightLabel).where(
                        RightLabel.project == project,
                        RightLabel.annotation == annotation,
                        RightLabel.place == storable_text(place, 400),
                        RightLabel.reason == reason,
                    )
                )

    def right_labels(self, project: int) -> list[RightLabel]:
        """What was said to be right of annotations that are still as they were then."""
        said = self._all(_said(project))
        now = self._present(project, {one.annotation for one in said})
        return [one for one in said if _holds(one, now.get(one.annotation))]

    def _present(self, project: int, annotations: Collection[int]) -> dict[int, KnownAnnotation]:
        """Those of these annotations that are there, by id."""
        query = sql.select(KnownAnnotation).where(KnownAnnotation.project == project, ~KnownAnnotation.deleted)
        found = (self._all(query.where(KnownAnnotation.id.in_(part))) for part in parts(sorted(annotations)))
        return {one.id: one for some in found for one in some}


def _said(project: int) -> sql.Select[RightLabel]:
    return sql.select(RightLabel).where(RightLabel.project == project).order_by(RightLabel.annotation, RightLabel.place)


def _holds(said: RightLabel, now: KnownAnnotation | None) -> bool:
    """Whether an annotation is as it was: untouched, or touched and left with the same content."""
    if now is None:
        return False
    return now.updated_at == said.seen or bool(said.content and now.content == said.content)
