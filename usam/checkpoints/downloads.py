"""Fetch a file over HTTP so that only the whole, right file ever carries its name.

A download goes to `NAME.partial` beside its place, is continued from there after an interruption, is checked
against a SHA-256 known beforehand and then renamed. A lock file makes a second fetch of the same name wait
for the first.

Sources: RFC 9110, sections 14.2 (Range), 14.4 (Content-Range) and 15.5.17 (416).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx

from usam.errors import CheckpointError, DownloadError
from usam.files import plain

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that are on disk so far and the bytes of the whole file, None while unknown."""

_BLOCK = 1 << 20
_ATTEMPTS = 3
_MOST_CONNECTIONS = 1000
"""However little each brings: a server that sends a byte at a time sends no checkpoint."""
_SLOWEST, _WATCHED_S = 1024.0, 60.0
"""Bytes a second that must come, in each stretch of so many seconds."""
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in lower-case hexadecimal."""
    digest = hashlib.sha256()
    with plain(path).open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def check_file(path: Path, sha256: str, *, remember: bool = False) -> None:
    """Make sure that the file at `path` is the one with this SHA-256, in lower-case hexadecimal.

    With `remember`, a note beside the file spares the next check of a file of unchanged size and time.

    Raises CheckpointError when the file is missing or is another one; it is left as it is.
    """
    try:
        note = _note(path)
        if remember and note.is_file() and note.read_text("ascii", "replace") == _fingerprint(path, sha256):
            return
        found = sha256_of(path)
    except OSError as error:
        remedy = "remove what is there and fetch it again, or correct its rights"
        raise CheckpointError(f"a readable file at {path}", _reason(error), remedy) from error
    if found != sha256:
        raise CheckpointError(
            f"{path} with SHA-256 {sha256}",
            f"{found} ({_length(path):,} bytes)",
            "it is damaged or another file: remove it and fetch it again",
        )
    if remember:
        _remember(path, sha256)


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _fingerprint(path: Path, sha256: str) -> str:
    stat = path.stat()
    return f"{sha256} {stat.st_size} {stat.st_mtime_ns}"


def _remember(path: Path, sha256: str) -> None:
    with contextlib.suppress(OSError):
        plain(_note(path)).write_text(_fingerprint(path, sha256), "ascii")


@contextlib.contextmanager
def file_lock(path: Path, poll: float = 0.1) -> Iterator[None]:
    """Hold the lock file `path`, waiting for whoever has it: other threads, processes, and users of one disk.

    The lock ends with its process, however that ends. `poll` is the pause between two tries, in seconds.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, poll)
            if _is_still(path, descriptor):
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        path.unlink()
                return
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one at `path`: who had the lock removes it, and another may have come since."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(descriptor: int, poll: float) -> None:
    while True:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise
            time.sleep(poll)


def download(
    address: str, target: Path, *, sha256: str, size: int | None = None, progress: Progress | None = None
) -> Path:
    """Put the file at `address` at `target`, and return `target`.

    A file that is there already, fetched earlier or put there by hand, is checked and kept. What an
    interrupted transfer left in `target.partial` is continued when the server can do that, else fetched
    again. Safe to call from several threads and processes at once: one transfers, the others wait and find
    the file.

    Args:
        address: where the file is, `http://` or `https://`; redirects are followed.
        target: the path it gets; missing folders are made.
        sha256: of the whole file, lower-case hexadecimal.
        size: bytes of the whole file where known: another announced size is refused before it is transferred.
        progress: told the bytes so far and the bytes in all.

    Raises:
        DownloadError: the server cannot be reached or refuses, the connection breaks again and again (the
            partial file stays for the next try), the file is a wrong one or the disk is full (nothing
            stays). A password in the address is not told.
        CheckpointError: a file is at `target` already and is another one; it is left as it is.
    """
    try:
        return _download(address, target, sha256, size, progress)
    except DownloadError as error:
        shown = without_user(address)
        parts = [part.replace(address, shown) for part in (error.expected, error.got, error.remedy)]
        raise DownloadError(*parts) from error.__cause__


def without_user(address: str) -> str:
    """An address to be shown: without the user and password that it may hold.

    >>> without_user("https://ann:secret@files.example.com/sam2")
    'https://files.example.com/sam2'
    """
    scheme, found, rest = address.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{found}{host.rpartition('@')[2]}{slash}{path}"


def mirrored(address: str, name: str) -> str:
    """From where a file is fetched: `name` below `$USAM_MIRROR` where that is set, else `address`.

    Raises DownloadError where the variable names no `http://` or `https://` address.
    """
    mirror = os.environ.get("USAM_MIRROR", "").strip()
    if not mirror:
        return address
    try:
        parts = urlsplit(mirror)
        is_folder = bool(parts.hostname) and not parts.query and not parts.fragment and parts.port != 0
    except ValueError:  # half of an IPv6 address, or a port that is no number
        is_folder = False
    if not is_folder or parts.scheme not in ("http", "https"):
        raise DownloadError(
            "an address such as https://files.example.com/sam2 in USAM_MIRROR",
            repr(without_user(mirror)),
            "set it to the folder that has the files under their own names, or leave it empty",
        )
    return f"{mirror.rstrip('/')}/{quote(name)}"


