"""`python -m tests.chaos --faults 40 --seed 1 --database sqlite`: hurt a real stack while labels are made, then count.

The report, JSON on standard output, has the faults by kind, the annotations made, changed and deleted, those found in
Label Studio and in the store, and the longest recovery. Exit status 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from backend.errors import BackendError
from backend.local.demo import demo_pictures
from backend.store.head_registry import Registry
from tests.chaos.faults import Fault, schedule
from tests.chaos.rig import Rig
from tests.postgres_server import PostgresServer, postgres_programs

PICTURES = 10


def main() -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=40, help="how many (default 40)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed brings the same faults")
    parser.add_argument("--minutes", type=float, default=0, help="begin no fault after so many minutes; 0: no limit")
    parser.add_argument(
        "--database", choices=("sqlite", "postgresql"), default="sqlite", help="what the store is (default sqlite)"
    )
    parser.add_argument("--keep", type=Path, help="folder to work in, which is kept")
    parser.add_argument("--list", action="store_true", help="only print the faults")
    arguments = parser.parse_args()
    server = arguments.database == "postgresql"
    faults = schedule(arguments.seed, arguments.faults, server=server)
    if arguments.list:
        print("\n".join(map(str, faults)))
        return 0
    programs = postgres_programs()
    if server and programs is None:
        parser.error("PostgreSQL's programs are not installed (Debian: apt-get install postgresql)")
    database = PostgresServer(programs) if server and programs is not None else None
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="usam-chaos-"))
    try:
        report = run(folder, faults, arguments.seed, arguments.minutes * 60 or float("inf"), database)
    finally:
        if database is not None:
            database.remove()
        if arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"database": arguments.database, **report}, indent=1))
    print(summary(report), file=sys.stderr)
    return 0 if report["intact"] else 1


def summary(report: dict[str, Any]) -> str:
    """The report in a sentence."""
    found = report["in_label_studio"]
    return (
        f"{report['faults']} faults: {report['made']} labels made, {report['changed']} changed, {report['deleted']} "
        f"deleted; {found} found in Label Studio and {report['in_store']} in the store, {len(report['lost'])} lost; "
        f"longest recovery {report['slowest'][0]} s ({report['slowest'][1]})"
    )


def run(
    folder: Path, faults: list[Fault], seed: int, seconds: float, database: PostgresServer | None = None
) -> dict[str, Any]:
    """Start a stack in `folder`, do the faults, count; at most about `seconds` of faults."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for path in sorted(demo_pictures(folder / "source").iterdir())[:PICTURES]:
        shutil.copyfile(path, images / path.name)
    rig = Rig(folder, images, database)
    done: list[Fault] = []
    longest, slowest = 0.0, ""
    try:
        rig.start()
        started = time.monotonic()
        for fault in faults:
            if time.monotonic() - started > seconds:
                break
            print(fault, file=sys.stderr, flush=True)
            rig.hurt(fault)
            for number, act in enumerate(fault.work):
                rig.work(act, (fault.draw * 7 + number / 3) % 1)
            took = rig.wait(rig.recovered, "recovery")
            if took > longest:
                longest, slowest = took, str(fault)
            done.append(fault)
        spent = time.monotonic() - started
        return {"seed": seed, "seconds": round(spent), **_count(rig, done), "slowest": [round(longest, 1), slowest]}
    finally:
        rig.stop()


def _count(rig: Rig, done: list[Fault]) -> dict[str, Any]:
    there: set[int] = set()
    stored: set[int] = set()

    def same() -> bool:
        nonlocal there, stored
        with rig.client() as client:
            tasks = [task.id for task in client.tasks(rig.project)]
            there = {annotation.id for annotation in client.annotations(rig.project, tasks)}
        with rig.store() as store:
            stored = {annotation.id for annotation in store.annotations(rig.project)}
        return there == stored

    try:
        settled = rig.wait(same, "agreement of Label Studio and the store", 120)
    except AssertionError:
        settled = float("nan")
    with rig.store() as store:
        failed = [run.reason for run in store.runs(rig.project, limit=500) if run.state == "failed"]
    registry = Registry(rig.data / "heads")
    try:
        champion = registry.champion(rig.project)
        if champion:
            registry.load(rig.project, champion)
        heads = "usable"
    except BackendError as error:
        heads = str(error)
    lost = sorted((rig.made - rig.deleted) - there)
    missing, extra = sorted(there - stored), sorted(stored - there)
    partial = [str(path) for path in rig.data.rglob("*.partial*") if "label-studio" not in path.parts]
    return {
        "faults": len(done),
        "kinds": dict(Counter(f"{fault.kind} {fault.part}" for fault in done)),
        "made": len(rig.made),
        "changed": len(rig.changed),
        "deleted": len(rig.deleted),
        "unsure": rig.unsure,
        "in_label_studio": len(there),
        "in_store": len(stored),
        "lost": lost,
        "missing_in_store": missing,
        "extra_in_store": extra,
        "settled_after_s": round(settled, 1) if settled == settled else None,
        "versions": len(registry.versions(rig.project)),
        "heads": heads,
        "partial_files": partial,
        "failed_runs": dict(Counter(failed)),
        "intact": not (lost or missing or extra or partial) and heads == "usable",
    }


if __name__ == "__main__":
    sys.exit(main())
