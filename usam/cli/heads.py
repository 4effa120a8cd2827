"""`usam train | evaluate`: heads from tokens, and what they are worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usam.cli.report import Report, ReportFile, check_report
from usam.errors import TrainingError

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.research.evaluation.tables import Evaluation, Runtime
    from usam.research.tokens import TokenTable
    from usam.research.tokens.examples import Examples
    from usam.training import FitResult, Preset

_SHOWN = ("relative AUC", "share to oracle", "Pearson, all three masks", "calibration error")
Tables = Annotated[list[Path], typer.Argument(metavar="TOKENS...", help="Folders that `usam tokens` wrote.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("train")(train)
    app.command("evaluate")(evaluate)


def train(
    tokens: Tables,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the head set, its split and its figures.")],
    model: Annotated[
        str, typer.Option("--model", help="Whose tokens; without it every model of the tables, a folder each.")
    ] = "",
    preset: Annotated[
        str,
        typer.Option(
            "--preset", help="default, large (20,000 objects or more), or the paper's: coco, sav, ade20k, davis."
        ),
    ] = "",
    search: Annotated[
        int, typer.Option("--search", min=0, help="Try so many settings first; the same command goes on.")
    ] = 0,
    init: Annotated[
        str, typer.Option("--init", help="Heads to start from; up to 3,000 objects only adapt them, without harm.")
    ] = "",
    alignment: Annotated[
        str, typer.Option("--alignment", help="aligned, shifted, or both: the better one is kept.")
    ] = "both",
    small: Annotated[str, typer.Option("--small", help="Small model of the model gap (default: the first).")] = "",
    large: Annotated[str, typer.Option("--large", help="Large model of the model gap (default: the last).")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of the split, the start and the order.")] = 0,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Another number of epochs than the preset's.")] = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")] = "auto",
) -> None:
    """Train all heads at once on token tables, split by image; write the head set with its figures.

    Writes heads.safetensors, split.json (which images it has seen), training.csv and reliability.png.
    """
    from usam.heads.head_set import HeadSet
    from usam.research.tokens import TokenTable
    from usam.research.tokens.examples import common_models, read_examples, seen_groups
    from usam.training.settings import PRESETS, preset_for

    if preset and preset not in PRESETS:
        raise TrainingError(f"a preset out of {', '.join(PRESETS)}", repr(preset), "choose one of these")
    if alignment not in ("aligned", "shifted", "both"):
        raise TrainingError("alignment aligned, shifted or both", repr(alignment), "choose one of these")
    tables = [TokenTable.open(folder) for folder in tokens]
    settings = PRESETS[preset] if preset else preset_for(sum(map(len, tables)))
    settings = settings.replace(seed=seed, device=device)
    if epochs:
        settings = settings.replace(epochs=epochs)
    names = common_models(tables)
    start = HeadSet.load(init) if init else None
    fitting = [name for name in names if start is None or start.fits(name)]
    wanted = [model] if model else fitting or list(names)
    for name in wanted:
        examples = read_examples(tables, name, small=small or None, large=large or None)
        folder = out if len(wanted) == 1 else out / name
        typer.echo(f"{name}: {len(examples)} objects, heads {', '.join(examples.targets)}")
        chosen = _searched(examples, settings, search, folder) if search else settings
        result = _fit(examples, chosen, alignment, start)
        _write_heads(result, examples, folder, seen_groups(Path(init)) if init else frozenset())
        _print_figures(result, folder)


def _searched(examples: Examples, settings: Preset, trials: int, folder: Path) -> Preset:
    """The preset with the settings that a search found best."""
    from usam.training import Preset, search_settings
    from usam.training.network import Rows

    def show(number: int, loss: float | None) -> None:
        typer.echo(f"trial {number}: " + ("dropped early" if loss is None else f"loss over variance {loss:.4f}"))

    rows = Rows.of(examples.iou_token, examples.mask_tokens, examples.targets, "aligned")
    found = search_settings(
        rows, examples.groups, trials, base=settings.default, storage=folder / "search.journal", progress=show
    )
    typer.echo(f"best of {found.finished} finished and {found.pruned} dropped trials: {found.loss:.4f}")
    return Preset(found.settings)


def _fit(examples: Examples, settings: Preset, alignment: str, init: HeadSet | None) -> FitResult:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from usam.training import fit_heads

    columns = (TextColumn("epochs, at most"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        ways = 2 if alignment == "both" else 1
        networks = sum(each.members for each in {settings.default, *settings.heads.values()})
        task = bar.add_task("", total=settings.default.epochs * networks * ways)

        def advance(epoch: int, losses: dict[str, float]) -> None:
            bar.advance(task)

        return fit_heads(
            examples.iou_token,
            examples.mask_tokens,
            examples.targets,
            examples.groups,
            settings=settings,
            checkpoint=examples.model,
            quality=_quality(examples),
            init=init,
            alignment=alignment,  # type: ignore[arg-type]
            metadata={"training_data": examples.source},
            progress=advance,
        )


def _quality(examples: Examples) -> str:
    from usam.training.targets import head_name

    return head_name(examples.model)


def _write_heads(result: FitResult, examples: Examples, folder: Path, before: frozenset[str]) -> None:
    """The head set, what it has seen, its history and its reliability plot."""
    import numpy as np

    from usam.files import replace_text
    from usam.research.evaluation.objects import scores_of
    from usam.research.evaluation.plots import write_reliability
    from usam.research.tokens.examples import write_split

    result.heads.save(folder)
    write_split(folder, result.split, examples.groups, before)
    if result.split is None:
        return  # all rows were learnt from: what remains to be seen is in the figures, which are cross-validated
    lines = ["epoch," + ",".join(result.heads.names)]
    for number, losses in enumerate(result.history):
        lines.append(",".join([str(number), *(f"{losses.get(name, np.nan):.6g}" for name in result.heads.names)]))
    replace_text(folder / "training.csv", "\n".join(lines) + "\n")
    test, quality = result.split.test, _quality(examples)
    scores = scores_of(result.heads, examples.iou_token[test], examples.mask_tokens[test])
    write_reliability(
        {"predicted IoU": scores[quality].ravel()},
        examples.targets[quality][test, 1:].ravel(),
        folder / "reliability.png",
    )


def _print_figures(result: FitResult, folder: Path) -> None:
    if result.adaptation is not None:
        typer.echo(f"{'cross-validated':24}{'Pearson':>9}{'before':>9}{'calibration':>13}{'before':>9}  moved")
        for name, row in result.figures.items():
            typer.echo(
                f"{name:24}{row['pearson']:9.3f}{row['pearson_before']:9.3f}{row['calibration_error']:13.3f}"
                f"{row['calibration_error_before']:9.3f}  {result.adaptation.chosen[name]}"
            )
    else:
        losses = ", ".join(f"{way} {loss:.4f}" for way, loss in result.alignment_losses.items())
        typer.echo(f"mask tokens {result.heads.alignment} (validation loss over variance: {losses})")
        typer.echo(f"{'on unseen test images':24}{'Pearson':>9}{'abs error':>11}{'calibration':>13}")
        for name, row in result.figures.items():
            typer.echo(f"{name:24}{row['pearson']:9.3f}{row['mae']:11.3f}{row['calibration_error']:13.3f}")
    typer.echo(f"head set {result.heads.version} in {folder}")


def evaluate(
    tokens: Tables,
    heads: Annotated[Path, typer.Option("--heads", help="Head set: a folder of `usam train`, or published heads.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report.md, figures.csv and the plots.")],
    model: Annotated[str, typer.Option("--model", help="Whose tokens (default: the heads' own checkpoint).")] = "",
    small: Annotated[str, typer.Option("--small", help="Small model of the model gap (default: the first).")] = "",
    large: Annotated[str, typer.Option("--large", help="Large model of the model gap (default: the last).")] = "",
    seen: Annotated[
        bool, typer.Option("--seen", help="Judge on images that trained the heads too; figures are optimistic.")
    ] = False,
    ablation: Annotated[
        list[Path], typer.Option("--ablation", help="Token tables to train the token ablation on; repeatable.")
    ] = [],  # noqa: B006
    runtime: Annotated[bool, typer.Option("--runtime", help="Also time SAM with and without heads.")] = False,
    replicates: Annotated[int, typer.Option("--replicates", min=10, help="Of the bootstrap over images.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Of the bootstrap and the ablation.")] = 0,
    report: ReportFile = None,
) -> None:
    """Make the paper's tables and figures for heads on token tables.

    Images that trained the heads (their split.json says which) are left out.
    """
    if report is not None:
        check_report(report)
    from usam.heads.head_set import HeadSet
    from usam.research.evaluation.tables import evaluate as judge
    from usam.research.tokens import TokenTable
    from usam.research.tokens.examples import seen_groups

    tables = [TokenTable.open(folder) for folder in tokens]
    head_set = HeadSet.load(heads)
    known = frozenset() if seen else seen_groups(heads if heads.is_dir() else heads.parent)
    options: dict[str, Any] = {
        "model": model or None,
        "small": small or None,
        "large": large or None,
        "unseen_by": known,
        "replicates": replicates,
        "seed": seed,
    }
    if ablation:
        trained_on = [TokenTable.open(folder) for folder in ablation]
        options["extra"] = _ablation(tables, trained_on, head_set, options)
    if runtime:
        options["runtimes"] = _runtimes(tables, head_set)
    result = judge(tables, head_set, out, **options)
    if report is not None:
        page = Report(f"Heads {head_set.version}, {len(result.objects)} objects")
        page.add_markdown(out / "report.md")
        page.write(report)
    _print_evaluation(result, out)


def _ablation(tables: list[TokenTable], train_on: list[TokenTable], heads: HeadSet, options: dict[str, Any]) -> Any:
    import numpy as np

    from usam.research.evaluation.ablation import token_ablation
    from usam.research.evaluation.objects import read_objects
    from usam.research.tokens.examples import read_examples
    from usam.training.settings import PRESETS

    choice = {key: options[key] for key in ("model", "small", "large")}
    objects, _ = read_objects(tables, heads, **choice, unseen_by=options["unseen_by"])
    sizes = {key: choice[key] for key in ("small", "large")}
    test = read_examples(tables, objects.model, **sizes)
    test = test.take(~np.isin(test.groups, sorted(options["unseen_by"])))
    return token_ablation(
        read_examples(train_on, objects.model, **sizes),
        test,
        objects,
        settings=PRESETS["default"].replace(seed=options["seed"]),
        replicates=options["replicates"],
        seed=options["seed"],
    )


def _runtimes(tables: list[TokenTable], heads: HeadSet) -> list[Runtime]:
    from usam.research.evaluation.runtime import measure_runtime

    return [measure_runtime(name, heads) for name in tables[0].model_names]


def _print_evaluation(result: Evaluation, out: Path) -> None:
    for figure in result.figures:
        if figure.quantity in _SHOWN:
            typer.echo(f"{figure.table:26}{figure.subject:18}{figure.quantity:26}{figure.text()}")
    if result.left_out:
        typer.echo(f"{result.left_out} objects left out: their images trained the heads")
    typer.echo(f"{len(result.objects)} objects; report in {out / 'report.md'}")
