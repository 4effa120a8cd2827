"""`usam nano train | evaluate | export`: the family that ships with the project, made and measured."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

Name = Annotated[str, typer.Argument(help="nano-s, nano-m or nano-l.")]
DATASETS = (
    ("coco", "coco_subset"),
    ("ecssd", "ECSSD"),
    ("bsds500", "BSDS500"),
    ("ade20k", "ADE20K_full"),
)
"""What `usam nano evaluate` looks for: the held-out part of COCO, and three sets nothing was trained on."""


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    nano = typer.Typer(help="The nano family: train, evaluate, export.", no_args_is_help=True)
    nano.command("train")(train)
    nano.command("evaluate")(evaluate)
    nano.command("export")(export)
    app.add_typer(nano, name="nano")


def train(
    name: Name,
    data: Annotated[Path, typer.Option("--data", help="Folder with coco_subset, DAVIS, PUMaVOS_chair, ...")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run; a run found there goes on.")],
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="Budget of work, without pauses.")] = 60.0,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Budget in steps in place of minutes, to compare runs.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--start", help="Weights (.safetensors) or a run's stable.pt to begin from.")
    ] = None,
    side: Annotated[
        int | None, typer.Option("--side", help="Pixels of the training pictures (default: the model's input).")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures a worker takes each step.")] = 4,
    decay: Annotated[
        float, typer.Option("--decay", min=0.01, max=1, help="Last share of the budget, in which the rate falls.")
    ] = 0.6,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that share every step.")] = 2,
    sets: Annotated[
        str, typer.Option("--sets", help="old, A (with photographs of the best founded licence) or AB (all).")
    ] = "AB",
    joined: Annotated[
        float,
        typer.Option(
            "--joined", min=0, max=1, help="Share of single clicks that accept a part or a union of objects as well."
        ),
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
) -> None:
    """Train a nano model against the clock or for so many steps; resumable at any moment."""
    from usam.research.nano.samples import PromptCounts
    from usam.research.nano.stored_images import IMAGE_SIDE, MappedStore, sets_named, training_records
    from usam.research.nano.trainer import NanoSettings
    from usam.research.nano.training import load_start, train_nano

    settings = NanoSettings(
        minutes=minutes,
        steps=steps,
        side=side,
        batch=batch,
        decay_share=decay,
        workers=workers,
        seed=seed,
        prompts=PromptCounts(3, 3, 2),
        corrected=8,
        joined=joined,
    )
    begin = load_start(start) if start is not None else None
    with TemporaryDirectory() as folder:
        records = training_records(data, sets_named(sets))
        store = MappedStore.of(records, Path(folder) / "pixels", max(IMAGE_SIDE, side or 0))
        typer.echo(f"{len(store)} images")
        path = train_nano(name, store, out, settings, begin, log=typer.echo)
    typer.echo(f"wrote {path}")


def evaluate(
    name: Name,
    data: Annotated[Path, typer.Option("--data", help="Folder with coco_subset, ECSSD, BSDS500, ...")],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="A .safetensors file; default: the one that ships.")
    ] = None,
    smallest: Annotated[
        float, typer.Option("--smallest", min=0, max=1, help="Smallest object, as a share of its image.")
    ] = 0.01,
    out: Annotated[Path | None, typer.Option("--out", help="Write the table to this CSV file, too.")] = None,
) -> None:
    """Figures on images no weight has seen: one click, eight points, a box; 95 % intervals over images."""
    from usam.checkpoints.nano import load_nano
    from usam.checkpoints.registry import find
    from usam.research.nano.figures import figures, measure

    checkpoint = find(name)
    model = load_nano(checkpoint.config, weights or checkpoint.path)
    lines = ["dataset,figure,value,low,high,objects,images"]
    for dataset, records in evaluation_sets(data).items():
        for figure in figures(measure(model, records, smallest)):
            lines.append(
                f'{dataset},"{figure.name}",{figure.value:.4f},{figure.low:.4f},{figure.high:.4f},'
                f"{figure.objects},{figure.images}"
            )
            typer.echo(
                f"{dataset:8} {figure.name:32} {figure.value:.3f} "
                f"[{figure.low:.3f}, {figure.high:.3f}]  {figure.objects} objects, {figure.images} images"
            )
    if out is not None:
        from usam.files import replace_text

        replace_text(out, "\n".join(lines) + "\n")


def evaluation_sets(data: Path, images: int = 100) -> dict[str, Any]:
    """The evaluation sets found under `data`, each an iterable of records to be read once.

    Of the sets that nothing was trained on, the first `images`. Raises `DatasetError` when there is none.
    """
    from usam.errors import DatasetError
    from usam.research.datasets import open_dataset
    from usam.research.nano.figures import first_annotator, held_out

    found: dict[str, Any] = {}
    for name, folder in DATASETS:
        if not (data / folder).is_dir():
            continue
        reader = "folders" if name == "ecssd" else name
        records = open_dataset(reader, data / folder, "val" if name == "bsds500" else None)
        found[name] = held_out(records) if name == "coco" else islice(first_annotator(records), images)
    if not found:
        raise DatasetError("a folder with evaluation sets", str(data), f"it should hold {DATASETS[0][1]}")
    return found


def export(
    name: Name,
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    blend: Annotated[
        Path | None, typer.Option("--blend", help="Weights that the run began from, to be mixed in again.")
    ] = None,
    share: Annotated[float, typer.Option("--share", min=0, max=1, help="The run's share of such a mixture.")] = 0.7,
) -> None:
    """Write the averaged weights of a run as float16 safetensors, and print the file's SHA-256."""
    from usam.checkpoints.nano import blend_weights, load_nano, save_nano

    model = load_nano(name, run / f"{name}.safetensors")
    if blend is not None:
        blend_weights(model, load_nano(name, blend), share)
    digest = save_nano(model, out)
    typer.echo(f"{digest}  {out.stat().st_size} bytes  {out}")
