"""Memory of a process and its children, as it is read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.starting import memory, peak

MIB = 1 << 20
pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell")
HOLD = "import sys; held = bytearray(60 << 20); held[::4096] = b'1' * len(held[::4096]); print(1, flush=True); input()"


def test_a_childs_memory_counts_while_it_lives() -> None:
    before = memory(os.getpid())
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert memory(child.pid) > 60 * MIB
        assert memory(os.getpid()) > before + 50 * MIB
        child.communicate(b"\n")
    assert memory(child.pid) == 0


def test_the_peak_is_the_most_that_was_read_while_the_work_went_on(monkeypatch: pytest.MonkeyPatch) -> None:
    readings, read_twice = iter([10.0, 70.0]), threading.Event()

    def read(pid: int) -> float:
        value = next(readings, 20.0)
        if value == 20.0:
            read_twice.set()
        return value

    monkeypatch.setattr("bench.starting.memory", read)
    assert peak(1, lambda: read_twice.wait(60)) == 70
