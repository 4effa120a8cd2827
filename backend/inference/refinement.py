"""Better masks for doubtful objects, and who may still have one: the same for clicks, batches and the pool.

Two refinements: *larger*, the larger model decodes the prompt again where the model gap is high; *alternatives*,
another of the prompt's three masks is offered where the task gap is high. The rule that picks objects is
`usam.active.refinement`; here are the masks themselves, and how much each project has spent.
Only one thread uses these objects.

Legend: K objects with one prompt each; L side of the low-resolution masks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from backend.inference.model import DecodedObjects, LoadedModel, in_chunks, selected
from backend.inference.scheduler import Steps
from backend.metrics.service import Metrics
from backend.settings import Settings
from usam.active.mask_selection import MaskSelection
from usam.active.refinement import Action, Allowance
from usam.prompts import Prompt

if TYPE_CHECKING:
    from usam.heads.head_set import HeadSet
    from usam.predictor.embedding import ImageEmbedding


@dataclass(frozen=True, eq=False)
class Refinement:
    """Another mask for an object: logits (L, L), its predicted IoU and SamScore 0..1, every score that its own model's
    heads gave it. `kept`: whether it takes the first one's place; `gain` in predicted IoU; `seconds` it took."""

    logits: npt.NDArray[np.float32]
    iou: float
    samscore: float
    scores: dict[str, float]
    checkpoint: str
    gain: float
    kept: bool = True
    seconds: float = 0.0


def refine_by_larger(
    larger: LoadedModel, embedding: ImageEmbedding, prompts: Sequence[Prompt], ious: Sequence[float], settings: Settings
) -> Steps[list[Refinement]]:
    """The larger model's mask for each of K prompts whose present masks have these predicted IoUs.

    It is kept unless it is empty or predicts clearly worse of itself: two models' predictions do not compare to the
    last percent.
    """
    refined: list[Refinement] = []
    for chunk in in_chunks(list(zip(prompts, ious, strict=True)), settings.points_per_batch):
        if refined:
            yield
        started = time.perf_counter()
        masks = larger.decode(embedding, [prompt for prompt, _ in chunk])
        seconds = (time.perf_counter() - started) / len(chunk)
        for k, (_, before) in enumerate(chunk):
            gain = float(masks.iou[k]) - before
            kept = gain >= -settings.larger_margin and bool((masks.logits[k] > 0).any())
            refined.append(_row(masks, k, larger.name, gain, kept, seconds))
    return refined


def other_readings(
    model: LoadedModel,
    embedding: ImageEmbedding,
    prompts: Sequence[Prompt],
    shown: Sequence[int],
    heads: HeadSet | None,
    selection: MaskSelection,
) -> list[Refinement]:
    """For each of K prompts the best of its three masks that is not the output (1..3) which is shown now."""
    started = time.perf_counter()
    ranked = selected(model.outputs(embedding, prompts), heads, model.name, selection)
    seconds = (time.perf_counter() - started) / len(prompts)
    return [
        _row(next(masks for masks in ranked if masks.output[k] != output), k, model.name, 0.0, True, seconds)
        for k, output in enumerate(shown)
    ]


def _row(masks: DecodedObjects, k: int, checkpoint: str, gain: float, kept: bool, seconds: float) -> Refinement:
    return Refinement(
        logits=masks.logits[k],
        iou=float(masks.iou[k]),
        samscore=float(masks.samscore[k]),
        scores={name: float(values[k]) for name, values in masks.scores.items()},
        checkpoint=checkpoint,
        gain=gain,
        kept=kept,
        seconds=seconds,
    )


def budget_of(settings: Settings, action: Action) -> float:
    """Share, 0..1, of what it would cost to refine everything that this action may take."""
    if action == "larger":
        return settings.larger_budget if settings.larger_model else 0.0
    return settings.alternatives_budget


@dataclass
class RefinementStats:
    """What an action did so far: objects acted on, masks kept, predicted IoU gained by those (summed), seconds."""

    acted: int = 0
    kept: int = 0
    predicted_gain: float = 0.0
    seconds: float = 0.0

    def add(self, refinement: Refinement, *, kept: bool) -> None:
        """Count one refinement, and whether its mask was kept in the end."""
        self.acted += 1
        self.seconds += refinement.seconds
        if kept:
            self.kept += 1
            self.predicted_gain += refinement.gain

    def figures(self) -> dict[str, Any]:
        """For records; the predicted gain is the mean of the masks kept."""
        mean = round(self.predicted_gain / self.kept, 4) if self.kept else 0.0
        return {"acted": self.acted, "kept": self.kept, "predicted_gain": mean, "seconds": round(self.seconds, 3)}


@dataclass
class RefinementBudget:
    """How much of the larger model each project has spent, as its objects come in one by one."""

    settings: Settings
    metrics: Metrics
    suspended: dict[int, frozenset[str]] = field(default_factory=dict)
    """Project -> actions that its labels say lose there."""
    _allowances: dict[int, Allowance] = field(default_factory=dict)

    def allowance(self, project: int | None) -> Allowance:
        """The allowance of a project, made on first use."""
        if (project or 0) not in self._allowances:
            budget = budget_of(self.settings, "larger")
            self._allowances[project or 0] = Allowance(budget, warm_up=self.settings.budget_warm_up)
        return self._allowances[project or 0]

    def is_open(self, project: int | None) -> bool:
        """Whether the project may use the larger model at all."""
        return bool(budget_of(self.settings, "larger")) and "larger" not in self.suspended.get(project or 0, ())

    def admit(self, objects: DecodedObjects, project: int | None) -> list[int]:
        """Which of K objects to refine; every gap is counted. Below the setting's least gap nothing is done."""
        gaps = objects.scores.get("model_gap")
        if gaps is None or not self.is_open(project):
            return []
        return [k for k, gap in enumerate(gaps.tolist()) if self._admits(gap, project)]

    def would_admit(self, objects: DecodedObjects, project: int | None) -> bool:
        """Whether any of these objects is one for the larger model, without counting it."""
        gaps = objects.scores.get("model_gap")
        if gaps is None or not self.is_open(project):
            return False
        return bool((gaps >= max(self.allowance(project).threshold, self.settings.act_gap_above)).any())

    def record(self, refinements: Sequence[Refinement]) -> None:
        """Count what was done."""
        for refinement in refinements:
            self.metrics.action_taken.labels("larger").inc()
            self.metrics.action_seconds.labels("larger").inc(refinement.seconds)
            if refinement.kept:
                self.metrics.action_kept.labels("larger").inc()
                self.metrics.action_gain.labels("larger").inc(refinement.gain)

    def _admits(self, gap: float, project: int | None) -> bool:
        allowance = self.allowance(project)
        admitted = allowance.admits(gap if gap >= self.settings.act_gap_above else min(gap, 0.0))
        self.metrics.action_seen.labels("larger").inc()
        if allowance.threshold < float("inf"):
            self.metrics.action_threshold.labels("larger").set(allowance.threshold)
        return admitted
