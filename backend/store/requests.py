"""What people asked for about masks accepted without a person: who, when, which promise, and what came of it.

The queue only wakes the job; what it has to do is found here, so that neither a lost Redis nor a killed worker forgets
what was asked. The newest request counts: one that still waits is replaced by the next.
"""

from __future__ import annotations

import time
from typing import Literal, get_args

import sqlalchemy as sql
from sqlalchemy.orm import Mapped, mapped_column

from backend.errors import StoreError
from backend.store.database import Database
from backend.store.records import Name40, Row, storable_text
from usam.pseudo_labels.guarantee import RiskGuarantee

RequestedAction = Literal["accept", "take-back"]
KEPT = 100
"""Requests kept of a project."""
MOST_TRIES = 12
"""Times that a request is begun before it counts as failed for good."""


class AcceptanceRequest(Row):
    """One request. `iou`, `risk`, `confidence` in (0, 1) and `per_image` are the promise of an `accept`, 0 of a
    `take-back`; `as_annotations`: whole images as marked annotations rather than predictions. `state`: waiting, done,
    skipped, refused, failed, or replaced by a later one; `outcome` in words; `needed`: audit labels that were missing,
    0 where their number was not what was missing; `tries`: how often it was begun."""

    __tablename__ = "acceptance_requests"
    __table_args__ = (sql.Index("acceptance_requests_project", "project", "id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    project: Mapped[int]
    action: Mapped[Name40]
    iou: Mapped[float]
    risk: Mapped[float]
    confidence: Mapped[float]
    per_image: Mapped[int]
    as_annotations: Mapped[bool]
    who: Mapped[str]
    asked_at: Mapped[float]
    state: Mapped[Name40] = mapped_column(default="waiting")
    tries: Mapped[int] = mapped_column(default=0)
    outcome: Mapped[str] = mapped_column(default="")
    needed: Mapped[int] = mapped_column(default=0)
    changed_at: Mapped[float] = mapped_column(default=0.0)

    @property
    def promise(self) -> RiskGuarantee:
        """What an `accept` promises. Raises `PseudoLabelError` for a `take-back`, which promises nothing."""
        return RiskGuarantee(self.iou, self.risk, self.confidence, self.per_image, whole_images=self.as_annotations)


class Requests(Database):
    """The store's part about requests."""

    def request_acceptance(
        self, project: int, action: RequestedAction, who: str, promise: RiskGuarantee | None = None
    ) -> AcceptanceRequest:
        """Note what somebody asks for, in place of what still waits. `promise` is that of an `accept`; of whole images
        where they are to become annotations.

        Raises `StoreError` where the two do not go together.
        """
        if action not in get_args(RequestedAction) or (promise is None) is (action == "accept"):
            raise StoreError("`accept` with a promise, or `take-back` without", repr(action), "ask for one of these")
        numbers = (promise.iou, promise.risk, promise.confidence) if promise is not None else (0.0, 0.0, 0.0)
        per_image, whole = (promise.per_image, promise.whole_images) if promise is not None else (0, False)
        now = time.time()
        row = AcceptanceRequest(
            project, action, *numbers, per_image, whole, storable_text(who, 200), now, changed_at=now
        )
        values = row.columns()
        del values["id"]
        mine = AcceptanceRequest.project == project
        with self._write(durable=True) as connection:
            connection.execute(
                sql.update(AcceptanceRequest)
                .where(mine, AcceptanceRequest.state == "waiting")
                .values(state="replaced", outcome="something else was asked for before it was done", changed_at=now)
            )
            key = connection.execute(sql.insert(AcceptanceRequest).values(**values)).inserted_primary_key
            ids = sql.select(AcceptanceRequest.id).where(mine).order_by(AcceptanceRequest.id.desc())
            oldest = connection.scalar(ids.offset(KEPT).limit(1))
            if oldest is not None:
                connection.execute(sql.delete(AcceptanceRequest).where(mine, AcceptanceRequest.id <= oldest))
        row.id = int(key[0]) if key else 0
        return row

    def waiting_acceptance(self, project: int) -> AcceptanceRequest | None:
        """What was asked for and is not done; None where nothing is."""
        mine = (AcceptanceRequest.project == project, AcceptanceRequest.state == "waiting")
        query = sql.select(AcceptanceRequest).where(*mine).order_by(AcceptanceRequest.id.desc()).limit(1)
        return next(iter(self._all(query)), None)

    def begin_acceptance(self, request: int) -> None:
        """Note that a request is being done once more."""
        with self._write() as connection:
            connection.execute(
                sql.update(AcceptanceRequest)
                .where(AcceptanceRequest.id == request)
                .values(tries=AcceptanceRequest.tries + 1)
            )

    def end_acceptance(self, request: int, state: str, outcome: str, needed: int = 0) -> None:
        """Note what came of a request. `waiting` says why it is tried again, unless another has taken its place."""
        mine = [AcceptanceRequest.id == request]
        if state == "waiting":
            mine.append(AcceptanceRequest.state == "waiting")
        values = {"state": state, "outcome": storable_text(outcome, 2000), "needed": needed, "changed_at": time.time()}
        with self._write() as connection:
            connection.execute(sql.update(AcceptanceRequest).where(*mine).values(**values))

    def acceptance_requests(self, project: int, limit: int = 20) -> list[AcceptanceRequest]:
        """What was asked for, the newest first."""
        query = sql.select(AcceptanceRequest).where(AcceptanceRequest.project == project)
        return self._all(query.order_by(AcceptanceRequest.id.desc()).limit(limit))
