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
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


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
        raise SettingsError("a folder of images", f"{folder}, which is none", "check the path")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise SettingsError(f"images in {folder}", "none", f"put some there ({kinds})")
    return found


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
