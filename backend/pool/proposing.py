"""Asking the model about the tasks of a project that it has not been asked about.

The model does not wait: the next image is fetched, and what it said of the last one is drawn and kept, while it works.
What it says of a task is kept as soon as it is known, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.errors import ITEM_ERRORS, LabelStudioUnreachable, TokenError, reason_of
from backend.inference.intake import SourceImage
from backend.label_studio.config import LabelConfig, parse_config
from backend.label_studio.records import Project
from backend.label_studio.regions import validated
from backend.pool.kept_objects import KeptObjects
from backend.pool.policy import decoder_in_use, heads_in_use, is_own_version, learnt_in_use, mask_selection_in_use
from backend.pool.proposals import (
    LabelledObjects,
    ScoredObjects,
    draw_shown,
    proposal_key,
    propose_objects,
    regions_of,
    score_many,
)
from backend.resources import Resources
from backend.store.records import KnownTask, ProposalRow, storable_text
from usam.active.mask_selection import MaskSelection

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads
    from usam.predictor.own_decoder import TunedDecoder

_KEPT_BEHIND = 2
"""Images whose masks may wait to be kept."""


@dataclass(frozen=True)
class ProposalPlan:
    """By what the tasks of a project are looked at. `passed_over` says which heads could not be used."""

    resources: Resources
    known: Project
    heads: HeadSet | None
    learnt: ProjectHeads | None
    controls: LabelConfig
    selection: MaskSelection
    decoder: TunedDecoder | None
    passed_over: str = ""

    @classmethod
    def of(cls, resources: Resources, known: Project) -> ProposalPlan:
        """By what is in use now. Raises `LabelConfigError`."""
        heads, passed_over = heads_in_use(resources, known.id)
        selection = mask_selection_in_use(resources, known.id, heads)
        learnt = learnt_in_use(resources, known.id)
        decoder = decoder_in_use(resources, known.id)
        controls = parse_config(known.label_config)
        return cls(resources, known, heads, learnt, controls, selection, decoder, passed_over)

    @property
    def project(self) -> int:
        """The project's number."""
        return self.known.id

    def scored(self, kept: Collection[KeptObjects]) -> list[ScoredObjects]:
        """What is kept of tasks, with scores, in their order."""
        return score_many(self.heads, self.learnt, self.resources.settings, list(kept))

    def key(self, data_key: str = "") -> str:
        """What the proposals of a task depend on; without `data_key` what all have in common."""
        settings, decoder = self.resources.settings, self.decoder.version if self.decoder is not None else ""
        return proposal_key(settings, self.known.label_config, data_key, self.selection, self.learnt, decoder)

    def missing(self, tasks: Sequence[KnownTask], *, few: bool = False) -> list[KnownTask]:
        """Those of these tasks that the model has not been asked about; `few` asks the store about these alone."""
        only = [task.id for task in tasks] if few else None
        kept = self.resources.store.proposal_keys(self.project, only)
        return [task for task in tasks if kept.get(task.id) != self.key(task.data_key)]


def propose(plan: ProposalPlan, missing: Sequence[KnownTask], on_step: Callable[[int], None]) -> None:
    """Ask the model about these tasks, and keep what it says. `on_step` is told before each how many are through; what
    it raises ends it."""
    resources, project, settings = plan.resources, plan.project, plan.resources.settings
    heads, learnt, controls, store = plan.heads, plan.learnt, plan.controls, resources.store
    served = store.ranked_among(project, [task.id for task in missing])

    def keep(task: KnownTask, found: LabelledObjects | Exception) -> None:
        try:
            if isinstance(found, Exception):
                raise found
            kept = found.kept
            (scored,) = plan.scored([kept])
            drawings = draw_shown(scored, controls, settings, task.data)
            validated(regions_of(scored, drawings, controls, settings, task.data), 0.5, controls)
            row = kept.pack(task.id, plan.key(task.data_key), drawings)
        except (*ITEM_ERRORS, MemoryError) as error:  # no key: asked again the next time
            row = ProposalRow(task.id, "", b"", {}, storable_text(reason_of(error)))
        store.put_proposal(project, row)

    keeping: deque[Future[None]] = deque()
    with (
        ThreadPoolExecutor(1, thread_name_prefix="fetch") as ahead,
        ThreadPoolExecutor(1, thread_name_prefix="keep") as behind,
    ):
        for done, (task, fetched) in enumerate(_fetch_ahead(ahead, resources, controls, missing)):
            on_step(done)
            others = []
            found: LabelledObjects | Exception
            try:
                if task.predictions > (task.id in served):
                    stored = resources.label_studio.predictions(project, [task.id])
                    others = [one for one in stored if not is_own_version(one.model_version)]
                image = fetched.result()
                model = resources.model_with(plan.decoder)
                embedding = image.encoded_by(model)
                behind.submit(resources.embeddings.put, image.content, settings.model, embedding, make_room=False)
                found = propose_objects(
                    model, heads, image, settings, others, plan.selection, controls.image_name, learnt, embedding
                )
            except (LabelStudioUnreachable, TokenError):
                raise
            except (*ITEM_ERRORS, MemoryError) as error:
                found = error
            keeping.append(behind.submit(keep, task, found))
            if len(keeping) > _KEPT_BEHIND:
                keeping.popleft().result()
        for one in keeping:
            one.result()


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
