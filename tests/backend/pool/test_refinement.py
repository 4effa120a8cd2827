"""Doubtful proposals are acted on within the budgets, once, and what it was good for is told by later labels."""

from __future__ import annotations

import base64
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.image_fetcher import ImageFetcher
from backend.inference.intake import SourceImage
from backend.inference.model import LoadedModel
from backend.label_studio.config import parse_config
from backend.label_studio.records import Project, Task
from backend.label_studio.regions import ScoredMask, masks_to_regions
from backend.metrics.service import Metrics
from backend.pool import refinement
from backend.pool.kept_objects import KeptObjects, read_kept
from backend.pool.proposals import propose_objects, score_many
from backend.pool.proposing import ProposalPlan
from backend.pool.ranking import PoolTask
from backend.pool.refined_masks import BITS, alternative_predictions, true_gains
from backend.pool.refinement import ObjectGaps, act_on_pool, gather, refine_pool_if_needed, within_budget
from backend.resources import Resources
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.records import ProposalRow, ScoreRow
from usam.active.refinement import plan_images
from usam.heads.bundled import resolve_heads
from usam.heads.head_set import HeadSet

CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="thing"/><Label value="other"/></BrushLabels></View>"""
CONTROLS = parse_config(CONFIG)
PROJECT, TASKS, HW = 1, 4, (60, 80)
GAPS = ("model_gap", "prompt_gap", "task_gap")


def head_set(**bias: float) -> HeadSet:
    """Random heads; `bias` moves a head's output before the sigmoid."""
    rng = np.random.default_rng(0)

    def head(name: str) -> list[tuple[Any, Any]]:
        first = rng.normal(0, 0.1, (16, 256)).astype(np.float32)
        return [(first, np.zeros(16)), (rng.normal(0, 0.1, (1, 16)), np.full(1, bias.get(name, 0.0)))]

    names = ("iou_nano_s", *GAPS)
    layers = {name: head(name) for name in names}
    return HeadSet.from_layers(layers, alignment="aligned", checkpoint="nano-s", quality="iou_nano_s")


HEADS = head_set(model_gap=0.5, prompt_gap=0.5, task_gap=0.5, iou_nano_s=-2.0)


def opposite(heads: HeadSet) -> HeadSet:
    """Heads that find high what these find low."""
    layers = {name: [*head[:-1], (-head[-1][0], head[-1][1])] for name, head in heads.layers().items()}
    return HeadSet.from_layers(layers, alignment="aligned", checkpoint="nano-s", quality="iou_nano_s")


def picture(number: int) -> np.ndarray[Any, Any]:
    image = np.random.default_rng(number).integers(0, 60, (*HW, 3), dtype=np.uint8)
    image[10 + 5 * number : 40, 20:60] = (220, 60, 40)
    return image


def address(number: int) -> str:
    out = io.BytesIO()
    Image.fromarray(picture(number)).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return LoadedModel.load("nano-s", settings(Path("unused")), Metrics(), None)


@pytest.fixture(scope="module")
def larger() -> LoadedModel:
    return LoadedModel.load("nano-m", settings(Path("unused")), Metrics(), resolve_heads("nano-m", "auto"))


def settings(folder: Path, **given: Any) -> Settings:
    wanted = {"larger_budget": 0.5, "alternatives_budget": 0.0, "larger_model": "nano-m", **given}
    return Settings(
        model="nano-s",
        heads="none",
        threads=1,
        points_per_side=3,
        pred_iou_thresh=0.0,
        max_regions=4,
        data_dir=folder,
        **wanted,
    )


@pytest.fixture(scope="module")
def proposed(model: LoadedModel) -> list[ProposalRow]:
    """What the model proposes for each task."""
    rows = []
    for number in range(1, TASKS + 1):
        source = SourceImage("", None, picture(number), partial(picture, number))
        found = propose_objects(model, HEADS, source, settings(Path("unused")))
        rows.append(found.kept.pack(number, "key", {}))
    return rows


@pytest.fixture
def place(tmp_path: Path, model: LoadedModel, larger: LoadedModel, proposed: list[ProposalRow]) -> Place:
    return Place(tmp_path, model, larger, proposed)


def plan_for(resources: Resources, heads: HeadSet | None = HEADS) -> ProposalPlan:
    known = Project.read({"id": PROJECT, "label_config": CONFIG})
    return ProposalPlan(resources, known, heads, None, CONTROLS, "predicted-iou", None)


