"""What a person can do from the page, or a program by a call: roll back, train now, rank again, accept masks, take them
back, say that a doubted label is right. Each is written down.

A form is taken only with the token that its own page carried, which another site's page cannot read; that it comes
from our own origin is looked at before (`web.request_rules`). What was done is kept in a file, with who and when.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from urllib.parse import parse_qs

from pydantic import TypeAdapter

from backend.errors import QueueError, RegistryError, StoreError
from backend.web.dashboard.versions import BASE_HEADS, BASE_NAME
from usam.errors import UsamError
from usam.files import plain
from usam.pseudo_labels.guarantee import RiskGuarantee

if TYPE_CHECKING:
    from backend.queue import JobName, JobQueue
    from backend.settings import Settings
    from backend.store import Store
    from backend.store.head_registry import Registry
    from backend.store.requests import RequestedAction

ActionName = Literal["rollback", "train", "rank", "accept", "take-back", "right", "doubt-again"]
ACTIONS: tuple[ActionName, ...] = get_args(ActionName)
LOG_FILE = "page-actions.jsonl"
LOG_BYTES = 2**20
"""Size beyond which the older half of the log goes."""
LOG_SHOWN = 20
NOBODY = "somebody at this machine (no password is set)"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """One thing that is asked for.

    `version` is how an address calls a head set, for a roll-back (the one before where it is empty); `promise` what is
    promised of the masks that are accepted; `label` and `reason` which doubted label is right (`ReviewedLabel.key`).
    """

    action: ActionName
    project: int
    version: str = ""
    promise: RiskGuarantee | None = None
    label: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Done:
    """A line of the log: what was asked for by whom, when (seconds since 1970), and what came of it."""

    at: float
    who: str
    action: str
    project: int
    version: str
    outcome: str

    @classmethod
    def now(cls, who: str, action: ActionName, project: int, outcome: str, version: str = "") -> Done:
        """A line of this moment."""
        return cls(round(time.time(), 1), who, action, project, version, outcome[:500])


_DONE = TypeAdapter(Done)


class Tokens:
    """Tokens of forms: of one process, one user, one wish."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def of(self, wish: Wish, who: str) -> str:
        """The token that the form of a wish carries."""
        return hmac.new(self._key, ascii((wish, who)).encode(), hashlib.sha256).hexdigest()

    def fits(self, wish: Wish, who: str, given: str) -> bool:
        """Whether a form that was sent carries it."""
        return hmac.compare_digest(self.of(wish, who).encode(), given.encode("utf-8", "replace"))


