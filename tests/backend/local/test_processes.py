"""Server processes end as a whole, say why they did not come up, and find a port."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from backend.errors import ServerError
from backend.local import processes
from backend.local.processes import ServerProcess, check_port, free_port

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_stopping_ends_children_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = ServerProcess("parent", [sys.executable, "-c", PARENT], log=log)
    process.start(lambda: log.exists() and log.read_text().endswith("\n"), 20)
    child = int(log.read_text())
    assert process.running
    assert alive(child)
    process.stop()
    assert not process.running
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(child)
    process.stop()


def test_one_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    process = ServerProcess("stubborn", [sys.executable, "-c", code], log=tmp_path / "log")
    process.start(lambda: "up" in process.log_tail(), 20)
    process.stop(grace=0.2)
    assert process.returncode == -9


def test_one_that_ends_at_once_says_what_it_printed(tmp_path: Path) -> None:
    process = ServerProcess(
        "broken", [sys.executable, "-c", "print('no licence'); raise SystemExit(3)"], log=tmp_path / "l"
    )
    with pytest.raises(ServerError, match=r"exit status 3: \.\.\.no licence"):
        process.start(lambda: False, 20)


def test_one_that_never_answers_is_stopped(tmp_path: Path) -> None:
    process = ServerProcess("slow", [sys.executable, "-c", "import time; time.sleep(600)"], log=tmp_path / "l")
    with pytest.raises(ServerError, match="no answer in 0 s"):
        process.start(lambda: False, 0.3)
    assert not process.running


def test_whoever_waits_for_a_slow_start_is_told_that_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SAID_EVERY_S", 0.1)
    said: list[str] = []
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with ServerProcess("Label Studio", command, log=tmp_path / "l", say=said.append) as process:
        process.start(lambda: len(said) >= 2, 20)
    assert said[0] == f"Label Studio: still starting after 0 s; its log: {tmp_path / 'l'}"


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="is installed"):
        ServerProcess("absent", [str(tmp_path / "absent")], log=tmp_path / "l").start(lambda: True, 1)


def test_a_taken_port_is_replaced() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_a_port_that_cannot_be_had_is_said_with_the_reason() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"expected port {port} of 127.0.0.1 .* in use; end the program that"):
            check_port(port)
    assert check_port(0) > 0
    with pytest.raises(ServerError, match=r"a free port on 192\.0\.2\.1, got Cannot assign"):
        free_port(9090, "192.0.2.1")


def test_an_address_of_ip_6_is_one_too() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    assert free_port(0, "::1") > 0
