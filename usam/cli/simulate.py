"""`usam simulate`: replay a labelling campaign on a labelled set, before anybody labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from usam.cli.report import Report, ReportFile, check_report
from usam.errors import SimulationError

if TYPE_CHECKING:
    from usam.research.datasets.reader import Reader
    from usam.research.simulation.labelled_set import LabelledSet
    from usam.research.simulation.runs import Played
    from usam.research.tokens import TokenTable

Show = Callable[[str, int, int], None]
COLUMNS = dict(labels=8, kept=8, deleted=9, relabelled=12, corrected=11, added=8, seconds=9, share=8)
"""Of the table of work, with their widths."""


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("simulate")(simulate)


def simulate(
    dataset: Annotated[str, typer.Argument(help="A data set that `usam tokens` reads.")],
    root: Annotated[Path, typer.Argument(help="The data set's folder, laid out as its owner publishes it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for campaigns, plots and report.md.")],
    strategies: Annotated[
        str,
        typer.Option(
            "--strategies",
            help="Separated by commas: random, samscore, entropy, predicted-iou, task, prompt, epistemic, "
            "task+epistemic.",
        ),
    ] = "random,samscore,predicted-iou,task+epistemic",
    budget: Annotated[int, typer.Option("--budget", min=1, help="Labels (objects) of a campaign.")] = 200,
    step: Annotated[int, typer.Option("--step", min=1, help="Labels after which heads are trained again.")] = 20,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Campaigns of each strategy.")] = 5,
    first_seed: Annotated[int, typer.Option("--first-seed", help="Seed of the first of them.")] = 0,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", help="Tokens of this set; made there where missing (default: OUT/tokens)."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Whose masks the annotator is shown (default: the last).")] = "",
    models: Annotated[str, typer.Option("--models", "-m", help="Checkpoints, from small to large.")] = "nano-s,nano-m",
    heads: Annotated[str, typer.Option("--heads", help="Heads to start from: a folder, or auto.")] = "auto",
    split: Annotated[str, typer.Option("--split", help="One of the owner's splits; all without it.")] = "",
    option: Annotated[list[str], typer.Option("--option", help="An option of the reader; repeatable.")] = [],  # noqa: B006
    part: Annotated[str, typer.Option("--part", help="As for `usam tokens`, such as nano-test.")] = "",
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many records; 0: all.")] = 0,
    max_objects: Annotated[int, typer.Option("--max-objects", min=0, help="At most so many of an image.")] = 20,
    entropies: Annotated[bool, typer.Option("--entropies", help="For the strategy entropy.")] = False,
    clicks: Annotated[
        int, typer.Option("--clicks", min=0, help="Let the model answer up to so many real clicks; 0: 8 points.")
    ] = 0,
    threshold: Annotated[float, typer.Option("--threshold", help="IoU that the annotator takes as right.")] = 0.8,
    iou: Annotated[float, typer.Option("--iou", help="Promised of masks that are accepted unseen.")] = 0.8,
    risk: Annotated[float, typer.Option("--risk", help="Largest share of these that may miss it.")] = 0.1,
    confidence: Annotated[float, typer.Option("--confidence", help="Chance that this holds.")] = 0.9,
    per_image: Annotated[int, typer.Option("--per-image", min=1, help="Most masks accepted in an image.")] = 3,
    image_rule: Annotated[str, typer.Option("--image-rule", help="top-mean, max, mean or sum.")] = "top-mean",
    audit_share: Annotated[float, typer.Option("--audit-share", help="Share of images drawn at random.")] = 0.1,
    test_share: Annotated[float, typer.Option("--test-share", help="Share of images held out.")] = 0.33,
    proposals: Annotated[
        bool,
        typer.Option(
            "--proposals",
            help="Replay what the pool proposes, at random; count deletions, relabellings, corrections, additions.",
        ),
    ] = False,
    look: Annotated[float, typer.Option("--look-seconds", help="A look at a mask.")] = 1.6,
    click: Annotated[float, typer.Option("--click-seconds", help="A click.")] = 2.4,
    polygon: Annotated[float, typer.Option("--polygon-seconds", help="Drawing an object.")] = 79.2,
    page: ReportFile = None,
) -> None:
    """Replay labelling with each strategy: what it costs, what it brings, and when to stop.

    Ranking, retraining, gate and pseudo-labels are those of the product; the annotator is a script. Run the same
    command again to go on after a kill.
    """
    if page is not None:
        check_report(page)
    from usam.cli.science import _option
    from usam.heads.bundled import resolve_heads
    from usam.pseudo_labels.calibration import RiskGuarantee
    from usam.research.datasets import open_dataset
    from usam.research.simulation.annotator import Annotator
    from usam.research.simulation.campaign import Campaign
    from usam.research.simulation.cost import CostModel
    from usam.research.simulation.labelled_set import LabelledSet
    from usam.research.simulation.report import write_report
    from usam.research.simulation.runs import play_all
    from usam.research.tokens.manifest import TokenSettings

    if proposals:
        options = dict(_option(each) for each in option)
        source = open_dataset(dataset, root, split or None, **options)
        name = model or models.split(",")[-1].strip()
        _propose(source, name, heads, part, limit, budget, step, range(first_seed, first_seed + seeds), test_share, out)
        return
    wanted = [name.strip() for name in strategies.split(",") if name.strip()]
    base = Campaign(
        wanted[0] if wanted else "",
        budget,
        step,
        first_seed,
        audit_share,
        test_share,
        image_rule,
        RiskGuarantee(iou, risk, confidence, per_image),
        Annotator(threshold, CostModel(look, click, polygon)),
    )
    for name in wanted[1:]:
        Campaign(name)
    names = [name.strip() for name in models.split(",") if name.strip()]
    options = dict(_option(each) for each in option)
    with _Bar() as show:
        settings = TokenSettings(max_objects=max_objects, limit=limit, part=part, entropies=entropies)
        folder = tokens or out / "tokens"

        def reader() -> Reader[Any]:
            return open_dataset(dataset, root, split or None, **options)

        identity = {"reader": dataset, "split": split, "options": options}
        table = None if tokens is None else _complete(tokens)
        table = table or _make_tokens(folder, reader(), names, settings, identity, show)
        chosen = model or table.model_names[-1]
        start = resolve_heads(chosen, heads)
        if start is None:
            raise SimulationError(
                f"heads of {chosen}", "none", "train some with usam train, or fetch the published ones"
            )
        labelled = LabelledSet.read([table], chosen)
        if clicks:
            labelled = _click(labelled, table, reader(), chosen, clicks, out, show)
        seeds_wanted = range(first_seed, first_seed + seeds)
        played = play_all(labelled, start, base, wanted, list(seeds_wanted), out, show)
    title = f"Campaigns on {dataset}, {len(labelled)} objects, {chosen}, heads {start.version}"
    report = write_report(played, base, out, title)
    if page is not None:
        one_file = Report(title)
        one_file.add_markdown(report)
        one_file.write(page)
    _print(played, base, report)


def _propose(
    source: Reader[Any],
    model: str,
    heads: str,
    part: str,
    limit: int,
    budget: int,
    step: int,
    seeds: range,
    test_share: float,
    out: Path,
) -> None:
    """Replay on the pool's own proposals, and print the work that an unseen image takes as labels teach."""
    import numpy as np

    from usam.heads.bundled import resolve_heads
    from usam.objects.effort import Prices
    from usam.predictor.load import load
    from usam.research.simulation.proposed import propose_images, replay_work, write_work
    from usam.research.tokens.manifest import TokenSettings

    asked = TokenSettings(part=part)
    records = [record for record in source if not part or asked.part_of(record.group) == part][: limit or None]
    with _Bar() as show:
        images = []
        for image in propose_images(load(model, heads=resolve_heads(model, heads)), records):
            images.append(image)
            show("images proposed", len(images), len(records))
    prices = Prices.by_hand()
    runs = [replay_work(images, budget=budget, step=step, seed=seed, test_share=test_share) for seed in seeds]
    out.mkdir(parents=True, exist_ok=True)
    path = write_work(runs, out / "work.csv", prices)
    typer.echo("".join(f"{title:>{width}}" for title, width in COLUMNS.items()))
    widths = list(COLUMNS.values())
    for points in zip(*runs, strict=False):
        left = np.mean([list(vars(point.left).values()) for point in points], axis=0)
        seconds = float(np.mean([point.left.seconds(prices) for point in points]))
        share = seconds / float(np.mean([point.by_hand for point in points]))
        counts = "".join(f"{value:{width}.2f}" for value, width in zip(left, widths[1:6], strict=True))
        typer.echo(f"{np.mean([point.labels for point in points]):8.0f}{counts}{seconds:9.0f}{share:8.2f}")
    typer.echo(f"work on an unseen image, mean of {len(runs)} seeds; share of drawing everything by hand; {path}")


