"""Small pictures of tasks with their masks drawn in, made here, within bounds, and kept on disk within a bound.

A picture that cannot be had is a picture too: of the sentence that says why.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import logging
import textwrap
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from backend.errors import ITEM_ERRORS, reason_of
from backend.label_studio.config import parse_config
from backend.pool.kept_objects import KeptObjects
from usam.files import plain, replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.image_fetcher import ImageFetcher
    from backend.store import Store
    from backend.store.records import ProposalRow

DIGEST_BYTES = 16
"""Behind each picture on disk: a damaged one is made again."""
MADE_AS = 2
"""Raised when the same task gives another picture."""
SIDE = 480
"""Longest side in pixels: twice what is shown, for dense screens."""
LARGE_SIDE = 1280
KEPT_BYTES = 128 * 2**20
FAILURES_KEPT, FAILURE_KEPT_S = 1000, 60.0
FILL, EDGE = 0.32, 0.95
"""How much of a mask's colour covers the picture, within it and along its edge."""
View = Literal["small", "proposals", "readings", "doubt"]
"""What is drawn: a small picture; or a large one, of numbered proposals, of their other readings, or of doubt."""
UInt8Image = npt.NDArray[np.uint8]
BoolMask = npt.NDArray[np.bool_]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A file to be shown; `failed` says that it holds a sentence instead of the task's picture."""

    content: bytes = field(repr=False)
    media_type: str = "image/jpeg"
    failed: bool = False


class Thumbnails:
    """Pictures of tasks, the least recently shown of many removed from `folder` first. Safe to share between threads.

    `label_config` gives a project's labelling configuration, empty where it is not known.
    """

    def __init__(
        self,
        store: Store,
        images: ImageFetcher,
        folder: Path,
        label_config: Callable[[int], str],
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._store, self._images, self._folder, self._label_config = store, images, folder, label_config
        self._kept_bytes = kept_bytes
        self._decoding = threading.Semaphore(1)
        """One at a time, so that clicks on pictures that are not at hand find a turn beside it."""
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._size: int | None = None

    def picture(self, project: int, task: int, view: View = "small") -> Picture | None:
        """A task's picture, small or as one of the large ones; None for a task that is not known."""
        key = self._store.picture_key(project, task)
        if key is None:
            return None
        config = self._label_config(project)
        path = self._path(f"{MADE_AS}|{view}|{project}|{task}|{key}|{config}")
        if kept := self._kept(path):
            return Picture(kept)
        if failure := self._failure(path.name):
            return Picture(sentence_picture(failure), "image/svg+xml", failed=True)
        try:
            content = self._made(project, task, config, view)
        except (*ITEM_ERRORS, OSError) as error:
            reason = reason_of(error)
            self._note_failure(path.name, reason)
            return Picture(sentence_picture(reason), "image/svg+xml", failed=True)
        self._keep(path, content)
        return Picture(content)

    def _made(self, project: int, task: int, config: str, view: View) -> bytes:
        (known,) = self._store.tasks(project, only=[task])
        row = self._store.proposal_rows(project, [task]).get(task)
        file = self._images.fetch_bytes(image_value(config, known.data), task)
        with self._decoding:
            image = shrunk(self._images.decode(file), SIDE if view == "small" else LARGE_SIDE)
        place = self._store.place(project, task)
        shown = place.shown if place is not None else ()
        if view != "small":
            from backend.web.dashboard.large_pictures import large_picture

            return jpeg(large_picture(image, row, shown, view))
        return jpeg(drawn(image, shown_masks(row, shown, (image.shape[0], image.shape[1]))))

    def _path(self, key: str) -> Path:
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.jpg"

    def _failure(self, name: str) -> str:
        with self._lock:
            at, reason = self._failures.get(name, (float("-inf"), ""))
        return reason if time.monotonic() - at < FAILURE_KEPT_S else ""

    def _note_failure(self, name: str, reason: str) -> None:
        with self._lock:
            self._failures[name] = time.monotonic(), reason
            while len(self._failures) > FAILURES_KEPT:
                self._failures.popitem(last=False)

    def _kept(self, path: Path) -> bytes:
        """What was kept, empty where there is nothing, or not what was written."""
        with suppress(OSError):
            content, digest = (file := plain(path).read_bytes())[:-DIGEST_BYTES], file[-DIGEST_BYTES:]
            if _digest(content) == digest:
                path.touch()
                return content
        return b""

    def _keep(self, path: Path, content: bytes) -> None:
        if len(content) > self._kept_bytes:
            return
        try:
            with self._lock:
                if self._size is None or self._size + len(content) > self._kept_bytes:
                    self._size = self._make_room(len(content))
                with replacing(path) as partial:
                    partial.write_bytes(content + _digest(content))
                self._size += len(content)
        except OSError as error:
            _log.warning("a small picture was not kept: %s", error)

    def _make_room(self, size: int) -> int:
        """Remove the least recently shown until there is room for `size` bytes and a tenth; bytes left."""
        kept = []
        for path in self._folder.glob("*.jpg"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                kept.append((facts.st_mtime_ns, facts.st_size, path))
        total = sum(file_size for _, file_size, _ in kept)
        if total + size <= self._kept_bytes:
            return total
        for _, file_size, path in sorted(kept):
            if total + size <= self._kept_bytes * 9 // 10:
                break
            path.unlink(missing_ok=True)
            total -= file_size
        return total


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def image_value(label_config: str, data: Mapping[str, Any]) -> str:
    """A task's picture by the labelling configuration, else the first text of its data that looks like an address.

    Raises `LabelConfigError` where the configuration has no such image.
    """
    if label_config:
        return parse_config(label_config).image_value(dict(data))
    texts = [value for value in data.values() if isinstance(value, str)]
    return next((text for text in texts if text.startswith(("data:", "/")) or "://" in text), next(iter(texts), ""))


def shrunk(image: UInt8Image, side: int = SIDE) -> UInt8Image:
    """The picture (H, W, 3) with no side longer than `side`, and none of no pixel."""
    height, width = image.shape[:2]
    scale = min(side / max(height, width), 1.0)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if size == (width, height):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX, reducing_gap=2.0))


