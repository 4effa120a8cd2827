"""`usam-backend track`: boxes that somebody drew on one frame of a video, followed to its end."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.folder import AsJson, ProjectId, open_label_studio, print_json, say, settings_in_use

if TYPE_CHECKING:
    from backend.settings import Settings
    from usam.heads.head_set import HeadSet
    from usam.predictor.image import PatchedImagePredictor

SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("track")(track)


def track(
    project: ProjectId,
    task: Annotated[list[int], typer.Option(help="Only this task; may be repeated.")] = [],  # noqa: B006
    seconds: Annotated[
        float | None, typer.Option("--seconds", min=0.01, help="Follow each box so long at most; to the video's end.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Follow each object that somebody drew a box round on one frame of a video, and write the boxes as a prediction.

    A box with a single key frame, in an annotation or in a draft of your own, is followed to the end of the video, with
    as few key frames as it needs. Annotations stay as they are. A task that cannot be used is set aside by name, and
    what was followed before is not followed again.
    """
    from backend.pool.video_tracks import VideoFollower, serve_version
    from usam.heads.bundled import resolve_heads

    settings = settings_in_use(needs_store=False)
    heads = resolve_heads(settings.model, None if settings.heads == "none" else settings.heads)
    with open_label_studio(settings) as client:
        known = client.project(project)
        version = heads.version if heads is not None else ""
        follower = VideoFollower(client, settings, known, version, lambda: _load(settings, heads), seconds=seconds)
        done = follower.run(task, lambda _, total, what: say(what) if what else None)
        serve_version(client, known, follower.version)
    if done.waiting:
        more = f" and {len(done.waiting) - SHOWN} more" if len(done.waiting) > SHOWN else ""
        say(f"no box to follow yet: task {', '.join(map(str, done.waiting[:SHOWN]))}{more}")
    for number, reason in done.set_aside.items():
        say(f"task {number} is set aside: {reason}")
    for number, reason in done.left_out.items():
        say(f"task {number} was followed without {reason}")
    say(f"{len(done.tasks)} followed, {len(done.unchanged)} as before, {len(done.set_aside)} set aside")
    if as_json:
        print_json({"project": project, "version": follower.version, **asdict(done)})
    if done.set_aside:
        raise typer.Exit(2)


def _load(settings: Settings, heads: HeadSet | None) -> PatchedImagePredictor:
    from backend.inference.model import LoadedModel
    from backend.metrics.service import Metrics

    predictor: PatchedImagePredictor = LoadedModel.load(settings.model, settings, Metrics(), heads).predictor
    predictor.keep_stages = False  # nobody asks what is followed looks like
    return predictor
