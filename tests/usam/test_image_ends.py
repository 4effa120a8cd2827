"""Files that say they are whole while pixels are missing: Pillow fills those with black or grey, and says nothing."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.errors import RegionError
from backend.label_studio.shapes import region_to_mask
from usam.errors import ImageError
from usam.image_ends import missing_pixels
from usam.images import read_image
from usam.research.datasets.folders import Folders

NOISE = np.random.default_rng(1).integers(1, 256, (80, 90, 3), np.uint8)
PALETTE = b"PLTE", bytes(range(256)) * 3


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(rows: list[bytes], size: tuple[int, int], colour: int, bits: int = 8, pieces: int = 10**9) -> bytes:
    """A PNG of these rows, each with its filter, whose header says `size` = (width, height)."""
    packed = zlib.compress(b"".join(rows))
    parts = [packed[at : at + pieces] for at in range(0, len(packed), pieces)]
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    extra = chunk(*PALETTE) if colour == 3 else b""
    data = b"".join(chunk(b"IDAT", part) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "bits", "length"), [(0, 1, 12), (0, 16, 180), (2, 8, 270), (3, 8, 90), (6, 8, 360)])
@pytest.mark.parametrize("pieces", [40, 10**9])
def test_a_png_whose_data_end_between_two_rows_is_refused(colour: int, bits: int, length: int, pieces: int) -> None:
    rows = [b"\0" + bytes(NOISE.reshape(-1)[:length]) for _ in range(80)]
    assert read_image(png(rows, (90, 80), colour, bits, pieces)).shape == (80, 90, 3)
    for kept in (79, 40, 1):
        with pytest.raises(ImageError, match=r"its data end after \d+% of it|truncated"):
            read_image(png(rows[:kept], (90, 80), colour, bits, pieces))


def test_a_png_whose_last_row_is_black_is_whole() -> None:
    black = [b"\0" + bytes(270) for _ in range(80)]
    assert not read_image(png(black, (90, 80), 2)).any()


def test_a_png_whose_data_do_not_match_their_checksum_is_refused() -> None:
    whole = png([b"\0" + NOISE[row].tobytes() for row in range(80)], (90, 80), 2)
    at = whole.index(b"IDAT") + 4 + int.from_bytes(whole[whole.index(b"IDAT") - 4 :][:4], "big")
    with pytest.raises(ImageError, match="do not match their checksum"):
        read_image(whole[:at] + b"\0\0\0\0" + whole[at + 4 :])
    assert np.array_equal(read_image(whole[:-12]), NOISE), "without its end, but with all rows"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_jpeg_whose_data_end_before_its_last_block_is_refused(mode: str, share: float) -> None:
    file = io.BytesIO()
    Image.fromarray(NOISE).convert(mode).save(file, "JPEG", quality=90)
    whole = file.getvalue()
    assert read_image(whole).shape == (80, 90, 3)
    with pytest.raises(ImageError, match="its data end before its last block"):
        read_image(whole[: int(len(whole) * share)] + b"\xff\xd9")


def test_a_grey_jpeg_is_whole() -> None:
    file = io.BytesIO()
    Image.new("RGB", (90, 80), (128, 128, 128)).save(file, "JPEG")
    assert (read_image(file.getvalue()) == 128).all()


def encoded(kind: str, pixels: np.ndarray[Any, Any] = NOISE, mode: str = "RGB", **more: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **more)
    return file.getvalue()


PADDED: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "RGB", {}),
    ("JPEG", "L", {"progressive": True}),
    ("WEBP", "RGB", {"quality": 80}),
    ("WEBP", "RGBA", {"quality": 20, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
    ("WEBP", "RGB", {"lossless": True}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "L", {}),
    ("TIFF", "CMYK", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("GIF", "P", {}),
    ("PNG", "RGB", {}),
]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(("kind", "mode", "more"), PADDED)
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_file_whose_end_is_zeros_is_refused(kind: str, mode: str, more: dict[str, Any], share: float) -> None:
    whole = encoded(kind, mode=mode, **more)
    assert read_image(whole).shape == (80, 90, 3)
    kept = int(len(whole) * share) + 45
    with pytest.raises(ImageError):
        read_image(whole[:kept] + bytes(len(whole) - kept))


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize(("kind", "mode"), [("BMP", "RGB"), ("BMP", "L"), ("TIFF", "RGB"), ("TIFF", "L")])
def test_a_picture_that_ends_black_or_white_is_whole(kind: str, mode: str, fill: int) -> None:
    for top in (40, 79):
        half = NOISE.copy()
        half[top:] = fill
        assert read_image(encoded(kind, half, mode)).shape == (80, 90, 3)
    tilted = NOISE.copy()
    rows, columns = np.mgrid[:80, :90]
    tilted[columns / 10 + rows > 60] = fill
    assert read_image(encoded(kind, tilted, mode)).shape == (80, 90, 3)
    assert read_image(encoded(kind, tilted[::-1], mode)).shape == (80, 90, 3)


def test_a_webp_of_black_and_white_without_any_compression_is_whole() -> None:
    half = NOISE.repeat(4, 0).repeat(4, 1)
    half[200:] = 0
    whole = encoded("WEBP", half, lossless=True, quality=0, method=0)
    assert whole.endswith(bytes(32))
    assert np.array_equal(read_image(whole), half)


def test_formats_without_rows_of_their_own_tell_by_themselves() -> None:
    for data in (encoded("TIFF", compression="packbits"), encoded("GIF")):
        with Image.open(io.BytesIO(data)) as image:
            assert missing_pixels(image, data) == ""  # type: ignore[arg-type]


def test_a_bitmask_without_its_last_rows_is_refused() -> None:
    rows = [b"\0" + bytes([0, 0, 0, 255]) * 90 for _ in range(80)]
    value = {"imageDataURL": "data:image/png;base64," + base64.b64encode(png(rows[:40], (90, 80), 6)).decode()}
    with pytest.raises(RegionError, match="expected a PNG data URL"):
        region_to_mask({"type": "bitmask", "value": value}, (80, 90))


def test_a_data_set_names_a_mask_without_its_last_rows(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for stem, kept in (("a", 80), ("b", 40)):
        Image.fromarray(NOISE).save(tmp_path / "images" / f"{stem}.jpg")
        (tmp_path / "masks" / f"{stem}.png").write_bytes(png([b"\0" + b"\xff" * 90] * kept, (90, 80), 0))
    found = Folders(tmp_path)
    assert [record.image_id for record in found] == ["a"]
    assert "unreadable mask" in found.problems.summary()
