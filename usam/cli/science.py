"""`usam tokens | train | evaluate`: from labelled images to heads and their figures."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usam.errors import TokensError

if TYPE_CHECKING:
    from usam.research.tokens.manifest import TokenSettings
    from usam.research.tokens.run import RunReport

PROBLEMS_SHOWN = 12


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("tokens")(tokens)
    if importlib.util.find_spec("usam.cli.heads") is not None:
        importlib.import_module("usam.cli.heads").register(app)


def tokens(
    dataset: Annotated[
        str,
        typer.Argument(
            help="ade20k, bsds500, coco, coco-panoptic, davis, dsb2018, folders, masks, mose, photographs, sav or "
            "sceneparse150."
        ),
    ],
    root: Annotated[Path, typer.Argument(help="The data set's folder, laid out as its owner publishes it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder of tokens to make, or to go on with.")],
    models: Annotated[
        str, typer.Option("--models", "-m", help="Checkpoints, from small to large, separated by commas.")
    ] = "nano-s,nano-m,nano-l",
    split: Annotated[str, typer.Option("--split", help="One of the owner's splits; all without it.")] = "",
    option: Annotated[
        list[str],
        typer.Option("--option", help="An option of the reader, such as every=10 for videos; repeatable."),
    ] = [],  # noqa: B006
    part: Annotated[
        str,
        typer.Option(
            "--part",
            help="Only this part of a split by image or video: train, val or test; or nano-train, nano-heads or "
            "nano-test, what the nano family was trained on, keeps for its heads, and has never seen.",
        ),
    ] = "",
    fractions: Annotated[str, typer.Option("--fractions", help="The shares of train, val and test.")] = "0.8,0.1,0.1",
    split_seed: Annotated[int, typer.Option("--split-seed", help="Another seed, other parts.")] = 0,
    entropies: Annotated[
        bool, typer.Option("--entropies", help="The six entropy baselines too, at about five times the time.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=0, help="At most so many records, spread over the set; 0: all.")
    ] = 0,
    max_objects: Annotated[
        int, typer.Option("--max-objects", min=0, help="At most so many objects of an image; 0: all.")
    ] = 0,
    min_pixels: Annotated[int, typer.Option("--min-pixels", min=1, help="Leave out smaller objects.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of random points and of the choice of objects.")] = 0,
    view: Annotated[
        int,
        typer.Option(
            "--view", min=0, help="Another number, another random crop and light of each image, to train heads on."
        ),
    ] = 0,
    workers: Annotated[int, typer.Option("--workers", "-w", min=1, help="Processes, one thread each.")] = 1,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda, ...; several, separated by commas, are taken in turn.")
    ] = "cpu",
    shard: Annotated[
        str, typer.Option("--shard", help="i/n: every n-th shard file from the i-th on, for n machines or GPUs.")
    ] = "0/1",
    shard_size: Annotated[
        int, typer.Option("--shard-size", min=1, help="Records in one file, which is what a kill can cost.")
    ] = 16,
    untrained: Annotated[bool, typer.Option("--untrained", help="Random weights, to measure speed only.")] = False,
) -> None:
    """Decode the paper's prompts for every object of a data set; write tokens, true IoUs and SamScores.

    Run the same command again to go on after a kill.
    """
    from usam.research.datasets import open_dataset
    from usam.research.tokens.manifest import TokenSettings
    from usam.research.tokens.models import load_predictor, untrained_predictor
    from usam.research.tokens.run import extract_tokens

    settings = TokenSettings(
        seed=seed,
        max_objects=max_objects,
        min_pixels=min_pixels,
        limit=limit,
        entropies=entropies,
        shard_size=shard_size,
        part=part,
        fractions=_fractions(fractions),
        split_seed=split_seed,
        view=view,
    )
    options = dict(_option(each) for each in option)
    source = open_dataset(dataset, root, split or None, **options)
    with _Bar() as progress:
        report = extract_tokens(
            source,
            out,
            [name.strip() for name in models.split(",") if name.strip()],
            settings,
            identity={"reader": dataset, "split": split, "options": options},
            workers=workers,
            devices=[each.strip() for each in device.split(",")],
            share=_share(shard),
            load_model=untrained_predictor if untrained else load_predictor,
            progress=progress,
        )
    typer.echo(_summary(report, out, settings))


class _Bar:
    """A progress bar with the time left; called with (records done, records to do)."""

    def __enter__(self) -> Callable[[int, int], None]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("images"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._progress.start()
        task: Any = None

        def show(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = self._progress.add_task("images", total=total, completed=done)
            self._progress.update(task, completed=done)

        return show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _summary(report: RunReport, out: Path, settings: TokenSettings) -> str:
    lines = [
        f"{report.objects} objects in {report.shards} shards to {out}"
        + (f" ({report.skipped_shards} were there)" if report.skipped_shards else "")
    ]
    if report.seconds:
        lines.append(
            f"{report.wall_seconds:.1f} s, {report.share_outside:.1%} of the work outside SAM's forward passes"
        )
    found = report.problems.most_common(PROBLEMS_SHOWN)
    lines += [f"passed over, {kind}: {count}" for kind, count in found]
    return "\n".join(lines)


def _share(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise TokensError("--shard i/n", repr(text), "the first of four is 0/4")
    return int(index), int(count)


def _fractions(text: str) -> dict[str, float]:
    try:
        train, val, test = (float(share) for share in text.split(","))
    except ValueError as error:
        raise TokensError("--fractions as three numbers, such as 0.8,0.1,0.1", repr(text)) from error
    return {"train": train, "val": val, "test": test}


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise TokensError("--option name=value", repr(text))
    if value in ("true", "false"):
        return name, value == "true"
    return name, int(value) if value.lstrip("-").isdecimal() else value
