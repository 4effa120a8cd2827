"""What is answered to `/predict`, `/setup` and `/versions`: from Label Studio's words to the engine and back.

Two ways in. *Interactive*: somebody clicked and waits; the context's prompts are decoded, one region each.
*Batch*: tasks nobody has prompted; prompts come from boxes or points that another model left on the task,
else from a grid. One task that fails harms no other: its item is empty, says why, and has a finite score.
"""

from __future__ import annotations

import bisect
import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from backend.errors import EngineBusy, EngineStopped, reason_of
from backend.image_fetcher import ImageFetcher
from backend.inference.engine import NO_HEADS, Engine
from backend.inference.object_masks import ObjectMask, ProposedMasks
from backend.inference.scheduler import Priority
from backend.label_studio.messages import PredictAnswer, Prediction, PredictRequest, Task
from backend.label_studio.regions import (
    LabelledPrompt,
    ScoredMask,
    masks_to_regions,
    parse_config,
    prompts_from_context,
    prompts_from_task,
    validated,
)
from backend.metrics.service import Metrics
from backend.pool.mask_selection import mask_choice
from backend.pool.policy import is_own_version, strategy_for, usable_decoder
from backend.pool.ranking import PoolTask, acquisition_of
from backend.settings import Settings
from backend.store.database import STORE_ERRORS
from backend.store.records import ScoreRow
from usam.errors import UsamError

if TYPE_CHECKING:
    from backend.store import Store
    from backend.store.head_registry import Registry

STEEPNESS = 4.0
"""How fast confidence falls with acquisition: a gap of 0.25 moves it from 0.5 to 0.27."""
NOTHING_TO_ASK = 1.0
"""Confidence of a task that failed: no person can help with it, so it is served last."""
CACHE_TTL_S = 30.0
"""How long a ranking and a choice are kept before they are read again."""
log = logging.getLogger(__name__)


