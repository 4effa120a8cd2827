"""`usam demo`: doubt in a video stream, on a page with a webcam or a video, or without a screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usam.checkpoints.registry import DEFAULT_MODEL
from usam.cli.library import Device, Heads, Model, _as_prompt, _heads, _parse_numbers, _parse_points, check_apart
from usam.errors import PromptError

if TYPE_CHECKING:
    from usam.predictor.tracking import TrackedFrame
    from usam.prompts import Prompt


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("demo")(demo)


def demo(
    video: Annotated[Path | None, typer.Argument(metavar="VIDEO", help="A video; without it, a page opens.")] = None,
    point: Annotated[
        list[str], typer.Option("--point", "-p", metavar="X,Y[,0]", help="A point on the object in the first frame.")
    ] = [],  # noqa: B006
    box: Annotated[str, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="A box around it.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the doubt, an .mp4.")] = None,
    start: Annotated[float, typer.Option("--start", min=0, help="Seconds to pass over.")] = 0.0,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.01, help="Seconds to follow; all.")] = None,
    model: Model = DEFAULT_MODEL,
    heads: Heads = "auto",
    device: Device = "cpu",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Of the page; 0: a free one.")] = 0,
    open_browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print every frame's figures as JSON.")] = False,
) -> None:
    """Follow an object through a video and show how sure the model is, frame by frame.

    Without a VIDEO a page on this machine takes the webcam or a video file: click an object there.
    """
    if video is None:
        from usam.cli.demo_page import serve

        serve(model, device, _heads(heads), port, open_browser, typer.echo)
        return
    points, labels = _parse_points(point)
    corners = _parse_numbers(box, 4, "--box x0,y0,x1,y1") if box else None
    if not points and corners is None:
        raise PromptError("an object to follow", "none", "give --point x,y or --box x0,y0,x1,y1")
    check_apart(out, video)
    from usam.prompts import Prompt

    coords, signs, edges = _as_prompt(points, labels, corners)
    prompt = Prompt(coords if coords is not None else [], signs if signs is not None else [], edges)
    frames = follow_file(video, prompt, model, device, _heads(heads), out, start, seconds)
    if as_json:
        typer.echo(json.dumps({"video": str(video), "model": model, "frames": frames}, indent=1))
        return
    found = [frame for frame in frames if frame["found"]]
    mean = sum(frame["iou"] for frame in found) / max(len(found), 1)
    typer.echo(f"found on {len(found)} of {len(frames)} frames, predicted IoU {mean:.2f} on average")
    doubtful = sorted(frames, key=lambda frame: float(frame["iou"]))[:3]
    typer.echo("look at these first: " + ", ".join(f"{one['seconds']:.1f} s ({one['iou']:.2f})" for one in doubtful))
    if out is not None:
        typer.echo(f"wrote {out}")


def follow_file(
    path: Path,
    prompt: Prompt,
    model: str,
    device: str,
    heads: str | None,
    out: Path | None,
    start: float = 0.0,
    seconds: float | None = None,
) -> list[dict[str, Any]]:
    """Follow what `prompt` shows on the first frame; each frame's figures, and the picture of doubt in `out`.

    Raises `ImageError` where the file is no video or too long, `PromptError` for a prompt outside of the frame.
    """
    from contextlib import nullcontext

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from usam.cli.doubt_picture import draw_doubt
    from usam.cli.library import _console
    from usam.predictor.load import load
    from usam.predictor.tracking import MaskTracker
    from usam.videos import Video, VideoWriter

    video = Video(path)
    _, total = video.part(start, seconds)
    prompt.check((video.height, video.width))
    tracker = MaskTracker(load(model, device, heads))
    history: list[TrackedFrame] = []
    told = []
    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    writing = VideoWriter(out, video.rate) if out is not None else nullcontext()
    with writing as writer, Progress(*columns, console=_console(stderr=True), transient=True) as bar:
        line = bar.add_task("frames", total=total)
        for frame in video.frames(start, seconds):
            tracked = tracker.follow(frame.image) if history else tracker.begin(frame.image, prompt)
            history.append(tracked)
            told.append(facts_of(frame.number, frame.seconds, tracked))
            if writer is not None:
                writer.write(draw_doubt(frame.image, history, total))
            bar.update(line, advance=1)
    return told


def facts_of(number: int, seconds: float, tracked: TrackedFrame) -> dict[str, Any]:
    """One frame for JSON."""
    scores = {name: round(value, 4) for name, value in tracked.scores.items()}
    return {
        "frame": number,
        "seconds": round(seconds, 3),
        "found": tracked.is_found,
        "iou": round(tracked.iou, 4),
        "area_px": int(tracked.mask.sum()),
        "scores": scores,
    }
