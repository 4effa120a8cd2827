"""The demo project: real pictures, a labelling configuration with smart tools, one task for each picture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from backend.errors import SettingsError
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import UNCERTAINTY_SAMPLING, Project

TITLE = "usam demo"
LABEL_CONFIG = """<View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <BrushLabels name="mask" toName="image" smart="false">
    <Label value="Object" background="#1f77b4"/>
    <Label value="Part" background="#ff7f0e"/>
  </BrushLabels>
  <KeyPointLabels name="click" toName="image" smart="true" smartOnly="true">
    <Label value="Object" background="#1f77b4" showInline="true"/>
    <Label value="Part" background="#ff7f0e" showInline="true"/>
  </KeyPointLabels>
  <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">
    <Label value="Object" background="#1f77b4"/>
    <Label value="Part" background="#ff7f0e"/>
  </RectangleLabels>
</View>
"""
PICTURES = (
    "astronaut.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
"""Those inside scikit-image that are pictures of something. Two are a stereo pair: near-duplicates on
purpose."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
"""What a browser shows and Label Studio serves as a picture."""
NOT_SHOWN = {
    ".tif": "no browser shows TIFF: save as PNG",
    ".tiff": "no browser shows TIFF: save as PNG",
    ".heic": "no browser shows HEIC: save as JPEG",
    ".heif": "no browser shows HEIF: save as JPEG",
    ".jfif": "Label Studio does not serve this ending as a picture: rename to .jpg",
    ".jpe": "Label Studio does not serve this ending as a picture: rename to .jpg",
    ".avif": "AVIF cannot be read here: save as JPEG or PNG",
    ".jxl": "no browser shows JPEG XL: save as JPEG or PNG",
    ".jp2": "no browser shows JPEG 2000: save as JPEG or PNG",
    ".svg": "SVG has no pixels: save as PNG",
    ".dng": "raw photographs cannot be shown: save as JPEG",
    ".cr2": "raw photographs cannot be shown: save as JPEG",
    ".nef": "raw photographs cannot be shown: save as JPEG",
    ".arw": "raw photographs cannot be shown: save as JPEG",
    ".dcm": "DICOM cannot be shown: save as PNG",
    ".psd": "PSD cannot be shown: save as PNG",
}
"""Endings of pictures that are left out, with the reason and what to do."""
NAMED = 3


def demo_pictures(folder: Path) -> Path:
    """Copy the pictures inside scikit-image to `folder`, those that are not there yet; returns the folder."""
    import skimage.data

    source = Path(skimage.data.__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        if (source / name).exists() and not (folder / name).exists():
            partial = folder / f".{name}.partial"
            shutil.copyfile(source / name, partial)
            os.replace(partial, folder / name)
    return folder


def pictures_in(folder: Path) -> list[Path]:
    """The image files of `folder` and its sub-folders, sorted. Raises `SettingsError` where there are
    none."""
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise SettingsError("a folder of images", f"{folder}, which is {got}", "check the path")
    try:
        pictures = [path for path in _files(folder) if path.suffix.lower() in SUFFIXES]
    except OSError as error:
        raise SettingsError(f"a folder {folder} that can be read", str(error), "correct its rights") from error
    if not pictures:
        left = " ".join(describe_left_out(folder))
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise SettingsError(f"images in {folder}", left or "none", f"put some there ({kinds})")
    return pictures


def describe_left_out(folder: Path) -> list[str]:
    """A sentence for each kind of picture in `folder` that is left out: how many, some names, why, what to do."""
    kinds: dict[str, list[str]] = {}
    for path in _files(folder):
        if path.suffix.lower() in NOT_SHOWN:
            kinds.setdefault(path.suffix.lower(), []).append(path.name)
    return [
        f"left out {len(names)} {suffix} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}): "
        f"{NOT_SHOWN[suffix]}"
        for suffix, names in sorted(kinds.items())
    ]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def document_root(folder: Path) -> Path:
    """The folder Label Studio has to serve so that `folder` can be a storage in it, which may not be the
    same."""
    return folder.resolve().parent


def local_address(picture: Path, root: Path) -> str:
    """The address under which Label Studio serves a local file below its document root."""
    return "/data/local-files/?d=" + quote(str(picture.resolve().relative_to(root)))


def demo_project(client: LabelStudio, folder: Path, title: str = TITLE) -> tuple[Project, int]:
    """The project called `title`, made where it is missing, with a task for each picture; and how many are
    new.

    Running it again adds only pictures that have no task yet: nothing that was labelled is touched.
    """
    pictures = pictures_in(folder)
    root = document_root(folder)
    project = next((p for p in client.projects() if p.title == title), None)
    if project is None:
        project = client.create_project(
            title, LABEL_CONFIG, sampling=UNCERTAINTY_SAMPLING, show_collab_predictions=True
        )
    client.allow_local_folder(project.id, folder.resolve())
    known = {str(task.data.get("image")) for task in client.tasks(project.id)}
    fresh = [address for address in _addresses(pictures, root) if address not in known]
    for start in range(0, len(fresh), 1000):
        client.import_tasks(project.id, [{"data": {"image": address}} for address in fresh[start : start + 1000]])
    return project, len(fresh)


def _addresses(pictures: list[Path], root: Path) -> Iterator[str]:
    for picture in pictures:
        yield local_address(picture, root)
