"""A measured figure, and the file that keeps them."""

from __future__ import annotations

import csv
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results.csv"
_PACKAGES = ("torch", "sam2", "numpy")


@cache
def hardware() -> str:
    """Processor, cores in use and whether it computes bfloat16, memory; GPU if there is one."""
    cpu, flags, memory = platform.processor() or platform.machine(), "", ""
    if os.path.exists("/proc/cpuinfo"):
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        model = re.search(r"model name\s*: (.+)", text)
        cpu = model[1].strip() if model else cpu
        found = [flag for flag in ("avx512f", "avx512_bf16", "amx_bf16") if re.search(rf"\b{flag}\b", text)]
        flags = f" {' '.join(found)}" if found else ""
        kilobytes = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8"))
        memory = f", {int(kilobytes[1]) >> 20} GiB" if kilobytes else ""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {os.cpu_count()} cores{flags}{memory}{gpu}"


@cache
def versions() -> str:
    """Python and the packages that figures depend on."""
    found = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


@cache
def commit() -> str:
    """The commit that was measured, with a + where files differ from it."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=folder, capture_output=True, text=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "../usam", "../backend"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
    except OSError:
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


@dataclass(frozen=True)
class Row:
    """One figure. `against`: what a ratio's denominator is. `target`: such as '<= 0.5', or '' for none."""

    figure: str
    value: float
    unit: str
    against: str = ""
    target: str = ""
    hardware: str = field(default_factory=hardware)
    versions: str = field(default_factory=versions)
    commit: str = field(default_factory=commit)
    note: str = ""
    topic: str = ""
    """The module that measured it; filled in when it is stored."""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without a target of the form '<= x' or '>= x'."""
        match = re.fullmatch(r"(<=|>=|<|>)\s*([-+0-9.eE]+)", self.target.strip())
        if match is None:
            return None
        limit = float(match[2])
        return {
            "<=": self.value <= limit,
            ">=": self.value >= limit,
            "<": self.value < limit,
            ">": self.value > limit,
        }[match[1]]


def median_interval(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """The interval that holds the median of `values` with 95 % (percentile bootstrap).

    >>> median_interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    import numpy as np

    drawn = np.random.default_rng(0).choice(np.asarray(values), (draws, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def read(path: Path = RESULTS) -> list[Row]:
    """All rows of a results file, oldest first."""
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**{**line, "value": float(line["value"])}) for line in csv.DictReader(file)]  # type: ignore[arg-type]


def append(rows: Iterable[Row], path: Path = RESULTS) -> None:
    """Add rows to the results, with a header where the file is new."""
    fresh = not path.exists() or path.stat().st_size == 0
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow([column.name for column in fields(Row)])
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in astuple(row)] for row in rows)
