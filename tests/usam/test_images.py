"""Every kind of picture file, written by Pillow and read back, and every way a file can be bad."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from usam.errors import ImageError
from usam.images import read_image, read_size

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
ORIENTATION = 0x0112


def written(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = written(Image.fromarray(RGB), "PNG")
JPEG = written(Image.fromarray(np.kron(RGB, np.ones((8, 8, 1), np.uint8))), "JPEG", quality=95)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    data = written(Image.fromarray(RGB), kind)
    image = read_image(data)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert (image == RGB).all()
    assert read_size(data) == (6, 9)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_come_close(kind: str) -> None:
    smooth = np.stack(np.meshgrid(np.arange(64) * 3, np.arange(48) * 4, [90]), -1)[:, :, 0].astype(np.uint8)
    image = read_image(written(Image.fromarray(smooth), kind))
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - smooth).mean() < 16


def test_paths_text_bytes_and_streams_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    with path.open("rb") as stream:
        for source in (path, str(path), PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), stream):
            assert (read_image(source) == RGB).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_every_colour_mode_becomes_rgb(mode: str, kind: str) -> None:
    if (kind, mode) in [("PNG", "CMYK"), ("PNG", "YCbCr"), ("JPEG", "P"), ("JPEG", "1"), ("TIFF", "YCbCr")]:
        pytest.skip("the format has no such mode")
    blocks = Image.fromarray(np.kron(RGB, np.ones((16, 16, 1), np.uint8)))
    source = blocks.convert(mode)
    image = read_image(written(source, kind, **({"quality": 100} if kind == "JPEG" else {})))
    assert image.shape == (96, 144, 3)
    assert np.abs(image.astype(int) - np.asarray(source.convert("RGB"))).mean() < (20 if kind == "JPEG" else 0.01)


def test_cmyk_ink_darkens() -> None:
    image = read_image(written(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"))
    assert image[0, 0].tolist() == [255, 0, 0]


def test_transparent_pixels_are_white() -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0], pixels[0, :, 3] = 200, (0, 128, 255)
    for kind in ("PNG", "TIFF"):
        image = read_image(written(Image.fromarray(pixels), kind))
        assert image[0, 0].tolist() == [255, 255, 255]
        assert image[0, 1].tolist() == pytest.approx([227, 127, 127], abs=1)
        assert image[0, 2].tolist() == [200, 0, 0]


def test_transparent_gray_and_keyed_colours_are_white() -> None:
    gray = Image.merge("LA", [Image.new("L", (2, 2), 10), Image.new("L", (2, 2), 0)])
    assert (read_image(written(gray, "PNG")) == 255).all()
    keyed = written(Image.fromarray(RGB), "PNG", transparency=tuple(RGB[2, 3].tolist()))
    assert read_image(keyed)[2, 3].tolist() == [255, 255, 255]
    assert read_image(keyed)[0, 0].tolist() == RGB[0, 0].tolist()


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 255])])
def test_transparent_palette_entries_are_white(transparency: int | bytes) -> None:
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    palette.putdata([0, 1, 2])
    image = read_image(written(palette, "PNG", transparency=transparency))
    assert image[0].tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray_keeps_its_upper_byte(kind: str) -> None:
    samples = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    image = read_image(written(Image.fromarray(samples), kind))
    assert image[0].tolist() == [[v, v, v] for v in (0, 0, 1, 128, 255)]


def test_sixteen_bit_rgb_keeps_its_upper_byte() -> None:
    row = b"\0" + struct.pack(">6H", 0, 256, 65535, 32768, 255, 513)
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(row)) + png_chunk(b"IEND", b"")
    assert read_image(data)[0].tolist() == [[0, 1, 255], [128, 0, 2]]


@pytest.mark.parametrize(
    ("samples", "said"),
    [(np.ones((2, 2), np.float32), "floats"), (np.full((2, 2), 70_000, np.int32), "got 70000..70000")],
)
def test_samples_without_a_white_are_refused(samples: npt.NDArray[np.generic], said: str) -> None:
    with pytest.raises(ImageError, match=said):
        read_image(written(Image.fromarray(samples), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :32], upright[16:, :32], upright[:16, 32:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    undo = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = written(Image.fromarray(np.ascontiguousarray(undo[orientation])), kind, exif=exif)
    image = read_image(data)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 12
    assert read_size(data) == (32, 64)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    image = read_image(written(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert image.shape == (8, 8, 3)
    assert image[4, 4].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_one_pixel_is_an_image() -> None:
    assert read_image(written(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (80, 90, 3), np.uint8)
    data = written(Image.fromarray(noise), kind)
    with pytest.raises(ImageError, match=r"truncated"):
        read_image(data[: int(len(data) * share)])


def huge(kind: str, side: int = 30_000) -> bytes:
    """A small file whose header claims `side` x `side` pixels (16,384 for WebP, which can say no more)."""
    if kind == "png":
        return png_header(side, side)
    if kind == "bmp":
        info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
        return b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54) + info + bytes(900)
    if kind == "gif":
        frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x44\x01\x00;"
        return b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6) + frame
    if kind == "webp":
        extended = struct.pack("<IB3x", 10, 0) + (16_383).to_bytes(3, "little") * 2
        return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + extended
    sizes = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:sizes] + struct.pack(">HH", side, side) + JPEG[sizes + 4 :]


@pytest.mark.parametrize("kind", ["png", "bmp", "gif", "webp", "jpeg"])
def test_a_huge_header_is_refused_without_memory(kind: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="damaged" if kind == "webp" else "30000 x 30000"):
            read_image(huge(kind))
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_a_huge_header_takes_no_memory_of_the_process_either() -> None:
    """Pillow's own buffers are not traced: a fresh process under an address-space limit tells."""
    code = (
        "import resource, sys\nfrom usam.images import read_image\nfrom usam.errors import ImageError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_image(sys.stdin.buffer)\nexcept ImageError as error:\n    print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], input=png_header(30_000, 30_000), capture_output=True, check=True, timeout=120
    )
    message, grown_kib = result.stdout.decode().splitlines()
    assert message == (
        "expected an image of at most 200,000,000 pixels, got 30000 x 30000 = 900,000,000 pixels; "
        "shrink it, cut it into tiles or raise the limit"
    )
    assert int(grown_kib) < 20_000