def shown_masks(row: ProposalRow | None, numbers: Sequence[int], hw: tuple[int, int]) -> list[BoolMask]:
    """The masks of a task's candidates of these numbers on a picture of `hw` pixels; those that are not kept, or cannot
    be read, are left out."""
    if row is None or not row.arrays:
        return []
    masks = []
    with suppress(*ITEM_ERRORS):
        kept = KeptObjects.unpack(row)
        masks = [kept.mask(number, hw) for number in numbers if number < len(kept)]
    return [mask for mask in masks if mask.any()]


def colours(count: int) -> npt.NDArray[np.float32]:
    """`count` colours (count, 3) in 0..255, neighbours far apart in hue.

    >>> colours(2).shape
    (2, 3)
    """
    hues = [(0.58 + number * 0.618034) % 1.0 for number in range(count)]
    rows = [colorsys.hsv_to_rgb(hue, 0.85, 1.0 if number % 2 == 0 else 0.85) for number, hue in enumerate(hues)]
    return np.array(rows, np.float32).reshape(-1, 3) * 255


def drawn(image: UInt8Image, masks: Sequence[BoolMask]) -> UInt8Image:
    """The picture (H, W, 3) with its masks (H, W) in colours of their own, the largest lowest."""
    canvas = image.astype(np.float32)
    palette = colours(len(masks))
    for number in sorted(range(len(masks)), key=lambda number: -int(masks[number].sum())):
        mask, colour = masks[number], palette[number]
        padded = np.pad(mask, 2)
        inner = np.logical_and.reduce([np.roll(padded, shift, axis) for axis in (0, 1) for shift in (-2, 2)])
        edge = mask & ~inner[2:-2, 2:-2]
        canvas[mask] = canvas[mask] * (1 - FILL) + colour * FILL
        canvas[edge] = canvas[edge] * (1 - EDGE) + colour * EDGE
    return canvas.round().clip(0, 255).astype(np.uint8)


def jpeg(image: UInt8Image) -> bytes:
    """The picture (H, W, 3) as a file."""
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG", quality=82)
    return out.getvalue()


def sentence_picture(text: str) -> bytes:
    """A picture of a sentence, on a ground of its own."""
    clean = "".join(sign if sign.isprintable() else " " for sign in text)
    lines = textwrap.wrap(clean, 34)[:8]
    head = '<text x="24" y="52" font-size="25" font-weight="600" fill="#8a4600">This picture cannot be shown</text>'
    rows = "".join(
        f'<text x="24" y="{94 + 32 * number}" font-size="24" fill="#3c4a57">{escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    ground = '<rect width="480" height="360" fill="#eef1f4"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 360" font-family="sans-serif">{ground}{head}{rows}'
        "</svg>"
    ).encode()