class PredictionService:
    """Answers requests with an engine. Safe to share between threads; blocks its caller."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        fetcher: ImageFetcher,
        metrics: Metrics,
        registry: Registry | None = None,
        served: Store | None = None,
    ) -> None:
        self._settings, self._engine, self._fetcher, self._metrics = settings, engine, fetcher, metrics
        self._registry, self._served = registry, served
        if served is not None:
            metrics.show_pool(served)
        self._lock = threading.Lock()
        self._in_use: dict[int, str] = {}
        self._places: dict[int, Places] = {}
        self._selected_at: dict[int, float] = {}
        self._served_before: dict[int, str] = {}

    def model_version(self, project: int | None) -> str:
        """The version that a project's predictions carry: checkpoint and heads in use, and the ranking if it adds one.

        Changes nothing. Raises `EngineBusy` while the heads are being read.
        """
        version = self._champion_while_loading(project) or self._engine.model_version(project)
        served = self._served_version(project) if project is not None else ""
        return served if served and served.startswith(version) else version

    def _served_version(self, project: int) -> str:
        """The version of the ranking in use; the one told last while the store does not answer."""
        if self._served is None:
            return ""
        try:
            served = self._served_before[project] = self._served.served(project)
        except STORE_ERRORS as error:
            log.warning("the version of project %s is the one told last: %s", project, reason_of(error))
            return self._served_before.get(project, "")
        return served

    def versions(self, project: int | None = None) -> list[str]:
        """Versions that can be had, the one in use first."""
        versions = [self.model_version(project)]
        if self._registry is not None and project is not None:
            try:
                stored = self._registry.versions(project)
            except UsamError as error:
                log.warning("the versions of project %s are not told: %s", project, error)
                stored = []
            versions += [f"{self._engine.checkpoint}+{version.version}" for version in reversed(stored)]
        elif self._registry is not None:
            versions += [self._engine.model_version(other) for other in sorted(self._in_use)]
        return list(dict.fromkeys(versions))

    def _champion_while_loading(self, project: int | None) -> str:
        """The version that the registry names, without reading its heads: that needs torch, which loads too."""
        if self._registry is None or project is None or self._engine.state != "loading":
            return ""
        try:
            current = self._registry.current(project)
        except UsamError:
            return ""
        return f"{self._engine.checkpoint}+{current.version}" if current is not None else ""

    def refresh_heads(self, project: int | None) -> None:
        """Let the engine use what the registry's pointer and the project's records name now: heads, mask selection,
        suspended refinements.

        Nothing is done while the model loads. Heads that cannot be read leave those in use.
        """
        if self._registry is None or project is None or self._champion_while_loading(project):
            return
        self._refresh_selection(project)
        with self._lock:
            name = ""
            try:
                name = self._registry.champion(project)
                if name == self._in_use.get(project, ""):
                    return
                heads = self._registry.load(project, name) if name else None
                learnt = self._registry.load_learnt(project, name) if name else None
                decoder, _ = usable_decoder(self._registry, project, name, self._settings)
                self._engine.set_heads(project, heads, learnt, name, decoder)
            except (UsamError, OSError) as error:
                log.warning("version %r of project %s is not used: %s", name, project, error)
                return
            self._in_use[project] = name
            self._selected_at.pop(project, None)
            self._metrics.version.clear()
            for other in self._in_use:
                self._metrics.version.labels(self._engine.model_version(other)).set(1)

    def _refresh_selection(self, project: int) -> None:
        """Let the engine choose masks and refine as the project's labels found best; read every half minute."""
        if self._served is None or time.monotonic() - self._selected_at.get(project, -CACHE_TTL_S) < CACHE_TTL_S:
            return
        base, own = self._engine.heads(), self._engine.heads(project)
        if base is None and own is None:
            return
        self._selected_at[project] = time.monotonic()
        versions = [heads.version if heads is not None else NO_HEADS for heads in (own, base)]
        try:
            states = self._served.refinements(project)
            self._engine.suspend(project, [name for name, state in states.items() if state.suspended])
            self._engine.set_mask_selection(project, mask_choice(self._settings, self._served, project, *versions))
        except (UsamError, *STORE_ERRORS) as error:
            log.warning("how masks of project %s are chosen is not known: %s", project, reason_of(error))

    def predict(self, request: PredictRequest) -> PredictAnswer:
        """Exactly one item a task, in their order.

        Raises `EngineBusy` and `EngineStopped` for the request as a whole, so that Label Studio stores
        nothing and asks again; whatever else goes wrong is said in the task's item.
        """
        project = request.project_id
        self.refresh_heads(project)
        version = self.model_version(project)
        deadline = time.monotonic() + self._settings.wait_seconds
        results = []
        for raw in request.tasks:
            try:
                if time.monotonic() > deadline:
                    raise EngineBusy(
                        f"an answer within {self._settings.wait_seconds:g} s",
                        f"{len(request.tasks)} tasks in one request",
                        "rank the pool instead, or select fewer tasks",
                    )
                result, score = self._one(request, Task.model_validate(raw), project)
                results.append(Prediction(result=result, score=score, model_version=version))
                self._metrics.tasks.labels("predicted").inc()
            except EngineStopped:
                raise
            except EngineBusy:
                if not results:
                    raise
                results.append(self._failed("the engine is busy; ask again for this task", version))
            except ValidationError as error:
                results.append(self._failed(f"the task is malformed: {error.errors()[0]['msg']}", version))
            except UsamError as error:
                results.append(self._failed(str(error), version))
            except Exception:
                log.exception("a task failed")
                results.append(self._failed("an error inside the service; its log says more", version))
        return PredictAnswer(results=results)

    def _failed(self, reason: str, version: str) -> Prediction:
        self._metrics.tasks.labels("failed").inc()
        log.info("no prediction: %s", reason)
        return Prediction(result=[], score=NOTHING_TO_ASK, model_version=version, reason=reason)

    def _one(self, request: PredictRequest, task: Task, project: int | None) -> tuple[list[dict[str, Any]], float]:
        controls = parse_config(request.label_config).for_result(request.params.context.result)
        address, priority = controls.image_value(task.data), Priority.CLICK if request.interactive else Priority.BATCH
        with self._engine.image(address, lambda: self._fetcher.fetch_bytes(address, task.id), priority) as image:
            if request.interactive:
                prompts = prompts_from_context(request.params.context.result, image.hw)
                objects = self._engine.click(image, [labelled.prompt for labelled in prompts], project)
                score = float(np.mean([one.iou for one in objects])) if objects else 0.0
            else:
                others = [one for one in task.predictions if not is_own_version(str(one.get("model_version")))]
                prompts = prompts_from_task(others, image.hw, controls.image_name)
                found = self._engine.propose(image, [labelled.prompt for labelled in prompts], project)
                objects = found.masks
                score = self._confidence(found, task.id or 0, project)
        masks = [self._scored(one, prompts[one.source] if prompts else None) for one in objects]
        result = masks_to_regions(
            masks,
            controls,
            tolerance=self._settings.polygon_tolerance,
            data=task.data,
            unknown_label=self._settings.unknown_label,
        )
        return validated(result, score, controls), score

    def _confidence(self, found: ProposedMasks, task: int, project: int | None) -> float:
        """Confidence 0..1 of an image, lower = served first, on the scale of the project's ranking.

        A task of the ranking has the confidence of its place there. Another task gets that of the place where its
        acquisition would stand. Without a ranking it falls with the acquisition, and a ranking will replace it.
        """
        heads = self._engine.heads(project)
        strategy, _ = strategy_for(self._settings, heads)
        objects, rows = found.candidates.objects, found.shown.rows
        columns = {**objects.scores, "samscore": objects.samscore}
        covered = (objects.logits[rows] > 0).any(0).mean() if len(rows) else 0.0
        subject = PoolTask(task, columns, objects.iou, found.shown, uncovered=1.0 - float(covered))
        quality = (heads.quality_for(self._engine.checkpoint) if heads is not None else "") or ""
        try:
            acquisition = acquisition_of(subject, strategy, quality, self._settings)
        except UsamError:
            acquisition = acquisition_of(subject, "samscore", quality, self._settings)
        places = self._ranking(project)
        if places is not None and places.confidences:
            return places.confidence(task, acquisition)
        return 1.0 / (1.0 + math.exp(STEEPNESS * acquisition))

    def _ranking(self, project: int | None) -> Places | None:
        """The ranking that is served, read again at most every half minute and when another is served."""
        if self._served is None or project is None:
            return None
        version = self._served_version(project)
        known = self._places.get(project)
        if known is None or known.version != version or time.monotonic() - known.read_at > CACHE_TTL_S:
            try:
                known = Places.of(version, self._served.ranking(project) if version else ())
            except STORE_ERRORS as error:
                log.warning("the ranking of project %s is not read: %s", project, reason_of(error))
                return known
            self._places[project] = known
        return known

    def _scored(self, mask: ObjectMask, prompt: LabelledPrompt | None) -> ScoredMask:
        notes = (f"mask by {mask.checkpoint}",) if mask.checkpoint != self._engine.checkpoint else ()
        if prompt is None or prompt.label is None:
            return ScoredMask(mask.mask, mask.iou, mask.gaps, mask.label, notes, mask.label_score)
        further, told_by = prompt.labels[1:], prompt.told_by
        return ScoredMask(mask.mask, mask.iou, mask.gaps, prompt.label, notes, further_labels=further, told_by=told_by)


@dataclass(frozen=True)
class Places:
    """A ranking as it is served: each task's confidence, and all acquisitions, the lowest first."""

    version: str
    confidences: dict[int, float]
    acquisitions: list[float]
    read_at: float

    @classmethod
    def of(cls, version: str, rows: Sequence[ScoreRow]) -> Places:
        """From the rows of a ranking."""
        found = {row.task: row.confidence for row in rows}
        return cls(version, found, sorted(row.acquisition for row in rows), time.monotonic())

    def confidence(self, task: int, acquisition: float) -> float:
        """Of a task of the ranking, or of one whose acquisition is compared with theirs: in (0, 1], lower = first."""
        if task in self.confidences:
            return self.confidences[task]
        ahead = len(self.acquisitions) - bisect.bisect_left(self.acquisitions, acquisition)
        return (ahead + 1.0) / (len(self.acquisitions) + 1.0)