def test_sizes_above_pillows_warning_are_read_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_image(PNG) == RGB).all()


def test_pixels_and_bytes_are_capped() -> None:
    assert read_image(PNG, max_pixels=54, max_bytes=len(PNG)).shape == RGB.shape
    with pytest.raises(ImageError, match="at most 53 pixels, got 9 x 6 = 54 pixels"):
        read_image(PNG, max_pixels=53)
    for source in (PNG, io.BytesIO(PNG)):
        with pytest.raises(ImageError, match=f"at most {len(PNG) - 1} bytes, got a larger one"):
            read_image(source, max_bytes=len(PNG) - 1)


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(1 << 33)
    with pytest.raises(ImageError, match="at most 1,000 bytes"):
        read_image(path, max_bytes=1000)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no bytes at all"),
        (b"hello, world", "start with b'hello, w'"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "JPEG, PNG, WebP, BMP, TIFF, GIF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "expected an image file"),
        (b"\x89PNG\r\n\x1a\n", "readable PNG header"),
        (b"\xff\xd8\xff", "readable JPEG header"),
        (b"II*\x00", "readable TIFF header"),
        (b"RIFF\0\0\0\0WEBP", "readable WEBP header"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        read_image(data)
    with pytest.raises(ImageError, match=said):
        read_size(data)


def test_missing_files_folders_and_text_streams_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="directory"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match="null"):
        read_image("a\0b.png")
    with pytest.raises(ImageError, match="binary stream, got one that gives str"):
        read_image(io.StringIO("text"))  # type: ignore[arg-type]


SEEDS = [written(Image.fromarray(RGB), kind) for kind in ("PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG")]


@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.integers(0, 200),
)
@settings(max_examples=400, deadline=None)
def test_damaged_files_give_an_image_or_an_image_error(data: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    try:
        image = read_image(bytes(damaged[: len(damaged) - cut]), max_pixels=1_000_000)
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


def test_threads_read_at_once() -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all((image == RGB).all() for image in pool.map(read_image, [PNG] * 64))


def test_a_named_pipe_is_read_while_somebody_writes_and_not_waited_for_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usam.images.PATIENCE_S", 0.05)
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    with pytest.raises(ImageError, match="a pipe or device that gave nothing"):
        read_image(pipe)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pipe.write_bytes, PNG)
        monkeypatch.setattr("usam.images.PATIENCE_S", 20.0)
        assert np.array_equal(read_image(pipe), RGB)


def test_a_device_that_never_ends_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("/dev/zero")
    with pytest.raises(ImageError, match="at most 1,000 bytes"):
        read_image(tmp_path / "a.png", max_bytes=1000)
