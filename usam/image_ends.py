"""Whether an image file's pixels go on to its end: Pillow fills what is missing with black or grey, and says nothing.

It refuses a file that is cut off. What it takes are files that say they are whole and are not: a PNG whose data end
between two rows, or do not match their checksum, and a JPEG whose data end before its last block.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import JpegImagePlugin
from PIL.ImageFile import ImageFile

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel of a PNG, by its colour type."""
NEUTRAL = (127, 128)
"""What libjpeg leaves in each band where it has no data; 127 where the bands are stored the other way round."""
FILLER = bytes(range(1, 240)) * 2
"""Bytes that a decoder takes for picture data where it still waits for some, and passes over where it has all."""
ROWS_AT_ONCE = 256
_END_OF_JPEG = b"\xff\xd9"


def missing_pixels(image: ImageFile, data: bytes) -> str:
    """What is missing of a decoded PNG or JPEG, an empty text where nothing is or the format tells by itself.

    `data` are the file's bytes. Costs a checksum; a second decoding only where the last pixels look as if missing.
    """
    if image.format == "PNG":
        return _missing_of_png(image, data)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return _missing_of_jpeg(image, data)
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
    if end < 0 or image.info.get("progressive") or any(band not in NEUTRAL for band in bands):
        return ""
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data[:end] + FILLER + data[end:])) as filled:
        for top in range(0, image.height, ROWS_AT_ONCE):
            rows = (0, top, image.width, min(top + ROWS_AT_ONCE, image.height))
            if not np.array_equal(np.asarray(image.crop(rows)), np.asarray(filled.crop(rows))):
                return "its data end before its last block"
    return ""
