"""The only owner of the models: one thread, an embedding cache and a queue in which clicks go first.

Legend: H, W height and width of the upright image in pixels; D token width.

A caller opens an image and blocks in `click` or `propose`. What needs no model (finding, downloading and decoding an
image, enlarging masks) happens in the caller's own thread (`intake`); what does is cut into steps of one encoding or a
few prompts (`scheduler`). Nothing waits without bound: beyond a number of waiting jobs, or bytes of decoded
images that wait with them, callers get `EngineBusy`.

Heads are applied to tokens, so a project's own heads need no model of their own: `set_heads` swaps them
between two steps. A project's own decoder stands beside the checkpoint's, with the same encoder.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, cast

from backend.errors import EngineBusy
from backend.inference.cache import EmbeddingCache, EmbeddingFiles
from backend.inference.candidates import propose
from backend.inference.intake import ImageIntake, LoadImage, OpenImage, UInt8Image
from backend.inference.model import DecodedObjects, LoadedModel, ProposedObjects
from backend.inference.object_masks import (
    Label,
    ObjectMask,
    ProjectModel,
    ProposedMasks,
    clicked_labels,
    object_masks,
)
from backend.inference.refinement import Refinement, RefinementBudget, refine_by_larger
from backend.inference.scheduler import Priority, Result, Steps, StepScheduler
from backend.inference.shown import ShownObjects, choose_shown, grid_of
from backend.metrics.service import Metrics
from backend.settings import Settings
from usam.active.mask_selection import MaskSelection
from usam.errors import HeadsError, UsamError
from usam.prompts import Prompt

if TYPE_CHECKING:
    from collections.abc import Callable

    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads
    from usam.predictor.embedding import ImageEmbedding
    from usam.predictor.own_decoder import TunedDecoder

AHEAD_LIMIT = 8
NO_HEADS = "no-heads"
log = logging.getLogger(__name__)


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
        self._files = EmbeddingFiles.of(settings)
        self._lock = threading.Lock()
        self._projects: dict[int, ProjectModel] = {}
        self._selections: dict[int, MaskSelection] = {}
        self._clicks = RefinementBudget(settings, self.metrics)
        self._batches = RefinementBudget(settings, self.metrics)
        self._own_heads: HeadSet | None = None
        self._heads_known = threading.Event()
        self._models: dict[str, LoadedModel] = {}
        self._decoding: dict[int, LoadedModel] = {}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="engine-ahead")
        self._keeping = ThreadPoolExecutor(1, thread_name_prefix="engine-keep")
        self._ahead_waiting = 0
        self._scheduler = StepScheduler(
            self._load_models,
            queue_limit=settings.queue_limit,
            wait_seconds=settings.wait_seconds,
            metrics=self.metrics,
            out_of_memory=self.cache.clear,
        )
        self._intake = ImageIntake(settings, self.checkpoint, self.cache, self._files, self._scheduler.busy)

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def state(self) -> str:
        """`loading`, `ready`, `failed` or `stopped`."""
        if self._scheduler.stopped:
            return "stopped"
        if self._scheduler.failure is not None:
            return "failed"
        return "ready" if self._scheduler.prepared.is_set() else "loading"

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the model is loaded. Raises `EngineBusy` after `timeout` seconds, or why it cannot
        be."""
        loaded = self._scheduler.prepared.wait(timeout)
        if self._scheduler.failure is not None:
            raise self._scheduler.failure
        if not loaded:
            raise EngineBusy("a loaded model", "one that is loading", "try again", retry_after=3.0)

    def close(self) -> None:
        """Stop after the present step; waiting jobs get `EngineStopped`."""
        self._ahead.shutdown(wait=False, cancel_futures=True)
        self._scheduler.close()
        self._keeping.shutdown()

    def set_heads(
        self,
        project: int,
        heads: HeadSet | None,
        learnt: ProjectHeads | None = None,
        version: str = "",
        decoder: TunedDecoder | None = None,
    ) -> None:
        """Use a project's own heads, what was `learnt` of its objects and its `decoder` from the next image on; None:
        the checkpoint's. `version` names them all, the heads alone without it.

        Raises `HeadsError` where they are of another checkpoint.
        """
        if heads is not None and not heads.fits(self.checkpoint):
            raise HeadsError(f"heads for {self.checkpoint}", f"heads for {heads.checkpoint}", "train them again")
        with self._lock:
            if heads is None:
                self._projects.pop(project, None)
            else:
                fits = learnt is not None and learnt.checkpoint == self.checkpoint
                name = version or heads.version
                self._projects[project] = ProjectModel(heads, learnt if fits else None, name, decoder)

    def set_mask_selection(self, project: int, selection: MaskSelection) -> None:
        """Choose a project's masks by this from the next step on; the setting wins unless it is `auto`."""
        with self._lock:
            self._selections[project] = selection

    def suspend(self, project: int, actions: Iterable[str]) -> None:
        """Take none of these actions for a project from the next step on, and again all others."""
        for budget in (self._clicks, self._batches):
            budget.suspended[project] = frozenset(actions)

    def mask_selection(self, project: int | None = None) -> MaskSelection:
        """What a project's masks are chosen by."""
        fixed = self.settings.mask_choice
        return self._selections.get(project or 0, "predicted-iou") if fixed == "auto" else fixed

    def heads(self, project: int | None = None) -> HeadSet | None:
        """The heads that a project's scores come from."""
        own = self._projects.get(project or 0)
        return own.heads if own is not None else self._own_heads

    def model_version(self, project: int | None = None, timeout: float = 2.0) -> str:
        """Name of checkpoint and heads; another whenever weights change.

        While the model loads, it is read from the heads' file. Raises `EngineBusy` where that does not say it and
        the heads are not loaded within `timeout` seconds, or why they cannot be.
        """
        own = self._projects.get(project or 0)
        if own is None:
            if not self._heads_known.is_set() and (stored := _stored_version(self.settings)):
                return f"{self.checkpoint}+{stored}"
            if not self._heads_known.wait(timeout):
                if self._scheduler.failure is not None:
                    raise self._scheduler.failure
                raise EngineBusy("a known model version", "one that is loading", "try again", retry_after=3.0)
            return f"{self.checkpoint}+{self._own_heads.version if self._own_heads is not None else NO_HEADS}"
        return f"{self.checkpoint}+{own.version}"

    def is_warm(self, address: str) -> bool:
        """Whether a click on this image would need neither the image nor an encoding."""
        return self._intake.is_warm(address)

    @contextlib.contextmanager
    def image(self, address: str, load_image: LoadImage, priority: Priority = Priority.CLICK) -> Iterator[OpenImage]:
        """An image to click on or to propose objects for, under the name of its address.

        `load_image` is called only when its embedding is not at hand. Raises `EngineBusy` where the queue of that
        priority is full or too many images wait, and what `load_image` raises.
        """
        self._scheduler.refuse_when_full(priority)
        with self._intake.open(address, load_image) as image:
            yield image

    def click(self, image: OpenImage, prompts: Sequence[Prompt], project: int | None = None) -> list[ObjectMask]:
        """The mask of each prompt (in pixels of the upright image), in their order, for somebody who waits.

        Raises `PromptError`, `EngineBusy`, and what keeps the model from loading.
        """
        asked = [prompt.check(image.hw) for prompt in prompts]
        if not asked:
            return []
        priority = Priority.COLD_CLICK if image.pixels is not None else Priority.CLICK
        objects, refined, labels = self._run(priority, image, lambda: self._click_steps(image, asked, project))
        has_larger = (image.ref.content, self.settings.larger_model) in self.cache
        if not refined and not has_larger and self._clicks.would_admit(objects, project):
            self._prefetch(self.settings.larger_model, image.address, image.load)
        masks = object_masks(self.checkpoint, objects, asked, refined, image.hw, labels)
        seconds = time.perf_counter() - image.opened_at
        self.metrics.click_seconds.labels("yes" if image.warm else "no").observe(seconds)
        return masks

    def propose(
        self,
        image: OpenImage,
        prompts: Sequence[Prompt] = (),
        project: int | None = None,
        priority: Priority = Priority.BATCH,
    ) -> ProposedMasks:
        """The distinct objects of an image that nobody has clicked, best first: what prompts show, else a grid.

        Raises as `click` does.
        """
        asked = [prompt.check(image.hw) for prompt in prompts]
        found, shown, refined = self._run(priority, image, lambda: self._propose_steps(image, asked, project))
        rows = shown.rows.tolist()
        objects, asked = found.objects.take(shown.rows), [found.prompts[row] for row in rows]
        labels = [shown.label(row) for row in rows]
        masks = object_masks(self.checkpoint, objects, asked, refined, image.hw, labels)
        return ProposedMasks(masks, found, shown)

    def prefetch(self, address: str, load_image: LoadImage) -> None:
        """Compute an embedding when nothing else is to be done; passed over where too many wait already."""
        if not self.is_warm(address):
            self._prefetch(self.checkpoint, address, load_image)

    # in a caller's thread

    def _run(self, priority: Priority, image: OpenImage, steps: Callable[[], Steps[Result]]) -> Result:
        """The result of steps on an image, whose pixels are loaded where its embedding has gone meanwhile."""
        for _ in range(2):
            try:
                return self._scheduler.run(priority, steps())
            except _Evicted:
                self._intake.reload(image)
        raise self._scheduler.busy("the embedding cache is too small for what is asked at once")

    def _prefetch(self, checkpoint: str, address: str, load_image: LoadImage) -> None:
        def run() -> None:
            try:
                with self._intake.open(address, load_image, checkpoint) as image:
                    self._scheduler.run(Priority.AHEAD, self._encode_only(checkpoint, image))
            except (UsamError, OSError) as error:
                log.info("an embedding was not computed ahead: %s", error)
            finally:
                with self._lock:
                    self._ahead_waiting -= 1

        with self._lock:
            if self._scheduler.stopped or self._ahead_waiting >= AHEAD_LIMIT:
                return
            self._ahead_waiting += 1
        with contextlib.suppress(RuntimeError):
            self._ahead.submit(run)

    # in the engine's thread

    def _load_models(self) -> None:
        from usam.heads.bundled import resolve_heads

        heads = self.settings.heads
        self._own_heads = resolve_heads(self.checkpoint, None if heads == "none" else heads)
        self._heads_known.set()
        wanted = {self.checkpoint: self._own_heads}
        if larger := self.settings.larger_model:
            wanted[larger] = resolve_heads(larger, "auto")
        for name, own in wanted.items():
            self._models[name] = LoadedModel.load(name, self.settings, self.metrics, own)

    def _model_of(self, project: int, own: ProjectModel | None) -> LoadedModel:
        """The model with the project's decoder; each project has one of its own."""
        model = self._models[self.checkpoint]
        if own is None or own.decoder is None:
            self._decoding.pop(project, None)
            return model
        known = self._decoding.get(project)
        if known is None or known.decoder != own.decoder.version:
            self._decoding[project] = known = model.with_decoder(own.decoder)
        return known

    def _click_steps(
        self, image: OpenImage, prompts: Sequence[Prompt], project: int | None
    ) -> Steps[tuple[DecodedObjects, dict[int, Refinement], list[Label]]]:
        embedding = yield from self._embedding(self.checkpoint, image)
        own = self._projects.get(project or 0)
        selection, model = self.mask_selection(project), self._model_of(project or 0, own)
        heads, size = own.heads if own is not None else None, self.settings.points_per_batch
        objects = yield from model.decode_steps(embedding, prompts, heads, selection, size)
        labels = clicked_labels(model, embedding, objects, own.learnt if own is not None else None)
        return objects, (yield from self._refine(image, objects, prompts, project, self._clicks)), labels

    def _propose_steps(
        self, image: OpenImage, prompts: Sequence[Prompt], project: int | None
    ) -> Steps[tuple[ProposedObjects, ShownObjects, dict[int, Refinement]]]:
        embedding = yield from self._embedding(self.checkpoint, image)
        own = self._projects.get(project or 0)
        selection, model = self.mask_selection(project), self._model_of(project or 0, own)
        heads, learnt = (own.heads, own.learnt) if own is not None else (None, None)
        grid = grid_of(self.settings, learnt)
        if grid.tiles > 1 and not prompts and image.pixels is None:
            raise _Evicted("an image to look at in parts", "its embedding alone")
        found = yield from propose(
            model, embedding, prompts, heads, selection, self.settings, grid, lambda: cast("UInt8Image", image.pixels)
        )
        shown = choose_shown(found.layout, found.looks, found.objects.iou, self.settings, learnt, given=found.given)
        objects, asked = found.objects.take(shown.rows), [found.prompts[row] for row in shown.rows.tolist()]
        return found, shown, (yield from self._refine(image, objects, asked, project, self._batches))

    def _refine(
        self,
        image: OpenImage,
        objects: DecodedObjects,
        prompts: Sequence[Prompt],
        project: int | None,
        budget: RefinementBudget,
    ) -> Steps[dict[int, Refinement]]:
        """The larger model's masks by object, as far as the budget goes and the image is at hand."""
        larger = self.settings.larger_model
        if not larger or (image.pixels is None and (image.ref.content, larger) not in self.cache):
            return {}
        doubtful = budget.admit(objects, project)
        if not doubtful:
            return {}
        yield
        embedding = yield from self._embedding(larger, image)
        before = [float(objects.iou[k]) for k in doubtful]
        asked = [prompts[k] for k in doubtful]
        refined = yield from refine_by_larger(self._models[larger], embedding, asked, before, self.settings)
        budget.record(refined)
        return dict(zip(doubtful, refined, strict=True))

    def _embedding(self, checkpoint: str, image: OpenImage) -> Steps[ImageEmbedding]:
        content, cache, metrics = image.ref.content, self.cache, self.metrics
        embedding = cast("ImageEmbedding | None", cache.get(content, checkpoint))
        if embedding is None:
            if image.pixels is None:
                raise _Evicted("an embedding or an image", "neither")
            embedding = self._models[checkpoint].encode(image.pixels)
            cache.put(content, checkpoint, embedding)
            if self._files.max_bytes:
                self._keeping.submit(self._files.put, content, checkpoint, embedding)
            yield
        metrics.cache_bytes.set(cache.bytes)
        metrics.cache_hits.set(cache.hits)
        metrics.cache_misses.set(cache.misses)
        metrics.cache_evictions.set(cache.evictions)
        return embedding

    def _encode_only(self, checkpoint: str, image: OpenImage) -> Steps[None]:
        yield from self._embedding(checkpoint, image)


def _stored_version(settings: Settings) -> str:
    """Version of the checkpoint's heads from their file's header, which needs no torch; empty: not there."""
    from safetensors import SafetensorError, safe_open

    from usam.checkpoints import registry as checkpoints

    given = settings.heads
    if given == "none":
        return NO_HEADS
    try:
        path = checkpoints.heads_for(settings.model) if given == "auto" else Path(given)
        if path is None:
            return NO_HEADS
        file = path / "heads.safetensors" if path.is_dir() else path
        with safe_open(file, framework="numpy") as opened:
            return str((opened.metadata() or {}).get("version", ""))
    except (UsamError, OSError, SafetensorError):
        return ""
