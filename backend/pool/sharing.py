"""Many tasks that the model was not asked about, in shards that any worker of any host takes.

Who ranks the pool lays out the shards, takes one after the other like everybody else, and ranks once all are finished,
so that an order is put together and published once, by the one that holds the project's lease. What is said of a task
is kept task by task: a shard whose worker is lost is taken again and goes on where it stopped. A worker to which other
heads, settings or another configuration apply finds no shard of its key, and one whose shard was dropped stops.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from backend.errors import JobBusy
from backend.pool.proposing import ProposalPlan, propose
from backend.resources import Resources, RunProgress
from backend.store.database import STORE_ERRORS
from backend.store.records import KnownTask
from backend.store.shards import ShardRow

_log = logging.getLogger(__name__)
SHARD_TASKS = 16
"""So few that the last one is soon finished; a pool of no more is one shard, which nobody shares."""
HELD_S = 20.0
"""Seconds after which the shard of a worker on another host that says nothing is anybody's."""
MOST_TRIES = 2
"""How often helpers take a shard that ends the processes which are at it. Then only who ranks the pool does."""
HELP_EVERY_S = 5.0
_POLL_S = 0.25
_MOST_POLLS = 8
"""How often nobody may be at a shard that cannot be taken, before it counts as damaged."""
_TOLD_EVERY_S = 0.5


@dataclass(frozen=True)
class Shared:
    """What was asked of the model: tasks, shards, and how many workers had one."""

    tasks: int = 0
    shards: int = 0
    workers: int = 0


class ShardLost(Exception):
    """A shard is another's by now, or dropped."""


def propose_missing(plan: ProposalPlan, pool: Sequence[KnownTask], progress: RunProgress) -> Shared:
    """Ask the model about every task of `pool` that it has not been asked about, together with all workers that are
    free. Raises `JobBusy` where a later run has taken this one's place."""
    resources, store, project = plan.resources, plan.resources.store, plan.known.id
    missing = plan.missing(pool)
    before, total = len(pool) - len(missing), len(pool)
    if len(missing) <= SHARD_TASKS:
        propose(plan, missing, lambda done: progress.step(before + done, total, "images"))
        return Shared(len(missing), min(len(missing), 1), min(len(missing), 1))
    count = store.start_shards(project, progress.id, plan.key(), [task.id for task in missing], SHARD_TASKS)
    asked_for_help, idle = float("-inf"), 0
    while True:
        state = store.shard_progress(project, progress.id)
        if state.shards < count:
            raise JobBusy("this run to be the one under way", "a later one", "that one goes on with it")
        progress.step(before + state.done, total, "images")
        if state.finished == count:
            break
        if time.monotonic() - asked_for_help > HELP_EVERY_S:
            asked_for_help = time.monotonic()
            resources.queue.wake_helpers(project, count - state.finished - 1)
        shard = store.take_shard(project, holder(), HELD_S, key=plan.key(), run=progress.id)
        if shard is None:
            idle = 0 if state.held else idle + 1
            if idle > _MOST_POLLS:
                _log.warning(
                    "%s shards of run %s can be neither taken nor waited for", count - state.finished, progress.id
                )
                break
            time.sleep(_POLL_S)
            continue
        others = before + state.done
        with suppress(ShardLost):
            finish(plan, shard, lambda done, others=others: progress.step(others + done, total, "images"))  # type: ignore[misc]
    store.drop_shards(project, progress.id)
    again = plan.missing(missing)
    if state.holders == {holder()}:  # else another host may lack the way to a picture
        unread = store.unreadable(project)
        again = [task for task in again if task.id not in unread]
    propose(plan, again, lambda done: progress.step(total - len(again) + done, total, "images"))
    return Shared(len(missing), count, len(state.holders))


def help_out(resources: Resources, project: int) -> int:
    """Take shards of the runs under way until none is left, or until other jobs wait for a worker; returns how many."""
    taken = 0
    plan = ProposalPlan.of(resources, resources.label_studio.project(project))
    while not taken or not resources.queue.others_wait(project):
        shard = resources.store.take_shard(project, holder(), HELD_S, key=plan.key(), most_tries=MOST_TRIES)
        if shard is None:
            break
        taken += 1
        with suppress(ShardLost):
            finish(plan, shard, lambda done: None)
    return taken


def finish(plan: ProposalPlan, shard: ShardRow, on_step: Callable[[int], None]) -> None:
    """Ask the model about the tasks of a shard that nobody has asked it about. Raises `ShardLost` where the shard
    becomes another's meanwhile; what else ends it leaves the shard free."""
    store, project = plan.resources.store, plan.known.id
    missing = plan.missing(store.tasks(project, only=shard.tasks), few=True)
    before = len(shard.tasks) - len(missing)
    with _held(plan.resources, shard) as tell:

        def step(done: int) -> None:
            tell(before + done)
            on_step(before + done)

        propose(plan, missing, step)
        if not store.finish_shard(shard):
            raise ShardLost


@contextmanager
def _held(resources: Resources, shard: ShardRow) -> Iterator[Callable[[int], None]]:
    """Keep a shard while its images are looked at, however long one takes. Gives what is to be told how many tasks are
    through, which raises `ShardLost`."""
    store, ended, lost = resources.store, threading.Event(), threading.Event()
    through, told = shard.done, time.monotonic()

    def renew() -> None:
        with suppress(*STORE_ERRORS):
            if not store.renew_shard(shard, HELD_S, through):
                lost.set()

    def keep() -> None:
        while not ended.wait(HELD_S / 4):
            renew()

    def tell(done: int) -> None:
        nonlocal through, told
        through = done
        if time.monotonic() - told > _TOLD_EVERY_S:
            told = time.monotonic()
            renew()
        if lost.is_set():
            raise ShardLost

    thread = threading.Thread(target=keep, name=f"shard-{shard.number}", daemon=True)
    thread.start()
    try:
        yield tell
    except BaseException:
        with suppress(*STORE_ERRORS):
            store.release_shard(shard)
        raise
    finally:
        ended.set()
        thread.join()


def holder() -> str:
    """This process, as shards know it."""
    return f"{socket.gethostname()}:{os.getpid()}"
