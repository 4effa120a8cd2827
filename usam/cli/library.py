"""`usam models | fetch | verify | predict`: what there is, getting it, checking it, trying it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usam.checkpoints.registry import DEFAULT_MODEL
from usam.cli.report import Report, ReportFile, check_report
from usam.errors import ImageError, PromptError

if TYPE_CHECKING:
    from rich.console import Console

    from usam.checkpoints.registry import Checkpoint

Model = Annotated[
    str, typer.Option("--model", "-m", metavar="NAME", help="A checkpoint's name, as `usam models` lists them.")
]
Heads = Annotated[
    str,
    typer.Option(
        "--heads", metavar="FOLDER", help="A head set; auto: the checkpoint's own or fetched ones; none: masks only."
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="cpu, cuda, mps, or auto for the best there is.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("models")(models)
    app.command("fetch")(fetch)
    app.command("verify")(verify)
    app.command("predict")(predict)


def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List checkpoints and head sets, and what is on this machine."""
    from usam.checkpoints import registry as checkpoints

    rows = [
        {
            "name": entry.name,
            "release": entry.release or None,
            "megabytes": entry.bytes / 1e6 if entry.bytes else None,
            "here": entry.path.is_file(),
            "from": _origin(entry),
            "licence": entry.licence,
            "path": str(entry.path),
        }
        for entry in checkpoints.registry().values()
    ]
    rows += [
        {
            "name": heads.name,
            "megabytes": len(heads.sha256) * heads.bytes / 1e6 if heads.bytes else None,
            "here": not heads.missing(),
            "from": f"usam fetch {heads.name}",
            "licence": heads.licence,
            "path": str(heads.path),
        }
        for heads in checkpoints.published_heads().values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("name", "MB", "here", "where it comes from", "licence"):
        table.add_column(column, justify="right" if column == "MB" else "left", no_wrap=True)
    for row in rows:
        size = f"{row['megabytes']:.0f}" if row["megabytes"] else ""
        table.add_row(str(row["name"]), size, "yes" if row["here"] else "-", str(row["from"]), str(row["licence"]))
    console = _console()
    console.print(table)
    console.print(f"\ndownloads: {checkpoints.cache_dir()}\nbundled:   {checkpoints.models_dir()}", soft_wrap=True)


def _origin(entry: Checkpoint) -> str:
    if not entry.bundled:
        return f"usam fetch {entry.name}"
    return f"comes with usam, release {entry.release} of its weights" if entry.release else "comes with usam"


def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A checkpoint or a head set, as `usam models` lists them.")
    ],
    accept_no_licence: Annotated[
        bool, typer.Option("--accept-no-licence", help="Download files for which no licence is stated.")
    ] = False,
) -> None:
    """Download a checkpoint or head set, or finish a download.

    The file is checked and appears under its name only when it is whole.
    """
    import sys

    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from usam.checkpoints import registry as checkpoints

    heads = checkpoints.published_heads().get(name)
    if heads is not None and not accept_no_licence:
        typer.echo(
            f"{name}: {len(heads.sha256)} files from\n  {next(iter(heads.url.values()))}\n"
            "Their publisher states no licence, so all rights are reserved: "
            "whether you may use them is for you to judge.",
            err=True,
        )
        accept_no_licence = sys.stdin.isatty() and typer.confirm("Download them?", err=True)
    columns = (
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        path = checkpoints.fetch(
            name,
            lambda done, total: bar.update(task, completed=done, total=total),
            accept_no_licence=accept_no_licence,
        )
    typer.echo(path)


def verify(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A checkpoint's name.")] = DEFAULT_MODEL,
    heads: Heads = "auto",
    device: Device = "cpu",
) -> None:
    """Check a model: its file, one prompt, its scores.

    Exits with 0 when all is there, with 1 when heads are missing, with 2 when the model cannot be used.
    """
    from usam.checkpoints import registry as checkpoints
    from usam.predictor.load import load

    typer.echo(f"file    {checkpoints.verify(name)}")
    predictor = load(name, device, _heads(heads))
    typer.echo(f"model   {name}, {predictor.model.image_size} px, on {predictor.model.device}")
    predictor.set_image(_test_image())
    _, ious, _, scores = predictor.predict(*_as_prompt([[128.0, 128.0]], [1], None))
    typer.echo(f"masks   {len(ious)} for one point on a drawn disc")
    _print_scores(ious, scores)
    missing = _missing_heads(name, heads, set(scores))
    if missing:
        typer.echo(f"missing {', '.join(missing)}")
        raise typer.Exit(1)
    typer.echo("all there")


def _test_image() -> Any:
    """A light disc of radius 64 px around the centre of a dark image, (256, 256, 3) uint8."""
    import numpy as np

    rows, columns = np.mgrid[:256, :256]
    disc = (rows - 128) ** 2 + (columns - 128) ** 2 < 64**2
    return np.where(disc[..., None], [230, 190, 60], [30, 40, 60]).astype(np.uint8)


def _missing_heads(name: str, heads: str, present: set[str]) -> list[str]:
    """What keeps the three gaps and the mask quality from being told apart, in words for a person."""
    from usam.checkpoints import registry as checkpoints

    if heads == "none" or present:
        gaps = {"task_gap", "prompt_gap", "model_gap"}
        return [] if heads == "none" else [f"head {gap}" for gap in sorted(gaps - present)]
    family = checkpoints.find(name).family
    published = [entry for entry in checkpoints.published_heads().values() if entry.family == family]
    if not published:
        return [f"heads for {name} (train some with: usam train)"]
    absent = ", ".join(published[0].missing())
    return [f"heads for {name}: {absent} (fetch them with: usam fetch {published[0].name})"]


def predict(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image.")],
    point: Annotated[
        list[str],
        typer.Option("--point", "-p", metavar="X,Y[,0]", help="A point on the object, with ,0 beside it; repeatable."),
    ] = [],  # noqa: B006
    box: Annotated[str, typer.Option("--box", metavar="X0,Y0,X1,Y1", help="A box around the object.")] = "",
    model: Model = DEFAULT_MODEL,
    heads: Heads = "auto",
    device: Device = "cpu",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write a picture with the masks and scores.")
    ] = None,
    report: ReportFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Segment the object at points or in a box.

    Says of each of three masks how good it is, and why it may be wrong.
    """
    points, labels = _parse_points(point)
    corners = _parse_numbers(box, 4, "--box x0,y0,x1,y1") if box else None
    if not points and corners is None:
        raise PromptError("a prompt", "none", "give --point x,y or --box x0,y0,x1,y1")

    check_apart(out, image)
    if report is not None:
        check_report(report)
    from usam.images import read_image
    from usam.predictor.load import load

    pixels = read_image(image)
    predictor = load(model, device, _heads(heads))
    predictor.set_image(pixels)
    masks, ious, _, scores = predictor.predict(*_as_prompt(points, labels, corners))
    quality = predictor.heads.quality_for(model) if predictor.heads else None
    if out is not None or report is not None:
        from usam.cli.overlay import draw_overlay, save_picture

        picture = draw_overlay(pixels, masks, ious, scores, points, labels, corners, quality=quality)
        if out is not None:
            save_picture(picture, out)
        if report is not None:
            page = Report(f"Masks of {image.name}")
            page.text(f"{model}, heads {predictor.heads.version if predictor.heads else 'none'}")
            page.picture(picture, "The masks side by side, best marked")
            rows = [[name, *map(float, values)] for name, values in {"samscore": ious, **scores}.items()]
            page.table(["score", *(f"mask {number}" for number in range(1, len(ious) + 1))], rows)
            page.write(report)
    if as_json:
        told = {"image": str(image), "width": pixels.shape[1], "height": pixels.shape[0], "model": model}
        told |= {"heads": predictor.heads.version if predictor.heads else None, "quality": quality}
        best = int((ious if quality is None else scores[quality]).argmax())
        told |= {"best": best, "masks": _describe(masks, ious, scores)}
        typer.echo(json.dumps(told, indent=2))
    else:
        _print_scores(ious, scores)


def check_apart(out: Path | None, source: Path) -> None:
    """Raise `ImageError` where a picture would be written over the one that is looked at."""
    if out is not None and out.exists() and source.exists() and out.samefile(source):
        raise ImageError("another file to write to", f"{out}, the one that is read", "give --out another name")


def _as_prompt(points: list[list[float]], labels: list[int], box: list[float] | None) -> tuple[Any, Any, Any]:
    """`point_coords`, `point_labels` and `box` as a predictor takes them."""
    import numpy as np

    corners = None if box is None else np.asarray(box, np.float32)
    if not points:
        return None, None, corners
    return np.asarray(points, np.float32), np.asarray(labels, np.int32), corners


def _parse_points(texts: list[str]) -> tuple[list[list[float]], list[int]]:
    points, labels = [], []
    for text in texts:
        wanted = "--point x,y or --point x,y,0"
        numbers = _parse_numbers(text, 3 if text.count(",") == 2 else 2, wanted)
        label = numbers[2] if len(numbers) == 3 else 1.0
        if label not in (0.0, 1.0):
            raise PromptError(f"{wanted}: 1 on the object, 0 beside it", text)
        points.append(numbers[:2])
        labels.append(int(label))
    return points, labels


def _parse_numbers(text: str, count: int, wanted: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise PromptError(wanted, repr(text))
    return numbers


def _describe(masks: Any, ious: Any, scores: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for index, mask in enumerate(masks.astype(bool)):
        rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
        found.append(
            {
                "samscore": round(float(ious[index]), 4),
                "scores": {name: round(float(values[index]), 4) for name, values in scores.items()},
                "area_px": int(mask.sum()),
                "box": [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] if rows.size else None,
            }
        )
    return found


def _print_scores(ious: Any, scores: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("score")
    for index in range(len(ious)):
        table.add_column(f"mask {index + 1}", justify="right")
    for name, values in {"samscore": ious, **scores}.items():
        sign = "+" if name.endswith("_gap") else ""
        table.add_row(name, *(f"{float(value):{sign}.3f}" for value in values))
    _console().print(table)


def _heads(heads: str) -> str | None:
    return None if heads == "none" else heads


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=stderr, highlight=False, width=120)
    return console
