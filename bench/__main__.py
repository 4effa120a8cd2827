"""`python -m bench [TOPIC ...]`: measure, print, and append to `results.csv`. Without a topic: all of them.

A topic is a module of this package with `run() -> list[Row]`. `--dry` prints without storing. The newest
row of each figure is also set out in docs/figures.md; `--page` only writes that page again.
"""

from __future__ import annotations

import pkgutil
import sys
import traceback
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from bench.page import write_page
from bench.rows import Row, append, read

NOT_TOPICS = {"__main__", "class_labels", "page", "pools", "rows", "rule_tuning", "served", "spoiled", "tables"}


def topics() -> list[str]:
    """Names of all topics, in alphabetical order."""
    found = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return sorted(name for name in found if name not in NOT_TOPICS)


def main(arguments: list[str]) -> int:
    """Run the topics. Returns 0, 1 when one of them broke, or 2 for an unknown topic."""
    if arguments == ["--page"]:
        write_page(read())
        return 0
    store = "--dry" not in arguments
    wanted = [argument for argument in arguments if argument != "--dry"] or topics()
    if unknown := sorted(set(wanted) - set(topics())):
        print(f"expected topics out of {', '.join(topics())}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    broken = []
    for topic in wanted:
        print(f"{topic}:", flush=True)
        try:
            rows: list[Row] = import_module(f"bench.{topic}").run()
        except Exception:
            traceback.print_exc()
            broken.append(topic)
            continue
        if store:
            append(replace(row, topic=topic) for row in rows)
            write_page(read())
        show(rows)
    if broken:
        print(f"broken: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def show(rows: list[Row]) -> None:
    """Print figures, one a line."""
    for row in rows:
        verdict = {None: "", True: "reached", False: "MISSED"}[row.met]
        aim = f"{row.target} {verdict}" if row.target else ""
        print(f"  {row.figure:60} {row.value:10.4g} {row.unit:18} {aim:18} {row.note}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