class Place:
    """A project of four tasks in a real store, with proposals."""

    def __init__(self, folder: Path, model: LoadedModel, larger: LoadedModel, proposed: list[ProposalRow]) -> None:
        self.folder, self.model, self.larger = folder, model, larger
        self.store = Store(f"sqlite:///{folder / 'usam.db'}")
        self.store.join(PROJECT)
        seen = [Task.read({"id": n, "data": {"image": address(n)}, "updated_at": "1"}) for n in range(1, TASKS + 1)]
        self.store.record_tasks(PROJECT, seen)
        for row in proposed:
            self.store.put_proposal(PROJECT, row)

    def context(self, **given: Any) -> Resources:
        made = settings(self.folder, **given)
        resources = Resources(
            made,
            self.store,
            Registry(made.registry_dir),
            None,  # type: ignore[arg-type]  # asked only about tasks that are labelled
            ImageFetcher(made),
            None,  # type: ignore[arg-type]
        )
        resources.model, resources.larger = self.model, self.larger
        return resources

    def act(self, heads: HeadSet | None = HEADS, **given: Any) -> dict[str, Any]:
        plan = plan_for(self.context(**given), heads)
        pool = self.store.tasks(PROJECT, unlabelled=True)
        with plan.resources.run(PROJECT, "score_pool") as progress:
            return act_on_pool(plan, pool, progress)

    def kept(self) -> dict[int, KeptObjects]:
        rows = self.store.proposal_rows(PROJECT, list(range(1, TASKS + 1)))
        return {task: KeptObjects.unpack(row) for task, row in rows.items()}

    def packed(self) -> dict[int, bytes]:
        rows = self.store.proposal_rows(PROJECT, list(range(1, TASKS + 1)))
        return {task: row.arrays for task, row in rows.items()}


def test_prompts_are_kept_with_proposals(place: Place) -> None:
    kept = place.kept()[1]
    assert len(kept.prompts) == len(kept)
    decoded = place.model.outputs(place.model.encode(picture(1)), kept.prompts)
    np.testing.assert_allclose(decoded.iou_token, kept.iou_token, atol=2e-2)


def test_the_larger_model_decodes_half_of_the_images(place: Place) -> None:
    before = place.packed()
    report = place.act()
    larger, after = report["larger"], place.kept()
    acted = {task for task, kept in after.items() if kept.acted.any()}
    assert 1 <= len(acted) <= TASKS * 0.5
    assert larger["share_of_cost"] <= 0.5
    assert larger["last"]["acted"] == sum(int((after[task].acted > 0).sum()) for task in acted)
    assert larger["last"]["kept"] == sum(len(kept.larger) for kept in after.values()) > 0
    assert larger["cost"]["encode_s"] > larger["cost"]["decode_s"] > 0
    assert {task: place.packed()[task] for task in set(after) - acted} == {
        task: before[task] for task in set(after) - acted
    }, "other tasks are left alone"
    for task in acted:
        (scored,) = score_many(HEADS, None, settings(place.folder), [after[task]])
        assert set(np.flatnonzero(after[task].acted)) <= set(scored.shown.rows.tolist()), "what nobody sees waits"
        for number, better in after[task].larger.items():
            assert scored.scores(number).iou == pytest.approx(min(better.iou, 1.0))
            drawing = after[task].drawing(number, "brush", 1.5)
            assert "mask by nano-m" in scored.scored_mask(number, drawing).notes


def test_nothing_is_done_twice_or_beyond_the_budget_under_new_heads(place: Place) -> None:
    first = place.act()
    state = place.packed()
    again = place.act()
    assert again["larger"]["last"]["acted"] == 0
    assert again["larger"]["total"]["acted"] == first["larger"]["total"]["acted"] > 0
    assert place.packed() == state
    place.act(opposite(HEADS))
    assert sum(kept.acted.any() for kept in place.kept().values()) <= TASKS * 0.5


