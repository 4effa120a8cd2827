"""`usam-backend plan`: how many labels a project still needs, and what they will bring."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.settings import Settings

ProjectId = Annotated[int, typer.Option("--project", help="Number of the Label Studio project.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("plan")(plan)


def plan(
    project: ProjectId,
    more: Annotated[int, typer.Option("--more", min=1, help="What so many labels more would bring.")] = 100,
    iou: Annotated[float, typer.Option(help="IoU to be promised of masks accepted without a person.")] = 0.8,
    risk: Annotated[float, typer.Option(help="Largest share of these that may miss it.")] = 0.1,
    confidence: Annotated[float, typer.Option(help="Chance, over audit labels, that this holds.")] = 0.9,
) -> None:
    """Say what the next labels are expected to bring, and when to stop. Changes nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from backend.learning.label_plan import plan_project
    from backend.store import Store
    from backend.store.head_registry import Registry
    from usam.checkpoints.registry import resolve_heads
    from usam.pseudo_labels.calibration import RiskGuarantee

    settings = Settings.from_environment()
    promise = RiskGuarantee(iou, risk, confidence)
    base = resolve_heads(settings.model, None if settings.heads == "none" else settings.heads)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store = Store(settings.store_url)
    columns = (TextColumn("learning again"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            line = bar.add_task("")
            found = plan_project(
                settings,
                store,
                project,
                base,
                promise,
                lambda done, total: bar.update(line, completed=done, total=total),
            )
        for said in found.lines():
            typer.echo(said)
        if more not in found.plan.gains:
            typer.echo(found.plan.curve.suggestion(more))
        for version in Registry(settings.registry_dir).versions(project):
            figures = version.figures
            before, after = figures.get("champion_error", float("nan")), figures.get("candidate_error", float("nan"))
            typer.echo(
                f"version {version.version}: {version.samples} labels, error {before:.4f} before, {after:.4f} after, "
                f"by {figures.get('method', 'no gate')}"
            )
        for run in store.runs(project, "retrain", limit=3):
            typer.echo(f"training {run.id}: {run.state}; {run.reason}")
    finally:
        store.close()
