"""Numbers that callers hand in, as arrays, or a sentence about what came instead."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import UsamError


def numbers(
    values: Any, what: str, ndim: int | None = None, error: type[UsamError] = UsamError
) -> npt.NDArray[np.floating[Any]]:
    """`values`, lists too, as an array of whole numbers, booleans or floats; its type stays where it is one of these.

    `what` says in the message what is expected, `ndim` how many dimensions. None among numbers is NaN. Raises `error`.

    >>> numbers([[1, 2], [3, 4]], "points (P, 2)", 2).shape
    (2, 2)
    >>> numbers("ab", "points (P, 2)")
    Traceback (most recent call last):
    usam.errors.UsamError: expected points (P, 2) as numbers, got an array of <U2; pass an array of floats
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind == "O":
            array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as cause:
        reason = str(cause).partition(". ")[0][:120]
        raise error(f"{what} as numbers", f"{type(values).__name__} ({reason})", "pass an array of floats") from cause
    if array.dtype.kind not in "buif":
        raise error(f"{what} as numbers", f"an array of {array.dtype}", "pass an array of floats")
    if ndim is not None and array.ndim != ndim:
        raise error(what, f"shape {array.shape}", f"pass {ndim} dimension{'s' * (ndim > 1)}")
    return array


def number(value: Any, what: str, low: float, high: float, error: type[UsamError] = UsamError) -> float:
    """One number from `low` to `high`. Raises `error` for others, and for NaN.

    >>> number(0.5, "a share", 0, 1)
    0.5
    """
    if isinstance(value, (int, float, np.integer, np.floating)) and low <= value <= high:
        return float(value)
    raise error(f"{what} from {low:g} to {high:g}", repr(value)[:60], "pass a number within these limits")
