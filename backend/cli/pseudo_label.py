"""`usam-backend pseudo-label`: what may be decided without a person, and at which risk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from backend.cli.folder import (
    AsJson,
    ProjectId,
    at_this_machine,
    check_project,
    open_label_studio,
    print_json,
    say,
    settings_in_use,
    write_down,
)

if TYPE_CHECKING:
    from backend.jobs.pseudo_label import Undone
    from backend.resources import Resources
    from backend.store.pseudo_label_store import PseudoLabelRun
    from backend.store.requests import RequestedAction


def register(app: typer.Typer) -> None:
    """Add the commands of this topic."""
    app.command("pseudo-label")(pseudo_label)


def pseudo_label(
    project: ProjectId,
    iou: Annotated[float, typer.Option(help="IoU that an accepted mask is to reach.")] = 0.8,
    risk: Annotated[float, typer.Option(help="Largest share of accepted masks that may miss it.")] = 0.1,
    confidence: Annotated[float, typer.Option(help="Chance, over audit labels, that this holds.")] = 0.9,
    per_image: Annotated[int, typer.Option(help="Most masks accepted in an image; more ask for more labels.")] = 3,
    as_annotations: Annotated[
        bool, typer.Option("--as-annotations", help="Write marked annotations, of whole images only.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back everything that was accepted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Accept masks without a person, under a risk that audit labels bear out."""
    from backend.jobs.acceptance import perform
    from backend.jobs.pseudo_label import Undone
    from backend.resources import Resources
    from backend.web.dashboard.actions import promise_words
    from usam.pseudo_labels.calibration import RiskGuarantee

    promise = RiskGuarantee(iou, risk, confidence, per_image, whole_images=as_annotations)
    settings = settings_in_use()
    open_label_studio(settings).close()  # says where its address and token could come from
    with Resources.open(settings) as resources:
        check_project(resources.store, project)
        with resources.lease(f"pseudo_label-{project}"):
            action: RequestedAction = "take-back" if undo else "accept"
            request = resources.store.request_acceptance(project, action, at_this_machine(), None if undo else promise)
            found = perform(resources, project, request, tried_again=False)
        if isinstance(found, Undone):
            write_down(settings, "take-back", project, _tell_undone(project, found, as_json))
            return
        if found is None:
            say(f"project {project}: neither annotations nor tasks have changed since the last time")
        else:
            outcome = _report(resources, project, found)
            write_down(settings, "accept", project, f"{outcome}, {promise_words(promise)}")
        if as_json:
            print_json({"project": project, "changed": found is not None, **(_facts(found) if found else {})})


def _tell_undone(project: int, taken: Undone, as_json: bool) -> str:
    outcome = f"{len(taken.versions)} versions, {taken.annotations} annotations taken back"
    say(f"project {project}: {outcome}")
    if taken.kept:
        say(f"changed by a person since, so kept: annotations {', '.join(map(str, taken.kept))}")
    if as_json:
        print_json(
            {
                "project": project,
                "versions": list(taken.versions),
                "annotations": taken.annotations,
                "kept": list(taken.kept),
            }
        )
    return outcome


def _facts(record: PseudoLabelRun) -> dict[str, Any]:
    return {
        "version": record.version,
        "masks": len(record.masks),
        "tasks": len(record.tasks),
        "threshold": record.calibration.threshold,
        "heads": record.calibration.heads,
        "audited_images": record.calibration.images,
        "audited_masks": record.calibration.accepted,
        "audited_misses": record.calibration.failed,
    }


def _report(resources: Resources, project: int, record: PseudoLabelRun) -> str:
    from backend.jobs.pseudo_label import acceptances

    found = record.calibration
    outcome = f"{len(record.masks)} masks on {len(record.tasks)} tasks accepted as {record.version}"
    say(f"project {project}: {outcome}")
    say(
        f"threshold {found.threshold:.3f}, heads {found.heads}; of {found.accepted} masks that it accepts on "
        f"{found.images} audited images {found.failed} miss IoU {found.promise.iou:g}"
    )
    say(f"masks, COCO file and record: {acceptances(resources).folder_of(project, record.run)}")
    return outcome
