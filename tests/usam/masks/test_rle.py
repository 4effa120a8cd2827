"""Label Studio's run-length code against its own SDK, against the browser's way of writing it, and against abuse."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from usam.errors import MaskError
from usam.masks import decode_mask, decode_rle, encode_rle, rle_pixels

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)
ALPHAS = st.sampled_from([0, 1, 127, 128, 254, 255])


def brush() -> Any:
    """Label Studio's own, loaded by whoever runs these tests and not by all who collect them: it takes seconds."""
    from label_studio_sdk.converter import brush

    return brush


def bits_to_integers(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]


def write_code(total: int, codes: list[tuple[int, int, list[int]]], widths=(3, 4, 8, 16), word: int = 8) -> list[int]:
    """A code string by hand, as a browser may write it: (kind of width, length, values), one value for a run."""
    bits = f"{total:032b}{word - 1:05b}" + "".join(f"{width - 1:04b}" for width in widths)
    for kind, length, values in codes:
        is_run = len(values) == 1 and length > 1
        bits += f"{int(is_run)}{kind:02b}{length - 1:0{widths[kind]}b}"
        bits += "".join(f"{value:0{word}b}" for value in values)
    return bits_to_integers(bits)


@given(hnp.arrays(np.uint8, SHAPES, elements=ALPHAS, fill=st.sampled_from([0, 255])))
@example(np.zeros((1, 1), np.uint8))
@example(np.full((1, 2), 255, np.uint8))
@example(np.full((128, 128), 255, np.uint8))
@example(np.full((127, 129), 7, np.uint8))
@example(np.full((128, 129), 255, np.uint8))
@example(np.zeros((300, 301), np.uint8))
@settings(max_examples=100, deadline=None)
def test_encodes_as_the_sdk_does_and_reads_it_back(alpha: npt.NDArray[np.uint8]) -> None:
    code = encode_rle(alpha)
    assert code == brush().mask2rle(alpha)
    assert (decode_rle(code, alpha.shape) == alpha).all()
    assert rle_pixels(code) == alpha.size


@given(st.integers(1, 70), st.integers(1, 70), st.floats(0, 1), st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_boolean_masks_are_opaque_or_transparent(height: int, width: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    code = encode_rle(mask)
    assert code == brush().mask2rle(mask.astype(np.uint8) * 255)
    assert (decode_mask(code, mask.shape) == mask).all()
    assert set(np.unique(decode_rle(code, mask.shape))) <= {0, 255}


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 63, 64, 65, 66, 16383, 16384, 16385, 16386, 32768, 32769, 49153])
@pytest.mark.parametrize("before", [0, 1, 5])
def test_runs_at_the_borders_between_widths(length: int, before: int) -> None:
    mask = np.concatenate([np.zeros(before, bool), np.ones(length, bool)])[None]
    code = encode_rle(mask)
    assert code == brush().mask2rle(mask.astype(np.uint8) * 255)
    assert (decode_mask(code, mask.shape) == mask).all()