class ActionLog:
    """What was done from the page, by calls and by commands, in a file of JSON lines. Safe to share between threads."""

    def __init__(self, path: Path, *, aloud: bool = True) -> None:
        self.path, self.aloud = path, aloud
        self._lock = threading.Lock()

    def add(self, done: Done) -> None:
        """Write a line, here and, `aloud`, to the service's log."""
        if self.aloud:
            _log.warning("%s of project %s %sby %s: %s", *_told(done))
        line = json.dumps(asdict(done)).encode() + b"\n"
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(plain(self.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                try:
                    os.write(file, line)
                    size = os.fstat(file).st_size
                finally:
                    os.close(file)
                if size > LOG_BYTES:
                    self._halve()
            except OSError as error:
                _log.warning("and could not be kept: %s", error)

    def last(self, project: int, count: int = LOG_SHOWN) -> list[Done]:
        """What was done of a project, the newest first."""
        try:
            lines = plain(self.path).read_bytes().splitlines()
        except OSError:
            return []
        found: list[Done] = []
        for line in reversed(lines):
            try:
                done = _DONE.validate_json(line)
            except ValueError:  # a line that was cut off, or is none
                continue
            if done.project == project:
                found.append(done)
            if len(found) == count:
                break
        return found

    def _halve(self) -> None:
        from usam.files import write_whole

        lines = self.path.read_bytes().splitlines(keepends=True)
        write_whole(self.path, b"".join(lines[len(lines) // 2 :]))


@dataclass
class Actions:
    """Does what is wished for, as the commands do."""

    store: Store | None
    registry: Registry | None
    queue: JobQueue | None
    log: ActionLog
    settings: Settings | None = None
    """Whose data folder holds the lists of doubted labels."""

    def do(self, wish: Wish, who: str) -> str:
        """What came of it, for people. Raises `UsamError` where nothing did."""
        ways = {
            "rollback": self._rollback,
            "train": self._train,
            "rank": self._rank,
            "accept": self._accept,
            "take-back": self._accept,
            "right": self._say_right,
            "doubt-again": self._say_right,
        }
        try:
            outcome = ways[wish.action](wish, who)
        except UsamError as error:
            self._note(wish, who, f"not done: {error}")
            raise
        self._note(wish, who, outcome)
        return outcome

    def _rollback(self, wish: Wish, who: str) -> str:
        if self.registry is None:
            raise RegistryError("a registry of versions", "none", "start the service with one")
        to = "" if wish.version == BASE_NAME else wish.version or None
        now = self.registry.rollback(wish.project, to, f"asked for by {who}")
        name = now.version if now is not None else f"the {BASE_HEADS}"
        try:
            self._ask(wish.project, "score_pool")
        except QueueError as error:
            return f"now {name}; the ranking with it waits for Redis ({error.got})"
        return f"now {name}; the open tasks are being ranked with it"

    def _train(self, wish: Wish, _who: str) -> str:
        self._ask(wish.project, "retrain")
        return "training asked for"

    def _rank(self, wish: Wish, who: str) -> str:
        last = self.store.last_run(wish.project, "score_pool") if self.store is not None else None
        if last is not None and last.state == "running":
            self._ask(wish.project, "score_pool")
            return "a ranking runs already; when it is done, it is looked whether another is needed"
        if self.store is not None:
            self.store.ask_again(wish.project, "score_pool", f"ranking asked for by {who}")
        self._ask(wish.project, "score_pool")
        return "ranking asked for"

    def _accept(self, wish: Wish, who: str) -> str:
        """Note what is asked for, and wake the job that does it, which accepts and takes back."""
        if self.store is None or self.queue is None:
            raise StoreError("a store and a queue of jobs", "none", "start the service with both")
        action: RequestedAction = "take-back" if wish.action == "take-back" else "accept"
        self.store.request_acceptance(wish.project, action, who, wish.promise)
        asked = f"asked for, {promise_words(wish.promise)}" if wish.promise is not None else "asked for"
        try:
            self._ask(wish.project, "pseudo_label")
        except QueueError as error:
            return f"{asked}; it waits for Redis ({error.got})"
        return asked

    def _say_right(self, wish: Wish, who: str) -> str:
        from backend.learning.right_labels import doubt_again, say_right

        if self.store is None or self.settings is None:
            raise StoreError("a store", "none", "start the service with one")
        where = (self.settings, self.store, wish.project, wish.label, wish.reason)
        lines = say_right(*where, who) if wish.action == "right" else doubt_again(*where)
        what = "said to be right" if wish.action == "right" else "doubted again"
        return f"{what}, on task {lines[0].task}: {'; '.join(line.why for line in lines)}"

    def _ask(self, project: int, job: JobName) -> None:
        if self.queue is None:
            raise QueueError("a queue of jobs", "none", "start the service with Redis")
        self.queue.enqueue(project, job)

    def _note(self, wish: Wish, who: str, outcome: str) -> None:
        self.log.add(Done.now(who, wish.action, wish.project, outcome, wish.version))


def promise_words(promise: RiskGuarantee) -> str:
    """A promise in a few words.

    >>> promise_words(RiskGuarantee(0.8, 0.1, 0.9, per_image=1))
    'IoU 0.8 for all but 10%, confidence 90%, at most 1 of an image'
    """
    kind = ", as annotations of whole images" if promise.whole_images else ""
    return (
        f"IoU {promise.iou:g} for all but {promise.risk:.0%}, confidence {promise.confidence:.0%}, at most "
        f"{promise.per_image} of an image{kind}"
    )


def who_asks(authorization: str, client: str) -> str:
    """Who sends a request, by the credentials that were let through.

    >>> who_asks("Basic YW5uOnNlY3JldA==", "10.0.0.7"), who_asks("", "127.0.0.1")
    ('ann from 10.0.0.7', 'somebody at this machine (no password is set)')
    """
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return f"the bearer of the token, from {client}"
    if scheme.lower() != "basic":
        return NOBODY
    try:
        pair = base64.b64decode(given.strip(), validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return NOBODY
    return f"{pair.partition(':')[0][:60]} from {client}"


def read_form(body: bytes) -> dict[str, str]:
    """The fields of a form that was sent, each once; empty for what is none."""
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=20)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}


def _told(done: Done) -> tuple[object, ...]:
    to = f"to {done.version} " if done.version else ""
    return done.action, done.project, to, done.who, done.outcome
