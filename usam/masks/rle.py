"""Label Studio's run-length code of brush masks, both ways.

Legend: H, W height and width in pixels; C codes (runs and literal blocks) of one code string.

The format is that of the `rle-pack` package for JavaScript, over the flat RGBA bytes of the picture, four for
each pixel; a list of integers 0..255, read as one string of bits, most significant first:

    32 bits      number of bytes, 4 * H * W
    5 bits       bits of a value, less 1 (7: a byte)
    4 x 4 bits   widths in bits of the four kinds of run length, each less 1 (2, 3, 7, 15)
    then, until all bytes are there, codes of
    1 bit        1: a run of one value; 0: a literal block
    2 bits       which of the four widths the length is written in
    3..16 bits   the length, less 1
    8 bits       the value of the run; or, for a literal block, as many values as it is long

Encoding gives what `label_studio_sdk.converter.brush.mask2rle` gives, integer by integer. Where a code ends
is known only once it is read, so a decoder is sequential by nature; here the step to the next code is looked
up beforehand for every bit position at once, what is left to do in sequence is one addition a code, and all
fields are read after that as arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from usam.errors import MaskError
from usam.masks.overlap import BoolMask

UInt8Array: TypeAlias = npt.NDArray[np.uint8]
UInt64Array: TypeAlias = npt.NDArray[np.uint64]
IntArray: TypeAlias = npt.NDArray[np.int64]
RunLengths: TypeAlias = Sequence[int] | bytes | npt.NDArray[np.integer]

CHANNELS = 4
MAX_PIXELS = 200_000_000
OPAQUE = 255
HALF_OPAQUE = 128

_WIDTHS = (3, 4, 8, 16)
_HEADER_BITS = 32 + 5 + 4 * 4
_VALUE_BITS = 8
_LONGEST_RUN = 1 << _WIDTHS[-1]
_WINDOW_BITS = 13
"""A window starts on a byte and serves its eight bit positions: 7 + flag and width (3) + the shortest length
(3)."""

_CONTAINERS = (list, bytes, bytearray, tuple, np.ndarray)


def encode_rle(mask: npt.ArrayLike) -> list[int]:
    """Run-length code of a mask (H, W), as integers 0..255.

    A boolean mask is written as opaque (255) and transparent (0); integers 0..255 are written as they are, so
    that partial alpha survives (a mask of 0 and 1 would be invisible in Label Studio). Raises `MaskError` for
    other types or shapes, values above 255, an empty array, or more than 2**30 - 1 pixels.
    """
    alpha = _alpha(mask)
    flat = alpha.ravel()
    last = np.append(np.flatnonzero(flat[1:] != flat[:-1]), flat.size - 1)
    lengths = np.diff(last, prepend=-1) * CHANNELS
    kinds = np.searchsorted([1 << width for width in _WIDTHS[:-1]], lengths)
    values = flat[last].astype(np.uint64) * (OPAQUE if flat.dtype == np.bool_ else 1)
    if lengths.max() > _LONGEST_RUN:
        pieces = (lengths - 1) // _LONGEST_RUN + 1
        ends = np.cumsum(pieces) - 1
        rest = lengths - (pieces - 1) * _LONGEST_RUN
        lengths, kinds, values = (np.repeat(array, pieces) for array in (lengths, kinds, values))
        lengths[lengths > _LONGEST_RUN] = _LONGEST_RUN
        lengths[ends] = rest
    widths = np.array(_WIDTHS, np.uint64)[kinds]
    codes = kinds.astype(np.uint64) + np.uint64(4)
    codes = ((codes << widths | (lengths - 1).astype(np.uint64)) << np.uint64(_VALUE_BITS)) | values
    header, header_bits = _header(flat.size * CHANNELS)
    sizes = np.concatenate([header_bits, widths.astype(np.int64) + 3 + _VALUE_BITS])
    return list(_pack_bits(np.concatenate([header, codes]), sizes))


def decode_rle(rle: RunLengths, image_hw: tuple[int, int], max_pixels: int = MAX_PIXELS) -> UInt8Array:
    """Alpha (H, W) uint8 of a run-length code, 0 transparent to 255 opaque.

    `rle` holds integers 0..255 (a list from JSON, bytes or an integer array); it may come from anyone.
    `image_hw` is the size (H, W) it must describe. What follows the last code is ignored, as the browser
    does. Raises `MaskError` where the code is not made of bytes, describes another size or more than
    `max_pixels`, is cut short, or runs past its end; nothing is allocated before size and length agree with
    `image_hw`.
    """
    height, width = image_hw
    if height < 1 or width < 1 or height * width > max_pixels:
        raise MaskError(f"an image of 1 to {max_pixels:,} pixels", f"{width} x {height}", "check its size")
    total = height * width * CHANNELS
    data = _code_bytes(rle, limit=_longest_code(total))
    bits = len(data) * 8
    if bits < _HEADER_BITS:
        raise MaskError(f"a run-length code of at least {_HEADER_BITS // 8 + 1} integers", f"{len(data)}")
    head = int.from_bytes(data[:7], "big") >> 3
    stated = head >> 21
    if stated != total:
        raise MaskError(
            f"a run-length code of {width} x {height} pixels, {total:,} bytes",
            f"one of {stated:,} bytes",
            "decode it with the size of the image that it was drawn on",
        )
    if (head >> 16) & 31 != _VALUE_BITS - 1:
        raise MaskError("a run-length code of 8-bit values", f"{((head >> 16) & 31) + 1}-bit values")
    widths = tuple(((head >> shift) & 15) + 1 for shift in (12, 8, 4, 0))
    values, lengths = _read_runs(data, widths, total)
    pixels = np.diff(np.cumsum(lengths) // CHANNELS, prepend=0)
    return np.repeat(values, pixels).reshape(height, width)


def decode_mask(
    rle: RunLengths, image_hw: tuple[int, int], threshold: int = HALF_OPAQUE, max_pixels: int = MAX_PIXELS
) -> BoolMask:
    """Mask (H, W) bool: alpha of at least `threshold` (1..255). Strokes drawn in the browser have soft edges.

    Raises `MaskError` as `decode_rle` does.
    """
    return decode_rle(rle, image_hw, max_pixels) >= threshold


def rle_pixels(rle: RunLengths) -> int:
    """The number of pixels that a run-length code says it holds; nothing else of it is read.

    Raises `MaskError` where that is not a whole number of pixels, or the code is shorter than its header.
    """
    head = _code_bytes(rle[:4] if isinstance(rle, _CONTAINERS) else rle, limit=4)
    stated = int.from_bytes(head, "big")
    if len(head) < 4 or stated % CHANNELS:
        raise MaskError("a run-length code of whole RGBA pixels", f"{stated:,} bytes in {len(head)} integers")
    return stated // CHANNELS


def _longest_code(total: int) -> int:
    """Integers in the longest code that encoders write for `total` bytes, a run of one for each, and some slack."""
    return (_HEADER_BITS + total * (3 + _WIDTHS[0] + _VALUE_BITS)) // 8 + 64


def _alpha(mask: npt.ArrayLike) -> npt.NDArray[np.bool_] | UInt8Array:
    array = np.asarray(mask)
    if array.ndim != 2 or array.size == 0:
        raise MaskError("a mask (H, W) of at least 1 x 1", f"shape {array.shape}")
    if array.size * CHANNELS >= 1 << 32:
        raise MaskError("a mask of less than 2**30 pixels", f"{array.size:,}", "shrink it; the code holds no more")
    if array.dtype in (np.bool_, np.uint8):
        return array
    if not np.issubdtype(array.dtype, np.integer):
        raise MaskError("a mask of booleans or integers", f"{array.dtype}", "compare it with a threshold first")
    if array.min() < 0 or array.max() > OPAQUE:
        raise MaskError("alpha values in 0..255", f"{array.min()}..{array.max()}")
    return array.astype(np.uint8)


def _header(total: int) -> tuple[UInt64Array, IntArray]:
    layout = _VALUE_BITS - 1
    for width in _WIDTHS:
        layout = layout << 4 | (width - 1)
    return np.array([total, layout], np.uint64), np.array([32, _HEADER_BITS - 32], np.int64)


def _pack_bits(codes: UInt64Array, sizes: IntArray) -> bytes:
    """Codes (C,) of `sizes` (C,) bits each, at most 32, one after the other; at least one zero bit follows
    the last.

    Each code falls into one 32-bit word or two. Those that start in a word are summed, and the last of them
    is the only one that can reach into the next.
    """
    ends = np.cumsum(sizes)
    starts = ends - sizes
    words = starts >> 5
    placed = codes << (64 - sizes - (starts & 31)).astype(np.uint64)
    firsts = np.append(0, np.flatnonzero(np.diff(words)) + 1)
    lasts = np.append(firsts[1:], len(words)) - 1
    packed = np.zeros(int(words[-1]) + 2, np.uint64)
    packed[words[firsts]] = np.add.reduceat(placed >> np.uint64(32), firsts)
    packed[words[lasts] + 1] += placed[lasts] & np.uint64(0xFFFFFFFF)
    return packed.astype(">u4").tobytes()[: int(ends[-1]) // 8 + 1]


def _code_bytes(rle: RunLengths, limit: int) -> bytes:
    if not isinstance(rle, _CONTAINERS):
        raise MaskError("a run-length code, a list of integers 0..255", type(rle).__name__)
    if len(rle) > limit:
        raise MaskError(f"a run-length code of at most {limit:,} integers for this image", f"{len(rle):,}")
    try:
        if isinstance(rle, np.ndarray):
            rle = rle.tolist()
        return bytes(rle)
    except (TypeError, ValueError) as cause:
        raise MaskError("a run-length code of integers 0..255", str(cause)) from cause


def _read_runs(data: bytes, widths: tuple[int, ...], total: int) -> tuple[UInt8Array, IntArray]:
    """Values and lengths of the runs that make up `total` bytes; each value of a literal block is a run of one."""
    padded = np.frombuffer(data + bytes(8), np.uint8)
    windows: npt.NDArray[np.uint64] = np.ndarray(len(data), ">u8", padded.data, strides=(1,))
    starts = _code_positions(data, padded, widths)
    field = windows[starts >> 3].astype(np.uint64) << (starts & 7).astype(np.uint64)
    width = np.array(widths, np.uint64)[(field >> np.uint64(61)) & np.uint64(3)]
    lengths = ((field << np.uint64(3)) >> (np.uint64(64) - width)).astype(np.int64) + 1
    ends = np.cumsum(lengths)
    count = int(np.searchsorted(ends, total)) + 1
    if count > len(ends):
        reached = int(ends[-1]) if len(ends) else 0
        raise MaskError(f"runs of {total:,} bytes", f"{reached:,}", "the code was cut short; fetch it again")
    if ends[count - 1] != total:
        raise MaskError(f"runs of {total:,} bytes", f"{int(ends[count - 1]):,}", "the code is damaged")
    starts, field, width, lengths = starts[:count], field[:count], width[:count], lengths[:count]
    values = ((field << (width + np.uint64(3))) >> np.uint64(64 - _VALUE_BITS)).astype(np.uint8)
    is_run = (field >> np.uint64(63)).astype(bool)
    if is_run.all():
        return values, lengths
    items = np.where(is_run, 1, lengths)
    code = np.repeat(np.arange(len(starts)), items)
    place = np.arange(len(code)) - np.repeat(np.cumsum(items) - items, items)
    position = starts[code] + 3 + width.astype(np.int64)[code] + _VALUE_BITS * place
    value = windows[position >> 3].astype(np.uint64) << (position & 7).astype(np.uint64)
    return (value >> np.uint64(64 - _VALUE_BITS)).astype(np.uint8), np.where(is_run, lengths, 1)[code]


def _code_positions(data: bytes, padded: UInt8Array, widths: tuple[int, ...]) -> IntArray:
    """First bit (C,) of every complete code after the header."""
    window = padded[: len(data)].astype(np.uint16) << np.uint16(5)
    window |= padded[1 : len(data) + 1] >> np.uint8(3)
    steps = _step_table(widths)[window].tobytes()
    visited = bytearray(len(steps))
    position, stop = _HEADER_BITS, len(steps)
    while position < stop:
        visited[position] = 1
        step = steps[position]
        position += step if step else _literal_bits(data, position, widths)
    starts = np.flatnonzero(np.frombuffer(visited, np.bool_))
    return starts if position == stop else starts[:-1]


@lru_cache(maxsize=8)
def _step_table(widths: tuple[int, ...]) -> UInt64Array:
    """For a window of 13 bits, the sizes in bits of the codes that would start at each of its first 8, as 8
    bytes.

    0 stands for a literal block whose length the window does not show.
    """
    window = np.arange(1 << _WINDOW_BITS)[:, None]
    field = (window << np.arange(8)) & ((1 << _WINDOW_BITS) - 1)
    width = np.array(widths)[(field >> (_WINDOW_BITS - 3)) & 3]
    literals = (field >> np.maximum(_WINDOW_BITS - 3 - width, 0)) % (1 << width) + 1
    shown = np.where(width <= 3, 3 + width + _VALUE_BITS * literals, 0)
    is_run = field >> (_WINDOW_BITS - 1) == 1
    return np.where(is_run, 3 + width + _VALUE_BITS, shown).astype(np.uint8).view(np.uint64)[:, 0]


def _literal_bits(data: bytes, position: int, widths: tuple[int, ...]) -> int:
    """Size in bits of the literal block that starts at a bit position."""
    first = position >> 3
    field = int.from_bytes((data[first : first + 4]).ljust(4, b"\0"), "big") << (position & 7) & 0xFFFFFFFF
    width = widths[(field >> 29) & 3]
    return 3 + width + _VALUE_BITS * ((field >> (29 - width)) % (1 << width) + 1)
