"""The job `track`: boxes that people drew on one frame of a video, followed to its end, as soon as they come in."""

from __future__ import annotations

from dataclasses import asdict

from backend.errors import LabelConfigError
from backend.jobs.sync import set_aside_line
from backend.pool.video_tracks import VideoFollower, serve_version
from backend.resources import Resources

JOB = "track"


def run(resources: Resources, project_id: int) -> str:
    """Follow what waits to be followed; returns the run's state. A project without boxes on videos skips it.

    Raises `LabelStudioError` where Label Studio does not answer, and whatever keeps the model from loading.
    """
    with resources.run(project_id, JOB) as progress:
        client = resources.label_studio
        project, heads = client.project(project_id), resources.heads
        version = heads.version if heads is not None else ""
        try:
            follower = VideoFollower(client, resources.settings, project, version, lambda: resources.model.predictor)
        except LabelConfigError as error:
            progress.state, progress.reason = "skipped", str(error)
            return progress.state
        done = follower.run(on_step=lambda number, total, _: progress.step(number, total, "videos"))
        serve_version(client, project, follower.version)
        unused = [f"task {number}: {reason}" for number, reason in (*done.set_aside.items(), *done.left_out.items())]
        progress.reason = "; ".join(filter(None, (f"{len(done.tasks)} followed", set_aside_line(unused))))
        progress.details = {"version": follower.version, **asdict(done)}
    return progress.state
