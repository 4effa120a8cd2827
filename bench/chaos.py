"""Faults survived by a real stack while labels are made: on SQLite and, where it is installed, on PostgreSQL.

Half an hour a database with the usual number of faults; USAM_CHAOS_FAULTS sets another number, USAM_CHAOS_REPORTS
names a folder of finished reports of `make chaos` (`sqlite.json`, `postgresql.json`) to take instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.rows import Row
from tests.postgres_server import postgres_programs

FAULTS, SEED = 250, 11


def run() -> list[Row]:
    """Labels lost and the longest recovery, by database."""
    databases = ["sqlite", *(["postgresql"] if postgres_programs() is not None else [])]
    return [row for database in databases for row in rows_of(database, report_of(database))]


def report_of(database: str) -> dict[str, Any]:
    """The report of a run, which is made where no finished one is named."""
    if folder := os.environ.get("USAM_CHAOS_REPORTS"):
        report: dict[str, Any] = json.loads((Path(folder) / f"{database}.json").read_text())
        return report
    faults = os.environ.get("USAM_CHAOS_FAULTS", str(FAULTS))
    command = [sys.executable, "-m", "tests.chaos", "--faults", faults, "--seed", str(SEED), "--database", database]
    done = subprocess.run(command, capture_output=True, text=True)
    if not done.stdout:
        raise RuntimeError(done.stderr[-2000:])
    report = json.loads(done.stdout)
    return report


def rows_of(database: str, report: dict[str, Any]) -> list[Row]:
    """The figures of one run."""
    seconds, which = report["slowest"]
    labels = (
        f"{report['made']} labels made, {report['changed']} changed, {report['deleted']} deleted, "
        f"{report['in_label_studio']} there in Label Studio and {report['in_store']} in the store"
    )
    lost = len(report["lost"]) + len(report["missing_in_store"]) + len(report["extra_in_store"])
    faults = f"{report['faults']} faults, seed {report['seed']}"
    return [
        Row(f"labels lost, {database}", lost, "labels", target="<= 0", note=f"{faults}; {labels}"),
        Row(f"longest recovery, {database}", seconds, "s", target="<= 30", note=f"{faults}; {which}"),
    ]
