"""`usam demo`: doubt in a video stream, on a page with a webcam or a video, or without a screen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usam.checkpoints.registry import DEFAULT_MODEL
from usam.cli.library import Device, Heads, Model, _as_prompt, _heads, _parse_numbers, _parse_points, check_apart
from usam.errors import PromptError

if TYPE_CHECKING:
    from usam.predictor.image import PatchedImagePredictor
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
    correct: Annotated[
        list[str],
        typer.Option("--correct", metavar="SECONDS:X,Y[,0]", help="A click on a later frame; 0: not the object."),
    ] = [],  # noqa: B006
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

    SAM 2 checkpoints follow by their video memory, other models by the mask before. Without a VIDEO a page on this
    machine takes the webcam or a video file: click an object there.
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
    corrections = [parse_correction(text) for text in correct]
    frames = follow_file(video, prompt, model, device, _heads(heads), out, start, seconds, corrections)
    if as_json:
        typer.echo(json.dumps({"video": str(video), "model": model, "frames": frames}, indent=1))
        return
    found = [frame for frame in frames if frame["found"]]
    mean = sum(frame["iou"] for frame in found) / max(len(found), 1)
    hidden = sum(frame["out_of_sight"] for frame in frames)
    sight = f", out of sight on {hidden}" if hidden else ""
    typer.echo(f"found on {len(found)} of {len(frames)} frames{sight}, predicted IoU {mean:.2f} on average")
    doubtful = sorted(frames, key=lambda frame: float(frame["iou"]))[:3]
    typer.echo("look at these first: " + ", ".join(f"{one['seconds']:.1f} s ({one['iou']:.2f})" for one in doubtful))
    if out is not None:
        typer.echo(f"wrote {out}")


def parse_correction(text: str) -> tuple[float, Prompt]:
    """Seconds and the click of 'SECONDS:X,Y[,0]'. Raises `PromptError` for others.

    >>> seconds, prompt = parse_correction("2.5:320,240,0")
    >>> seconds, prompt.points.tolist(), prompt.labels.tolist()
    (2.5, [[320.0, 240.0]], [0])
    """
    from usam.prompts import Prompt

    when, colon, click = text.partition(":")
    if not colon:
        raise PromptError("--correct seconds:x,y or seconds:x,y,0", repr(text))
    (seconds,) = _parse_numbers(when, 1, "--correct seconds:x,y")
    points, labels = _parse_points([click])
    return seconds, Prompt(*_as_prompt(points, labels, None))


def load_for_streams(model: str, device: str, heads: str | None) -> PatchedImagePredictor:
    """A predictor as `usam.load` gives it, but for models with video memory, which compute in the device's fastest
    type: they are large, and a stream does not wait."""
    from usam.predictor.encoder import fastest_dtype
    from usam.predictor.load import load
    from usam.predictor.memory_tracking import has_video_memory

    predictor = load(model, device, heads)
    if has_video_memory(predictor.model):
        predictor.encoder_dtype = fastest_dtype(predictor.device)
    return predictor


def follow_file(
    path: Path,
    prompt: Prompt,
    model: str,
    device: str,
    heads: str | None,
    out: Path | None,
    start: float = 0.0,
    seconds: float | None = None,
    corrections: Sequence[tuple[float, Prompt]] = (),
) -> list[dict[str, Any]]:
    """Follow what `prompt` shows on the first frame; each frame's figures, and the picture of doubt in `out`.

    `corrections` are clicks, each with the second of the video at which it is made. Raises `ImageError` where the file
    is no video or too long, `PromptError` for a prompt outside of the frame or a correction outside of the part.
    """
    from contextlib import nullcontext

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from usam.cli.doubt_picture import draw_doubt
    from usam.cli.library import _console
    from usam.predictor.memory_tracking import tracker_for
    from usam.videos import Video, VideoWriter

    video = Video(path)
    first, total = video.part(start, seconds)
    prompt.check((video.height, video.width))
    part = (first / video.rate, (first + total - 1) / video.rate)
    for second, click in corrections:
        click.check((video.height, video.width))
        if not part[0] <= second <= part[1]:
            raise PromptError(f"a correction between {part[0]:.2f} and {part[1]:.2f} s", f"one at {second:g} s")
    waiting = sorted(corrections, key=lambda correction: correction[0])
    tracker = tracker_for(load_for_streams(model, device, heads))
    history: list[TrackedFrame] = []
    told = []
    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    writing = VideoWriter(out, video.rate) if out is not None else nullcontext()
    with writing as writer, Progress(*columns, console=_console(stderr=True), transient=True) as bar:
        line = bar.add_task("frames", total=total)
        for frame in video.frames(start, seconds):
            tracked = tracker.follow(frame.image) if history else tracker.begin(frame.image, prompt)
            while waiting and waiting[0][0] <= frame.seconds + 1e-6:
                tracked = tracker.correct(waiting.pop(0)[1])
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
        "out_of_sight": tracked.is_out_of_sight,
        "iou": round(tracked.iou, 4),
        "area_px": int(tracked.mask.sum()),
        "scores": scores,
    }
