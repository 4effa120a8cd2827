"""Pictures in: every way an image file can look becomes one kind of array, or one clear refusal.

Legend: H, W height and width of the upright image in pixels.

The header is read and judged before a single pixel is decoded, and the decoder is chosen by the file's first
bytes from a short list, so that a hostile upload reaches neither the rarely used decoders nor the memory.
So do files that are small but would take minutes or gigabytes to decode: sides, scans, pieces and working memory have
caps. Nothing here changes Pillow's process-wide limits or Python's warning filters: several threads may read at
once.
"""

from __future__ import annotations

import io
import os
import select
import stat
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as PillowImage
from PIL.ImageFile import ImageFile

from usam.errors import ImageError
from usam.image_ends import missing_pixels

UInt8Image: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = Path | str | bytes | BinaryIO

MAX_PIXELS = 200_000_000
MAX_BYTES = 256 * 2**20
MAX_SIDE = 65_535
"""Longest side in pixels: what a JPEG can have."""
MAX_ASPECT = 1000
"""Longest side as a multiple of the shorter one; images with a side below `THIN` may go on to `THIN` times that."""
THIN = 8
MAX_WORKING_BYTES = 2**30
"""Memory that decoding may take, the finished array included."""
WORKING_BYTES = {"WEBP": 20, "GIF": 12}
"""Bytes a pixel that decoding takes at most, by format: Pillow's copies, the decoder's own, and ours."""
USUAL_WORKING_BYTES, PROGRESSIVE_BYTES = 8, 6
"""Of other formats, and what a progressive JPEG takes on top: all coefficients at once."""
MAX_SCANS = 100
MAX_SCAN_PIXELS = 800_000_000
"""Scans of a progressive JPEG, and scans times pixels: each scan goes through the whole image."""
MAX_PIECES = 100_000
"""Chunks of a PNG."""
MAX_RLE_BYTES = 4 * 2**20
"""Largest run-length coded BMP: its decoder is Python."""
PATIENCE_S = 10.0
"""How long a named pipe that is given for a file may give nothing."""
ROWS_AT_ONCE = 256
FORMATS = ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF")

_DECODER_FAILURES = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
    PillowImage.DecompressionBombError,
)
"""What Pillow is known to raise on damaged files; it has no error type of its own."""

_ORIENTATION = 0x0112


