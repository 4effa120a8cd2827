"""Pictures in: every way an image file can look becomes one kind of array, or one clear refusal.

Legend: H, W height and width of the upright image in pixels.

The header is read and judged before a single pixel is decoded, and the decoder is chosen by the file's first
bytes from a short list, so that a hostile upload reaches neither the rarely used decoders nor the memory.
Nothing here changes Pillow's process-wide limits or Python's warning filters: several threads may read at
once.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL import Image as PillowImage
from PIL.ImageFile import ImageFile

from usam.errors import ImageError

UInt8Image: TypeAlias = npt.NDArray[np.uint8]
ImageSource: TypeAlias = Path | str | bytes | BinaryIO

MAX_PIXELS = 200_000_000
MAX_BYTES = 256 * 2**20
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
        The file is missing, too large, of a format other than `FORMATS`, cut short or damaged, or holds samples
        without a defined white (32-bit integers above 16 bits, floats).

    Examples
    --------
    >>> picture = usam.read_image("photo.jpg")
    >>> picture.shape, picture.dtype.name
    ((120, 160, 3), 'uint8')
    """
    with _open(_read_bytes(source, max_bytes), max_pixels) as image:
        try:
            image.load()
            upright = ImageOps.exif_transpose(image)
            return _to_rgb(upright)
        except _DECODER_FAILURES as cause:
            raise ImageError(
                f"a complete {image.format} image of {image.width} x {image.height} pixels",
                f"a damaged or truncated one ({_reason(cause)})",
                "transfer or export the file again",
            ) from cause


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
        data = source.read(max_bytes + 1)
        if not isinstance(data, bytes):
            raise ImageError("a binary stream", f"one that gives {type(data).__name__}", "open it with mode 'rb'")
    if data is None or len(data) > max_bytes:
        raise ImageError(
            f"an image file of at most {max_bytes:,} bytes", "a larger one", "shrink it or raise the limit"
        )
    if not data:
        raise ImageError("an image file", "no bytes at all", "transfer or export the file again")
    return data


def _read_file(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(max_bytes + 1)
    except (OSError, ValueError) as cause:
        raise ImageError(f"a readable image file at {path}", _reason(cause), "check the path") from cause


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
    """Parse the header and judge the size; no pixel is decoded. The decoder's class is called directly
    because `PIL.Image.open` enforces a process-wide pixel limit, half of it by a warning."""
    decoder = _decoder(data)
    if decoder is None:
        raise ImageError(
            f"an image file ({', '.join(FORMATS)})",
            f"{len(data):,} bytes that start with {data[:8]!r}",
            "convert it to one of these formats",
        )
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
    return image


def _lies_on_its_side(image: ImageFile) -> bool:
    """Whether EXIF will swap width and height on decoding; of a TIFF, Pillow gives the size swapped already."""
    try:
        return image.format != "TIFF" and image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    except _DECODER_FAILURES:
        return False


def _to_rgb(image: PillowImage.Image) -> UInt8Image:
    if image.mode == "F":
        raise ImageError("8 or 16 bits a sample", "32-bit floats, without a defined white", "convert to 8 bits")
    if image.mode == "I" or image.mode.startswith("I;"):
        return _from_wide_gray(np.asarray(image))
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        canvas = PillowImage.new("RGB", image.size, "white")
        canvas.paste(layers, mask=layers.getchannel("A"))
        return np.array(canvas)
    try:
        return np.array(image.convert("RGB"))
    except ValueError as cause:
        raise ImageError(
            "a gray, palette, RGB, CMYK or YCbCr image", f"colour mode {image.mode}", "convert it to RGB"
        ) from cause


def _from_wide_gray(samples: npt.NDArray[np.generic]) -> UInt8Image:
    values = samples.astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ImageError(
            "gray samples in 0..65535", f"{values.min()}..{values.max()}", "convert the image to 8 or 16 bits"
        )
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)


def _reason(cause: BaseException) -> str:
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return text or type(cause).__name__
