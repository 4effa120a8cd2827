"""The job `pseudo_label`: accept masks without a person under a promise, take them back, and watch the promise.

Audit tasks are never accepted: people label them, so that the promise can be watched. What is accepted goes to Label
Studio as predictions of a version of its own, or, on request, as annotations that carry a mark; and to a folder, with a
record of each acceptance. A second time replaces the predictions of the first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import JobError, LabelStudioError
from backend.label_studio.config import LabelConfig, parse_config
from backend.label_studio.records import Json
from backend.learning.audits import (
    Audit,
    ScoredTask,
    audit_candidates,
    final_label,
    pool_candidates,
    scored_tasks,
)
from backend.pool.policy import audit_tasks, version_in_use, version_named
from backend.pool.proposals import draw_shown, object_name, regions_of
from backend.pool.proposing import ProposalPlan
from backend.pool.publication import delete_gently
from backend.pool.sharing import propose_missing
from backend.pool.tasks import refresh_tasks
from backend.resources import Resources, RunProgress
from backend.settings import Settings
from backend.store.earlier import check_same
from backend.store.pseudo_label_store import (
    ACCEPTED_VERSION,
    MARK,
    PseudoLabel,
    PseudoLabelRun,
    PseudoLabelStore,
    columns_of,
    wholly_accepted_by,
    with_provenance,
)
from backend.store.records import KnownTask
from usam.errors import PseudoLabelError
from usam.masks import without_specks
from usam.masks.export import ExportedMask, export_masks
from usam.pseudo_labels.calibration import RiskGuarantee, accept, calibrate
from usam.pseudo_labels.drift import Drift, watch

if TYPE_CHECKING:
    from backend.label_studio.client import LabelStudio

JOB = "pseudo_label"


@dataclass(frozen=True)
class Undone:
    """What was taken back. `kept` are annotations in which a person has changed something since."""

    versions: tuple[str, ...]
    annotations: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class _Pool:
    """The tasks that may be accepted and those that were audited, scored by one head set."""

    open: dict[int, ScoredTask]
    audited: dict[int, ScoredTask]
    tasks: dict[int, KnownTask]


def run(
    resources: Resources, project: int, promise: RiskGuarantee, *, as_annotations: bool = False
) -> PseudoLabelRun | None:
    """Calibrate on audit labels and accept what the promise allows; None where nothing has changed since the last time.

    Raises `PseudoLabelError`, with the number of audit labels still needed, where no promise can be given, and
    `LabelStudioError` where Label Studio does not answer.
    """
    refused: PseudoLabelError | None = None
    record: PseudoLabelRun | None = None
    watch_promise(resources, project)
    with resources.run(project, JOB) as progress:
        try:
            record = _accept(resources, project, promise, as_annotations, progress)
        except PseudoLabelError as error:
            refused = _with_audits_left(resources, project, error)
            progress.state, progress.reason = "rejected", str(refused)
            progress.details = {"needed": error.needed, "promise": asdict(promise)}
    if refused is not None:
        raise refused
    return record


def undo(resources: Resources, project: int) -> Undone:
    """Take back every mask that was accepted: predictions and annotations, those of killed runs included.

    An annotation in which a person has changed or added anything is theirs and stays. Run twice, it does nothing.
    """
    client, store = resources.label_studio, acceptances(resources)
    with resources.run(project, JOB) as progress:
        records = [one for one in store.records(project) if one.state != "undone"]
        versions = tuple(delete_gently(client, project, _accepted(client, project)))
        removed, kept = 0, []
        written = {record.version: record for record in records if record.as_annotations}
        tasks = sorted({task for record in written.values() for task in record.tasks})
        for number, task in enumerate(tasks, 1):  # one by one: each is looked at just before something of it is deleted
            for annotation in client.annotations(project, [task]):
                if wholly_accepted_by(annotation.result) in written:
                    removed += _delete(client, annotation.id)
                elif _marks(annotation.result) & written.keys():
                    kept.append(annotation.id)
            progress.step(number, len(tasks), "tasks")
        for record in records:
            store.change(project, record, "undone")
        found = Undone(versions, removed, tuple(kept))
        progress.reason = f"{len(versions)} versions and {removed} annotations taken back"
        progress.details = asdict(found)
        if not (records or versions):
            progress.state, progress.reason = "skipped", "nothing was accepted"
        elif removed:
            resources.queue.wake(project, "sync")
    return found


def watch_promise(resources: Resources, project: int) -> Drift | None:
    """Judge the promise in force by the audit labels that came since; withdraw it where they speak against it.

    None where no promise is in force. Masks that were accepted stay until they are taken back.
    """
    store = acceptances(resources)
    record = store.standing(project)
    if record is None or record.state == "withdrawn":
        return None
    known = resources.label_studio.project(project)
    controls = parse_config(known.label_config)
    heads, learnt = version_named(resources, project, record.calibration.heads)
    before = record.calibrated_on()
    tasks = [task.id for task in resources.store.tasks(project)]
    incoming = sorted(audit_tasks(resources.settings, project, tasks) - set(before.audited))
    scored = scored_tasks(resources, project, incoming, heads, learnt)
    audit = _audit(resources, project, scored, controls, record.last_label)
    found = watch(record.calibration, before, audit.candidates)
    store.change(project, record, "withdrawn" if found.withdrawn else "written", found.as_record())
    return found


def watch_in_background(resources: Resources, project: int) -> None:
    """`watch_promise` with a run record: what the queue runs after audit labels came in."""
    with resources.run(project, JOB) as progress:
        found = watch_promise(resources, project)
        progress.state = "skipped" if found is None else "rejected" if found.withdrawn else "done"
        progress.reason = "no promise is in force" if found is None else found.reason
        progress.details = {"drift": found.as_record()} if found else {}


def acceptances(resources: Resources) -> PseudoLabelStore:
    """The records of what was accepted."""
    return PseudoLabelStore.of(resources.settings)


def _with_audits_left(resources: Resources, project: int, error: PseudoLabelError) -> PseudoLabelError:
    """The refusal, and, where it asks for more audit labels than there are audit tasks, that too."""
    unlabelled = [task.id for task in resources.store.tasks(project, unlabelled=True)]
    left = len(audit_tasks(resources.settings, project, unlabelled))
    if error.needed <= left:
        return error
    remedy = f"{error.remedy}; {left} audit tasks are unlabelled: add tasks, or raise USAM_AUDIT_SHARE"
    return PseudoLabelError(error.expected, error.got, remedy, needed=error.needed)


def _accept(
    resources: Resources, project: int, promise: RiskGuarantee, as_annotations: bool, progress: RunProgress
) -> PseudoLabelRun | None:
    known = resources.label_studio.project(project)
    check_same(resources.store, resources.settings, known, JOB)
    refresh_tasks(resources.store, resources.label_studio, project)
    plan = ProposalPlan.of(resources, known)
    controls, name = plan.controls, version_in_use(resources, project, plan.heads)
    pool = _pool(plan, progress)
    store = acceptances(resources)
    standing = store.standing(project)
    after = standing.last_label if standing is not None and standing.state == "withdrawn" else 0
    audit = _audit(resources, project, pool.audited, controls, after)
    candidates = pool_candidates(pool.open.values(), controls)
    parts = [asdict(promise), as_annotations, name, audit.candidates.digest(), candidates.digest(), known.label_config]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    if standing is not None and (standing.state, standing.fingerprint) == ("written", key):
        progress.state, progress.reason = "skipped", "neither labels nor tasks have changed since the last time"
        return None
    calibration = calibrate(audit.candidates, candidates, promise, name)
    found = accept(candidates, calibration, name)
    version = f"{resources.settings.model}+{name}.pseudo-{progress.id}"
    masks = []
    for one in sorted(found, key=lambda acceptance: acceptance.place):
        task, _, number = one.name.partition("-")
        region = object_name(f"{version}/{task}", int(number))
        masks.append(PseudoLabel(int(task), int(number), (region,), one.predicted_iou, one.quality))
    record = PseudoLabelRun(
        progress.id,
        version,
        "planned",
        as_annotations,
        key,
        calibration,
        columns_of(audit.candidates),
        audit.last_label,
        tuple(masks),
    )
    store.put(project, record)
    folder = store.folder_of(project, record.run)
    _export(folder, record, pool, controls)
    written = _write(resources, project, record, pool, controls, progress)
    record = store.change(project, record, "written")
    _retire_others(resources, project, record)
    progress.reason = (
        f"{len(masks)} of {len(candidates.names)} masks accepted on {written} tasks; {calibration.failed} of "
        f"{calibration.accepted} audited ones failed, on {calibration.images} images"
    )
    progress.details = {
        "version": version,
        "as_annotations": as_annotations,
        "promise": asdict(promise),
        "threshold": calibration.threshold,
        "calibration": calibration.digest,
        "accepted": len(masks),
        "masks": len(candidates.names),
        "tasks": written,
        "left_out": len(audit.left_out),
        "folder": str(folder),
    }
    return record


def _pool(plan: ProposalPlan, progress: RunProgress) -> _Pool:
    """Open tasks that are no audits, and labelled ones that are, with the proposals that they lacked made."""
    resources, project = plan.resources, plan.project
    tasks = {task.id: task for task in resources.store.tasks(project)}
    audits = audit_tasks(resources.settings, project, sorted(tasks))
    open_ = {task.id for task in resources.store.tasks(project, unlabelled=True)} - audits
    audited = {task for task in audits if tasks[task].annotations}
    wanted = [tasks[task] for task in sorted(open_ | audited)]
    propose_missing(plan, wanted, progress)
    scored = scored_tasks(resources, project, [task.id for task in wanted], plan.heads, plan.learnt)
    return _Pool(
        {task: one for task, one in scored.items() if task in open_},
        {task: one for task, one in scored.items() if task in audited},
        tasks,
    )


def _audit(
    resources: Resources, project: int, tasks: Mapping[int, ScoredTask], controls: LabelConfig, after: int
) -> Audit:
    annotations = resources.label_studio.annotations(project, sorted(tasks)) if tasks else []
    return audit_candidates(tasks, annotations, controls, after)


def _export(folder: Path, record: PseudoLabelRun, pool: _Pool, controls: LabelConfig) -> None:
    def masks() -> Any:
        for one in record.masks:
            scored = pool.open[one.task]
            mask = without_specks(scored.objects.kept.mask(one.number))  # as it is sent
            label = final_label(scored, one.number, controls) or ""
            if mask.any():
                value = controls.image_value(pool.tasks[one.task].data)
                facts = {"predicted_iou": one.predicted_iou, "quality": one.quality, "accepted_by": record.version}
                image = value if not value.startswith("data:") else f"task-{one.task}"
                yield ExportedMask(one.task, image, str(one.number), label, mask, facts)

    info = {
        "description": "masks accepted without a person",
        "version": record.version,
        "threshold": record.calibration.threshold,
        "heads": record.calibration.heads,
        "calibration": record.calibration.digest,
        "promise": asdict(record.calibration.promise),
    }
    try:
        export_masks(folder, masks(), info)
    except OSError as error:
        raise JobError(f"room and rights to write {folder}", str(error), "free space or correct them") from error


def _write(
    resources: Resources,
    project: int,
    record: PseudoLabelRun,
    pool: _Pool,
    controls: LabelConfig,
    progress: RunProgress,
) -> int:
    """Send what was accepted to Label Studio; returns on how many tasks. Tasks deleted meanwhile are passed over."""
    client = resources.label_studio
    by_task: dict[int, list[PseudoLabel]] = {}
    for one in record.masks:
        by_task.setdefault(one.task, []).append(one)
    present = {task.id for task in client.tasks(project) if not task.annotations} & by_task.keys()
    results = {
        task: _regions(resources.settings, pool.tasks[task], pool.open[task], by_task[task], record.version, controls)
        for task in sorted(present)
    }
    if not record.as_annotations:
        items = [
            {
                "task": task,
                "result": result,
                "score": round(min(max(min(one.quality for one in by_task[task]), 0.0), 1.0), 4),
                "model_version": record.version,
            }
            for task, result in results.items()
        ]
        return client.import_predictions(project, items) if items else 0
    written = 0
    for task, result in results.items():
        try:
            client.annotate(task, result)
            written += 1
        except LabelStudioError as error:
            if error.status != 404:
                raise
        progress.step(written, len(results), "annotations")
    return written


def _regions(
    settings: Settings,
    task: KnownTask,
    scored: ScoredTask,
    masks: Sequence[PseudoLabel],
    version: str,
    controls: LabelConfig,
) -> list[Json]:
    drawings = draw_shown(scored.objects, controls, settings, task.data, scored.drawings)
    numbers, prefix = sorted(one.number for one in masks), f"{version}/{task.id}"
    made = regions_of(scored.objects, drawings, controls, settings, task.data, numbers, prefix)
    return [with_provenance(region, version) for region in made]


def _retire_others(resources: Resources, project: int, record: PseudoLabelRun) -> None:
    """Delete the predictions of earlier times, whose records say so; annotations stay."""
    client, store = resources.label_studio, acceptances(resources)
    delete_gently(client, project, _accepted(client, project, but=record.version))
    for other in store.records(project):
        if other.run != record.run and not other.as_annotations and other.state != "undone":
            store.change(project, other, "undone")


def _accepted(client: LabelStudio, project: int, but: str = "") -> dict[str, int]:
    """Versions of accepted predictions, and how many each has."""
    there = client.model_versions(project)
    return {name: count for name, count in there.items() if ACCEPTED_VERSION.fullmatch(name) and name != but}


def _delete(client: LabelStudio, annotation: int) -> bool:
    """Delete an annotation; False where somebody was faster."""
    try:
        client.delete_annotation(annotation)
    except LabelStudioError as error:
        if error.status != 404:
            raise
        return False
    return True


def _marks(result: Sequence[Json]) -> set[str]:
    metas = [region.get("meta") for region in result]
    return {str(meta.get(MARK, "")) for meta in metas if isinstance(meta, dict)}
