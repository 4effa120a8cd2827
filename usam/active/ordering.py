"""From acquisitions to the order in which people see tasks: variety at the top, audits among them, confidences.

Legend: N images (tasks) of a pool, F width of an image feature. An *acquisition* says how much a person's answer is
worth: higher = ask first. A *confidence* is what Label Studio stores as a prediction's `score`: in (0, 1], lower =
served first.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.arrays import number, numbers
from usam.errors import UsamError
from usam.statistics import Float64s, stable_uniform

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def diverse_order(
    acquisition: Floats,
    features: Floats,
    *,
    similarity: float = 0.95,
    spread: float = 0.0,
    head: int = 256,
    rounds: int = 4,
    within: int = 10_000,
) -> Indices:
    """Order of N images, best first, in which near-duplicates are kept apart; (N,) indices.

    Two images are near-duplicates when the cosine of their `features` (N, F) is above `similarity`. The
    order comes in rounds: an image enters the first round in which none of its near-duplicates is yet,
    highest acquisition first, so no round (and hence no top of the queue) holds two of them. After `rounds`
    rounds the rest follows by acquisition.

    `spread` > 0 also spreads the first `head` images (greedy k-centre weighed against worth): each next one
    maximises `worth - spread * highest cosine to those chosen`, worth being the acquisition's share of rank
    in [0, 1].

    Only the first `within` by acquisition are compared with each other, further down than anybody labels before the
    next order; the rest follows by acquisition. So the time does not grow with the square of N.

    NaN acquisitions come last; ties keep the order given. Blocked matrix products: `within`^2 F multiplications at
    worst, under two seconds for 10,000 images, never an N x N matrix. Raises `UsamError` on sizes that do
    not fit.
    """
    worth = np.nan_to_num(np.asarray(acquisition, np.float64), nan=-np.inf)
    features = numbers(features, "features (N, F)")
    number(similarity, "a cosine as similarity", -np.inf, np.inf)
    number(spread, "a spread", -np.inf, np.inf)
    if worth.ndim != 1 or features.ndim != 2 or len(features) != len(worth):
        got = f"{worth.shape} and {features.shape}"
        raise UsamError("acquisition (N,) and features (N, F)", got, "pass one feature row an image")
    by_worth: Indices = np.argsort(-worth, kind="stable")
    top, tail = by_worth[:within], by_worth[within:]
    unit = np.nan_to_num(np.asarray(features[top], np.float32))
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    ranked: Indices = np.arange(len(top))
    order: list[Indices] = []
    for turn in range(rounds):
        if not len(ranked):
            break
        first = _spread_head(ranked, unit, similarity, spread, head) if turn == 0 and spread > 0 else ranked[:0]
        rest = ranked[~np.isin(ranked, first)]
        kept = _first_of_duplicates(rest, unit, similarity, first)
        order += [first, rest[kept]]
        ranked = rest[~kept]
    return np.concatenate([top[np.concatenate([*order, ranked])], tail])


def _spread_head(
    ranked: Indices, unit: npt.NDArray[np.float32], similarity: float, spread: float, head: int
) -> Indices:
    """The first `head` by worth minus closeness; none a near-duplicate of another. Indices into the pool."""
    pool = ranked[: max(10_000, 8 * head)]
    worth = 1.0 - np.arange(len(pool)) / max(len(ranked), 1)
    vectors = unit[pool]
    nearest = np.zeros(len(pool), np.float32)
    open_ = np.ones(len(pool), bool)
    chosen: list[int] = []
    while len(chosen) < head and open_.any():
        best = int(np.argmax(np.where(open_, worth - spread * nearest, -np.inf)))
        chosen.append(best)
        closeness = vectors @ vectors[best]
        np.maximum(nearest, closeness, out=nearest)
        open_ &= closeness <= similarity
        open_[best] = False
    return pool[chosen]


def _first_of_duplicates(
    ranked: Indices, unit: npt.NDArray[np.float32], similarity: float, taken: Indices, block: int = 512
) -> Flags:
    """Which of `ranked` are no near-duplicate of `taken` nor of a kept one before them; (len(ranked),)
    flags.
    """
    kept = np.zeros(len(ranked), bool)
    chosen = np.empty((len(taken) + len(ranked), unit.shape[1]), np.float32)
    chosen[: len(taken)], size = unit[taken], len(taken)
    for start in range(0, len(ranked), block):
        vectors = unit[ranked[start : start + block]]
        free = np.ones(len(vectors), bool)
        if size:
            free &= (vectors @ chosen[:size].T).max(axis=1) <= similarity
        close = vectors @ vectors.T > similarity
        for row in np.flatnonzero(free):
            if free[row]:
                free[row + 1 :] &= ~close[row, row + 1 :]
        kept[start : start + block] = free
        chosen[size : size + free.sum()] = vectors[free]
        size += int(free.sum())
    return kept


@dataclass(frozen=True)
class AuditedOrder:
    """An order with audit tasks in it. Served k-th: `order[positions[k]]`; an audit where `is_audit[k]`;
    both (N,).
    """

    positions: Indices
    is_audit: Flags


def interleave_audit(order: Sequence[object], share: float, rng: int | np.random.Generator) -> AuditedOrder:
    """Serve a uniformly random `share` of the tasks in `order` (N ids, best first) as audits among the
    ranked ones.

    A task is an audit when its hash under the seed falls below `share`, whatever its rank and whoever else
    is in the pool; audits are served in the order of their hashes. So the audits answered so far are a
    uniform sample of all tasks, new tasks join without disturbing that, and labelled ones leave it. Every
    stretch of the queue holds about `share` of audits, at places that nobody can guess. Ranked tasks keep
    their order.

    `rng` is the seed; keep it per project (a generator gives its next integer as seed). Raises `UsamError`
    where `share` is outside [0, 1].
    """
    number(share, "an audit share", 0, 1)
    seed = int(rng.integers(2**62)) if isinstance(rng, np.random.Generator) else int(rng)
    draw = stable_uniform(order, seed, "audit")
    audits = np.flatnonzero(draw < share)
    audits = audits[np.argsort(draw[audits], kind="stable")]
    ranked = np.flatnonzero(draw >= share)
    jitter = stable_uniform([order[int(index)] for index in audits], seed, "place")
    place_audit = (np.arange(len(audits)) + jitter) / max(len(audits), 1)
    place_ranked = (np.arange(len(ranked)) + 0.5) / max(len(ranked), 1)
    merged = np.argsort(np.concatenate([place_ranked, place_audit]), kind="stable")
    positions = np.concatenate([ranked, audits])[merged]
    return AuditedOrder(positions.astype(np.int64), merged >= len(ranked))


def confidence(acquisition: Floats) -> Float64s:
    """Confidence in (0, 1] of N tasks by acquisition: the highest acquisition gets the lowest, no two are
    equal.

    Only the order matters to Label Studio, so ranks are stored, not values; ties keep the order given, NaN
    comes last.
    """
    worth = np.nan_to_num(np.asarray(acquisition, np.float64), nan=-np.inf)
    return confidence_of_order(np.argsort(-worth, kind="stable"))


def confidence_of_order(order: Indices) -> Float64s:
    """Confidence in (0, 1] of each task, (N,), when `order` lists the N task indices best first: (place +
    1) / N.

    Raises `UsamError` where `order` is no permutation.
    """
    count = len(order)
    places = np.full(count, -1, np.int64)
    if count and (np.min(order) < 0 or np.max(order) >= count):
        raise UsamError(f"a permutation of 0..{count - 1}", "an index outside", "pass each task's index once")
    places[order] = np.arange(count)
    if (places < 0).any():
        raise UsamError(f"a permutation of 0..{count - 1}", "an index twice", "pass each task's index once")
    return (places + 1.0) / max(count, 1)


@dataclass(frozen=True)
class Ranking:
    """A pool in the order in which it is to be served.

    `order` (N,) indices into the pool, first served first; `is_audit` (N,) by place in `order`;
    `confidence` (N,) by index into the pool, lowest for the first served.
    """

    order: Indices
    is_audit: Flags
    confidence: Float64s


def rank_pool(
    task_ids: Sequence[object],
    acquisition: Floats,
    features: Floats | None = None,
    *,
    audit_share: float = 0.1,
    seed: int = 0,
    similarity: float = 0.95,
    spread: float = 0.0,
) -> Ranking:
    """The order in which a pool of N images is to be labelled: what an answer is worth, without near-duplicates at the
    top, with audits mixed in.

    Parameters
    ----------
    task_ids
        (N,) names of the images, which must not change between calls: they and the seed decide who is an audit.
    acquisition
        (N,) what a person's answer about each image is worth, higher = ask first (`image_score`). NaN comes last.
    features
        (N, D) embeddings of the images, by which near-duplicates are kept apart; None takes the acquisition alone.
    audit_share
        Share of images, 0..1, that are drawn at random and served among the ranked ones.
    seed
        Of that draw. Keep it for as long as the project lives.
    similarity, spread
        As in `diverse_order`.

    Returns
    -------
    `Ranking`: `order` (N,) indices, first served first, `is_audit` (N,) by place in it, `confidence` (N,) by index
    into the pool, lowest for the first served.

    Raises
    ------
    UsamError
        A share outside 0..1, names, acquisitions and features of several lengths, or what are no numbers.

    Examples
    --------
    >>> ranking = usam.rank_pool(["a", "b", "c"], np.array([0.2, 0.9, 0.5]), audit_share=0.0)
    >>> ranking.order.tolist()
    [1, 2, 0]
    >>> ranking.confidence.round(2).tolist()
    [1.0, 0.33, 0.67]
    """
    worth = np.nan_to_num(numbers(acquisition, "acquisition (N,)", 1).astype(np.float64), nan=-np.inf)
    if not isinstance(task_ids, Sequence | np.ndarray) or len(task_ids) != len(worth):
        got = f"{len(task_ids)} names" if isinstance(task_ids, Sized) else type(task_ids).__name__
        raise UsamError(f"a sequence of {len(worth)} names, one for each acquisition", got, "pass both in one order")
    if features is None:
        order: Indices = np.argsort(-worth, kind="stable")
    else:
        order = diverse_order(worth, features, similarity=similarity, spread=spread)
    audited = interleave_audit([task_ids[int(index)] for index in order], audit_share, seed)
    served = order[audited.positions]
    return Ranking(served, audited.is_audit, confidence_of_order(served))
