"""Work as somebody whom file permissions bind, also where the tests run as root."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

Result = TypeVar("Result")
_VERSION_3 = 0x20080522
_OVERRIDES = 0b1111
"""CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH and FOWNER of capabilities(7)."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def bound_by_permissions(work: Callable[[], Result]) -> Result:
    """What `work` gives in a thread, and in those it starts, that may do nothing which permissions forbid."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: (give_up_overrides(), work())[1]).result()


def give_up_overrides() -> None:
    """Let this thread do nothing which permissions forbid; skip where that cannot be had."""
    if os.geteuid() != 0:
        return
    libc, header, sets = ctypes.CDLL(None, use_errno=True), _Header(_VERSION_3, 0), (_Sets * 2)()
    if libc.capget(ctypes.byref(header), sets):
        pytest.skip("the privileges of root cannot be given up here")
    sets[0].effective &= ~_OVERRIDES
    if libc.capset(ctypes.byref(header), sets):
        pytest.skip("the privileges of root cannot be given up here")
