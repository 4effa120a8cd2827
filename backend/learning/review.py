"""Labels of a project that are worth a second look, in words, from what a sync keeps; no picture and no model is read.

The list lies beside the store as `reviews/PROJECT.json`, so that the page shows what the command found; what was
answered again since is left out of it. Nobody's labels are changed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from backend.errors import reason_of
from backend.learning.examples import join_examples, join_outlines
from backend.store.records import SampleRow, storable_text
from usam.checkpoints.registry import weights_of
from usam.files import plain

if TYPE_CHECKING:
    from backend.settings import Settings
    from backend.store import Store
    from usam.heads.head_set import HeadSet
    from usam.objects.review import Doubt

Floats = npt.NDArray[np.float64]
FOLDER = "reviews"
_log = logging.getLogger(__name__)
REASONS = {"class": "label", "outline": "outline", "missing": "not marked"}
"""The library's reasons in words for people."""
LEAST_DAMAGE = 0.005
"""Below, a doubt is shown to nobody: it would stand in the list as 0.00, and cost a look."""


@dataclass(frozen=True)
class ReviewedLabel:
    """One line. `region` is the region's id in Label Studio, empty for what nobody marked; `label` the given one;
    `reason` of `REASONS`; `why` and `remedy` sentences; `damage` the share of an object that is expected to be wrong,
    0..1; `box` x0, y0, x1, y1 as shares of the picture; `seen` the annotation's `updated_at` when it was judged."""

    task: int
    annotation: int
    region: str
    label: str
    reason: str
    why: str
    remedy: str
    damage: float
    box: tuple[float, float, float, float]
    seen: str

    @property
    def place(self) -> str:
        """The region, or the box of what nobody marked."""
        return storable_text(self.region or "@" + ",".join(f"{side:g}" for side in self.box), 400)

    @property
    def key(self) -> str:
        """How a command and the page call it."""
        return f"{self.annotation}/{self.place}"


@dataclass(frozen=True)
class Review:
    """All lines, the largest expected damage first; how many labels of how many tasks were judged; and when."""

    lines: tuple[ReviewedLabel, ...]
    labels: int
    tasks: int
    at: float

    def first(self, count: int, reason: str = "") -> Review:
        """The first lines, of one reason where one is given."""
        lines = [line for line in self.lines if not reason or line.reason == reason][:count]
        return Review(tuple(lines), self.labels, self.tasks, self.at)


def review_project(store: Store, project: int, checkpoint: str, base: HeadSet | None) -> Review:
    """Judge the labels of finished tasks. `base`: the checkpoint's heads, which have learnt from none of them.

    Raises `StoreError` where what is kept is damaged.
    """
    from usam.objects.review import review_labels

    weights = weights_of(checkpoint)
    rows = [row for row in store.examples(project) if f"/{weights}/" in row.features_version]
    rows = [row for row in rows if row.features_version == rows[-1].features_version]
    if not rows:
        return Review((), 0, 0, time.time())
    examples = join_examples(rows)
    agreement, predicted = _answers(store.samples(project, weights), base, checkpoint)
    outlines, hints = join_outlines(rows)
    own = ~np.asarray(examples.proposed)
    hints_of = dict(zip(np.flatnonzero(own).tolist(), hints.tolist(), strict=True))
    keys = [str(name) if mine else "" for name, mine in zip(examples.regions, own, strict=True)]
    doubts = review_labels(
        examples,
        store.classes(project),
        agreement=np.array([agreement.get(key, np.nan) for key in keys]),
        predicted=np.array([predicted.get(key, np.nan) for key in keys]),
        outlines=outlines,
    )
    sources = {str(row.annotation): row for row in rows}
    lines = []
    for doubt in doubts:
        if doubt.damage < LEAST_DAMAGE:
            continue
        annotation, _, region = str(examples.regions[doubt.row]).partition("/")
        source = sources[annotation]
        why, remedy = _words(doubt, hints_of.get(doubt.row, ()))
        lines.append(
            ReviewedLabel(
                task=source.task,
                annotation=source.annotation,
                region=region if doubt.reason != "missing" else "",
                label=doubt.given,
                reason=REASONS[doubt.reason],
                why=why,
                remedy=remedy,
                damage=round(doubt.damage, 4),
                box=tuple(round(side, 4) for side in doubt.box),  # type: ignore[arg-type]
                seen=source.updated_at,
            )
        )
    return Review(tuple(lines), int(own.sum()), len({row.task for row in rows}), time.time())