def test_alternatives_are_another_reading_of_the_same_objects(place: Place) -> None:
    report = place.act(larger_budget=0.0, alternatives_budget=0.25)
    assert report["alternatives"]["last"]["acted"] > 0
    kept = place.kept()
    (task,) = [task for task, one in kept.items() if one.acted.any()]
    rows = [ScoreRow(number, "v", 0.1, number / TASKS, number - 1, False) for number in kept]
    (second,) = alternative_predictions(plan_for(place.context()), rows, "v")
    assert (second["task"], second["score"], second["model_version"]) == (task, task / TASKS, "v")
    readings = [one for one in second["result"] if any("another reading" in text for text in one["meta"]["text"])]
    assert len(readings) == len(kept[task].alternatives) == report["alternatives"]["last"]["acted"]
    (scored,) = score_many(HEADS, None, settings(place.folder), [kept[task]])
    assert len(second["result"]) == len(scored.shown.rows)


def test_low_gaps_and_missing_heads_are_left_alone(place: Place) -> None:
    sure = head_set(model_gap=-3.0, prompt_gap=-3.0, task_gap=-3.0)
    resources = place.context()
    pool = place.store.tasks(PROJECT, unlabelled=True)
    with resources.run(PROJECT, "score_pool") as progress:
        assert refine_pool_if_needed(plan_for(resources, None), pool, progress, 4) == {}
    report = place.act(sure, larger_budget=1.0, alternatives_budget=1.0)
    assert all(report[action]["chosen"] == 0 for action in BITS)


def test_a_ranking_without_new_images_waits_for_nothing(place: Place) -> None:
    first = place.act(larger_budget=0.25)
    resources = place.context()
    first["larger"]["asked"] = [0.5, 0.0, "nano-m"]
    with resources.run(PROJECT, "score_pool") as progress:
        resources.store.put_refinements(PROJECT, progress.id, first)
    state = place.packed()
    pool = place.store.tasks(PROJECT, unlabelled=True)
    found = []
    for made in (0, 2):
        with resources.run(PROJECT, "score_pool") as progress:
            found.append(refine_pool_if_needed(plan_for(resources), pool, progress, made))
        assert place.packed() == state or made
    assert found[0] == {
        action: {name: value for name, value in figures.items() if name != "last"} for action, figures in first.items()
    }
    assert found[1]["larger"]["total"]["acted"] > first["larger"]["total"]["acted"]


def test_true_gains_are_those_of_the_marked_object(place: Place) -> None:
    place.act()
    kept = next(kept for kept in place.kept().values() if kept.larger)
    number = next(iter(kept.larger))
    (region,) = masks_to_regions([ScoredMask(kept.mask(number), 0.9, label="thing")], CONTROLS)
    found = true_gains(kept, [region], CONTROLS)
    assert found
    assert {action for action, _ in found} == {"larger"}
    assert max(gain for _, gain in found) > 0, "who marks just the new mask says that it was better"
    assert true_gains(kept, [], CONTROLS) == []


def test_what_is_spent_stays_spent() -> None:
    from usam.active.refinement import Cost

    gaps = np.array([0.4, 0.3, 0.2, 0.1])
    doubts = ObjectGaps(np.arange(4), np.zeros(4, np.int64), np.array([0, 0, 0, BITS["larger"]]), {"model_gap": gaps})
    plan = plan_images(gaps, doubts.task, 0.5, Cost(1, 0))
    assert plan.chosen.tolist() == [True, True, False, False]
    assert within_budget(plan, doubts, "larger", 0.5).tolist() == [True, False, False, False]


def test_gaps_below_the_floor_do_not_count(place: Place) -> None:
    low = gather(plan_for(place.context(act_gap_above=0.5)))
    assert (low.gaps["model_gap"] <= 0).all()
    assert (gather(plan_for(place.context())).gaps["model_gap"] > 0).any()


def test_tasks_that_are_scored_already_are_not_read_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    context, kept = place.context(), place.kept()
    whole = gather(plan_for(context))
    known = sorted(kept, reverse=True)[:-1]  # in the order of a ranking, which is another
    scores = score_many(HEADS, None, context.settings, [kept[task] for task in known])
    scored = [PoolTask.of(task, one) for task, one in zip(known, scores, strict=True)]
    read: list[int] = []
    monkeypatch.setattr(
        refinement, "read_kept", lambda store, project, tasks: (read.extend(tasks), read_kept(store, project, tasks))[1]
    )
    again = gather(plan_for(context), scored)
    assert read == [1]
    for name in ("task", "number", "acted"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    np.testing.assert_allclose(again.gaps["model_gap"], whole.gaps["model_gap"], atol=1e-5)
