"""The only owner of the models: one thread, an embedding cache and a queue in which clicks go first.

Legend: H, W height and width of the upright image in pixels; P prompts; D token width.

A caller blocks in `click`, `propose` or `tokens`. What needs no model (finding, downloading and decoding an
image, enlarging masks) happens in the caller's own thread; what does is cut into steps of one encoding or a
few prompts (`turns`). Nothing waits without bound: beyond a number of waiting jobs, or bytes of decoded
images that wait with them, callers get `EngineBusy`.

Heads are applied to tokens, so a project's own heads need no model of their own: `set_heads` swaps them
between two steps.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from backend.errors import EngineBusy
from backend.inference.cache import EmbeddingCache, ImageIndex, ImageRef, content_hash
from backend.inference.refinement import RefinementBudget, Refiner
from backend.inference.scheduler import Priority, Result, Steps, StepScheduler
from backend.metrics.service import Metrics
from backend.settings import Settings
from usam.active.mask_selection import MaskSelection
from usam.errors import UsamError
from usam.prompts import Prompt, grid_points

if TYPE_CHECKING:
    from backend.inference.model import Candidate, LoadedModel, Tokens
    from usam.heads.head_set import HeadSet
    from usam.predictor.embedding import ImageEmbedding

BoolMask = npt.NDArray[np.bool_]
UInt8Image = npt.NDArray[np.uint8]
LoadImage = Callable[[], "bytes | UInt8Image"]
"""Gives an image file's bytes, or the decoded image; called in the caller's thread, and only when needed."""
PromptsFor = Callable[[tuple[int, int]], Sequence[Prompt]]
"""Makes prompts for an image of (H, W)."""

AHEAD_LIMIT = 8
NO_HEADS = "no-heads"
log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """One object found. `mask` (H, W); `iou` its predicted IoU 0..1, higher = better; `scores` of all heads,
    gaps in -0.5..0.5, higher = more to gain; `samscore` SAM's own estimate; `alternatives` what else may be
    meant, where the task gap is high and the settings offer it."""

    mask: BoolMask
    iou: float
    samscore: float
    scores: dict[str, float]
    checkpoint: str
    prompt: Prompt
    alternatives: tuple[ObjectMask, ...] = ()

    @property
    def gaps(self) -> dict[str, float]:
        """The three gaps, as far as the heads tell them."""
        return {name: value for name, value in self.scores.items() if name.endswith("_gap")}


@dataclass(frozen=True, eq=False)
class Proposals:
    """What a grid of prompts, or given ones, found in one image, best predicted IoU first.

    `sources` says which of the `prompts` asked each object came from. `features` (D,) is the mean of the
    image's embedding: near-duplicate images have near-equal features.
    """

    objects: tuple[ObjectMask, ...]
    sources: tuple[int, ...]
    hw: tuple[int, int]
    features: npt.NDArray[np.float32]
    prompts: int


class _Evicted(UsamError):
    """The embedding is gone, and the image is not at hand."""


class Engine:
    """Owns the model that the settings name, and the larger one if there is one.

    Starts its thread at once and loads in it, so that making an engine takes no time; `state` tells how far
    it is.
    """

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.checkpoint = settings.model
        self.cache = EmbeddingCache(settings.cache_bytes)
        self._index = ImageIndex()
        self._lock = threading.Lock()
        self._loaders: dict[str, threading.Lock] = {}
        self._loaded: dict[str, tuple[ImageRef, UInt8Image]] = {}
        """Images that wait for their encoding: who asks meanwhile need not load them again."""
        self._pending_bytes = 0
        self._project_heads: dict[int, HeadSet] = {}
        self._choices: dict[int, MaskSelection] = {}
        self._clicks = RefinementBudget(settings, self.metrics, clicks=True)
        self._batches = RefinementBudget(settings, self.metrics)
        self._own_heads: HeadSet | None = None
        self._heads_known = threading.Event()
        self._models: dict[str, LoadedModel] = {}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="engine-ahead")
        self._ahead_waiting = 0
        self._turns = StepScheduler(
            self._load_models,
            queue_limit=settings.queue_limit,
            wait_seconds=settings.wait_seconds,
            metrics=self.metrics,
            out_of_memory=self.cache.clear,
        )

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> str:
        """`loading`, `ready`, `failed` or `stopped`."""
        if self._turns.stopped:
            return "stopped"
        if self._turns.failure is not None:
            return "failed"
        return "ready" if self._turns.prepared.is_set() else "loading"

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the model is loaded. Raises `EngineBusy` after `timeout` seconds, or why it cannot
        be."""
        loaded = self._turns.prepared.wait(timeout)
        if self._turns.failure is not None:
            raise self._turns.failure
        if not loaded:
            raise EngineBusy("a loaded model", "one that is loading", "try again", retry_after=3.0)

    def close(self) -> None:
        """Stop after the present step; waiting jobs get `EngineStopped`."""
        self._ahead.shutdown(wait=False, cancel_futures=True)
        self._turns.close()

    def set_heads(self, project: int, heads: HeadSet | None) -> None:
        """Use a project's own heads from the next step on; None: the checkpoint's.

        Raises `HeadsError` where they are of another checkpoint.
        """
        from usam.errors import HeadsError

        if heads is not None and not heads.fits(self.checkpoint):
            raise HeadsError(f"heads for {self.checkpoint}", f"heads for {heads.checkpoint}", "train them again")
        with self._lock:
            if heads is None:
                self._project_heads.pop(project, None)
            else:
                self._project_heads[project] = heads

    def set_choice(self, project: int, choice: MaskSelection) -> None:
        """Choose a project's masks by this from the next step on; the setting wins unless it is `auto`."""
        with self._lock:
            self._choices[project] = choice

    def suspend(self, project: int, actions: Iterable[str]) -> None:
        """Take none of these actions for a project from the next step on, and again all others."""
        for kind in (self._clicks, self._batches):
            kind.suspended[project] = frozenset(actions)

    def choice(self, project: int | None = None) -> MaskSelection:
        """What a project's masks are chosen by."""
        fixed = self.settings.mask_choice
        return self._choices.get(project or 0, "predicted-iou") if fixed == "auto" else fixed

    def heads(self, project: int | None = None) -> HeadSet | None:
        """The heads that a project's scores come from."""
        return self._project_heads.get(project or 0, self._own_heads)

    def model_version(self, project: int | None = None, timeout: float = 2.0) -> str:
        """Name of checkpoint and heads; another whenever weights change.

        While the model loads, it is read from the heads' file. Raises `EngineBusy` where that does not say it and
        the heads are not loaded within `timeout` seconds, or why they cannot be.
        """
        heads = self._project_heads.get(project or 0)
        if heads is None:
            if not self._heads_known.is_set() and (stored := self._stored_version()):
                return f"{self.checkpoint}+{stored}"
            if not self._heads_known.wait(timeout):
                if self._turns.failure is not None:
                    raise self._turns.failure
                raise EngineBusy("a known model version", "one that is loading", "try again", retry_after=3.0)
            heads = self._own_heads
        return f"{self.checkpoint}+{heads.version if heads is not None else NO_HEADS}"

    def _stored_version(self) -> str:
        """Version of the checkpoint's heads from their file's header, which needs no torch; empty: not there."""
        from safetensors import SafetensorError, safe_open

        from usam.checkpoints import registry as checkpoints

        given = self.settings.heads
        if given == "none":
            return NO_HEADS
        try:
            path = checkpoints.heads_for(self.checkpoint) if given == "auto" else Path(given)
            if path is None:
                return NO_HEADS
            file = path / "heads.safetensors" if path.is_dir() else path
            with safe_open(file, framework="numpy") as opened:
                return str((opened.metadata() or {}).get("version", ""))
        except (UsamError, OSError, SafetensorError):
            return ""

    def is_warm(self, image_key: str) -> bool:
        """Whether a click on this image would need neither the image nor an encoding."""
        ref = self._index.get(image_key)
        return ref is not None and (ref.content, self.checkpoint) in self.cache

    def click(
        self,
        image_key: str,
        load_image: LoadImage,
        prompts: Prompt | Sequence[Prompt] | PromptsFor,
        project: int | None = None,
    ) -> list[ObjectMask]:
        """The mask of each prompt, in their order, for somebody who waits.

        `image_key` names the image (its address); `load_image` is called only when its embedding is not at
        hand. `prompts` are in pixels of the upright image, or a function of its (H, W) that makes them.
        Raises `EngineBusy`, what `load_image` and `prompts` raise, and what keeps the model from loading.
        """
        warm = self.is_warm(image_key)
        started = time.perf_counter()
        asked: list[Prompt] = []

        def prepare(hw: tuple[int, int]) -> None:
            asked[:] = _checked(prompts, hw)

        def work(ref: ImageRef, image: UInt8Image | None) -> Steps[list[Candidate]]:
            embedding = yield from self._embedding(self.checkpoint, ref, image)
            return (yield from self._decode(ref, image, embedding, asked, project, self._clicks))

        ref, found = self._with_image(Priority.CLICK, image_key, load_image, work, prepare)
        if not self._has_larger(ref) and self._wants_larger(found, project):
            self._prefetch(self.settings.larger_model, image_key, load_image)
        masks = [_enlarge(c, prompt, ref.hw) for c, prompt in zip(found, asked, strict=True)]
        self.metrics.click_seconds.labels("yes" if warm else "no").observe(time.perf_counter() - started)
        return masks

    def propose(
        self,
        image_key: str,
        load_image: LoadImage,
        points: npt.ArrayLike | Sequence[Prompt] | PromptsFor | None = None,
        project: int | None = None,
        priority: Priority = Priority.BATCH,
    ) -> Proposals:
        """Masks for an image that nobody has clicked: from a grid, `points` (P, 2) in pixels, or prompts.

        Proposals of a predicted IoU below the setting are dropped, as is the worse of two that overlap too
        much. Raises as `click` does.
        """
        asked: list[Prompt] = []

        def prepare(hw: tuple[int, int]) -> None:
            given = points(hw) if callable(points) else points
            if given is None or not isinstance(given, Sequence) or not all(isinstance(p, Prompt) for p in given):
                xy = grid_points(hw, self.settings.points_per_side) if given is None else np.asarray(given, np.float32)
                given = [Prompt(point[None], np.ones(1, np.int32)) for point in xy.reshape(-1, 2)]
            asked[:] = _checked(cast("Sequence[Prompt]", given), hw)

        def work(
            ref: ImageRef, image: UInt8Image | None
        ) -> Steps[tuple[list[Candidate], list[int], npt.NDArray[np.float32]]]:
            embedding = yield from self._embedding(self.checkpoint, ref, image)
            found = yield from self._decode(ref, image, embedding, asked, project, self._batches)
            return found, self._suppress(found), _features(embedding)

        ref, (found, kept, features) = self._with_image(priority, image_key, load_image, work, prepare)
        objects = tuple(_enlarge(found[i], asked[i], ref.hw) for i in kept)
        return Proposals(objects, tuple(kept), ref.hw, features, len(asked))

    def tokens(
        self,
        image_key: str,
        load_image: LoadImage,
        prompts: Sequence[Prompt] | PromptsFor,
        priority: Priority = Priority.BATCH,
    ) -> Tokens:
        """Tokens of prompts that all have the same number of points and boxes: a sample's raw material.

        Raises as `click` does.
        """
        from backend.inference.model import Tokens

        asked: list[Prompt] = []

        def prepare(hw: tuple[int, int]) -> None:
            asked[:] = _checked(prompts, hw)

        def work(ref: ImageRef, image: UInt8Image | None) -> Steps[Tokens]:
            embedding = yield from self._embedding(self.checkpoint, ref, image)
            parts = []
            for chunk in self._chunks(asked):
                parts.append(self._models[self.checkpoint].tokens(embedding, chunk))
                yield
            return Tokens.joined(parts)

        return self._with_image(priority, image_key, load_image, work, prepare)[1]

    def prefetch(self, image_key: str, load_image: LoadImage) -> None:
        """Compute an embedding when nothing else is to be done; passed over where too many wait already."""
        if not self.is_warm(image_key):
            self._prefetch(self.checkpoint, image_key, load_image)

    # in a caller's thread

    def _prefetch(self, checkpoint: str, image_key: str, load_image: LoadImage) -> None:
        def run() -> None:
            try:
                ref, image = self._load(load_image)
                self._index.put(image_key, ref)
                with self._counted(image):
                    self._turns.do(Priority.AHEAD, self._encode_only(checkpoint, ref, image))
            except (UsamError, OSError) as error:
                log.info("an embedding was not computed ahead: %s", error)
            finally:
                with self._lock:
                    self._ahead_waiting -= 1

        with self._lock:
            if self._turns.stopped or self._ahead_waiting >= AHEAD_LIMIT:
                return
            self._ahead_waiting += 1
        with contextlib.suppress(RuntimeError):
            self._ahead.submit(run)

    def _with_image(
        self,
        priority: Priority,
        image_key: str,
        load_image: LoadImage,
        work: Callable[[ImageRef, UInt8Image | None], Steps[Result]],
        prepare: Callable[[tuple[int, int]], None],
    ) -> tuple[ImageRef, Result]:
        """Do `work` on an image, loading it only where its embedding is not at hand."""
        self._turns.refuse_when_full(priority)
        for _ in range(2):
            ref, image = self._index.get(image_key) if self.is_warm(image_key) else None, None
            if ref is None:
                with self._one_loader(image_key):
                    ref = self._index.get(image_key) if self.is_warm(image_key) else None
                    if ref is None:
                        ref, image = self._loaded.get(image_key) or self._load(load_image)
                        self._loaded[image_key] = ref, image
                        self._index.put(image_key, ref)
            try:
                with self._counted(image):
                    prepare(ref.hw)
                    return ref, self._turns.do(priority, work(ref, image))
            except _Evicted:
                continue
            finally:
                self._loaded.pop(image_key, None)
        raise self._turns.busy("the embedding cache is too small for what is asked at once")

    def _load(self, load_image: LoadImage) -> tuple[ImageRef, UInt8Image]:
        from usam.images import read_image

        source = load_image()
        content = content_hash(source)
        if isinstance(source, bytes):
            source = read_image(source, self.settings.image_pixels, self.settings.fetch_bytes)
        return ImageRef(content, (int(source.shape[0]), int(source.shape[1]))), source

    @contextlib.contextmanager
    def _one_loader(self, image_key: str) -> Iterator[None]:
        """Two callers that need the same image load it one after the other: the second finds it there."""
        with self._lock:
            lock = self._loaders.setdefault(image_key, threading.Lock())
        try:
            with lock:
                yield
        finally:
            with self._lock:
                self._loaders.pop(image_key, None)

    @contextlib.contextmanager
    def _counted(self, image: UInt8Image | None) -> Iterator[None]:
        """Count a decoded image while it waits for the model. Raises `EngineBusy` beyond the bound."""
        size = image.nbytes if image is not None else 0
        with self._lock:
            full = self._pending_bytes > 0 and self._pending_bytes + size > self.settings.pending_bytes
            if not full:
                self._pending_bytes += size
        if full:
            raise self._turns.busy("the images that wait for the model take too much memory")
        try:
            yield
        finally:
            with self._lock:
                self._pending_bytes -= size

    # in the engine's thread

    def _load_models(self) -> None:
        from usam.checkpoints import registry as checkpoints

        heads = self.settings.heads
        self._own_heads = checkpoints.resolve_heads(self.checkpoint, None if heads == "none" else heads)
        self._heads_known.set()
        import torch

        from backend.inference.model import LoadedModel

        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        wanted = {self.checkpoint: self._own_heads}
        if larger := self.settings.larger_model:
            wanted[larger] = checkpoints.resolve_heads(larger, "auto")
        for name, own in wanted.items():
            self._models[name] = LoadedModel.load(
                name, self.settings.device, own, self.metrics, random_weights=self.settings.random_weights
            )

    def _embedding(self, checkpoint: str, ref: ImageRef, image: UInt8Image | None) -> Steps[ImageEmbedding]:
        found = cast("ImageEmbedding | None", self.cache.get(ref.content, checkpoint))
        if found is None:
            if image is None:
                raise _Evicted("an embedding or an image", "neither")
            found = self._models[checkpoint].encode(image)
            self.cache.put(ref.content, checkpoint, found)
            yield
        cache, metrics = self.cache, self.metrics
        metrics.cache_bytes.set(cache.bytes)
        metrics.cache_hits.set(cache.hits)
        metrics.cache_misses.set(cache.misses)
        metrics.cache_evictions.set(cache.evictions)
        return found

    def _encode_only(self, checkpoint: str, ref: ImageRef, image: UInt8Image) -> Steps[None]:
        yield from self._embedding(checkpoint, ref, image)

    def _decode(
        self,
        ref: ImageRef,
        image: UInt8Image | None,
        embedding: ImageEmbedding,
        prompts: Sequence[Prompt],
        project: int | None,
        actions: RefinementBudget,
    ) -> Steps[list[Candidate]]:
        """One mask for each prompt, once what its gaps ask for is done, as far as the budgets go."""
        found: list[Candidate] = []
        heads, choice = self._project_heads.get(project or 0), self.choice(project)
        offer = actions.clicks and actions.budget("alternatives") > 0
        for chunk in self._chunks(prompts):
            if found:
                yield
            found += self._models[self.checkpoint].decode(embedding, chunk, heads, choice, others=offer)
        act = Refiner(actions, self._models, found, prompts, project)
        if offer:
            act.offer()
        if doubtful := act.admitted("points"):
            yield
            yield from act.add_points(doubtful, embedding, ref.hw, heads, choice)
        if not self.settings.larger_model or (image is None and not self._has_larger(ref)):
            return found
        if doubtful := act.admitted("larger"):
            yield
            larger = self.settings.larger_model
            fresh = not self._has_larger(ref)
            embedding = yield from self._embedding(larger, ref, image)
            yield from act.ask_larger(self._chunks(doubtful), embedding, fresh=fresh)
        return found

    def _wants_larger(self, found: Sequence[Candidate], project: int | None) -> bool:
        """Whether the next click on this image is likely to be one for the larger model."""
        if not self._clicks.budget("larger") or "larger" in self._clicks.suspended.get(project or 0, ()):
            return False
        threshold = max(self._clicks.allowance("larger", project).threshold, self.settings.act_gap_above)
        return any(one.checkpoint == self.checkpoint and one.gap("model_gap") >= threshold for one in found)

    def _has_larger(self, ref: ImageRef) -> bool:
        return (ref.content, self.settings.larger_model) in self.cache

    def _chunks(self, items: Sequence[Result]) -> Iterator[Sequence[Result]]:
        size = self.settings.points_per_batch
        return (items[start : start + size] for start in range(0, len(items), size))

    def _suppress(self, found: Sequence[Candidate]) -> list[int]:
        """Indices of the proposals to keep, best first."""
        from usam.masks import nms

        good = [i for i, c in enumerate(found) if c.iou >= self.settings.pred_iou_thresh and (c.logits > 0).any()]
        if not good:
            return []
        masks = np.stack([found[i].logits > 0 for i in good])
        ious = np.array([found[i].iou for i in good])
        return [good[k] for k in nms(masks, ious, self.settings.nms_iou)[: self.settings.max_regions]]


def _checked(prompts: Prompt | Sequence[Prompt] | PromptsFor, hw: tuple[int, int]) -> list[Prompt]:
    given = prompts(hw) if callable(prompts) else prompts
    return [prompt.check(hw) for prompt in ([given] if isinstance(given, Prompt) else given)]


def _enlarge(candidate: Candidate, prompt: Prompt, hw: tuple[int, int]) -> ObjectMask:
    from usam.masks import resize_logits

    return ObjectMask(
        mask=resize_logits(candidate.logits, hw) > 0,
        iou=candidate.iou,
        samscore=candidate.samscore,
        scores=candidate.scores,
        checkpoint=candidate.checkpoint,
        prompt=prompt,
        alternatives=tuple(_enlarge(other, prompt, hw) for other in candidate.others),
    )


def _features(embedding: ImageEmbedding) -> npt.NDArray[np.float32]:
    return np.asarray(embedding.image_embed.float().mean(dim=(0, 2, 3)).cpu().numpy(), np.float32)