def test_a_noisy_picture_is_coded_as_the_sdk_codes_it() -> None:
    y, x = np.mgrid[:270, :480]
    mask = (((x - 240) / 150) ** 2 + ((y - 130) / 90) ** 2 < 1) ^ (np.random.default_rng(0).random((270, 480)) < 0.02)
    code = encode_rle(mask)
    assert code == brush().mask2rle(mask.astype(np.uint8) * 255)
    assert (decode_rle(code, mask.shape).ravel() == brush().decode_rle(code)[3::4]).all()


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_reads_literal_blocks_and_other_widths_as_the_sdk_does(data: st.DataObject) -> None:
    widths = data.draw(st.tuples(*[st.integers(1, 16)] * 4))
    codes = []
    for _ in range(data.draw(st.integers(1, 12))):
        kind = data.draw(st.integers(0, 3))
        length = data.draw(st.integers(1, min(1 << widths[kind], 40)))
        as_run = length > 1 and data.draw(st.booleans())
        count = 1 if as_run else length
        codes.append((kind, length, data.draw(st.lists(st.integers(0, 255), min_size=count, max_size=count))))
    missing = -sum(length for _, length, _ in codes) % 4
    codes += [(0, 1, [9])] * missing
    total = sum(length for _, length, _ in codes)
    code = write_code(total, codes, widths)
    assert decode_rle(code, (1, total // 4)).tolist() == [brush().decode_rle(code)[3::4].tolist()]


def test_alpha_is_the_fourth_byte_of_a_pixel() -> None:
    code = write_code(8, [(0, 8, [255, 64, 0, 200, 255, 64, 0, 100])])
    assert decode_rle(code, (1, 2)).tolist() == [[200, 100]]
    assert decode_mask(code, (1, 2)).tolist() == [[True, False]]
    assert decode_mask(code, (2, 1), threshold=100).tolist() == [[True], [True]]


def test_a_long_literal_block_is_read_whole() -> None:
    values = np.random.default_rng(0).integers(0, 256, 4000).tolist()
    code = write_code(4000, [(3, 4000, values)])
    assert decode_rle(code, (20, 50)).ravel().tolist() == values[3::4]


@pytest.mark.parametrize("container", [list, tuple, bytes, bytearray, np.array, lambda c: np.array(c, np.uint8)])
def test_any_container_of_bytes_will_do(container) -> None:
    code = encode_rle(np.eye(9, dtype=bool))
    assert (decode_mask(container(code), (9, 9)) == np.eye(9, dtype=bool)).all()


def test_what_follows_the_last_code_is_ignored() -> None:
    code = encode_rle(np.eye(9, dtype=bool))
    assert (decode_mask([*code, 255, 255], (9, 9)) == np.eye(9, dtype=bool)).all()


GOOD = encode_rle(np.random.default_rng(0).random((12, 10)) < 0.5)


@pytest.mark.parametrize(
    ("code", "image_hw", "said"),
    [
        ([], (2, 2), "at least 7 integers, got 0"),
        (GOOD[:6], (12, 10), "at least 7 integers, got 6"),
        (GOOD[:20], (12, 10), "cut short"),
        (GOOD, (10, 13), "13 x 10 pixels, 520 bytes, got one of 480 bytes"),
        ([255] * 4 + GOOD[4:], (12, 10), "one of 4,294,967,295 bytes"),
        ([255] * 4 + GOOD[4:], (32767, 32769), "200,000,000 pixels, got 32769 x 32767"),
        (GOOD, (0, 10), "got 10 x 0"),
        (GOOD, (-12, -10), "got -10 x -12"),
        (GOOD + [0] * 5000, (12, 10), "at most"),
        ([*GOOD[:9], 256], (12, 10), "integers 0..255"),
        ([*GOOD[:9], -1], (12, 10), "integers 0..255"),
        ([*GOOD[:9], 1.5], (12, 10), "integers 0..255"),
        ([*GOOD[:9], None], (12, 10), "integers 0..255"),
        ([*GOOD[:9], "7"], (12, 10), "integers 0..255"),
        ([GOOD], (12, 10), "integers 0..255"),
        (np.array(GOOD, float), (12, 10), "integers 0..255"),
        ("0,0,1", (12, 10), "integers 0..255, got str"),
        (None, (12, 10), "integers 0..255, got NoneType"),
        (10**9, (12, 10), "integers 0..255, got int"),
        ({"rle": GOOD}, (12, 10), "integers 0..255, got dict"),
        (write_code(16, [(1, 16, [3])], word=9), (2, 2), "8-bit values, got 9-bit"),
        (write_code(16, [(1, 15, [3]), (0, 2, [4])]), (2, 2), "runs of 16 bytes, got 17"),
        (write_code(16, [(1, 15, [3]), (0, 2, [4, 5])]), (2, 2), "runs of 16 bytes, got 17"),
    ],
)
def test_hostile_codes_are_refused(code, image_hw: tuple[int, int], said: str) -> None:
    with pytest.raises(MaskError, match=said):
        decode_rle(code, image_hw)


def test_a_stated_length_is_not_believed() -> None:
    """Eight integers that claim 4 GiB cost nothing: they are refused before any array of that size is made."""
    tracemalloc.start()
    try:
        with pytest.raises(MaskError):
            decode_rle([255, 255, 255, 252, 57, 27, 252, 0], (10_000, 20_000))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda tail: bytes([0, 0, 0, 64, 57, 27, 252 | (tail[:1] or b"\0")[0] >> 6]) + tail, st.binary(max_size=60)
        ),
        st.builds(
            lambda cut, at, put: [*GOOD[:cut], put, *GOOD[cut + at :]],
            st.integers(0, 80),
            st.integers(0, 9),
            st.integers(0, 255),
        ),
    ),
    st.sampled_from([(4, 4), (12, 10), (1, 1)]),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_mask_or_a_mask_error(code, image_hw: tuple[int, int]) -> None:
    try:
        alpha = decode_rle(code, image_hw)
    except MaskError:
        return
    assert alpha.shape == image_hw
    assert (alpha.ravel() == brush().decode_rle(list(code))[3::4]).all()


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=12)
    )
)
@settings(max_examples=100, deadline=None)
def test_any_json_gives_a_mask_error(code) -> None:
    for read in (lambda: decode_rle(code, (3, 3)), lambda: rle_pixels(code)):
        try:
            read()
        except MaskError:
            continue
        assert isinstance(code, list)
        assert len(code) >= 4


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((2, 2, 2), bool), "shape"),
        (np.zeros((0, 5), bool), "at least 1 x 1"),
        (np.zeros((5, 0), np.uint8), "at least 1 x 1"),
        (np.zeros((2, 2), np.float32), "float32"),
        (np.full((2, 2), 256), "0..255, got 256..256"),
        (np.full((2, 2), -1), "0..255, got -1..-1"),
        (np.broadcast_to(np.False_, (2**15, 2**15)), "2\\*\\*30 pixels"),
    ],
)
def test_masks_that_cannot_be_coded_are_refused(mask: npt.NDArray[np.generic], said: str) -> None:
    with pytest.raises(MaskError, match=said):
        encode_rle(mask)


def test_integers_of_any_width_and_any_memory_order_are_coded_alike() -> None:
    alpha = np.random.default_rng(0).integers(0, 3, (13, 17)) * 100
    code = brush().mask2rle(alpha.astype(np.uint8))
    assert encode_rle(alpha) == code
    assert encode_rle(np.asfortranarray(alpha.astype(np.int16))) == code
    assert encode_rle(alpha.astype(np.uint8)[:, ::-1][:, ::-1]) == code
