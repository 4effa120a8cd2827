"""Small files that would take minutes or gigabytes: refused before, and what is taken stays within its memory."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from usam.errors import ImageError
from usam.images import MAX_PIECES, MAX_WORKING_BYTES, read_image, read_size

MIB = 2**20


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, extra: bytes = b"") -> bytes:
    """A gray picture of zeros."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(b"\0" * (width + 1)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + extra + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def jpeg(width: int, height: int, repeats: int = 0) -> bytes:
    """A progressive one whose last scan comes `repeats` times more."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * repeats + b"\xff\xd9"


def webp(width: int, height: int) -> bytes:
    bits = (width - 1 | (height - 1) << 14).to_bytes(4, "little")
    return b"RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0\x2f" + bits + b"\0" * 9


def bmp_rle(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("P", (width, 1)).save(out, "BMP")
    data = bytearray(out.getvalue())
    data[22:26] = struct.pack("<i", height)
    data[30:34] = struct.pack("<I", 1)
    at = int.from_bytes(data[10:14], "little")
    return bytes(data[:at]) + b"\1\0" * (width * height)


BOMBS = {
    "a thin PNG": (lambda: png(1, 600_000), "sides"),
    "a PNG of one line": (lambda: png(60_000, 2), "sides"),
    "a WebP of 100 megapixels": (lambda: webp(10_000, 10_000), "memory"),
    "a WebP of 268 megapixels": (lambda: webp(16_383, 16_383), "memory|pixels"),
    "a JPEG of 500 scans": (lambda: jpeg(600, 400, 500), "scans"),
    "a JPEG of 80 scans of 12 megapixels": (lambda: jpeg(4000, 3000, 80), "scans"),
    "a PNG of many chunks": (lambda: png(8, 8, _chunk(b"tEXt", b"a\0") * MAX_PIECES), "chunks"),
    "a BMP of run lengths": (lambda: bmp_rle(2000, 1500), "run lengths"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_from_its_header(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, reason = BOMBS[name]
    data = make()
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("it was decoded"))
    for read in (read_image, read_size):
        with pytest.raises(ImageError, match=reason):
            read(data)


@pytest.mark.parametrize("size", [(1, 1), (1, 7000), (8000, 8), (20_000, 30), (700, 500)])
def test_long_pictures_that_people_have_are_read(size: tuple[int, int]) -> None:
    assert read_image(png(*size)).shape == (size[1], size[0], 3)
    if max(size) < 1000:
        assert read_image(jpeg(*size, 5)).shape == (size[1], size[0], 3)


PEAK = """
import re, sys
def peak():  # not `getrusage`, whose figure a process has from the one that started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
from usam.images import read_image
from usam.errors import ImageError
data = open(sys.argv[1], "rb").read()
before = peak()
try:
    read_image(data)
except ImageError:
    pass
print((peak() - before) * 1024)
"""


def peak_bytes(data: bytes, folder: Path) -> int:
    """Memory that reading takes at most, beyond what the process had."""
    file = folder / "picture"
    file.write_bytes(data)
    run = subprocess.run([sys.executable, "-c", PEAK, str(file)], capture_output=True, text=True, check=True)
    return int(run.stdout)


def photo(kind: str, width: int, height: int, mode: str = "RGB", **options: object) -> bytes:
    row = np.random.default_rng(0).integers(0, 255, (1, width, len(mode)), np.uint8)
    out = io.BytesIO()
    Image.fromarray(np.repeat(row, height, axis=0).squeeze()).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's figure of a process's peak")
@pytest.mark.parametrize(
    ("make", "pixels"),
    [
        (lambda: png(9000, 9000), 81e6),
        (lambda: photo("PNG", 5000, 4000, "RGBA"), 20e6),
        (lambda: photo("JPEG", 5000, 4000), 20e6),
        (lambda: photo("JPEG", 5000, 4000, progressive=True, subsampling=0), 20e6),
        (lambda: photo("WEBP", 5000, 4000, "RGBA", method=0), 20e6),
        (lambda: photo("GIF", 5000, 4000, "L"), 20e6),
        (lambda: photo("TIFF", 5000, 4000), 20e6),
        (lambda: webp(10_000, 10_000), 100e6),
        (lambda: png(1, 600_000), 0.6e6),
    ],
    ids=["png", "png-rgba", "jpeg", "jpeg-progressive", "webp", "gif", "tiff", "webp-bomb", "thin-png"],
)
def test_memory_stays_within_what_was_reckoned(make: object, pixels: float, tmp_path: Path) -> None:
    from usam.images import PROGRESSIVE_BYTES, USUAL_WORKING_BYTES, WORKING_BYTES

    data = make()  # type: ignore[operator]
    peak = peak_bytes(data, tmp_path)
    kind = "WEBP" if data[:4] == b"RIFF" else "GIF" if data[:3] == b"GIF" else ""
    progressive = b"\xff\xc2" in data[:2000] and data[:2] == b"\xff\xd8"
    reckoned = pixels * (WORKING_BYTES.get(kind, USUAL_WORKING_BYTES) + PROGRESSIVE_BYTES * progressive)
    print(f"{peak / MIB:.0f} MiB, {peak / pixels:.1f} bytes a pixel of {reckoned / pixels:.0f} reckoned")
    assert peak <= min(MAX_WORKING_BYTES, reckoned) + 64 * MIB
