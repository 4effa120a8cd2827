"""A mask decoder of a project's own: from its labels to one that is judged, and samples made anew on its tokens.

Learnt are the newest annotated images that fit (`project_labels`), and mixed in are unlabelled images of the project
whose embeddings are at hand, with the masks that the checkpoint's decoder finds on them; audits are neither.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from backend.errors import ITEM_ERRORS
from backend.inference.cache import content_hash
from backend.label_studio.config import parse_config
from backend.learning.project_labels import ProjectLabels
from backend.learning.samples import to_tune
from backend.pool.policy import audit_tasks, checkpoint_key, project_seed
from backend.resources import Resources
from backend.store.records import SampleRow
from usam.errors import TrainingError

if TYPE_CHECKING:
    from usam.predictor.own_decoder import TunedDecoder
    from usam.training.decoder_tuning import DecoderVerdict, TuningImage

MIXED = 20
"""Unlabelled images that are mixed in."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class OwnDecoder:
    """A decoder that takes the place of the one in use, with all samples on its tokens; None where that one stays.
    `verdict` is None where nothing was tuned."""

    decoder: TunedDecoder | None = None
    samples: list[SampleRow] = field(default_factory=list)
    verdict: DecoderVerdict | None = None
    reason: str = ""


def tune_project(
    resources: Resources,
    project_id: int,
    tasks: Sequence[int],
    audits: Collection[int],
    in_use: TunedDecoder | None,
    on_progress: Progress | None = None,
) -> OwnDecoder:
    """Tune a decoder on the annotations of `tasks`, judged by those of `audits` among them or by images left out.

    What cannot be learnt from is left out. Raises `LabelStudioError` where Label Studio does not answer.
    """
    from usam.training.decoder_tuning import TuningSettings, tune_decoder

    settings, seed = resources.settings, project_seed(resources.settings, project_id)
    if not settings.own_decoder_seconds or settings.random_weights:
        return OwnDecoder()
    until = time.monotonic() + settings.own_decoder_seconds
    labels = ProjectLabels.of(resources, project_id, tasks)
    learnt = labels.tuning_images([task for task in labels.order if task not in audits])
    held = labels.tuning_images([task for task in labels.order if task in audits])
    mixed = _mixed_in(resources, project_id, labels, seed)
    name, sha256 = checkpoint_key(settings.model)
    try:
        decoder, verdict = tune_decoder(
            resources.model.predictor.model,
            learnt,
            held,
            mixed,
            TuningSettings(seconds=max(until - time.monotonic(), 0.0), seed=seed % 2**31),
            checkpoint=name,
            checkpoint_sha256=sha256,
            in_use=in_use,
            on_progress=on_progress,
        )
    except TrainingError as error:
        return OwnDecoder(reason=f"decoder: expected {error.expected}, got {error.got}")
    if decoder is None:
        return OwnDecoder(verdict=verdict, reason=verdict.reason)
    if not (samples := labels.samples(decoder)):
        return OwnDecoder(reason="decoder: the one in use stays, the labelled images cannot be had any more")
    return OwnDecoder(decoder, samples, verdict, verdict.reason)


def _mixed_in(resources: Resources, project_id: int, labels: ProjectLabels, seed: int) -> list[TuningImage]:
    """Unlabelled images, drawn at random, with what the checkpoint's decoder finds on them; none of audit tasks, which
    are to judge what comes of it."""
    from usam.training.decoder_tuning import distil_image

    controls, model = parse_config(labels.label_config), resources.model

    def found() -> Iterator[TuningImage]:
        for task in drawn:
            try:
                file = resources.images.fetch_bytes(controls.image_value(task.data), task.id)
                embedding = resources.embeddings.get(content_hash(file), model.name)
                if embedding is not None:
                    yield distil_image(model.predictor.model, to_tune(model, embedding), f"open {task.id}")
            except ITEM_ERRORS:
                continue

    unlabelled = resources.store.tasks(project_id, unlabelled=True)
    audits = audit_tasks(resources.settings, project_id, [task.id for task in unlabelled])
    pool = [task for task in unlabelled if task.id not in audits]
    drawn = [pool[k] for k in np.random.default_rng(seed).permutation(len(pool))[: 3 * MIXED]]
    return list(itertools.islice(found(), MIXED))
