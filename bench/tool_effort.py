"""The work that a project's images cost somebody who uses the tool: what is not shown is clicked, not drawn.

As `bench.project_learning` has it (the same images, draws and heads), but seen by the default grid, which is not chosen
by labels here, and but for what is missing: it gets up to three clicks, the first in its middle and each further one
where the mask is most wrong, with the service's own masks of them; each click costs the click and a look. The first
mask whose IoU is good enough is kept; where none is, the object is drawn by hand after three clicks for nothing. A
shown outline that is not good enough is deleted and clicked like what is missing. Choosing a label costs nothing on any
side, changing one does. Prices: `usam.objects.effort`. "At the price of a click": the threshold of what is shown is
chosen by them too, and not for people who draw what is missing, as the service chooses it.

Legend: T true objects of an image, K = 3 clicks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.pools import MODEL, PoolImage, _model, kept_once, named, records
from bench.project_learning import (
    AFTER_50,
    DRAWS,
    Figure,
    Project,
    project_images,
    ratio_of_sums,
    shown_learnt,
    wanted_of,
)
from bench.rows import Row
from bench.tables import data_folder
from usam.objects.effort import Prices

CLICKS = 3
GOOD = (0.5, 0.75)
"""IoU from which on a mask is kept: that of the row beside it, and a stricter one."""
AIMS = {("learnt, then clicks", 0.5): "<= 0.5"}
Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClickedImage:
    """`iou` (T, K) of each object's mask after one to K clicks; NaN for objects that nobody asked for."""

    name: str
    iou: Floats


def run() -> list[Row]:
    """Seconds of work against drawing every object, by clicks alone and with what was learnt, for each good IoU."""
    images = project_images(AFTER_50)
    shown = list(shown_learnt(AFTER_50, images, choose_grid=False))
    priced = list(shown_learnt(AFTER_50, images, choose_grid=False, prices=Prices(), least_recall=0.0))
    rows = []
    for good in GOOD:
        rows += _effort(AFTER_50, shown, good)
        rows += _effort(AFTER_50, priced, good, "learnt at the price of a click")[-2:]
    return named(rows)


def _effort(
    project: Project,
    found: Sequence[tuple[int, PoolImage, PoolImage, Indices, list[str | None]]],
    good: float,
    learnt: str = "learnt",
) -> list[Row]:
    clicked = {each.name: each.iou for each in _clicked(project)}
    ways = ("by hand", f"{learnt}, then by hand", "clicks alone", f"{learnt}, then clicks")
    seconds: dict[str, dict[str, float]] = {way: {} for way in ways}
    shown_in_all = kept_in_all = objects_in_all = 0
    for _, image, seen, rows, names in found:
        prices, wanted = Prices.by_hand(), np.flatnonzero(wanted_of(project, image))
        by_hand, by_click = np.full(len(image.categories), prices.add), click_seconds(clicked[image.name], good)
        shown = (project, seen, rows, names, good)
        shown_in_all, objects_in_all = shown_in_all + len(rows), objects_in_all + len(wanted)
        kept_in_all += int((seen.partner(rows, wanted_of(project, seen), good) >= 0).sum())
        for way, cost in zip(
            ways,
            (
                by_hand[wanted].sum(),
                seconds_with(*shown, by_hand),
                by_click[wanted].sum(),
                seconds_with(*shown, by_click),
            ),
            strict=True,
        ):
            seconds[way][image.name] = seconds[way].get(image.name, 0.0) + float(cost)
    what = f"{project.name}, after {project.labelled} labelled images, effort, masks kept from IoU {good:g} on"
    first, last = clicks_that_do(clicked, good)
    note = f"one click does for {first:.2f} of objects, three for {last:.2f}; of what was learnt "
    note += f"{kept_in_all / objects_in_all:.2f} of objects are shown well enough, and "
    note += f"{shown_in_all / max(kept_in_all, 1) - 1:.2f} others for each of them; "
    made = [
        _row(
            f"{what}, {way}",
            _over(seconds[way], seconds["by hand"]),
            "drawing every object",
            note,
            AIMS.get((way, good), ""),
        )
        for way in ways[1:]
    ]
    gained = _over(seconds[ways[3]], seconds[ways[2]])
    return [*made, _row(f"{what}, {ways[3]} over clicks alone", gained, "clicks alone", "")]


