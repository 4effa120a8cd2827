"""Records in, a shard of rows out.

Legend: N objects of a group, D token width. On a CPU the masks are compared with the truth by a second thread
while the model goes on; on a GPU they are compared there. Images are read ahead by that thread as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from usam.research.datasets.record import Record
from usam.research.tokens.ensembles import Maps, altered_images, average, entropies
from usam.research.tokens.manifest import TokenSettings
from usam.research.tokens.objects import PreparedImage, prepare
from usam.research.tokens.runner import Encoded, Outputs, TimedPredictor
from usam.research.tokens.shards import Shard
from usam.training.truth import Truth, ious_on_device

GROUP = 16
"""Objects decoded before their masks are let go: bounds the memory of an image with many objects."""
AHEAD = 2
"""Images read, and groups waiting to be compared, at most."""

Columns = dict[str, npt.NDArray[Any]]
Item = TypeVar("Item")
Result = TypeVar("Result")


def extract(
    records: Iterable[Record],
    runners: list[TimedPredictor],
    settings: TokenSettings,
    done: Callable[[int], None] = lambda objects: None,
) -> Shard:
    """Decode the paper's prompts for every object of the records with every model.

    `done` is called after each record with the number of its objects. What cannot be used is counted in the
    shard's `problems`.
    """
    start = perf_counter()
    before = sum(runner.seconds for runner in runners)
    shard = Shard()
    areas: list[float] = []
    groups: list[list[Future[Columns]]] = []
    ready = partial(
        prepare, most=settings.max_objects, min_pixels=settings.min_pixels, seed=settings.seed, view=settings.view
    )
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as comparing:
        waiting: deque[Future[Columns]] = deque()
        for prepared in _ahead(reading, ready, records):
            shard.problems.update(prepared.problems)
            _name_rows(shard, prepared)
            areas += [truth.area for truth in prepared.truths]
            for group in _decode_image(prepared, runners, settings, comparing):
                groups.append(group)
                waiting += group
                while len(waiting) > AHEAD * len(runners):
                    waiting.popleft().result()
            done(len(prepared.instances))
        columns = [[each.result() for each in group] for group in groups]
    shard.area = np.array(areas, np.float32)
    for place, runner in enumerate(runners):
        shard.columns[runner.name] = _joined([group[place] for group in columns], runner.width, settings)
    shard.forward_seconds = sum(runner.seconds for runner in runners) - before
    shard.seconds = perf_counter() - start
    return shard


def _ahead(pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map` that is at most `AHEAD` items ahead of who takes the results."""
    remaining = iter(items)
    pending = deque(pool.submit(work, item) for item in islice(remaining, AHEAD))
    while pending:
        result = pending.popleft().result()
        for item in islice(remaining, 1):
            pending.append(pool.submit(work, item))
        yield result


def _name_rows(shard: Shard, prepared: PreparedImage) -> None:
    record, texts = prepared.record, shard.texts
    for instance in prepared.instances:
        texts["image_id"].append(record.image_id)
        texts["group"].append(record.group)
        texts["object_id"].append(instance.object_id)
        texts["dataset"].append(record.dataset)
        texts["annotator"].append(record.annotator)
        texts["split"].append(record.split)
        texts["category"].append(instance.category)
        texts["parent_id"].append(instance.parent_id)


def _decode_image(
    prepared: PreparedImage, runners: list[TimedPredictor], settings: TokenSettings, comparing: ThreadPoolExecutor
) -> Iterator[list[Future[Columns]]]:
    """For each group of objects, a future per model with its columns."""
    if not prepared.instances:
        return
    images = [prepared.image]
    if settings.entropies:
        images += altered_images(prepared.image, prepared.record.image_id)
    encoded = [[runner.encode(image) for image in images] for runner in runners]
    for start in range(0, len(prepared.instances), GROUP):
        yield _decode_group(prepared, slice(start, start + GROUP), runners, encoded, settings, comparing)


def _decode_group(
    prepared: PreparedImage,
    part: slice,
    runners: list[TimedPredictor],
    encoded: list[list[Encoded]],
    settings: TokenSettings,
    comparing: ThreadPoolExecutor,
) -> list[Future[Columns]]:
    truths, dense, boxes = prepared.truths[part], prepared.dense[part], prepared.boxes[part]
    side = max(runner.low_res for runner in runners)
    futures: list[Future[Columns]] = []
    maps: list[Maps] = []
    for runner, (plain, *altered) in zip(runners, encoded, strict=True):
        decoded = {
            "": runner.points(plain, dense[:, :1]),
            "dense_": runner.points(plain, dense),
            "box_": runner.boxes(plain, boxes),
        }
        if settings.entropies:
            others = [runner.points(plain, dense[:, place : place + 1]) for place in range(1, dense.shape[1])]
            elsewhere = [runner.points(each, dense[:, :1]) for each in altered]
            with torch.inference_mode():
                maps.append(average([decoded[""], *others], elsewhere, side))
        if runner.device.type == "cpu":
            futures.append(comparing.submit(_columns, decoded, truths))
        else:
            futures.append(_done(_columns(decoded, truths)))
    if settings.entropies:
        with torch.inference_mode():
            found = entropies(maps)
        futures = [comparing.submit(_with, future, added) for future, added in zip(futures, found, strict=True)]
    return futures


def _columns(decoded: dict[str, Outputs], truths: tuple[Truth, ...]) -> Columns:
    columns: Columns = {
        "iou_token": _half(decoded[""].iou_token),
        "mask_tokens": _half(decoded[""].mask_tokens),
    }
    device = decoded[""].logits.device
    masks = None
    if device.type != "cpu":
        masks = torch.from_numpy(np.stack([truth.mask for truth in truths])).to(device)
    for prefix, outputs in decoded.items():
        if masks is None:
            logits = outputs.logits.numpy()
            ious = np.stack([truth.ious(each) for truth, each in zip(truths, logits, strict=True)])
        else:
            ious = ious_on_device(outputs.logits, masks)
        columns[f"{prefix}iou"] = ious
        columns[f"{prefix}samscore"] = outputs.samscore.cpu().numpy().astype(np.float32)
    return columns


def _half(tensor: Tensor) -> npt.NDArray[np.float16]:
    limit = float(np.finfo(np.float16).max)
    return tensor.clamp(-limit, limit).half().cpu().numpy()


def _with(future: Future[Columns], added: Columns) -> Columns:
    return future.result() | added


def _done(columns: Columns) -> Future[Columns]:
    future: Future[Columns] = Future()
    future.set_result(columns)
    return future


def _joined(groups: list[Columns], width: int, settings: TokenSettings) -> Columns:
    if groups:
        return {name: np.concatenate([group[name] for group in groups]) for name in groups[0]}
    empty: Columns = {
        "iou_token": np.zeros((0, width), np.float16),
        "mask_tokens": np.zeros((0, 4, width), np.float16),
    }
    for prefix in ("", "dense_", "box_"):
        empty |= {f"{prefix}{name}": np.zeros((0, 4), np.float32) for name in ("iou", "samscore")}
    if settings.entropies:
        empty |= {name: np.zeros((0, 3), np.float32) for name in ("h_std", "h_a", "h_xp", "h_theta", "h_t", "h_y")}
    return empty