def _complete(folder: Path) -> TokenTable | None:
    """The tokens of a folder that were made before, with whatever settings; None where some are missing."""
    from usam.errors import TokensError
    from usam.research.tokens import TokenTable

    try:
        return TokenTable.open(folder)
    except TokensError:
        return None


def _make_tokens(
    folder: Path, source: Reader[Any], models: list[str], settings: Any, identity: dict[str, Any], show: Show
) -> TokenTable:
    """Make the tokens, or go on with them. Raises `TokensError` where the folder holds some of another make."""
    from usam.research.tokens import TokenTable, extract_tokens

    def say(done: int, total: int) -> None:
        show("tokens of images", done, total)

    extract_tokens(source, folder, models, settings, identity=identity, progress=say)
    return TokenTable.open(folder)


def _click(
    labelled: LabelledSet, table: TokenTable, records: Reader[Any], model: str, clicks: int, out: Path, show: Show
) -> LabelledSet:
    from usam.predictor.load import load
    from usam.research.simulation.clicking import clicked_objects

    clicked = clicked_objects(
        table,
        records,
        lambda: load(model, heads=None),
        clicks,
        out / f"clicks-{model}.npz",
        lambda done, total: show("objects clicked on", done, total),
    )
    return labelled.with_clicks(clicked)


class _Bar:
    """A progress bar with the time left; called with (what, done, to do)."""

    def __enter__(self) -> Show:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._progress.start()
        lines: dict[int, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if total not in lines:
                lines[total] = self._progress.add_task(what, total=total)
            self._progress.update(lines[total], description=what, completed=done)

        return show

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _print(played: Played, base: Any, report: Path) -> None:
    from usam.research.simulation.report import summaries

    typer.echo(f"{'':16}{'labels':>8}{'hours':>8}{'machine IoU':>13}{'gained':>9}{'accepted':>10}{'violations':>12}")
    for row in summaries(played, base.promise.risk):
        typer.echo(
            f"{row.strategy:16}{row.labels:8.0f}{row.hours.value:8.2f}{row.machine_iou.value:13.3f}{row.gain.value:+9.3f}"
            f"{row.accepted_share.value:10.3f}{row.violations.value:12.3f}"
        )
        typer.echo(f"{'':16}{row.stop}")
    typer.echo(f"report in {report}")
