"""What the queue runs as `pseudo_label`: what somebody asked for on the page, by a call or a command; else the watch.

A request is found in the store, never in the queue. It is done once: what came of it is noted before another is looked
at, and a job that begins again after a crash finds it still waiting; accepting and taking back are safe to do twice.
"""

from __future__ import annotations

import logging

from backend.errors import reason_of
from backend.jobs import pseudo_label
from backend.jobs.pseudo_label import JOB, Undone
from backend.resources import Resources
from backend.store.pseudo_label_store import PseudoLabelRun
from backend.store.requests import MOST_TRIES, AcceptanceRequest
from usam.errors import PseudoLabelError

_log = logging.getLogger(__name__)


def run(resources: Resources, project: int) -> None:
    """Do what waits, else watch the promise in force. To be called under the lease `pseudo_label-PROJECT`.

    Raises whatever kept a request from being done, so that the queue tries it again; a refusal is no such thing.
    """
    request = resources.store.waiting_acceptance(project)
    if request is None:
        pseudo_label.watch_in_background(resources, project)
        return
    try:
        perform(resources, project, request)
    except PseudoLabelError as error:
        _log.info("project %s: nothing is accepted: %s", project, error)


def perform(
    resources: Resources, project: int, request: AcceptanceRequest, *, tried_again: bool = True
) -> PseudoLabelRun | Undone | None:
    """Do what `request` asks for and note what came of it; None where nothing had changed since the last time.

    Raises `PseudoLabelError` where the promise cannot be kept yet, and `LabelStudioError` and others where something
    is in the way; then it waits for another try, where it is `tried_again`.
    """
    store = resources.store
    found: PseudoLabelRun | Undone | None
    store.begin_acceptance(request.id)
    try:
        if request.action == "take-back":
            found = pseudo_label.undo(resources, project)
        else:
            as_annotations = request.as_annotations
            found = pseudo_label.run(resources, project, request.promise, as_annotations=as_annotations)
    except PseudoLabelError as error:
        store.end_acceptance(request.id, "refused", str(error), error.needed)
        raise
    except BaseException as error:  # also Ctrl-C of who gave the command: no worker may do it after that
        waits = tried_again and (request.tries + 1 < MOST_TRIES or not isinstance(error, Exception))
        store.end_acceptance(request.id, "waiting" if waits else "failed", reason_of(error))
        raise
    last = store.last_run(project, JOB)
    outcome = last.reason if last is not None else ""
    if isinstance(found, Undone) and found.kept:
        outcome += f"; changed by a person since, so kept: annotations {', '.join(map(str, found.kept))}"
    store.end_acceptance(request.id, "skipped" if last is not None and last.state == "skipped" else "done", outcome)
    return found
