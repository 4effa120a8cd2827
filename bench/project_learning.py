"""What a project learns from its labels, replayed on proposals and features that are made once (`bench.pools`).

Objects of any size count. COCO and nuclei: images to label are drawn from the part that the nano family was trained on,
figures are taken on the rest, which neither it nor any choice of this code has seen. Pets: the images that were not
labelled. Five draws; intervals are over the images that figures are taken on, all draws together. A proposal shows an
object from an IoU of 0.5 on, one to one. USAM_BENCH_MODEL names another model than nano-m, of
which only what is shown and the labels are measured. USAM_BENCH_GRID=default measures COCO alone, as the default grid
sees it, which takes minutes and not hours: no image is looked at in parts. USAM_BENCH_ONLY=nuclei measures
what is shown of that data set alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.class_labels import DRAWS, EIGHT, label_accuracy
from bench.pools import MODEL, SIDE, PoolImage, named, pool_images, seen_by
from bench.rows import Row

ONLY = os.environ.get("USAM_BENCH_ONLY", "")
CHOOSE_GRID = os.environ.get("USAM_BENCH_GRID", "chosen") != "default"
LARGE = 0.01
"""Share of the image from which on an object counts as large."""
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Project:
    """Images of a set that show something of `wanted` (None: whatever is labelled); so many are labelled."""

    name: str
    dataset: str
    wanted: tuple[str, ...] | None
    labelled: int
    by_part: bool


PROJECTS = (
    Project("person on COCO", "coco", ("person",), 20, True),
    Project("8 classes on COCO", "coco", EIGHT, 20, True),
    Project("pets", "pets", None, 13, False),
    Project("nuclei", "nuclei", None, 20, True),
)
AFTER_50 = Project("8 classes on COCO", "coco", EIGHT, 50, True)
NUCLEI_AFTER_10 = Project("nuclei", "nuclei", None, 10, True)


def run() -> list[Row]:
    """All figures."""
    if ONLY:
        chosen = [project for project in (*PROJECTS, NUCLEI_AFTER_10, AFTER_50) if project.dataset == ONLY]
        return named([row for project in chosen for row in _shown(project)])
    rows: list[Row] = []
    if not CHOOSE_GRID:
        few = (replace(project, labelled=labelled) for labelled in (5, 10) for project in PROJECTS[:2])
        for project in (*few, *PROJECTS[:2], AFTER_50):
            rows += _shown(project)
        return named(rows + label_accuracy(50, 0.75) + label_accuracy(400, 0.85))
    for project in PROJECTS:
        rows += _shown(project)
    rows += _shown(NUCLEI_AFTER_10)
    rows += _shown(AFTER_50)
    rows += label_accuracy(50, 0.75) + label_accuracy(400, 0.85)
    for dataset in ("coco", "bsds500", "nuclei") if MODEL == "nano-m" else ():
        rows += _clean(dataset)
    return [*rows, *_tuned(8), *_tuned(16)] if MODEL == "nano-m" else named(rows)


def project_images(project: Project) -> list[PoolImage]:
    images = pool_images(project.dataset, {"bsds500": 100}.get(project.dataset))
    return [image for image in images if wanted_of(project, image).any()]


def wanted_of(project: Project, image: PoolImage) -> Flags:
    return np.array([project.wanted is None or name in project.wanted for name in image.categories])


def _draw(project: Project, images: Sequence[PoolImage], draw: int) -> tuple[list[PoolImage], list[PoolImage]]:
    """Images to label and images to take figures on."""
    order = np.random.default_rng(draw).permutation(len(images))
    if project.by_part:
        train = [images[index] for index in order if images[index].part == "train"]
        return train[: project.labelled], [image for image in images if image.part != "train"]
    return [images[i] for i in order[: project.labelled]], [images[i] for i in order[project.labelled :]]


def _examples(project: Project, images: Sequence[PoolImage]) -> Any:
    from usam.objects.project_heads import Examples

    features, shapes, names, regions, labels, overlaps, proposed = [], [], [], [], [], [], []
    for image in images:
        wanted, rows = np.flatnonzero(wanted_of(project, image)), image.candidates
        overlap = image.overlap[rows][:, wanted]
        nearest, best = wanted[overlap.argmax(1)] if len(rows) else wanted[:0], overlap.max(1, initial=0.0)
        features += [image.features[rows], image.true_features[wanted]]
        shapes += [image.shapes[rows], image.true_shapes[wanted]]
        names += [image.name] * (len(rows) + len(wanted))
        regions += [f"{image.name}/{index}" for index in (*nearest, *wanted)]
        near = [(image.categories[i],) if iou >= 0.5 else () for i, iou in zip(nearest, best, strict=True)]
        labels += [*near, *((image.categories[index],) for index in wanted)]
        overlaps += [best, np.ones(len(wanted))]
        proposed += [np.ones(len(rows), bool), np.zeros(len(wanted), bool)]
    parts = [np.concatenate(part) for part in (features, shapes, overlaps, proposed)]
    return Examples(parts[0], parts[1], names, regions, labels, parts[2], parts[3])


@dataclass
class Counts:
    """Of one image, draws added up: objects shown, wanted ones among them, right labels among those, wanted objects,
    those that all proposals hold, seconds of work as the service leaves it, and without any machine, and with labels
    aside; wanted objects of over and under 1 % of the image, and those of them that were shown."""

    shown: float = 0
    kept: float = 0
    right: float = 0
    objects: float = 0
    held: float = 0
    seconds: float = 0
    by_hand: float = 0
    outlines_by_hand: float = 0
    large: float = 0
    large_kept: float = 0
    small: float = 0
    small_kept: float = 0


def _count(project: Project, image: PoolImage, rows: Indices, labels: Sequence[str | None], into: Counts) -> None:
    from usam.objects.effort import Prices, count_work

    wanted = wanted_of(project, image)
    partner = image.partner(rows, wanted)
    hit = partner >= 0
    iou = np.array(
        [image.overlap[row, column] if column >= 0 else 0.0 for row, column in zip(rows, partner, strict=True)]
    )
    right = np.array(
        [column >= 0 and image.categories[column] == label for column, label in zip(partner, labels, strict=True)], bool
    )
    into.shown += len(rows)
    into.kept += int(hit.sum())
    into.right += int(right.sum())
    into.objects += int(wanted.sum())
    large, found = image.areas >= LARGE, np.isin(np.arange(len(wanted)), partner[hit])
    into.large += int((wanted & large).sum())
    into.large_kept += int((found & large).sum())
    into.small += int((wanted & ~large).sum())
    into.small_kept += int((found & ~large).sum())
    into.held += int((image.partner(image.candidates, wanted) >= 0).sum())
    by_hand = Prices.by_hand()
    into.seconds += count_work(partner, iou, right, int(wanted.sum()), good_iou=0.5).seconds(by_hand)
    into.by_hand += int(wanted.sum()) * by_hand.add
    outlines = count_work(partner, iou, np.ones(len(rows), bool), int(wanted.sum()), good_iou=0.5)
    into.outlines_by_hand += outlines.seconds(by_hand)


def _shown(project: Project) -> list[Row]:
    """What is shown after some labelled images: as release 0.1 did, a random choice of as many, and the learnt one."""
    images = project_images(project)
    learnt, before, random = ({image.name: Counts() for image in images} for _ in range(3))
    rngs = [np.random.default_rng(draw) for draw in range(DRAWS)]
    for draw, image, seen, kept, names in shown_learnt(project, images, CHOOSE_GRID):
        _count(project, seen, kept, names, learnt[image.name])
        first = (project.wanted or (images[0].categories[0],))[0]
        drawn = rngs[draw].permutation(image.candidates)[: len(kept)]
        _count(project, image, drawn, [first] * len(drawn), random[image.name])
        now = image.shown_before()
        _count(project, image, now, [first] * len(now), before[image.name])
    what = f"{project.name}, after {project.labelled} labelled images" + ("" if CHOOSE_GRID else ", default grid")
    few, asked = project.labelled <= 20, project.labelled in (13, 20)
    rows_made: list[Row] = []
    for way, counts in ((learnt, "learnt"), (before, "release 0.1"), (random, "random")):
        ours = counts == "learnt"
        held, recall = _ratio(way, "kept", "held"), _ratio(way, "kept", "objects")
        sizes = [_share(way, size) for size in ("large", "small")]
        note = f"recall {recall[0]:.3f}, {_mean_recall(way):.3f} as a mean over images, "
        note += f"{held[0]:.2f} of that of all proposals, "
        note += f"{sizes[0]:.2f} / {sizes[1]:.2f} of objects over / under 1 % of the image; "
        rows_made.append(
            _row(f"{what}, shown objects that are wanted, {counts}", _ratio(way, "kept", "shown"), "share",
                 ">= 0.55" if ours and asked else "", note)
        )  # fmt: skip
        if project.wanted == EIGHT:
            rows_made.append(
                _row(f"{what}, masks deleted for each one kept, {counts}", _ratio(way, "shown", "kept", -1.0), "ratio",
                     "<= 1" if ours and asked else "", note)
            )  # fmt: skip
            rows_made.append(
                _row(
                    f"{what}, right labels among wanted objects shown, {counts}", _ratio(way, "right", "kept"), "share"
                )
            )
        if not few:
            rows_made.append(
                _row(f"{what}, effort, {counts}", _ratio(way, "seconds", "by_hand"), "ratio of seconds",
                     "<= 0.5" if ours else "", "against drawing every object; what is missing is drawn by hand; ")
            )  # fmt: skip
    return rows_made


def shown_learnt(
    project: Project, images: Sequence[PoolImage], choose_grid: bool = True, **priced: Any
) -> Iterator[tuple[int, PoolImage, PoolImage, Indices, list[str | None]]]:
    """Of each draw what it labelled taught, image by image that it did not label: number of the draw, the image, the
    image as the chosen grid sees it (or the default one), and the rows and labels shown of that. `priced`: what else
    `fit_project` is told."""
    from backend.inference.model import CANDIDATES, ProposalGrid
    from usam.objects.project_heads import fit_project

    classes = project.wanted or (images[0].categories[0],)
    for draw in range(DRAWS):
        labelled, rest = _draw(project, images, draw)
        examples = _examples(project, labelled)
        heads = fit_project(examples, classes, features_version="bench", checkpoint=MODEL, **priced)
        grid = _grid(project, heads, labelled, classes) if choose_grid else ProposalGrid(SIDE, CANDIDATES, 1)
        for image, seen in zip(rest, _looked_at(project, grid, rest), strict=True):
            yield draw, image, seen, *seen.shown_by(heads, grid.most)


def _looked_at(project: Project, grid: Any, images: Sequence[PoolImage]) -> list[PoolImage]:
    """These images of a project as a grid sees them."""
    if (grid.points_per_side, grid.tiles) == (SIDE, 1):
        return list(images)
    return seen_by(project.dataset, [image.name for image in images], grid.points_per_side, grid.tiles)


def _grid(project: Project, heads: Any, labelled: Sequence[PoolImage], classes: Sequence[str]) -> Any:
    """The grid that the service would choose by the work that it leaves on labelled images, shown by what the others
    taught (`with_grid`)."""
    from backend.learning.grid_choice import LOOKED_AT, cheapest_good, grids_to_try
    from backend.settings import Settings
    from usam.objects.project_heads import fit_project

    grids, seconds, looked = grids_to_try(Settings(model=MODEL), heads), [], min(LOOKED_AT, len(labelled) // 2)
    if len(grids) == 1:
        return grids[0]
    others = fit_project(_examples(project, labelled[looked:]), classes, features_version="bench", checkpoint=MODEL)
    for grid in grids if others.selector is not None else ():
        total = Counts()
        for image in _looked_at(project, grid, labelled[:looked]):
            rows, names = image.shown_by(others, grid.most)
            _count(project, image, rows, names, total)
        seconds.append(total.outlines_by_hand)
    return grids[cheapest_good(seconds) if seconds else 1]


Figure = tuple[float, float, float, int]


def _mean_recall(counts: dict[str, Counts]) -> float:
    """The share of its wanted objects that an image shows, each image counted once however many it has."""
    return float(np.mean([each.kept / each.objects for each in counts.values() if each.objects]))


def _share(counts: dict[str, Counts], size: str) -> float:
    """The share of the wanted objects of a size ("large" or "small") that is shown."""
    return sum(getattr(each, f"{size}_kept") for each in counts.values()) / max(
        sum(getattr(each, size) for each in counts.values()), 1
    )


def _ratio(counts: dict[str, Counts], top: str, bottom: str, plus: float = 0.0) -> Figure:
    """Sum over sum, plus a constant, with its 95 % interval over images, and their number."""
    used = [each for each in counts.values() if each.objects]
    return ratio_of_sums([getattr(each, top) for each in used], [getattr(each, bottom) for each in used], plus)


def ratio_of_sums(top: Sequence[float], bottom: Sequence[float], plus: float = 0.0) -> Figure:
    """Of images: sum over sum, plus a constant, with its 95 % interval over them, and their number."""
    from usam.statistics import bootstrap_weighted

    upper, lower = np.array(top, float), np.array(bottom, float)

    def statistic(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((weights @ upper) / (weights @ lower) + plus)

    value = float(upper.sum() / max(lower.sum(), 1e-9) + plus)
    interval = bootstrap_weighted(statistic, value, np.arange(len(upper)))
    return value, interval.low, interval.high, len(upper)


def _row(figure: str, found: Figure, unit: str, target: str = "", note: str = "") -> Row:
    value, low, high, images = found
    return Row(
        figure, value, unit, "", target, note=f"{note}95 % [{low:.3f}, {high:.3f}] over {images} images, {DRAWS} draws"
    )


def _clean(dataset: str) -> list[Row]:
    """Before anything is learnt: few and clean against release 0.1, all labelled objects wanted."""
    project = Project(dataset, dataset, None, 0, dataset == "coco")
    images = project_images(project)
    images = [image for image in images if image.part != "train"] if dataset == "coco" else images
    rows = []
    choices: tuple[tuple[str, Callable[[PoolImage], Indices]], ...] = (
        ("few and clean", PoolImage.shown_clean),
        ("release 0.1", PoolImage.shown_before),
    )
    for name, choose in choices:
        counts = {image.name: Counts() for image in images}
        for image in images:
            shown = choose(image)
            _count(project, image, shown, [""] * len(shown), counts[image.name])
        recall, shown_each = _ratio(counts, "kept", "objects"), _ratio(counts, "shown", "kept", -1.0)
        number = sum(each.shown for each in counts.values()) / len(images)
        note = f"recall of all objects {recall[0]:.3f}; {number:.1f} shown an image; "
        rows.append(
            _row(f"{dataset}, nothing learnt, masks deleted for each one kept, {name}", shown_each, "ratio", "", note)
        )
    return rows


def _tuned(side: int) -> list[Row]:
    """Nuclei: rules chosen by work on ten labelled images, on a grid of `side` by `side` points, against today's."""
    from bench.rule_tuning import TODAY, LabelledProposals, choose_rules, work_left
    from usam.predictor.clean_proposals import Layout

    rows = []
    images = pool_images("nuclei", None, side)
    ready = [LabelledProposals(Layout.of(image.masks), image.rank, image.overlap) for image in images]
    figures: dict[str, list[tuple[float, float]]] = {"tuned": [], "today": []}
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(ready))
        labelled, rest = [ready[i] for i in order[:10]], [ready[i] for i in order[10:]]
        for name, rules in (("tuned", choose_rules(labelled)[0]), ("today", TODAY)):
            work = work_left(rest, rules)
            found = work.kept + work.corrected + work.relabelled
            figures[name].append((found / (found + work.added), found / max(work.shown, 1)))
    for name, values in figures.items():
        recall, precision = np.array(values).T
        note = f"precision {precision.mean():.3f}; {DRAWS} draws, recall {recall.min():.3f} to {recall.max():.3f}"
        target = ">= 0.5" if name == "tuned" else ""
        what = f"nuclei, recall after 10 labelled images, grid of {side}, {name} rules"
        rows.append(Row(what, float(recall.mean()), "share", "", target, note=note))
    return rows
