"""What the engine does about doubt, as far as the settings' budgets allow, and the count of what came of it.

The rule is `usam.active.refinement`; here is who has spent how much, and the acting itself.
Only one thread uses these objects.

Legend: P prompts; H, W image and h, w low-resolution mask in pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.metrics.service import Metrics
from backend.settings import Settings
from usam.active.mask_selection import MaskSelection
from usam.active.refinement import GAP_OF, Action, Allowance, more_points
from usam.prompts import Prompt

if TYPE_CHECKING:
    from backend.inference.model import Candidate, LoadedModel
    from backend.inference.scheduler import Steps
    from usam.heads.head_set import HeadSet
    from usam.predictor.embedding import ImageEmbedding


@dataclass
class RefinementStats:
    """What an action did so far: gaps seen, objects acted on, masks kept, predicted IoU gained by those (summed),
    seconds."""

    seen: int = 0
    acted: int = 0
    kept: int = 0
    predicted_gain: float = 0.0
    seconds: float = 0.0

    def figures(self) -> dict[str, float]:
        """For records."""
        return {
            "seen": self.seen,
            "acted": self.acted,
            "kept": self.kept,
            "predicted_gain": round(self.predicted_gain / self.kept, 4) if self.kept else 0.0,
            "seconds": round(self.seconds, 3),
        }


@dataclass
class RefinementBudget:
    """Allowances of each project and action, and the tallies over all projects."""

    settings: Settings
    metrics: Metrics
    clicks: bool = False
    """Whether somebody waits: alternatives have a budget of their own then."""
    suspended: dict[int, frozenset[str]] = field(default_factory=dict)
    """Project -> actions that its labels say lose there."""
    tallies: dict[Action, RefinementStats] = field(
        default_factory=lambda: {action: RefinementStats() for action in GAP_OF}
    )
    _allowances: dict[tuple[int, Action], Allowance] = field(default_factory=dict)

    def budget(self, action: Action) -> float:
        """Share of the objects that this action may be taken on, 0..1."""
        if action == "larger":
            return self.settings.larger_budget if self.settings.larger_model else 0.0
        if action == "points":
            return self.settings.points_budget
        return self.settings.click_alternatives_budget if self.clicks else self.settings.alternatives_budget

    def allowance(self, action: Action, project: int | None) -> Allowance:
        """The allowance of a project, made on first use."""
        key = (project or 0, action)
        if key not in self._allowances:
            self._allowances[key] = Allowance(self.budget(action), warm_up=self.settings.budget_warm_up)
        return self._allowances[key]

    def admits(self, action: Action, gap: float, project: int | None) -> bool:
        """Count a gap and say whether to act on it. Below the setting's least gap nothing is done."""
        allowance = self.allowance(action, project)
        admitted = allowance.admits(gap if gap >= self.settings.act_gap_above else min(gap, 0.0))
        self.tallies[action].seen += 1
        self.metrics.action_seen.labels(action).inc()
        if allowance.threshold < float("inf"):
            self.metrics.action_threshold.labels(action).set(allowance.threshold)
        return admitted

    def acted(self, action: Action, *, kept: bool, predicted_gain: float = 0.0, seconds: float = 0.0) -> None:
        """Count one action: whether its mask was kept, and what that changed in predicted IoU."""
        tally = self.tallies[action]
        tally.acted += 1
        tally.seconds += seconds
        self.metrics.action_taken.labels(action).inc()
        self.metrics.action_seconds.labels(action).inc(seconds)
        if kept:
            tally.kept += 1
            tally.predicted_gain += predicted_gain
            self.metrics.action_kept.labels(action).inc()
            self.metrics.action_gain.labels(action).inc(predicted_gain)


class Refiner:
    """Acts on the candidates `found` of P prompts, in place.

    The gaps of a candidate stay those of the model that is being taught, whoever made its mask: they say what that
    model has to learn.
    """

    def __init__(
        self,
        actions: RefinementBudget,
        models: Mapping[str, LoadedModel],
        found: list[Candidate],
        prompts: Sequence[Prompt],
        project: int | None,
    ) -> None:
        self._actions, self._models, self._found = actions, models, found
        self._prompts, self._project = prompts, project

    def admitted(self, action: Action) -> list[int]:
        """Which candidates to act on. With a budget of 0, or suspended, their gaps are not even counted."""
        suspended = action in self._actions.suspended.get(self._project or 0, ())
        if suspended or not self._actions.budget(action):
            return []
        gap, admits = GAP_OF[action], self._actions.admits
        told = [(i, one.scores[gap]) for i, one in enumerate(self._found) if gap in one.scores]
        return [i for i, value in told if admits(action, value, self._project)]

    def offer(self) -> None:
        """Leave the other two masks with those candidates that have to offer them, and take them from the rest."""
        offered = set(self.admitted("alternatives"))
        for place, candidate in enumerate(self._found):
            if place in offered:
                self._actions.acted("alternatives", kept=True)
            else:
                self._found[place] = replace(candidate, others=())

    def add_points(
        self,
        places: Iterable[int],
        embedding: ImageEmbedding,
        hw: tuple[int, int],
        heads: HeadSet | None,
        choice: MaskSelection,
    ) -> Steps[None]:
        """Decode again with more points inside the mask; what predicts better is kept."""
        for place in places:
            before = self._found[place]
            if not (before.logits > 0).any():
                continue
            started = time.perf_counter()
            prompt = denser(self._prompts[place], before.logits, hw)
            (again,) = self._models[before.checkpoint].decode(embedding, [prompt], heads, choice)
            self._keep(place, again, again.iou > before.iou, "points", time.perf_counter() - started)
            yield

    def ask_larger(self, chunks: Iterable[Sequence[int]], embedding: ImageEmbedding, *, fresh: bool) -> Steps[None]:
        """Decode again with the larger model; `fresh`: its embedding was made for this.

        Its mask is kept unless it predicts clearly worse of it: two models' predictions do not compare to the last
        percent.
        """
        larger = self._models[self._actions.settings.larger_model]
        encoding = larger.encode_s if fresh else 0.0
        for places in chunks:
            started = time.perf_counter()
            again = larger.decode(embedding, [self._prompts[i] for i in places], None)
            seconds = (time.perf_counter() - started) / len(places)
            for place, candidate in zip(places, again, strict=True):
                worst = self._found[place].iou - self._actions.settings.larger_margin
                keep = candidate.iou >= worst and bool((candidate.logits > 0).any())
                self._keep(place, candidate, keep, "larger", seconds + encoding)
                encoding = 0.0
            yield

    def _keep(self, place: int, again: Candidate, keep: bool, action: Action, seconds: float) -> None:
        before = self._found[place]
        self._actions.acted(action, kept=keep, predicted_gain=again.iou - before.iou, seconds=seconds)
        if keep:
            gaps = {name: value for name, value in before.scores.items() if name.endswith("_gap")}
            self._found[place] = replace(again, scores={**again.scores, **gaps}, others=before.others)


def denser(prompt: Prompt, logits: npt.NDArray[np.float32], hw: tuple[int, int]) -> Prompt:
    """The prompt with more points inside its own mask (h, w) of an image (H, W); the same ones for the same mask."""
    height, width = logits.shape
    inside = logits > 0
    seed = [int(inside.sum()), int(np.flatnonzero(inside)[0])]
    return more_points(prompt, inside, np.random.default_rng(seed), (hw[1] / width, hw[0] / height)).check(hw)
