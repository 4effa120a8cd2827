"""Whether an image file's pixels go on to its end: Pillow fills what is missing with black or grey, and says nothing.

It refuses a file that is cut off. What it takes are files that say they are whole and are not: a PNG whose data end
between two rows, or do not match their checksum, a JPEG whose data end before its last block, and files of which a disk
kept the length and lost the end, so that they go on as zeros. In formats without compression, BMP and TIFF, those are
black pixels like any others: they are told only where they begin within a row, below rows that go on.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import BmpImagePlugin, JpegImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel of a PNG, by its colour type."""
NEUTRAL = (127, 128)
"""What libjpeg leaves in each band where it has no data; 127 where the bands are stored the other way round."""
FILLER = bytes(range(1, 240)) * 2
"""Bytes that a decoder takes for picture data where it still waits for some, and passes over where it has all."""
ROWS_AT_ONCE = 256
EMPTY = bytes(32)
"""Zeros at its end from which compressed data are looked at once more."""
SPARE = 24
"""Bytes that a decoder of WebP can do without only where it never came to them."""
ROWS_BEFORE, BROKEN_OFF = 8, 8
"""Rows that go on above one that breaks off, and bytes that it lacks at least."""
BITS_PER_SAMPLE, COMPRESSION, STRIP_OFFSETS, STRIP_SIZES, PLANAR = 258, 259, 273, 279, 284
_END_OF_JPEG = b"\xff\xd9"


def missing_pixels(image: ImageFile, data: bytes) -> str:
    """What is missing of a decoded picture, an empty text where nothing is or the format tells by itself.

    `data` are the file's bytes. Costs a checksum; a second decoding only where the last pixels look as if missing.
    """
    if image.format == "PNG":
        return _missing_of_png(image, data)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return _missing_of_jpeg(image, data)
    if isinstance(image, WebPImagePlugin.WebPImageFile):
        return _missing_of_webp(data)
    if isinstance(image, BmpImagePlugin.BmpImageFile):
        return _missing_of_rows(*_rows_of_bmp(data))
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _missing_of_rows(*_rows_of_tiff(image, data))
    return ""


def _missing_of_png(image: ImageFile, data: bytes) -> str:
    if any(len(crc) == 4 and zlib.crc32(b"IDAT" + body) != int.from_bytes(crc, "big") for body, crc in _pieces(data)):
        return "its data do not match their checksum"
    bits, colour, interlaced = data[24], data[25], data[28]
    if interlaced or colour not in SAMPLES or image.crop((0, image.height - 1, *image.size)).getbbox(alpha_only=False):
        return ""
    wanted = image.height * (1 + (image.width * bits * SAMPLES[colour] + 7) // 8)
    stream, found = zlib.decompressobj(), 0
    for body, _ in _pieces(data):
        while body and found < wanted and not stream.eof:
            found += len(stream.decompress(body, min(wanted - found, 2**20)))
            body = stream.unconsumed_tail
    return f"its data end after {found / wanted:.0%} of it" if found < wanted else ""


def _pieces(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Body and checksum of each chunk of a PNG that holds pixels."""
    at = 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            yield data[at + 8 : at + 8 + size], data[at + 8 + size : at + 12 + size]
        at += 12 + size


def _missing_of_jpeg(image: ImageFile, data: bytes) -> str:
    last, end = image.getpixel((image.width - 1, image.height - 1)), data.rfind(_END_OF_JPEG)
    bands = last if isinstance(last, tuple) else (last,)
    if data.endswith(EMPTY) and data.find(_END_OF_JPEG, _first_scan(data)) < 0:
        return f"{_after(data)}, without an end"
    if end < 0 or image.info.get("progressive") or any(band not in NEUTRAL for band in bands):
        return ""
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data[:end] + FILLER + data[end:])) as filled:
        for top in range(0, image.height, ROWS_AT_ONCE):
            rows = (0, top, image.width, min(top + ROWS_AT_ONCE, image.height))
            if not np.array_equal(np.asarray(image.crop(rows)), np.asarray(filled.crop(rows))):
                return "its data end before its last block"
    return ""


def _first_scan(data: bytes) -> int:
    """Where the pixels of a JPEG begin, behind its headers and what lies in them."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def _missing_of_webp(data: bytes) -> str:
    at = 12
    while at + 8 <= len(data) and data[at : at + 4] not in (b"VP8 ", b"VP8L"):
        at += 8 + (size := int.from_bytes(data[at + 4 : at + 8], "little")) + size % 2
    size = int.from_bytes(data[at + 4 : at + 8], "little")
    if at + 8 > len(data) or not (body := data[at + 8 : at + 8 + size]).endswith(EMPTY):
        return ""
    kept = size // 2 * 2 - SPARE
    whole = len(data) - 8 - (size + size % 2 - kept)
    shorter = [b"RIFF", whole.to_bytes(4, "little"), data[8 : at + 4], kept.to_bytes(4, "little"), body[:kept]]
    try:
        with WebPImagePlugin.WebPImageFile(io.BytesIO(b"".join([*shorter, data[at + 8 + size + size % 2 :]]))) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError):
        return ""
    return _after(body)


def _rows_of_bmp(data: bytes) -> tuple[bytes, int, int]:
    """The pixels of a BMP without run lengths, and the bytes of a row with and without its filling; no rows of
    others."""
    if int.from_bytes(data[14:18], "little") < 40 or int.from_bytes(data[30:34], "little") not in (0, 3, 6):
        return b"", 1, 1
    width, height = (abs(int.from_bytes(data[at : at + 4], "little", signed=True)) for at in (18, 22))
    bits, start = width * int.from_bytes(data[28:30], "little"), int.from_bytes(data[10:14], "little")
    stride = (bits + 31) // 32 * 4
    return data[start : start + stride * height], stride, (bits + 7) // 8


def _rows_of_tiff(image: TiffImagePlugin.TiffImageFile, data: bytes) -> tuple[bytes, int, int]:
    """The pixels of a TIFF that lie uncompressed one after the other, and the bytes of a row, twice; no rows of
    others."""
    tags = image.tag_v2
    starts, sizes = tags.get(STRIP_OFFSETS, ()), tags.get(STRIP_SIZES, ())
    is_joined = len(starts) == len(sizes) > 0 and all(
        start + size == following for start, size, following in zip(starts, sizes, starts[1:], strict=False)
    )
    if tags.get(COMPRESSION, 1) != 1 or tags.get(PLANAR, 1) != 1 or not is_joined:
        return b"", 1, 1
    stride = (int(tags[256]) * sum(tags.get(BITS_PER_SAMPLE, (1,))) + 7) // 8
    return data[starts[0] : starts[-1] + sizes[-1]], stride, stride


def _missing_of_rows(rows: bytes, stride: int, used: int) -> str:
    """Whether rows break off: all is zeros, or all ones, from within a row on, below rows that go on."""
    last = rows[-1:]
    if last not in (b"\0", b"\xff"):
        return ""
    row, column = divmod(len(rows.rstrip(last)), stride)
    if row < ROWS_BEFORE or not column or used - column < BROKEN_OFF or (row + 2) * stride > len(rows):
        return ""
    for before in range(row - ROWS_BEFORE, row):
        beside = rows[before * stride + column : before * stride + used]
        if 2 * beside.count(last) >= len(beside):
            return ""
    return f"its pixels break off after {row * stride / len(rows):.0%} of it, within a row"


def _after(data: bytes) -> str:
    return f"its data are zeros after {len(data.rstrip(EMPTY[:1])) / len(data):.0%} of it"
