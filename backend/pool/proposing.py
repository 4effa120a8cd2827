"""Asking the model about the tasks of a project that it has not been asked about.

The model does not wait: the next image is fetched, and what it said of the last one is drawn and kept, while it works.
What it says of a task is kept as soon as it is known, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from backend.errors import ITEM_ERRORS, reason_of
from backend.inference.intake import SourceImage
from backend.label_studio.config import LabelConfig
from backend.label_studio.records import Project
from backend.label_studio.regions import validated
from backend.pool.kept_objects import KeptObjects
from backend.pool.policy import OWN_MODEL, decoder_in_use, mask_selection_in_use
from backend.pool.proposals import LabelledObjects, draw_shown, proposal_key, propose_objects, regions_of, score_many
from backend.resources import Resources, RunProgress
from backend.store.records import KnownTask, ProposalRow, storable_text

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads

_KEPT_BEHIND = 2
"""Images whose masks may wait to be kept."""


def propose_missing(
    resources: Resources,
    known: Project,
    pool: Sequence[KnownTask],
    heads: HeadSet | None,
    learnt: ProjectHeads | None,
    controls: LabelConfig,
    progress: RunProgress,
) -> int:
    """Ask the model about every task of `pool` that it has not been asked about; returns how many."""
    store, project, settings = resources.store, known.id, resources.settings
    cached = store.proposal_keys(project)
    choice = mask_selection_in_use(resources, project, heads)
    decoder = decoder_in_use(resources, project)
    key = partial(proposal_key, choice=choice, learnt=learnt, decoder=decoder.version if decoder is not None else "")
    keys = {task.id: key(settings, known.label_config, task.data_key) for task in pool}
    missing = [task for task in pool if cached.get(task.id) != keys[task.id]]
    done = len(pool) - len(missing)
    served = {row.task for row in store.ranking(project)}

    def keep(task: KnownTask, found: LabelledObjects | Exception) -> None:
        try:
            if isinstance(found, Exception):
                raise found
            kept = KeptObjects.of(found.found, found.labels)
            (scored,) = score_many(heads, learnt, settings, [kept])
            drawings = draw_shown(scored, controls, settings, task.data)
            validated(regions_of(scored, drawings, controls, settings, task.data), 0.5, controls)
            row = kept.pack(task.id, keys[task.id], drawings)
        except ITEM_ERRORS as error:  # no key: asked again the next time
            row = ProposalRow(task.id, "", b"", {}, storable_text(reason_of(error)))
        store.put_proposal(project, row)

    keeping: deque[Future[None]] = deque()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="fetch") as ahead,
        ThreadPoolExecutor(1, thread_name_prefix="keep") as behind,
    ):
        for task, fetched in _fetch_ahead(ahead, resources, controls, missing):
            progress.step(done, len(pool), "images")
            others = []
            if task.predictions > (task.id in served):
                stored = resources.label_studio.predictions(project, [task.id])
                others = [one for one in stored if not OWN_MODEL.fullmatch(one.model_version)]
            found: LabelledObjects | Exception
            try:
                image = fetched.result()
                embedding = image.encoded_by(resources.model_with(decoder))
                behind.submit(resources.embeddings.put, image.content, settings.model, embedding, make_room=False)
                found = propose_objects(
                    resources.model_with(decoder),
                    heads,
                    embedding,
                    settings,
                    others,
                    choice,
                    controls.image_name,
                    learnt,
                )
            except ITEM_ERRORS as error:
                found = error
            keeping.append(behind.submit(keep, task, found))
            if len(keeping) > _KEPT_BEHIND:
                keeping.popleft().result()
            done += 1
        for one in keeping:
            one.result()
    return len(missing)


def _fetch_ahead(
    pool: ThreadPoolExecutor, resources: Resources, controls: LabelConfig, tasks: Sequence[KnownTask]
) -> Iterator[tuple[KnownTask, Future[SourceImage]]]:
    """Each task with its image, the next one being fetched while the model works on this one."""

    def fetch(task: KnownTask) -> SourceImage:
        file = resources.images.fetch_bytes(controls.image_value(task.data), task.id)
        return resources.source(file, resources.settings.model)

    waiting: deque[tuple[KnownTask, Future[SourceImage]]] = deque()
    for task in tasks:
        waiting.append((task, pool.submit(fetch, task)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting
