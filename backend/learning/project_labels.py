"""People's annotations of some tasks of a project, read anew for what is learnt from images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.label_studio.records import Annotation
from backend.learning.task_images import TaskImages
from backend.resources import Resources
from backend.store.pseudo_label_store import accepting_version
from backend.store.records import KnownTask, SampleRow

if TYPE_CHECKING:
    from usam.predictor.own_decoder import TunedDecoder
    from usam.training.decoder_tuning import TuningImage

MOST_BYTES = 512 * 1024**2
"""Of embeddings that are learnt from together."""


@dataclass(frozen=True)
class ProjectLabels:
    """People's annotations of some tasks; `order` has the tasks whose labels are newest first."""

    resources: Resources
    label_config: str
    tasks: dict[int, KnownTask]
    annotations: dict[int, list[Annotation]]
    order: list[int]

    @classmethod
    def of(cls, resources: Resources, project_id: int, tasks: Sequence[int]) -> ProjectLabels:
        known = {task.id: task for task in resources.store.tasks(project_id, only=tasks)}
        found: dict[int, list[Annotation]] = defaultdict(list)
        for one in sorted(resources.label_studio.annotations(project_id, tasks), key=lambda one: one.updated_at):
            if one.task in known and one.result and not one.cancelled and not accepting_version(one.result):
                found[one.task].append(one)
        order = sorted(found, key=lambda task: found[task][-1].updated_at, reverse=True)
        config = resources.label_studio.project(project_id).label_config
        return cls(resources, config, known, dict(found), order)

    def images(self, task: int, decoder: TunedDecoder | None = None) -> TaskImages:
        return TaskImages(self.resources, self.label_config, self.tasks[task], decoder)

    def tuning_images(self, tasks: Sequence[int]) -> list[TuningImage]:
        """The newest annotation of each task, as many as fit."""
        found: list[TuningImage] = []
        for task in tasks:
            found += self.images(task).tuning_images(self.annotations[task][-1])
            if sum(image.embedding.nbytes for image in found) > MOST_BYTES:
                break
        return found

    def samples(self, decoder: TunedDecoder) -> list[SampleRow]:
        """All samples, with the tokens of a decoder."""
        rows: list[SampleRow] = []
        for task in sorted(self.annotations):
            images = self.images(task, decoder)
            for annotation in self.annotations[task]:
                rows += images.samples(annotation)[0]
        return rows
