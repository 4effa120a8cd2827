"""What `score_pool` does about doubt: the larger model decodes again, alternatives are kept.

Legend: N objects of all tasks; K objects of one; H, W image in pixels.

Budgets are shares of the whole pool, tasks that are labelled by now included: what was spent on them is spent. Images
are acted on once the model has looked at all of them, so that the pool's own gaps set the thresholds; a ranking after a
retraining only scores again and waits for nothing. What a task's mask was before is kept, so that the gain in true IoU
is known as soon as somebody labels it, and an action that turns out to lose is suspended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import LabelStudioError
from backend.inference.refinement import RefinementStats, budget_of
from backend.label_studio.config import LabelConfig
from backend.label_studio.records import Annotation, Json
from backend.pool.kept_objects import read_kept
from backend.pool.proposing import ProposalPlan
from backend.pool.ranking import PoolTask
from backend.pool.refined_masks import BITS, MaskRefiner, true_gains
from backend.resources import Resources, RunProgress
from backend.store.records import KnownTask
from usam.active.refinement import GAP_OF, Action, Cost, Gain, Plan, plan_images, plan_objects

FIRST_GUESS = Cost(1.0, 0.1)
"""An encoding as ten decodings, until both were measured."""


@dataclass
class ObjectGaps:
    """The gaps of all N objects that are kept: `task` and `number` say whose, `acted` what was done already."""

    task: npt.NDArray[np.int64]
    number: npt.NDArray[np.int64]
    acted: npt.NDArray[np.int64]
    gaps: dict[str, npt.NDArray[np.float64]]


def refine_pool_if_needed(
    plan: ProposalPlan,
    pool: Sequence[KnownTask],
    progress: RunProgress,
    made: int,
    actions: Sequence[Action] = tuple(GAP_OF),
    scored: Sequence[PoolTask] = (),
) -> dict[str, Any]:
    """Take these actions, and say what was done, where there are new proposals or another budget; else what was said
    the last time. `made`: proposals made in this run; `scored`: tasks whose scores are known, which are not read again.
    """
    resources = plan.resources
    before = last_report(resources, plan.project)
    told: dict[str, Any] = {action: before[action] for action in actions if action in before}
    wanted = [action for action in actions if budget_of(resources.settings, action)]
    asked = {action: _asked(resources, action) for action in wanted}
    known = {action: told.get(action, {}).get("asked") for action in wanted}
    if plan.heads is None or not wanted or (not made and known == asked):
        return told
    return told | act_on_pool(plan, pool, progress, wanted, scored)


def act_on_pool(
    plan: ProposalPlan,
    pool: Sequence[KnownTask],
    progress: RunProgress,
    actions: Sequence[Action] = tuple(GAP_OF),
    scored: Sequence[PoolTask] = (),
) -> dict[Action, dict[str, Any]]:
    """Do for the kept proposals of unlabelled tasks what their gaps ask for, within the settings' budgets.

    Run twice it does nothing the second time. Returns the figures of each action, for the run's details.
    """
    resources, doubts = plan.resources, gather(plan, scored)
    before = last_report(resources, plan.project)
    true_gains = measured_gains(resources, plan.project, plan.controls, doubts)
    todo: dict[int, dict[Action, set[int]]] = {}
    report: dict[Action, dict[str, Any]] = {}
    open_tasks = {task.id: task for task in pool}
    for action in actions:
        budget = budget_of(resources.settings, action)
        allowed = plan_for(action, doubts, budget, cost_of(before.get(action)))
        gain = true_gains.get(action)
        suspended = gain is not None and gain.pays is False
        report[action] = {
            "budget": budget,
            "considered": len(doubts.task),
            "threshold": round(allowed.threshold, 4) if np.isfinite(allowed.threshold) else None,
            "share_of_cost": round(allowed.share, 4),
            "chosen": int(allowed.chosen.sum()),
            "suspended": suspended,
            "asked": _asked(resources, action),
            **({"true_gain": gain.figures()} if gain is not None else {}),
        }
        if suspended:
            continue
        for row in np.flatnonzero(within_budget(allowed, doubts, action, budget)):
            task = int(doubts.task[row])
            if task in open_tasks and not doubts.acted[row] & BITS[action]:
                todo.setdefault(task, {}).setdefault(action, set()).add(int(doubts.number[row]))
    refiner = MaskRefiner(plan)
    for done, (task, wanted) in enumerate(todo.items()):
        progress.step(done, len(todo), "doubts")
        refiner.refine(open_tasks[task], wanted)
    for action in actions:
        stats, earlier = refiner.stats[action], before.get(action, {})
        report[action] |= {"last": stats.figures(), "total": _total(stats, earlier.get("total", {}))}
        if action == "larger" and refiner.cost is not None:
            report[action]["cost"] = {"encode_s": refiner.cost.encode_s, "decode_s": refiner.cost.decode_s}
        elif "cost" in earlier:
            report[action]["cost"] = earlier["cost"]
    resources.store.put_refinements(plan.project, progress.id, report)
    return report


def gather(plan: ProposalPlan, scored: Sequence[PoolTask] = ()) -> ObjectGaps:
    """The gaps of everything that is kept of a project and shown, or was refined, by task in ascending order."""
    columns: dict[str, list[Any]] = {name: [] for name in ("task", "number", "acted", *GAP_OF.values())}
    known = {one.task for one in scored if one.shown is not None}
    rest = sorted(plan.resources.store.proposal_keys(plan.project).keys() - known)
    for subject in chain((one for one in scored if one.task in known), _scored(plan, rest)):
        shown = subject.shown.rows if subject.shown is not None else np.zeros(0, np.int64)
        numbers = np.union1d(shown, np.flatnonzero(subject.acted)).astype(np.int64)
        columns["task"] += [subject.task] * len(numbers)
        columns["number"] += numbers.tolist()
        columns["acted"] += subject.acted[numbers].tolist()
        for name in GAP_OF.values():
            column = subject.columns.get(name)
            columns[name] += column[numbers].tolist() if column is not None else [0.0] * len(numbers)
    order = np.argsort(np.array(columns["task"], np.int64), kind="stable")
    gaps = {name: np.array(columns[name], np.float64)[order] for name in GAP_OF.values()}
    whole = {name: np.array(columns[name], np.int64)[order] for name in ("task", "number", "acted")}
    floor = plan.resources.settings.act_gap_above
    return ObjectGaps(**whole, gaps={name: np.where(values >= floor, values, -1.0) for name, values in gaps.items()})


def _scored(plan: ProposalPlan, tasks: Sequence[int]) -> Iterator[PoolTask]:
    for batch in read_kept(plan.resources.store, plan.project, tasks):
        found = plan.scored(batch.objects.values())
        yield from (PoolTask.of(task, one) for task, one in zip(batch.objects, found, strict=True))


def plan_for(action: Action, doubts: ObjectGaps, budget: float, cost: Cost) -> Plan:
    """What the budget allows: whole images for the larger model, tasks for alternatives.

    In a task that gets alternatives, every object at or above the threshold has one.
    """
    gaps = doubts.gaps[GAP_OF[action]]
    if action == "larger":
        return plan_images(gaps, doubts.task, budget, cost)
    tasks, places = np.unique(doubts.task, return_inverse=True)
    highest = np.full(len(tasks), -np.inf)
    np.maximum.at(highest, places, gaps)
    plan = plan_objects(highest, budget)
    return Plan(plan.chosen[places] & (gaps >= plan.threshold), plan.threshold, plan.share)


def within_budget(plan: Plan, doubts: ObjectGaps, action: Action, budget: float) -> npt.NDArray[np.bool_]:
    """What of a plan may still be done, given what was done under earlier plans: (N,) flags.

    Heads change and so do plans; what is spent stays spent. The unit is the task.
    """
    done = (doubts.acted & BITS[action]) > 0
    unit = np.unique(doubts.task, return_inverse=True)[1]
    spent = set(unit[done].tolist())
    room = int(budget * (unit.max() + 1 if len(unit) else 0) + 1e-9) - len(spent)
    gaps = doubts.gaps[GAP_OF[action]]
    allowed = set(spent)
    for row in np.argsort(-gaps, kind="stable"):
        place = int(unit[row])
        if plan.chosen[row] and place not in allowed and room > 0:
            allowed.add(place)
            room -= 1
    return plan.chosen & np.isin(unit, list(allowed))


def measured_gains(resources: Resources, project: int, controls: LabelConfig, doubts: ObjectGaps) -> dict[Action, Gain]:
    """What replaced masks gained in true IoU, by action, on the tasks that people have labelled since.

    The truth of an object is the marked one that its two masks agree with best. An annotator who starts from the new
    mask may keep more of it than one who starts from nothing: a gain is an upper bound where masks are pre-annotated.
    """
    replaced = (doubts.acted & BITS["larger"]) > 0
    labelled = {one.task for one in resources.store.annotations(project) if not one.cancelled}
    tasks = sorted(labelled & set(doubts.task[replaced].tolist()))
    gains: dict[Action, list[tuple[float, int]]] = {}
    for batch in read_kept(resources.store, project, tasks):
        newest: dict[int, Annotation] = {}
        for one in sorted(resources.label_studio.annotations(project, batch.tasks), key=lambda one: one.id):
            if not one.cancelled:
                newest[one.task] = one
        for task, kept in batch.objects.items():
            if task in newest:
                for action, gain in true_gains(kept, newest[task].result, controls):
                    gains.setdefault(action, []).append((gain, task))
    return {
        action: Gain.of(np.array([gain for gain, _ in found]), np.array([task for _, task in found]))
        for action, found in gains.items()
    }


def offer_alternatives(resources: Resources, project: int, predictions: Sequence[Json]) -> int:
    """Write second predictions; returns how many. A task deleted meanwhile makes Label Studio refuse: none then."""
    if not predictions:
        return 0
    try:
        return resources.label_studio.import_predictions(project, predictions)
    except LabelStudioError as error:
        if error.status != 400:
            raise
        return 0


def last_report(resources: Resources, project: int) -> dict[str, Any]:
    """What the actions did so far, as the store keeps it."""
    return {action: state.figures() for action, state in resources.store.refinements(project).items()}


def cost_of(figures: Mapping[str, Any] | None) -> Cost:
    """The larger model's cost as an earlier run measured it, else a first guess."""
    known = (figures or {}).get("cost")
    return Cost(float(known["encode_s"]), float(known["decode_s"])) if known else FIRST_GUESS


def _asked(resources: Resources, action: Action) -> list[Any]:
    """What was asked for: another budget or model asks for more."""
    larger = resources.settings.larger_model if action == "larger" else ""
    return [budget_of(resources.settings, action), resources.settings.act_gap_above, larger]


def _total(stats: RefinementStats, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """This run and all before."""
    kept, gain = int(earlier.get("kept", 0)), float(earlier.get("predicted_gain", 0.0))
    return RefinementStats(
        stats.acted + int(earlier.get("acted", 0)),
        stats.kept + kept,
        stats.predicted_gain + gain * kept,
        stats.seconds + float(earlier.get("seconds", 0.0)),
    ).figures()