def _download(address: str, target: Path, sha256: str, size: int | None, progress: Progress | None) -> Path:
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(target.with_name(f".{target.name}.lock")):
            if target.exists():
                check_file(target, sha256, remember=True)
                return target
            _fetch_verified(address, partial, sha256, size, progress or (lambda _done, _total: None))
            partial.replace(target)
            _remember(target, sha256)
            return target
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        kept = _length(partial)
        again = f"run it again to go on from {kept:,} bytes" if kept else "try again when online"
        if isinstance(error, httpx.TooManyRedirects | httpx.UnsupportedProtocol | httpx.InvalidURL):
            again = "the address, or USAM_MIRROR, leads nowhere: correct it"
        raise DownloadError(
            f"to receive {address}", _reason(error), f"{again}, or {_by_hand(address, partial)}"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            partial.unlink(missing_ok=True)
            raise DownloadError(
                f"room for {target}", "a full disk", "make room, or set USAM_HOME to a folder on another disk"
            ) from error
        where = error.filename or target
        raise DownloadError(
            f"to write {where}", _reason(error), "remove what is there, or correct its rights"
        ) from error


def _fetch_verified(address: str, partial: Path, sha256: str, size: int | None, progress: Progress) -> None:
    """Leave the right file in `partial`; a continued one that turns out wrong is fetched again in whole."""
    with httpx.Client(follow_redirects=True, timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"}) as client:
        for continued in (_length(partial) > 0, False):
            _fetch_whole(client, address, partial, size, progress)
            found = sha256_of(partial)
            if found == sha256:
                return
            length = _length(partial)
            partial.unlink()
            if not continued:
                break
    raise DownloadError(
        f"a file with SHA-256 {sha256} at {address}",
        f"{found} ({length:,} bytes)",
        "it was refused and removed; the server or something on the way sends another file",
    )


def _fetch_whole(client: httpx.Client, address: str, partial: Path, size: int | None, progress: Progress) -> None:
    """Request until the server has sent everything; give up when some tries in a row brought nothing."""
    fruitless, connections = 0, 0
    while True:
        before, connections = _length(partial), connections + 1
        try:
            if _transfer(client, address, partial, size, progress):
                return
        except httpx.TransportError:
            fruitless = 0 if _length(partial) > before else fruitless + 1
            if fruitless >= _ATTEMPTS or before == _length(partial) == 0 or connections >= _MOST_CONNECTIONS:
                raise
            time.sleep(0.2 * 2**fruitless)


def _transfer(client: httpx.Client, address: str, partial: Path, size: int | None, progress: Progress) -> bool:
    """Make one request, appending to `partial`; False when it must be made again without a range."""
    have = _length(partial)
    with client.stream("GET", address, headers={"Range": f"bytes={have}-"} if have else {}) as response:
        status, content_range = response.status_code, response.headers.get("content-range", "")
        if have and status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if content_range == f"bytes */{have}":
                return True
            partial.unlink()
            return False
        if have and status == httpx.codes.PARTIAL_CONTENT:
            match = re.fullmatch(rf"bytes {have}-\d+/(\d+|\*)", content_range)
            if match is None:
                partial.unlink()
                return False
            total = None if match[1] == "*" else int(match[1])
        elif status == httpx.codes.OK:
            have, length = 0, response.headers.get("content-length", "")
            total = int(length) if length.isdigit() else None
        else:
            raise DownloadError(
                f"the server to send {address}",
                f"status {status} {response.reason_phrase}",
                f"try again later, or {_by_hand(address, partial)}",
            )
        if size is not None and total not in (None, size):
            partial.unlink(missing_ok=True)
            raise DownloadError(
                f"a file of {size:,} bytes at {address}",
                f"one of {total:,} bytes",
                f"the server or something on the way sends another file; {_by_hand(address, partial)}",
            )
        total = size if total is None else total
        _require_room(partial, (total or 0) - have)
        progress(have, total)
        since, from_here = time.monotonic(), have
        with plain(partial).open("ab" if have else "wb") as stream:
            for block in response.iter_raw():
                have += len(block)
                if (passed := time.monotonic() - since) > _WATCHED_S:
                    if have - from_here < _SLOWEST * passed:
                        raise DownloadError(
                            f"at least {_SLOWEST:,.0f} bytes a second from {address}",
                            f"{(have - from_here) / passed:,.0f}",
                            f"run it again to go on from there, or {_by_hand(address, partial)}",
                        )
                    since, from_here = time.monotonic(), have
                if total is not None and have > total:
                    break
                stream.write(block)
                progress(have, total)
            stream.flush()
            os.fsync(stream.fileno())
    if total is not None and have > total:
        partial.unlink()
        raise DownloadError(
            f"a file of {total:,} bytes at {address}", "a longer one", f"it was refused; {_by_hand(address, partial)}"
        )
    if total is not None and have < total:
        raise httpx.RemoteProtocolError(f"the connection ended after {have:,} of {total:,} bytes")
    return True


def _require_room(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        partial.unlink(missing_ok=True)
        raise DownloadError(
            f"{needed:,} bytes free in {partial.parent}",
            f"{free:,}",
            "make room, or set USAM_HOME to a folder on another disk",
        )


def _by_hand(address: str, partial: Path) -> str:
    return f"download {address} on another machine and put it at {partial.with_suffix('')}"


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
