"""Shared fixtures. Tests marked `shared` run where USAM_SHARED names the folder of real data and weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = os.environ.get("USAM_SHARED", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if SHARED:
        return
    skip = pytest.mark.skip(reason="set USAM_SHARED to the folder of shared data to run this")
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real labelled data, published heads and golden values."""
    return Path(SHARED)
