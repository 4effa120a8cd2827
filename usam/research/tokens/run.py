"""`usam tokens`: a data set through several models into a folder of shards, in one or more processes.

A run is resumable after a kill at any point: a shard is there whole or not at all, and what is there is not
made again. Several runs may fill one folder at once, each with its own share of the shards.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from usam.errors import TokensError
from usam.research.datasets.reader import Reader
from usam.research.datasets.record import Record
from usam.research.tokens.manifest import LEARNT_PARTS, Manifest, TokenSettings
from usam.research.tokens.models import LoadModel, checksum_of, load_predictor, make_runners
from usam.research.tokens.runner import TimedPredictor
from usam.research.tokens.shards import shard_path, write_shard

Progress = Callable[[int, int], None]
"""Called with (records done, records to do) of this run, those of finished shards included."""

POLL_SECONDS = 0.5


@dataclass
class RunReport:
    """What one run did.

    `seconds` are those that went by once the models were loaded, summed over workers together with the time it
    took to read their masks; `share_outside` is the share of them that was not in forward passes, 0..1.
    """

    shards: int = 0
    objects: int = 0
    skipped_shards: int = 0
    seconds: float = 0.0
    forward_seconds: float = 0.0
    wall_seconds: float = 0.0
    problems: Counter[str] = field(default_factory=Counter)

    @property
    def share_outside(self) -> float:
        return 1 - self.forward_seconds / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class _Job:
    path: Path
    records: list[Record]
    problems: Counter[str]
    settings: TokenSettings
    fingerprint: str
    reading_seconds: float


@dataclass(frozen=True)
class _Done:
    objects: int
    forward_seconds: float
    seconds: float
    problems: Counter[str]


def extract_tokens(
    dataset: Reader[Any],
    out: Path,
    models: Sequence[str],
    settings: TokenSettings | None = None,
    *,
    identity: dict[str, Any] | None = None,
    workers: int = 1,
    devices: Sequence[str] = ("cpu",),
    share: tuple[int, int] = (0, 1),
    load_model: LoadModel = load_predictor,
    progress: Progress | None = None,
) -> RunReport:
    """Make the tokens of a data set, or go on making them.

    `identity` says what the data set is (its split and options) and must be the same when going on. `share`
    (i, n) makes every n-th shard from the i-th on: give each of n machines or GPUs another i. Workers take the
    devices in turn and one thread each.

    Raises `TokensError` when `out` holds tokens of another make or a worker dies; what is finished stays.
    """
    index, count = share
    if not 0 <= index < count:
        raise TokensError("a share i/n with 0 <= i < n", f"{index}/{count}", "the first of 4 is 0/4")
    settings = settings or TokenSettings()
    manifest = Manifest(
        {
            "name": dataset.name,
            **(identity or {}),
            "records": len(dataset),
            "problems": dict(dataset.problems.counts),
        },
        {name: checksum_of(name, load_model) for name in models},
        settings,
    )
    manifest.claim(out)
    mine = [(number, places) for number, places in enumerate(manifest.shards) if number % count == index]
    todo = [(number, places) for number, places in mine if not shard_path(out, number).is_file()]
    report = RunReport(skipped_shards=len(mine) - len(todo))
    before = sum(len(places) for _, places in mine) - sum(len(places) for _, places in todo)
    total = before + sum(len(places) for _, places in todo)
    jobs = _jobs(dataset, out, todo, manifest)
    start = perf_counter()

    def advance(records: int) -> None:
        if progress is not None:
            progress(before + records, total)

    advance(0)
    if todo:
        run = _alone if workers <= 1 else _together
        for done in run(jobs, tuple(models), list(devices), workers, load_model, advance):
            report.shards += 1
            report.objects += done.objects
            report.seconds += done.seconds
            report.forward_seconds += done.forward_seconds
            report.problems.update(done.problems)
    report.wall_seconds = perf_counter() - start
    return report


def _jobs(dataset: Reader[Any], out: Path, todo: list[tuple[int, list[int]]], manifest: Manifest) -> Iterator[_Job]:
    settings = manifest.settings
    at_opening = Counter(manifest.dataset["problems"])
    for number, places in todo:
        start = perf_counter()
        records = list(dataset.records(places))
        if settings.part:
            records = [record for record in records if settings.part_of(record.group) == settings.part]
        found = dataset.problems.counts - at_opening
        if settings.part in LEARNT_PARTS:
            kept = [record for record in records if not record.forbids_derivatives]
            found += Counter({"licence forbids derivatives": len(records) - len(kept)})
            records = kept
        yield _Job(shard_path(out, number), records, found, settings, manifest.fingerprint, perf_counter() - start)


def _make(job: _Job, runners: list[TimedPredictor], tick: Callable[[int], None]) -> _Done:
    from usam.research.tokens.extraction import extract

    shard = extract(job.records, runners, job.settings, lambda objects: tick(1))
    shard.problems.update(job.problems)
    start = perf_counter()
    write_shard(job.path, shard, job.fingerprint)
    seconds = shard.seconds + perf_counter() - start + job.reading_seconds
    return _Done(len(shard), shard.forward_seconds, seconds, shard.problems)


def _alone(
    jobs: Iterator[_Job],
    models: tuple[str, ...],
    devices: list[str],
    workers: int,
    load_model: LoadModel,
    advance: Callable[[int], None],
) -> Iterator[_Done]:
    runners = make_runners(models, devices[0], load_model)
    records = 0

    def tick(more: int) -> None:
        nonlocal records
        records += more
        advance(records)

    start = perf_counter()
    for job in _read_ahead(jobs):
        done = _make(job, runners, tick)
        yield replace(done, seconds=perf_counter() - start)
        start = perf_counter()


def _read_ahead(jobs: Iterator[_Job]) -> Iterator[_Job]:
    """The jobs, each read while the one before it is worked on."""
    with ThreadPoolExecutor(1) as reading:
        coming = reading.submit(next, jobs, None)
        while (job := coming.result()) is not None:
            coming = reading.submit(next, jobs, None)
            yield job


_runners: list[TimedPredictor] = []
_tick: Callable[[int], None] = lambda more: None  # noqa: E731


def _start_worker(models: tuple[str, ...], devices: list[str], load_model: LoadModel, started: Any, ticks: Any) -> None:
    global _runners, _tick
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with started.get_lock():
        device = devices[started.value % len(devices)]
        started.value += 1
    _runners = make_runners(models, device, load_model)

    def tick(more: int) -> None:
        with ticks.get_lock():
            ticks.value += more

    _tick = tick


def _work(job: _Job) -> _Done:
    return _make(job, _runners, _tick)


def _process_context() -> Any:
    """New processes without the parent's threads and device: forked from a server that has imported torch once,
    or, where there is no such thing, started afresh."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["usam.research.tokens.extraction", "usam.checkpoints.nano", "usam.predictor.load"])
    return context


def _together(
    jobs: Iterator[_Job],
    models: tuple[str, ...],
    devices: list[str],
    workers: int,
    load_model: LoadModel,
    advance: Callable[[int], None],
) -> Iterator[_Done]:
    context = _process_context()
    started, ticks = context.Value("i", 0), context.Value("q", 0)
    pool = ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(models, devices, load_model, started, ticks)
    )
    pending: set[Future[_Done]] = set()
    more = True
    try:
        while more or pending:
            while more and len(pending) < workers + 1:
                job = next(jobs, None)
                more = job is not None
                if job is not None:
                    pending.add(pool.submit(_work, job))
            finished, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            advance(ticks.value)
    except BrokenProcessPool as error:
        raise TokensError(
            f"{workers} workers that live", "one that was killed, perhaps for memory", "run it again to go on"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
