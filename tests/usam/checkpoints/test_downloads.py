"""Downloads against a real HTTP server that cuts, lies and fails as real ones do."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from usam.checkpoints import downloads
from usam.checkpoints.downloads import _is_still, check_file, download, file_lock, sha256_of
from usam.errors import CheckpointError, DownloadError

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where the file is to go; the folder does not exist yet."""
    return tmp_path / "checkpoints" / "weights.pt"


def partial_of(target: Path, content: bytes = b"") -> Path:
    path = target.with_name(target.name + ".partial")
    if content:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return path


def visible(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if not path.name.endswith(".verified"))


def test_a_whole_file_arrives_and_progress_ends_at_its_size(site: Any, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = download(site.address, target, sha256=SHA256, size=len(CONTENT), progress=lambda *now: seen.append(now))
    assert path == target
    assert target.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert visible(target) == ["weights.pt"]


def test_a_file_that_is_there_is_checked_and_not_requested(site: Any, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    download(site.address, target, sha256=SHA256)
    assert site.requests == []


def test_a_wrong_file_put_there_by_hand_is_refused_and_left(site: Any, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"SHA-256 .*14 bytes.*remove it"):
        download(site.address, target, sha256=SHA256)
    assert target.read_bytes() == b"something else"
    assert site.requests == []


@pytest.mark.parametrize(
    ("partial", "size", "requests"),
    [
        (CONTENT[:123_456], len(CONTENT), ["bytes=123456-"]),
        (CONTENT, None, ["bytes=512000-"]),
        (CONTENT + b"more", None, ["bytes=512004-", None]),
        (bytes(1000), len(CONTENT), ["bytes=1000-", None]),
        (bytes(len(CONTENT)), len(CONTENT), ["bytes=512000-", None]),
    ],
    ids=["a part", "whole already", "longer", "of other content", "other content as long"],
)
def test_a_partial_file_is_continued_accepted_or_dropped(
    site: Any, target: Path, partial: bytes, size: int | None, requests: list[str | None]
) -> None:
    partial_of(target, partial)
    download(site.address, target, sha256=SHA256, size=size)
    assert site.requests == requests
    assert visible(target) == ["weights.pt"]
    assert target.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_it_all_again(site: Any, target: Path) -> None:
    site.ranges = False
    partial_of(target, CONTENT[:1000])
    download(site.address, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_broken_connections_are_continued_by_themselves(site: Any, target: Path) -> None:
    site.cuts = [100_000, 50_000, 1]
    download(site.address, target, sha256=SHA256)
    assert site.requests == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]
    assert target.read_bytes() == CONTENT


def test_a_connection_that_stays_broken_keeps_the_partial_file_for_the_next_run(site: Any, target: Path) -> None:
    site.cuts = [7000, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"go on from 7,000 bytes"):
        download(site.address, target, sha256=SHA256)
    assert visible(target) == ["weights.pt.partial"]
    download(site.address, target, sha256=SHA256)
    assert site.requests[-1] == "bytes=7000-"
    assert target.read_bytes() == CONTENT


def test_a_short_body_without_announced_length_is_continued_when_the_size_is_known(site: Any, target: Path) -> None:
    site.with_length, site.cuts = False, [100_000]
    download(site.address, target, sha256=SHA256, size=len(CONTENT))
    assert site.requests == [None, "bytes=100000-"]


@pytest.mark.parametrize(
    ("served", "size", "said"),
    [
        ({"content": b"<html>please log in</html>"}, None, r"SHA-256.*refused and removed"),
        ({"content": CONTENT + b"!"}, len(CONTENT), r"512,000 bytes .*512,001 bytes"),  # before it is transferred
        ({"content": CONTENT * 2, "with_length": False}, len(CONTENT), "a longer one"),
        ({"announced": 10**18}, None, r"1,000,000,000,000,000,000 bytes free in .*USAM_HOME"),
        *(({"status": status}, None, rf"status {status} .*put it at .*weights.pt$") for status in (403, 404, 500, 503)),
    ],
)
def test_what_is_refused_leaves_nothing_and_is_said(
    site: Any, target: Path, served: dict[str, Any], size: int | None, said: str
) -> None:
    vars(site).update(served)
    with pytest.raises(DownloadError, match=said):
        download(site.address, target, sha256=SHA256, size=size)
    assert visible(target) == []


def test_offline_says_the_address_and_the_place_by_hand(target: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/weights.pt"
        started = time.monotonic()
        with pytest.raises(DownloadError) as caught:
            download(address, target, sha256=SHA256)
    assert f"download {address} on another machine and put it at {target}" in str(caught.value)
    assert time.monotonic() - started < 5
    target.write_bytes(CONTENT)
    assert download(address, target, sha256=SHA256) == target


@pytest.mark.parametrize("address", ["weights.pt", "ftp://127.0.0.1/weights.pt", "http://[half/weights.pt"])
def test_an_address_that_is_none_is_an_error_of_ours(address: str, target: Path) -> None:
    with pytest.raises(DownloadError):
        download(address, target, sha256=SHA256)


def test_a_disk_that_fills_up_leaves_nothing(site: Any, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match="a full disk"):
        download(site.address, target, sha256=SHA256)
    assert visible(target) == []


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(site: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="to write"):
        download(site.address, tmp_path / "file" / "weights.pt", sha256=SHA256)


def test_threads_and_processes_that_fetch_one_file_transfer_it_once(site: Any, target: Path) -> None:
    site.pause = 0.05
    failures: list[Exception] = []

    def fetch() -> None:
        try:
            download(site.address, target, sha256=SHA256)
        except Exception as error:
            failures.append(error)

    program = (
        "import sys, pathlib; from usam.checkpoints.downloads import download;"
        "download(sys.argv[1], pathlib.Path(sys.argv[2]), sha256=sys.argv[3])"
    )
    arguments = [sys.executable, "-c", program, site.address, str(target), SHA256]
    processes = [subprocess.Popen(arguments) for _ in range(2)]
    threads = [threading.Thread(target=fetch) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert failures == []
    assert site.requests == [None]
    assert target.read_bytes() == CONTENT
    assert visible(target) == ["weights.pt"]


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    program = (
        "import sys, time, pathlib; from usam.checkpoints.downloads import file_lock\n"
        "with file_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        process.kill()
    with file_lock(lock):
        assert lock.exists()
    assert not lock.exists()


def test_check_file_remembers_only_an_unchanged_file(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(CONTENT)
    check_file(path, SHA256, remember=True)
    monkeypatch.setattr("usam.checkpoints.downloads.sha256_of", lambda _path: pytest.fail("read again"))
    check_file(path, SHA256, remember=True)
    monkeypatch.undo()
    before = path.stat()
    path.write_bytes(bytes(len(CONTENT)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(CheckpointError, match="SHA-256"):
        check_file(path, SHA256, remember=True)
    assert sha256_of(path) == hashlib.sha256(bytes(len(CONTENT))).hexdigest()


def test_a_lock_file_that_another_removed_is_no_lock(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        assert _is_still(lock, descriptor)
        lock.unlink()
        assert not _is_still(lock, descriptor)
        lock.touch()
        assert not _is_still(lock, descriptor)
    finally:
        os.close(descriptor)


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(
    site: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was waited for without end: each byte began the time-out anew."""
    monkeypatch.setattr(downloads, "_SLOWEST", 1e15)
    monkeypatch.setattr(downloads, "_WATCHED_S", 0.0)
    with pytest.raises(DownloadError, match=r"bytes a second from .*; run it again to go on from there"):
        download(site.address, target, sha256=SHA256)


def test_a_server_that_sends_little_each_time_is_given_up(
    site: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_MOST_CONNECTIONS", 3)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    site.cuts = [1] * 10
    with pytest.raises(DownloadError, match="go on from 3 bytes"):
        download(site.address, target, sha256=SHA256)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pt.partial", ".weights.pt.lock"])
def test_a_folder_in_place_of_a_file_is_said_with_what_to_do(site: Any, target: Path, name: str) -> None:
    (target.parent / name).mkdir(parents=True)
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}, got is a directory; remove what is there"):
        download(site.address, target, sha256=SHA256)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("weights.pt", "a readable file"),
        ("weights.pt.partial", "to write"),
        (".weights.pt.verified", "to write"),
    ],
)
def test_a_named_pipe_in_place_of_a_file_is_said_and_not_waited_for(
    site: Any, target: Path, name: str, said: str
) -> None:
    target.parent.mkdir()
    os.mkfifo(target.parent / name)
    if name.endswith(".verified"):  # a note that spares work: it is done without
        assert download(site.address, target, sha256=SHA256).read_bytes() == CONTENT
        return
    with pytest.raises(CheckpointError, match=rf"{said}.*{re.escape(name)}, got a named pipe, not a file; remove what"):
        download(site.address, target, sha256=SHA256)


@pytest.mark.parametrize("address", ["ftp://host/file", "http:///x"])
def test_an_address_that_leads_nowhere_is_not_to_be_tried_later(target: Path, address: str) -> None:
    with pytest.raises(DownloadError, match="leads nowhere: correct it"):
        download(address, target, sha256=SHA256)