def read_image(source: ImageSource, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> UInt8Image:
    """Decode an image file to RGB, upright, as a browser would show it.

    The first frame of an animation or multi-page file is taken. EXIF orientation is applied. Transparent images are
    laid over white; gray, bilevel, palette, CMYK and YCbCr images are converted; of 16-bit samples the upper 8 bits
    are kept.

    Parameters
    ----------
    source
        A path, the file's bytes, or a binary stream (read from its current position).
    max_pixels
        Most pixels an image may have, judged from the header before anything is decoded.
    max_bytes
        Most bytes the file may have.

    Returns
    -------
    (H, W, 3) uint8.

    Raises
    ------
    ImageError
        The file is missing, too large, of a format other than `FORMATS`, of too long a side, of a make that would
        take minutes or gigabytes to decode, cut short or damaged, or holds samples without a defined
        white (32-bit integers above 16 bits, floats).

    Examples
    --------
    >>> picture = usam.read_image("photo.jpg")
    >>> picture.shape, picture.dtype.name
    ((120, 160, 3), 'uint8')
    """
    data = _read_bytes(source, max_bytes)
    with _open(data, max_pixels) as image:
        try:
            load_whole(image, data)
            return _to_rgb(image, image.getexif().get(_ORIENTATION, 1))
        except _DECODER_FAILURES as cause:
            raise ImageError(
                f"a complete {image.format} image of {image.width} x {image.height} pixels",
                f"a damaged or truncated one ({_reason(cause)})",
                "transfer or export the file again",
            ) from cause


def load_whole(image: ImageFile, data: bytes) -> None:
    """Decode an opened file, whose bytes are `data`. Raises `OSError` where pixels are missing, else as Pillow does."""
    image.load()
    if missing := missing_pixels(image, data):
        raise OSError(missing)


def read_size(source: ImageSource, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> tuple[int, int]:
    """(H, W) that `read_image` would give, from the header alone. Raises `ImageError` as `read_image`
    does."""
    with _open(_read_bytes(source, max_bytes), max_pixels) as image:
        return (image.width, image.height) if _lies_on_its_side(image) else (image.height, image.width)


def _read_bytes(source: ImageSource, max_bytes: int) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source) if len(source) <= max_bytes else None
    elif isinstance(source, (str, os.PathLike)):
        data = _read_file(source, max_bytes)
    else:
        data = _read_stream(source, max_bytes)
        if not isinstance(data, bytes):
            raise ImageError("a binary stream", f"one that gives {type(data).__name__}", "open it with mode 'rb'")
    if data is None or len(data) > max_bytes:
        raise ImageError(
            f"an image file of at most {max_bytes:,} bytes", "a larger one", "shrink it or raise the limit"
        )
    if not data:
        raise ImageError("an image file", "no bytes at all", "transfer or export the file again")
    return data


def _read_stream(stream: BinaryIO, max_bytes: int) -> bytes:
    if not callable(getattr(stream, "read", None)):
        raise ImageError(
            "a path, a file's bytes or a binary stream",
            type(stream).__name__,
            "what is an array already need not be read",
        )
    try:
        return stream.read(max_bytes + 1)
    except (OSError, ValueError) as cause:
        raise ImageError("a binary stream", _reason(cause), "open it again") from cause


def _read_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    try:
        with open(path, "rb", opener=_patiently) as file:
            return file.read(max_bytes + 1)
    except (OSError, ValueError) as cause:
        raise ImageError(f"a readable image file at {str(path)[:200]}", _reason(cause), "check the path") from cause


def _patiently(path: str, flags: int) -> int:
    """Open a file; of a named pipe or a device that nobody writes to, an `OSError` after a while rather than a wait."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        if stat.S_ISFIFO(mode := os.fstat(handle).st_mode) or stat.S_ISCHR(mode):
            if not select.select([handle], [], [], PATIENCE_S)[0]:
                raise OSError(f"a pipe or device that gave nothing within {PATIENCE_S:g} s")
            os.set_blocking(handle, True)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _decoder(data: bytes) -> type[ImageFile] | None:
    """The one decoder that the first bytes call for; None where the format is not on the list."""
    if data.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if data.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile
    if data.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return TiffImagePlugin.TiffImageFile
    if data.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile
    return None


def _open(data: bytes, max_pixels: int) -> ImageFile:
    """Parse the header and judge the size and the work; no pixel is decoded. The decoder's class is called directly
    because `PIL.Image.open` enforces a process-wide pixel limit, half of it by a warning."""
    decoder = _decoder(data)
    if decoder is None:
        raise ImageError(
            f"an image file ({', '.join(FORMATS)})",
            f"{len(data):,} bytes that start with {data[:8]!r}",
            "convert it to one of these formats",
        )
    if decoder is WebPImagePlugin.WebPImageFile:  # its decoder makes its canvases already when it is opened
        _judge_memory("WEBP", *_webp_size(data))
    try:
        image = decoder(io.BytesIO(data))
    except _DECODER_FAILURES as cause:
        raise ImageError(
            f"a readable {decoder.format} header",
            f"a damaged, truncated or oversized one ({_reason(cause)})",
            "transfer or export the file again",
        ) from cause
    if image.width * image.height > max_pixels:
        image.close()
        raise ImageError(
            f"an image of at most {max_pixels:,} pixels",
            f"{image.width} x {image.height} = {image.width * image.height:,} pixels",
            "shrink it, cut it into tiles or raise the limit",
        )
    if min(image.width, image.height) < 1:
        image.close()
        raise ImageError("an image of at least 1 x 1 pixel", f"{image.width} x {image.height}", "export the file again")
    try:
        _judge_work(image, data)
    except ImageError:
        image.close()
        raise
    return image


def _judge_work(image: ImageFile, data: bytes) -> None:
    """Raise `ImageError` where decoding would take minutes or gigabytes, from what is known before it."""
    pixels, (short, long) = image.width * image.height, sorted(image.size)
    if long > MAX_SIDE or long > MAX_ASPECT * max(short, THIN):
        raise ImageError(
            f"sides of at most {MAX_SIDE:,} pixels, the longer at most {MAX_ASPECT} times the shorter",
            f"{image.width} x {image.height}",
            "cut it into tiles",
        )
    is_progressive = image.format == "JPEG" and bool(image.info.get("progressive"))
    scans = data.count(b"\xff\xda") if is_progressive else 1
    if scans > MAX_SCANS or (scans > 1 and scans * pixels > MAX_SCAN_PIXELS):
        raise ImageError(
            f"at most {MAX_SCANS} scans, and {MAX_SCAN_PIXELS:,} pixels in all of them",
            f"{scans} scans of {pixels:,} pixels",
            "save it as a baseline JPEG",
        )
    _judge_memory(str(image.format), *image.size, progressive=is_progressive)
    if image.format == "PNG" and _has_many_chunks(data):
        raise ImageError(f"at most {MAX_PIECES:,} chunks", "more", "export the file again")
    if image.format == "BMP" and len(data) > MAX_RLE_BYTES and image.tile and image.tile[0][0] == "bmp_rle":
        raise ImageError("a BMP without run lengths", f"{len(data):,} bytes of them", "save it as a PNG")


def _judge_memory(kind: str, width: int, height: int, *, progressive: bool = False) -> None:
    each = WORKING_BYTES.get(kind, USUAL_WORKING_BYTES) + PROGRESSIVE_BYTES * progressive
    if (needed := width * height * each) > MAX_WORKING_BYTES:
        raise ImageError(
            f"an image that decodes in {MAX_WORKING_BYTES:,} bytes of memory",
            f"a damaged or oversized one: {width} x {height} pixels of {kind} would take {needed:,}",
            "shrink it, cut it into tiles, or save it as a baseline JPEG or a PNG",
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of a WebP's canvas from its first chunk; (0, 0) where it has no such chunk."""
    kind, bits = data[12:16], int.from_bytes(data[21:25], "little")
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return 0, 0


def _has_many_chunks(data: bytes) -> bool:
    at = 8
    for _ in range(MAX_PIECES):
        if at + 8 > len(data):
            return False
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return True


def _lies_on_its_side(image: ImageFile) -> bool:
    """Whether EXIF will swap width and height on decoding; of a TIFF, Pillow gives the size swapped already."""
    try:
        return image.format != "TIFF" and image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    except _DECODER_FAILURES:
        return False


def _to_rgb(image: PillowImage.Image, orientation: int) -> UInt8Image:
    """(H, W, 3), a few rows at a time, so that an image is in memory twice at most."""
    if image.mode == "F":
        raise ImageError("8 or 16 bits a sample", "32-bit floats, without a defined white", "convert to 8 bits")
    lies = orientation in (5, 6, 7, 8)
    upright = np.empty((*(image.size if lies else image.size[::-1]), 3), np.uint8)
    as_stored = _turned(upright, orientation)
    for top in range(0, image.height, ROWS_AT_ONCE):
        rows = image.crop((0, top, image.width, min(top + ROWS_AT_ONCE, image.height)))
        as_stored[top : top + ROWS_AT_ONCE] = _rows_to_rgb(rows)
    return upright


def _turned(upright: UInt8Image, orientation: int) -> UInt8Image:
    """A view of an upright array in the order in which a file of this EXIF orientation stores it."""
    if orientation in (2, 3):
        upright = upright[:, ::-1]
    if orientation in (3, 4):
        upright = upright[::-1]
    if orientation in (7, 8):
        upright = upright[::-1]
    if orientation in (6, 7):
        upright = upright[:, ::-1]
    return upright.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else upright


def _rows_to_rgb(rows: PillowImage.Image) -> npt.NDArray[np.uint8]:
    if rows.mode == "I" or rows.mode.startswith("I;"):
        return _from_wide_gray(np.asarray(rows))
    if rows.has_transparency_data:
        layers = rows.convert("RGBA")
        canvas = PillowImage.new("RGB", rows.size, "white")
        canvas.paste(layers, mask=layers.getchannel("A"))
        return np.asarray(canvas)
    try:
        return np.asarray(rows.convert("RGB"))
    except ValueError as cause:
        raise ImageError(
            "a gray, palette, RGB, CMYK or YCbCr image", f"colour mode {rows.mode}", "convert it to RGB"
        ) from cause


def _from_wide_gray(samples: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    values = samples.astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(
            "gray samples in 0..65535", f"{values.min()}..{values.max()}", "convert the image to 8 or 16 bits"
        )
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)


def _reason(cause: BaseException) -> str:
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return text or type(cause).__name__
