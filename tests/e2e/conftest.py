"""A real Label Studio 1.23.2, real Redis and real pictures for the end-to-end tests.

Label Studio is the program that USAM_LABEL_STUDIO names, else the environment `.venv-label-studio` at the project's
root, which is made where it is missing (one or two minutes, once). Its first start prepares a database for half a
minute; that database is kept in pytest's cache and copied by later runs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.label_studio.client import LabelStudio
from backend.local.label_studio_server import (
    LABEL_STUDIO_VERSION,
    LabelStudioServer,
    find_label_studio,
    install_label_studio,
)
from tests.e2e.chromium import open_chromium

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "horse", "clock", "moon", "page")


@pytest.fixture(scope="session")
def label_studio_program() -> Path:
    """The `label-studio` program."""
    return find_label_studio(ROOT) or install_label_studio(ROOT, say=print)


@pytest.fixture(scope="session")
def label_studio_server(
    label_studio_program: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[LabelStudioServer]:
    """A started Label Studio with an account, shared by the whole session: make a project of your own in it."""
    template = pytestconfig.cache.mkdir(f"label-studio-{LABEL_STUDIO_VERSION}")  # type: ignore[union-attr]
    with (template.parent / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one prepares it
        if not (template / "complete").exists():
            first = tmp_path_factory.mktemp("label-studio-first")
            with LabelStudioServer(label_studio_program, first):
                _keep(first, template)
    folder = tmp_path_factory.mktemp("label-studio")
    shutil.copytree(template, folder, dirs_exist_ok=True)
    with LabelStudioServer(label_studio_program, folder) as server:
        yield server


def _keep(folder: Path, template: Path) -> None:
    shutil.copy2(folder / "account.json", template / "account.json")
    (template / "data").mkdir(exist_ok=True)
    shutil.copy2(folder / "data" / ".env", template / "data" / ".env")
    source = sqlite3.connect(folder / "data" / "label_studio.sqlite3")
    target = sqlite3.connect(template / "data" / "label_studio.sqlite3")
    with source, target:
        source.backup(target)
    source.close()
    target.close()
    (template / "complete").touch()


@pytest.fixture
def label_studio(label_studio_server: LabelStudioServer) -> Iterator[LabelStudio]:
    """A client in the account's name."""
    with LabelStudio(label_studio_server.url, label_studio_server.account.token) as client:
        yield client


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real photographs out of scikit-image, as PNG files of at most 256 pixels a side."""
    import skimage.data
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for name in PICTURES:
        pixels = np.asarray(getattr(skimage.data, name)())
        image = Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels)
        image.thumbnail((256, 256))
        path = folder / f"{name}.png"
        image.save(path)
        paths.append(path)
    return paths


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    driver = open_chromium(tmp_path / "profile")
    yield driver
    driver.quit()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("USAM_SCREENSHOTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
