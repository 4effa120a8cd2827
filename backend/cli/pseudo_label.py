"""`usam-backend pseudo-label`: what may be decided without a person, and at which risk."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from backend.settings import Settings

if TYPE_CHECKING:
    from backend.resources import Resources
    from backend.store.pseudo_label_store import PseudoLabelRun

ProjectId = Annotated[int, typer.Option("--project", help="Number of the Label Studio project.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("pseudo-label")(pseudo_label)


def pseudo_label(
    project: ProjectId,
    iou: Annotated[float, typer.Option(help="IoU that an accepted mask is to reach.")] = 0.9,
    risk: Annotated[float, typer.Option(help="Largest share of accepted masks that may miss it.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="Chance, over audit labels, that this holds.")] = 0.9,
    per_image: Annotated[int, typer.Option(help="Most masks accepted in an image; more ask for more labels.")] = 3,
    as_annotations: Annotated[
        bool, typer.Option("--as-annotations", help="Write marked annotations, of whole images only.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back everything that was accepted.")] = False,
) -> None:
    """Accept masks without a person, under a risk that audit labels bear out."""
    from backend.jobs.pseudo_label import run
    from backend.resources import Resources
    from usam.pseudo_labels.calibration import RiskGuarantee

    promise = RiskGuarantee(iou, risk, confidence, per_image, whole_images=as_annotations)
    with Resources.open(Settings.from_environment()) as resources, resources.lease(f"pseudo_label-{project}"):
        if undo:
            _undo(resources, project)
            return
        record = run(resources, project, promise, as_annotations=as_annotations)
        if record is None:
            _say(f"project {project}: neither labels nor tasks have changed since the last time")
        else:
            _report(resources, project, record)


def _undo(resources: Resources, project: int) -> None:
    from backend.jobs.pseudo_label import undo

    taken = undo(resources, project)
    _say(f"project {project}: {len(taken.versions)} versions, {taken.annotations} annotations taken back")
    if taken.kept:
        _say(f"changed by a person since, so kept: annotations {', '.join(map(str, taken.kept))}")


def _report(resources: Resources, project: int, record: PseudoLabelRun) -> None:
    from backend.jobs.pseudo_label import acceptances

    found = record.calibration
    _say(f"project {project}: {len(record.masks)} masks on {len(record.tasks)} tasks accepted as {record.version}")
    _say(
        f"threshold {found.threshold:.3f}, heads {found.heads}; of {found.accepted} masks that it accepts on "
        f"{found.images} audited images {found.failed} miss IoU {found.promise.iou:g}"
    )
    _say(f"masks, COCO file and record: {acceptances(resources).folder_of(project, record.run)}")


def _say(line: str) -> None:
    typer.echo(f"{time.strftime('%H:%M:%S')}  {line}", err=True)
