"""`usam-backend plan`: how many labels a project still needs, and what they will bring."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.folder import AsJson, ProjectId, open_store, print_json, settings_in_use
from usam.cli.report import Report, ReportFile, check_report

if TYPE_CHECKING:
    from backend.store.head_versions import Version
    from backend.store.records import Run


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("plan")(plan)


def plan(
    project: ProjectId,
    more: Annotated[int, typer.Option("--more", min=1, help="What so many labels more would bring.")] = 100,
    iou: Annotated[float, typer.Option(help="IoU to be promised of masks accepted without a person.")] = 0.8,
    risk: Annotated[float, typer.Option(help="Largest share of these that may miss it.")] = 0.1,
    confidence: Annotated[float, typer.Option(help="Chance, over audit labels, that this holds.")] = 0.9,
    report: ReportFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what the next labels are expected to bring, and when to stop. The web page shows it too."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from backend.learning.kept_plan import KeptPlan, KeptPlans
    from backend.learning.label_plan import plan_project
    from backend.store.head_registry import Registry
    from usam.heads.bundled import resolve_heads
    from usam.pseudo_labels.calibration import RiskGuarantee

    if report is not None:
        check_report(report)
    settings = settings_in_use()
    guarantee = RiskGuarantee(iou, risk, confidence)
    base = resolve_heads(settings.model, None if settings.heads == "none" else settings.heads)
    columns = (TextColumn("learning again"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with open_store(settings, project) as store:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("")
            planned = plan_project(
                settings,
                store,
                project,
                base,
                guarantee,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        KeptPlans(settings.data_dir).put(project, KeptPlan.of(planned))
        lines = [*planned.lines()]
        if more not in planned.plan.gains:
            lines.append(planned.plan.curve.suggestion(more))
        versions = Registry(settings.registry_dir).versions(project)
        runs = store.runs(project, "retrain", limit=3)
    if report is not None:
        _write(report, project, lines, versions, runs)
    if as_json:
        listed = [{"version": version.version, "objects": version.samples, **version.figures} for version in versions]
        print_json({"project": project, "lines": lines, "versions": listed, "runs": [asdict(run) for run in runs]})
        return
    for line in lines:
        typer.echo(line)
    for version in versions:
        figures = version.figures
        before, after = figures.get("champion_error", float("nan")), figures.get("candidate_error", float("nan"))
        typer.echo(
            f"version {version.version}: {version.samples} objects, error {before:.4f} before, {after:.4f} after, "
            f"by {figures.get('method', 'no gate')}"
        )
    for run in runs:
        typer.echo(f"training {run.id}: {run.state}; {run.reason}")


def _write(path: Path, project: int, lines: list[str], versions: list[Version], runs: list[Run]) -> None:
    page = Report(f"What the next labels will bring, project {project}")
    page.text(*lines)
    if versions:
        page.heading("Versions")
        header = ["version", "objects", "error before", "error after", "judged by"]
        names = ("champion_error", "candidate_error", "method")
        page.table(
            header, [[one.version, one.samples, *(one.figures.get(name, "") for name in names)] for one in versions]
        )
    if runs:
        page.heading("Trainings")
        page.table(["training", "state", "reason"], [[run.id, run.state, run.reason] for run in runs])
    page.write(path)