def _answers(
    samples: Sequence[SampleRow], base: HeadSet | None, checkpoint: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Region -> the best IoU of the model's answers to prompts from it, and what the heads predict of that."""
    from usam.training.targets import head_name

    told = {f"{row.annotation}/{row.region}": row for row in samples}
    agreement = {
        key: max(max(row.targets.get(name, [0.0])) for name in (head_name(checkpoint), "iou_dense_prompt"))
        for key, row in told.items()
    }
    quality = base.quality_for(checkpoint) if base is not None else None
    if base is None or quality is None or not told:
        return agreement, {}
    scores = base.score(
        np.stack([row.iou_token for row in told.values()]).astype(np.float32),
        np.stack([row.mask_tokens for row in told.values()]).astype(np.float32),
    )[quality]
    return agreement, dict(zip(told, scores.max(1).astype(float).tolist(), strict=True))


def _words(doubt: Doubt, hints: Sequence[float]) -> tuple[str, str]:
    """Why a label is doubted, and what to do. `hints` of its outline, empty where it was not measured."""
    figures = doubt.figures
    if doubt.reason == "class":
        why = f"labelled {doubt.given}, looks like {doubt.likelier} ({figures['likelier']:.0%})"
        return why, f"change the label to {doubt.likelier}, or leave it"
    if doubt.reason == "outline" and "moved" in figures:
        if figures["cut"] > figures["moved"]:
            *_, side_x, side_y, missing = hints
            where = f"{_part(missing)} of it may be missing, {_side(side_x, side_y)}"
            return f"the outline looks cut off: {where} ({figures['cut']:.0%})", "add what is missing, or leave it"
        where = _direction(-hints[0], -hints[1])
        why = f"the outline looks shifted{where and f' by about {where}'} ({figures['moved']:.0%})"
        return why, "move the outline back, or leave it"
    if doubt.reason == "outline":
        why = f"the outline agrees with the model's masks by {figures['agreement']:.2f} (IoU)"
        return f"{why}; {figures['expected']:.2f} is usual for such an object", "correct the outline, or leave it"
    what = f"a {doubt.likelier}" if doubt.likelier else "a wanted object"
    return f"nobody marked what looks like {what} ({figures['wanted']:.0%})", "mark it, or leave it"


def _part(share: float) -> str:
    """A missing share of an object in words; the model's masks rather fall short of what is there."""
    words = ((0.2, "a part"), (0.3, "about a third"), (0.65, "about half"), (1.0, "most"))
    return next(name for most, name in words if share <= most)


def _side(x: float, y: float) -> str:
    """A direction in words: the nearest of four sides."""
    if abs(x) > abs(y):
        return "on the right" if x > 0 else "on the left"
    return "below" if y > 0 else "above"


def _direction(x: float, y: float) -> str:
    """Pixels to one side and up or down, in words; what is less than one, or less than a third of the other, is left
    out."""
    told = []
    for size, other, names in ((x, y, ("to the left", "to the right")), (y, x, ("up", "down"))):
        if abs(size) >= max(1.0, abs(other) / 3):
            told.append(f"{abs(size):.0f} px {names[size > 0]}")
    return " and ".join(told)


def keep_review(settings: Settings, project: int, review: Review) -> Path:
    """Write the list, in place of the last one."""
    from usam.files import replace_text

    path = settings.data_dir / FOLDER / f"{project}.json"
    replace_text(path, json.dumps(asdict(review)) + "\n")
    return path


def kept_review(settings: Settings, store: Store, project: int) -> Review | None:
    """The last list without what was answered again since; None where there is none that can be read, so that it is
    made anew."""
    path = settings.data_dir / FOLDER / f"{project}.json"
    try:
        review = TypeAdapter(Review).validate_json(plain(path).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _log.warning("the list %s is not used: %s", path, reason_of(error))
        return None
    now = {known.id: known.updated_at for known in store.annotations(project)}
    lines = [line for line in review.lines if now.get(line.annotation) == line.seen]
    return Review(tuple(lines), review.labels, review.tasks, review.at)
