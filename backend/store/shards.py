"""Parts of a ranking's work, and who is at which. A shard whose holder is lost is anybody's again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sql
from sqlalchemy.orm import Mapped, mapped_column

from backend.store.columns import Numbers
from backend.store.database import Database, parts
from backend.store.records import Key, Name120, Row, Run
from backend.store.runs import is_dead, is_held

_LOOKED_AT = 8
"""Free shards that are read at once: others may be faster at the first."""
LONGEST_HELD_S = 600.0
"""What is held for longer than anybody holds a shard is free: its row is damaged, or a clock was far ahead."""


class ShardRow(Row):
    """Part of a ranking's work, which any worker may take: `tasks` that the model is to be asked about for the run
    `run`. `key`: what proposals depend on besides the task; `holder`, `until`: who is at it, and how long that holds
    where it is not renewed; `done`: tasks of it that are through."""

    __tablename__ = "shards"
    project: Mapped[Key]
    run: Mapped[Key]
    number: Mapped[Key]
    key: Mapped[str] = mapped_column(sql.String(64))
    tasks: Mapped[tuple[int, ...]] = mapped_column(Numbers)
    holder: Mapped[Name120] = mapped_column(default="")
    until: Mapped[float] = mapped_column(default=0.0)
    done: Mapped[int] = mapped_column(default=0)
    tries: Mapped[int] = mapped_column(default=0)
    finished: Mapped[bool] = mapped_column(default=False)


@dataclass(frozen=True)
class ShardProgress:
    """How far the shards of a run are: how many there are, how many of them are finished, tasks that are through, who
    has had one, and how many are somebody's at present."""

    shards: int
    finished: int
    done: int
    holders: frozenset[str]
    held: int = 0


class Shards(Database):
    """The store's part about shards."""

    def start_shards(self, project: int, run: int, key: str, tasks: Sequence[int], size: int) -> int:
        """Lay out the work of `run` in shards of `size` tasks; returns how many. Those of runs that ended are dropped,
        and whoever is still at one stops."""
        groups = [tuple(tasks[start : start + size]) for start in range(0, len(tasks), size)]
        rows = [ShardRow(project, run, number, key, group).columns() for number, group in enumerate(groups)]
        under_way = sql.select(Run.id).where(Run.project == project, Run.state == "running")
        stale = sql.or_(ShardRow.run == run, ShardRow.run.not_in(under_way))
        with self._write() as connection:
            connection.execute(sql.delete(ShardRow).where(ShardRow.project == project, stale))
            for part in parts(rows):
                connection.execute(sql.insert(ShardRow), part)
        return len(groups)

    def take_shard(
        self,
        project: int,
        holder: str,
        seconds: float,
        *,
        key: str,
        run: int | None = None,
        most_tries: int | None = None,
    ) -> ShardRow | None:
        """The next shard that nobody is at, now `holder`'s for `seconds`; None where there is none.

        `key` must be the shard's own. `run` takes those of one run alone, `most_tries` none that was taken so often.
        """
        mine = [ShardRow.project == project, ShardRow.key == key, ~ShardRow.finished]
        if run is not None:
            mine.append(ShardRow.run == run)
        if most_tries is not None:
            mine.append(ShardRow.tries < most_tries)
        in_order = sql.select(ShardRow).where(*mine).order_by(ShardRow.run, ShardRow.number)
        while True:
            now = time.time()
            held = is_held(ShardRow.until, now, LONGEST_HELD_S)
            lost = [shard for shard in self._all(in_order.where(held)) if is_dead(shard.holder)]
            free = lost or self._all(in_order.where(~held).limit(_LOOKED_AT))
            for shard in free:
                taken = {"holder": holder, "until": now + seconds, "tries": shard.tries + 1}
                if self._change(shard, **taken):
                    for name, value in taken.items():
                        setattr(shard, name, value)
                    return shard
            if not free:  # else others were faster at each of these
                return None

    def renew_shard(self, shard: ShardRow, seconds: float, done: int) -> bool:
        """Keep a shard for `seconds` more. False where it is not the holder's any more: what is left of it is not to be
        done."""
        return self._change(shard, until=time.time() + seconds, done=done)

    def finish_shard(self, shard: ShardRow) -> bool:
        """Note that all tasks of a shard are through. False where it is not the holder's any more."""
        return self._change(shard, finished=True, done=len(shard.tasks))

    def release_shard(self, shard: ShardRow) -> None:
        """Give a shard back unfinished."""
        self._change(shard, until=0.0)

    def shard_progress(self, project: int, run: int) -> ShardProgress:
        """How far the shards of a run are."""
        mine = (ShardRow.project == project, ShardRow.run == run)
        count, total = sql.func.count(), sql.func.coalesce(sql.func.sum(ShardRow.done), 0)
        is_at_it = is_held(ShardRow.until, time.time(), LONGEST_HELD_S)
        held = sql.func.coalesce(sql.func.sum(sql.case((is_at_it, 1), else_=0)), 0)
        query = sql.select(ShardRow.holder, ShardRow.finished, count, total, held).where(*mine)
        with self._read() as connection:
            rows = connection.execute(query.group_by(ShardRow.holder, ShardRow.finished)).all()
        return ShardProgress(
            shards=sum(int(row[2]) for row in rows),
            finished=sum(int(row[2]) for row in rows if row[1]),
            done=sum(int(row[3]) for row in rows),
            holders=frozenset(row[0] for row in rows if row[0]),
            held=sum(int(row[4]) for row in rows if not row[1]),
        )

    def drop_shards(self, project: int, run: int) -> None:
        """Forget the shards of a run."""
        with self._write() as connection:
            connection.execute(sql.delete(ShardRow).where(ShardRow.project == project, ShardRow.run == run))

    def _change(self, shard: ShardRow, **values: object) -> bool:
        with self._write() as connection:
            return bool(connection.execute(sql.update(ShardRow).where(*_held_as(shard)).values(**values)).rowcount)


def _held_as(shard: ShardRow) -> tuple[sql.ColumnElement[bool], ...]:
    """The shard, where it is still as it was when it was read or taken: each take counts."""
    mine = (ShardRow.project == shard.project, ShardRow.run == shard.run, ShardRow.number == shard.number)
    return (*mine, ShardRow.tries == shard.tries, ~ShardRow.finished)
