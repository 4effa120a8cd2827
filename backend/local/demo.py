"""Demo projects: pictures, a labelling configuration with smart tools, instructions, one task for each picture."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from urllib.parse import quote

from backend.errors import SettingsError
from backend.label_studio.client import LabelStudio
from backend.label_studio.records import UNCERTAINTY_SAMPLING, Project

TITLE = "usam demo: oranges and lemons"
PHOTOS_TITLE = "usam demo"
"""That of earlier releases too: who has such a project goes on with it."""
LONGEST_TITLE = 50
"""Letters of a title that Label Studio takes."""
LABELS = {"Orange": "#1f6feb", "Lemon": "#d6246e"}
"""Of the demo, with colours that are seen on the fruit."""
GENERAL_LABELS = {"Object": "#1f77b4", "Part": "#ff7f0e"}
RETRAIN_AFTER = 10
"""Labels after which a demo project learns, unless the user says otherwise: so that it is seen within minutes."""
_WHAT = {
    TITLE: "What is wanted: every whole <b>Orange</b> and <b>Lemon</b>. Leaves, plates and cups are not.",
    PHOTOS_TITLE: "What is wanted is up to you: stay with one kind of thing, and usam will learn it.",
}
_INSTRUCTIONS = """<p>{what}</p>
<p>1. Take the <b>arrow</b>: the brush, with which each picture begins, would paint (V changes between the two).
<b>Delete</b> masks of what is not wanted: click the mask, press Backspace. To name a good one, click it, then its
label.</p>
<p>2. For what is missing, switch on <b>Auto-Annotation</b> and <b>Auto-Accept Suggestions</b> below the picture
(your browser remembers), choose a <b>label</b>, then the pink <b>Auto-Detect</b> tool, and <b>click</b> the object;
the tool pressed once more draws a <b>box</b> instead.</p>
<p>3. A click brings too much? Delete its mask, switch <b>Auto-Accept Suggestions</b> off, click again, <b>Alt+click</b>
what does not belong to it (a negative click), and press the green tick.</p>
<p>4. <b>Submit.</b> Masks submitted untouched count as correct; what you delete or leave unmarked counts as not
wanted.</p>
<p>5. Some tasks are <b>audits</b>, drawn at random to check the model; a mask that is clicked says so, under
Info. Label them like all others.</p>
"""


def instructions(title: str = TITLE) -> str:
    """What Label Studio shows to who opens a task of the project `title` (HTML)."""
    return _INSTRUCTIONS.format(what=_WHAT.get(title, _WHAT[PHOTOS_TITLE]))


def labelling_config(labels: Mapping[str, str] = LABELS) -> str:
    """One row of labels, name -> colour, that masks, the smart point and the smart box all take.

    With the labels inside `BrushLabels` instead, the editor forgets the chosen one as soon as a smart tool is taken
    up, and with those of a smart `KeyPointLabels` alone a predicted mask could not be named.
    """
    rows = "\n".join(f'    <Label value="{name}" background="{colour}"/>' for name, colour in labels.items())
    return f"""<View>
  <Image name="image" value="$image" zoom="true" zoomControl="true"/>
  <Labels name="label" toName="image">
{rows}
  </Labels>
  <Brush name="mask" toName="image" smart="false"/>
  <KeyPoint name="click" toName="image" smart="true" smartOnly="true"/>
  <Rectangle name="box" toName="image" smart="true" smartOnly="true"/>
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
        root = document_root(folder)
        pictures = [path for path in _files(folder) if path.suffix.lower() in SUFFIXES and not _unservable(path, root)]
    except OSError as error:
        raise SettingsError(f"a folder {folder} that can be read", str(error), "correct its rights") from error
    if not pictures:
        left = " ".join(describe_left_out(folder))
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise SettingsError(f"images in {_printable(str(folder))}", left or "none", f"put some there ({kinds})")
    return pictures


def describe_left_out(folder: Path) -> list[str]:
    """A sentence for each kind of picture in `folder` that is left out: how many, some names, why, what to do."""
    root, left = document_root(folder), dict[tuple[str, str], list[str]]()
    for path in _files(folder):
        suffix = path.suffix.lower()
        if suffix in NOT_SHOWN:
            left.setdefault((f" {suffix}", NOT_SHOWN[suffix]), []).append(_printable(path.name))
        elif suffix in SUFFIXES and (reason := _unservable(path, root)):
            left.setdefault(("", reason), []).append(_printable(path.name))
    return [
        f"left out {len(names)}{kind} ({', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}): {reason}"
        for (kind, reason), names in sorted(left.items())
    ]


def _unservable(picture: Path, root: Path) -> str:
    """Why Label Studio cannot serve a picture below its document root, empty where it can."""
    try:
        where = picture.resolve()
        str(where).encode()
    except UnicodeEncodeError:
        return "the name of the file or of a folder above is not UTF-8: rename it"
    return "" if where.is_relative_to(root) else "a link to a place that Label Studio may not show: copy it here"


def _printable(name: str) -> str:
    return name.encode(errors="replace").decode()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def document_root(folder: Path) -> Path:
    """The folder Label Studio has to serve so that `folder` can be a storage in it, which may not be the
    same."""
    return folder.resolve().parent


def local_address(picture: Path, root: Path) -> str:
    """The address under which Label Studio serves a local file below its document root."""
    return "/data/local-files/?d=" + quote(str(picture.resolve().relative_to(root)))


def demo_project(client: LabelStudio, folder: Path, title: str = TITLE, *, is_ours: bool = True) -> tuple[Project, int]:
    """The project called `title`, made where it is missing, with a task for each picture; and how many are
    new.

    Running it again adds only pictures that have no task yet: nothing that was labelled is touched, and a project of
    an earlier release keeps its labels and its title. Pictures that are not ours (`is_ours`) get a project of another
    title where one of this title shows another folder of the same name.
    """
    is_fruit = title == TITLE
    pictures = pictures_in(folder)
    root = document_root(folder)
    project, title = _project_of(client, folder.resolve(), title, is_ours=is_ours)
    if project is None:
        project = client.create_project(
            title,
            labelling_config(LABELS if is_fruit else GENERAL_LABELS),
            sampling=UNCERTAINTY_SAMPLING,
            show_collab_predictions=True,
            show_instruction=True,
            expert_instruction=instructions(TITLE if is_fruit else PHOTOS_TITLE),
        )
    client.allow_local_folder(project.id, folder.resolve())
    known = {str(task.data.get("image")) for task in client.tasks(project.id)}
    fresh = [address for address in dict.fromkeys(_addresses(pictures, root)) if address not in known]
    for start in range(0, len(fresh), 1000):
        client.import_tasks(project.id, [{"data": {"image": address}} for address in fresh[start : start + 1000]])
    return project, len(fresh)


def _project_of(client: LabelStudio, folder: Path, title: str, *, is_ours: bool) -> tuple[Project | None, str]:
    """The project of a folder, None where it is to be made, and its title: a folder that is still there keeps its own
    project, while one that was moved takes it along."""
    projects = {project.title: project for project in reversed(client.projects())}
    for number in count(1):
        more = f" ({number})" if number > 1 else ""
        name = title[: LONGEST_TITLE - len(more)] + more
        if (project := projects.get(name)) is None or is_ours:
            return project, name
        shown = [Path(path) for path in client.local_folders(project.id)]
        if folder in shown or not any(path.is_dir() for path in shown):
            return project, name
    raise AssertionError("unreachable")


def _addresses(pictures: list[Path], root: Path) -> Iterator[str]:
    for picture in pictures:
        yield local_address(picture, root)
