"""One connection to Label Studio: the token, time-outs, second tries, and errors that say what Label Studio said.

LabelStudioError              refused, or an answer of another shape than expected (`.status`)
 |- LabelStudioUnreachable    no answer at all, or none that ends
 |- AnswerTooLarge            more than is read
 `- TokenError                401 or 403
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from pydantic_core import from_json

from backend.errors import LabelStudioError, LabelStudioUnreachable, TokenError
from backend.label_studio.auth import TokenSource
from backend.label_studio.records import Json, loads

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)
Record = TypeVar("Record")
READ_TRIES = 3
TOO_MANY, LONGEST_PAUSE = 429, 10.0
"""The status of a server or proxy that wants fewer requests, and how many seconds it is waited for at most."""
ANSWER_S = 300.0
"""How long one answer may take, however it drips: a time-out is for each silence alone."""
ANSWER_BYTES = 2**29
"""Largest answer, unpacked, that is read: parsed it takes several times as much memory."""
CHECK_VERSION = "check the address and that it is Label Studio 1.23"


class AnswerTooLarge(LabelStudioError):
    """An answer of more bytes than are read."""


class Connection:
    """Requests to the Label Studio at `url`, with one token of either kind. Safe to share between threads.

    Reads are tried again when Label Studio does not answer; writes are sent once, because Label Studio stores what
    arrives twice twice. `timeout` is for ordinary requests, `long_timeout` for those in which Label Studio works over
    a whole project (import, deletion of a version); both in seconds. An answer is read within `ANSWER_S`, or the
    time-out where that is longer, and to `ANSWER_BYTES`. Close it when done.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 30.0,
        long_timeout: float = 900.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=5.0), follow_redirects=False, transport=transport
        )
        self._long = httpx.Timeout(long_timeout, connect=5.0)
        self._tokens = TokenSource(self.url, token, self._http)
        self._heard_at = ""

    def __repr__(self) -> str:
        return f"LabelStudio({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def clock(self) -> datetime | None:
        """What time it was there when Label Studio last answered; None where it does not say."""
        try:
            return parsedate_to_datetime(self._heard_at)
        except ValueError:
            return None

    def _object(self, method: str, path: str, *, empty_on: Iterable[int] = (), **options: Any) -> Json:
        try:
            body = _body(self._send(method, path, **options), path)
        except LabelStudioError as error:
            if error.status in set(empty_on) and error.is_from_label_studio:  # a page of a proxy says nothing
                return {}
            raise
        if not isinstance(body, dict):
            raise LabelStudioError(f"an object from {path}", type(body).__name__, CHECK_VERSION)
        return body

    def _list(self, path: str, params: Json) -> list[Json]:
        return items(_body(self._send("GET", path, params=params), path), path)

    def _send(self, method: str, path: str, *, long: bool = False, **options: Any) -> httpx.Response:
        if long:
            options["timeout"] = self._long
        extra = options.pop("headers", {})
        tries = READ_TRIES if method in ("GET", "HEAD") else 1
        renewed = False
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self._read(method, path, {**extra, **self._tokens.header()}, options)
            except httpx.HTTPError as error:
                if attempt < tries:
                    time.sleep(0.3 * attempt)
                    continue
                raise LabelStudioUnreachable(
                    f"{self.url} to answer {method} {path}",
                    type(error).__name__,
                    "check that Label Studio runs and LABEL_STUDIO_URL is right",
                ) from error
            if answer.status_code in (502, 503, 504) and attempt < tries:
                time.sleep(0.3 * attempt)
                continue
            if answer.status_code == TOO_MANY and attempt < READ_TRIES:  # not taken, so that a write may come again
                time.sleep(_asked_pause(answer, 0.3 * attempt))
                continue
            if answer.status_code == 401 and not renewed and self._tokens.forget():
                renewed = True
                attempt -= 1
                continue
            if not answer.is_success:
                raise _refusal(method, path, answer)
            if answer.content and "html" in answer.headers.get("content-type", "").lower():
                raise LabelStudioError(
                    f"an answer of Label Studio to {method} {path}", "a web page", "a log-in page? " + CHECK_VERSION
                )
            self._heard_at = answer.headers.get("date", "")
            return answer

    def _read(self, method: str, path: str, headers: Json, options: Json) -> httpx.Response:
        """A whole answer. Raises `httpx.HTTPError` where it does not come, `LabelStudioError` where it is too large."""
        longest = max(ANSWER_S, options.get("timeout", self._http.timeout).read or 0.0)
        end, chunks, size = time.monotonic() + longest, list[bytes](), 0
        with self._http.stream(method, self.url + path, headers=headers, **options) as answer:
            for chunk in answer.iter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > ANSWER_BYTES:
                    raise AnswerTooLarge(f"at most {ANSWER_BYTES:,} bytes from {path}", "more", CHECK_VERSION)
                if time.monotonic() > end:
                    raise httpx.ReadTimeout(f"an answer that goes on after {longest:.0f} s", request=answer.request)
        whole = httpx.Response(answer.status_code, content=b"".join(chunks), request=answer.request)
        whole.headers = answer.headers
        return whole


def _asked_pause(answer: httpx.Response, otherwise: float) -> float:
    """Seconds that an answer asks to wait, within reason."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked), LONGEST_PAUSE) if asked.isascii() and asked.isdigit() else otherwise


def _refusal(method: str, path: str, answer: httpx.Response) -> LabelStudioError:
    """The error for a status that is no success, with Label Studio's own words and none of ours."""
    try:
        body = answer.json()
    except ValueError:
        body = {}
    said = ""
    if isinstance(body, dict):
        said = str(body.get("validation_errors") or body.get("detail") or "")[:300]
    got = f"HTTP {answer.status_code}" + (f" ({said})" if said else "")
    expected = f"success for {method} {path}"
    if answer.status_code in (401, 403):
        remedy = "set LABEL_STUDIO_API_KEY to a token of a user who may do this"
        return TokenError(expected, got, remedy, status=answer.status_code)
    if answer.is_redirect:
        return LabelStudioError(
            expected, f"{got}, a redirect", "set LABEL_STUDIO_URL to the final address", status=answer.status_code
        )
    remedy = (
        "try again later"
        if answer.is_server_error or answer.status_code == TOO_MANY
        else "check the request and the project"
    )
    own = isinstance(body, dict) and "detail" in body
    return LabelStudioError(expected, got, remedy, status=answer.status_code, is_from_label_studio=own)


def _body(answer: httpx.Response, path: str) -> Any:
    try:
        return from_json(answer.content)
    except ValueError:
        pass
    try:  # what is wrong with one item is that item's trouble
        return loads(answer.text)
    except ValueError as error:
        kind = answer.headers.get("content-type", "something else")
        raise LabelStudioError(f"JSON from {path}", str(kind), CHECK_VERSION) from error


def items(value: Any, what: str) -> list[Json]:
    """`value` as the list of objects that it has to be. Raises `LabelStudioError`."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise LabelStudioError(f"a list of {what}", type(value).__name__, CHECK_VERSION)
    return value


def readable(read: Callable[[Json], Record], rows: Iterable[Json], what: str) -> Iterator[Record]:
    """Each row as a record; one that cannot be read is named in the log, and the others go on."""
    for row in rows:
        try:
            yield read(row)
        except LabelStudioError as error:
            log.warning("%s %.40r is left out: %s", what, row.get("id"), error)
