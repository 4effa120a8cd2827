"""`usam-backend import-video`: videos as a project of pictures, near-duplicate frames left out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.folder import AsJson, ProjectId, open_label_studio, print_json, say, settings_in_use
from usam.errors import UsamError


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("import-video")(import_video)


def import_video(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Video files.")],
    project: ProjectId,
    every: Annotated[float, typer.Option("--every", min=0.01, help="Look at one frame each so many seconds.")] = 1.0,
    difference: Annotated[
        float, typer.Option("--difference", min=0, max=1, help="Least difference from the frames taken; 0: take all.")
    ] = 0.04,
    start: Annotated[float, typer.Option("--start", min=0, help="Seconds to pass over.")] = 0.0,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.01, help="Seconds to read; all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload the frames of videos into a project of pictures, which are then ranked like any other.

    A file's name says the video and the time. What is there already is not uploaded again; a video that cannot be read
    is set aside by name, and the others go on.
    """
    from backend.label_studio.video_frames import frames_of
    from usam.videos import Video

    settings = settings_in_use(needs_store=False)
    told, failed = [], 0
    with open_label_studio(settings) as client, tempfile.TemporaryDirectory(prefix="usam-video-") as folder:
        there = {str(value).rsplit("/", 1)[-1] for task in client.tasks(project) for value in task.data.values()}
        for path in videos:
            try:
                options = {"start": start, "seconds": seconds, "there": there}
                found = list(frames_of(Video(path), Path(folder), every_s=every, least=difference, **options))  # type: ignore[arg-type]
                made = client.upload(project, [frame.path for frame in found]) if found else 0
            except UsamError as error:
                failed += 1
                say(f"{path.name} is set aside: {error}")
                told.append({"video": str(path), "tasks": 0, "error": str(error)})
                continue
            for frame in found:
                frame.path.unlink(missing_ok=True)
            say(f"{path.name}: {made} frames uploaded")
            told.append({"video": str(path), "tasks": made, "frames": [frame.path.name for frame in found]})
    if as_json:
        print_json({"project": project, "videos": told})
    if failed:
        raise typer.Exit(2)
