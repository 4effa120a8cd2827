"""Campaigns of several strategies and seeds, each kept on disk as soon as it is played, so that a run goes on.

OUT/campaigns/STRATEGY-SEED.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from usam.errors import SimulationError
from usam.files import replace_text
from usam.heads.head_set import HeadSet
from usam.research.simulation.campaign import Campaign, Point, ceiling, replay
from usam.research.simulation.labelled_set import LabelledSet

Progress = Callable[[str, int, int], None]
"""Called with (what is played, steps done, steps to do) of the whole run."""
VERSION = 1
"""Raised when the same settings give other points."""


@dataclass(frozen=True, eq=False)
class Played:
    """What came out: {strategy: a list of points for each seed}, and, for each seed, the mean IoU that all labels of
    the pool achieve. `fresh` counts the campaigns that were not on disk.
    """

    campaigns: dict[str, list[list[Point]]]
    ceilings: list[float]
    fresh: int


def play_all(
    labelled: LabelledSet,
    heads: HeadSet,
    base: Campaign,
    strategies: Sequence[str],
    seeds: Sequence[int],
    out: Path | None = None,
    progress: Progress | None = None,
) -> Played:
    """Play `base` with every strategy and seed; what `out` already holds of the same make is read.

    Raises what `replay` raises, and `SimulationError` without a strategy or a seed.
    """
    if not strategies or not seeds:
        raise SimulationError("at least one strategy and one seed", f"{list(strategies)} and {list(seeds)}")
    tell = progress or (lambda what, done, total: None)
    total, done, fresh = (len(strategies) + 1) * len(seeds) * 100, 0, 0
    campaigns: dict[str, list[list[Point]]] = {strategy: [] for strategy in strategies}
    ceilings: list[float] = []
    for seed in seeds:
        for strategy in strategies:
            campaign = replace(base, strategy=strategy, seed=seed)
            key = _key(labelled, heads, campaign)
            path = out / "campaigns" / f"{strategy}-{seed}.json" if out is not None else None
            points = _read(path, key)
            if points is None:

                def say(labels: int, wanted: int, what: str = f"{strategy}, seed {seed}", start: int = done) -> None:
                    tell(what, start + 100 * labels // max(wanted, 1), total)

                points, fresh = replay(labelled, heads, campaign, say), fresh + 1
                _write(path, key, points)
            campaigns[strategy].append(points)
            done += 100
            tell(f"{strategy}, seed {seed}", done, total)
        ceilings.append(ceiling(labelled, heads, replace(base, strategy=strategies[0], seed=seed)))
        done += 100
        tell(f"all labels, seed {seed}", done, total)
    return Played(campaigns, ceilings, fresh)


def _key(labelled: LabelledSet, heads: HeadSet, campaign: Campaign) -> str:
    """Digest of what the points depend on."""
    parts = [VERSION, labelled.model, labelled.source, heads.sha256, asdict(campaign)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _read(path: Path | None, key: str) -> list[Point] | None:
    """The points of a finished campaign of this make; None where there are none or the file is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [Point(**point) for point in content["points"]] if content["key"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(path: Path | None, key: str, points: Sequence[Point]) -> None:
    if path is None:
        return
    replace_text(path, json.dumps({"key": key, "points": [asdict(point) for point in points]}) + "\n")