def seconds_with(
    project: Project, image: PoolImage, rows: Indices, names: Sequence[str | None], good: float, missing: Floats
) -> float:
    """Seconds of an image in which `rows` are shown as `names`; `missing` (T,): those that each object costs which is
    not shown, or not well enough."""
    prices, wanted = Prices(), wanted_of(project, image)
    partner = image.partner(rows, wanted)
    left, total = wanted.copy(), len(rows) * prices.look
    for row, column, name in zip(rows.tolist(), partner.tolist(), names, strict=True):
        if column < 0 or image.overlap[row, column] < good:
            total += prices.delete
            continue
        left[column] = False
        total += prices.relabel * (name != image.categories[column])
    return float(total + missing[left].sum())


def click_seconds(iou: Floats, good: float) -> Floats:
    """Seconds that each of T objects takes, by its IoU (T, K) after each click.

    >>> click_seconds(np.array([[0.8, 0.9, 0.9], [0.2, 0.6, 0.7], [0.1, 0.2, 0.3]]), 0.5).tolist()
    [4.0, 8.0, 91.2]
    """
    prices, done = Prices(), np.asarray(iou) >= good
    tried = np.where(done.any(1), done.argmax(1) + 1, np.shape(iou)[1])
    each = prices.add
    return np.asarray(tried * each + np.where(done.any(1), 0.0, Prices.by_hand().add))


def clicks_that_do(clicked: dict[str, Floats], good: float) -> tuple[float, float]:
    """Shares of the objects whose mask is good after one click, and after one of all of them."""
    iou = np.concatenate([each[np.isfinite(each).all(1)] for each in clicked.values()])
    return float((iou[:, 0] >= good).mean()), float((iou >= good).any(1).mean())


def _clicked(project: Project) -> list[ClickedImage]:
    """The clicks on a project's objects, on the images that figures are taken on."""
    from usam.research.nano.stored_images import nano_split

    data = data_folder()
    if data is None:
        raise FileNotFoundError("USAM_SHARED does not lead to the labelled sets")

    def make() -> Iterator[ClickedImage]:
        for record in records(project.dataset, data):
            if nano_split(record.group) != "train":
                yield from _clicked_image(record, project)

    made: list[ClickedImage] = kept_once(f"clicked-{project.dataset}-{MODEL}-{len(project.wanted or ())}", make)
    return made


def _clicked_image(record: Any, project: Project) -> Iterator[ClickedImage]:
    truths = [(each.category, mask) for each in record.instances if (mask := each.read_mask()).any()]
    asked = [project.wanted is None or category in project.wanted for category, _ in truths]
    if not any(asked):
        return
    model, _ = _model()
    embedding = model.encode(record.read_image())
    iou = np.full((len(truths), CLICKS), np.nan)
    for number, ((_, mask), wanted) in enumerate(zip(truths, asked, strict=True)):
        if wanted:
            iou[number] = clicked_iou(mask, lambda prompt: _mask(model, embedding, prompt), CLICKS)
    yield ClickedImage(record.group, iou)


def clicked_iou(truth: npt.NDArray[np.bool_], answer: Callable[[Any], npt.NDArray[np.bool_]], clicks: int) -> Floats:
    """IoU (K,) of the masks that a tool answers with after one to K clicks on an object."""
    from usam.masks import iou
    from usam.prompts import Prompt, correction_point

    middle, _ = correction_point(truth, np.zeros_like(truth))
    prompt, found = Prompt([middle], [1]), np.zeros(clicks)
    for number in range(clicks):
        mask = answer(prompt)
        found[number] = float(iou(mask, truth))
        if (mask == truth).all():
            found[number:] = found[number]
            break
        prompt = prompt.with_point(*correction_point(truth, mask))
    return found


def _mask(model: Any, embedding: Any, prompt: Any) -> npt.NDArray[np.bool_]:
    from backend.inference.model import enlarged

    return enlarged(model.decode(embedding, [prompt]).logits, embedding.image_hw)[0]


def _over(seconds: dict[str, float], others: dict[str, float]) -> Figure:
    return ratio_of_sums(list(seconds.values()), [others[name] for name in seconds])


def _row(figure: str, found: Figure, against: str, note: str, target: str = "") -> Row:
    value, low, high, images = found
    note += f"95 % [{low:.3f}, {high:.3f}] over {images} images, {DRAWS} draws"
    return Row(figure, value, "ratio of seconds", against, target, note=note)
