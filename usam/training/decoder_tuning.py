"""A mask decoder of a project's own: fine-tuned on images that are encoded already.

Shapes: P prompts, N objects of an image, E side of the image embedding, m = 4 E side of the decoder's masks.

Only the mask decoder learns; the encoder does not run, so a step costs a few prompts. Three things keep it from
forgetting what it knew: images of other kinds are mixed in, the weights are laid between old and new by as much as
labels held out say (as in model soups, Wortsman et al., ICML 2022, arXiv 2203.05482, and WiSE-FT, arXiv 2109.01903),
and where the labels held out say that nothing is gained, there is no new decoder.

Whoever reads a decoder's tokens (heads) has to be taught again on the tuned one.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from usam.errors import CheckpointError, TrainingError
from usam.files import replacing
from usam.predictor.embedding import ImageEmbedding
from usam.training.mask_losses import LossWeights, prompt_loss, true_ious

Masks = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
FORMAT = "usam-decoder-1"
CORNERS = (2, 3)
"""SAM's labels of a box's first and second corner."""


@dataclass(frozen=True, eq=False)
class TuningImage:
    """An encoded image with its objects: `masks` (N, m, m) float32, the share of each cell that the object covers
    (`shrink_mask`). `group` keeps images together that must not be parted."""

    embedding: ImageEmbedding
    masks: Masks
    group: str


@dataclass(frozen=True)
class TuningSettings:
    """How a decoder is tuned. `seconds`: a budget; tuning ends in time and keeps the best so far."""

    rate: float = 2e-4
    weight_decay: float = 0.01
    steps: int = 240
    images_a_step: int = 4
    clicks: int = 3
    boxes: int = 2
    mixed: float = 0.35
    """Share of the steps' images that are of other kinds, where there are any."""
    held_out: float = 0.25
    """Share of the project's images, and of the mixed ones, that are kept to judge by."""
    blends: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """How far to go from the old weights (0) to the new (1): what is tried."""
    least_gain: float = 0.002
    """Mean IoU on the project's held-out images below which the old decoder stays."""
    most_lost: float = 0.01
    """Mean IoU that other images may lose."""
    check_every: int = 60
    seconds: float = 60.0
    seed: int = 0
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if not (0 <= self.mixed < 1 and 0 < self.held_out < 1 and self.steps > 0 and self.clicks + self.boxes > 0):
            raise TrainingError("mixed in [0, 1), held_out in (0, 1), steps and prompts above 0", str(self))


@dataclass(frozen=True, eq=False)
class TunedDecoder:
    """A decoder's weights, for one checkpoint only.

    `figures`: `gain` and `other_gain`, mean IoU gained on images held out of the project and of other kinds (one click
    and a box an object, mask picked by the decoder's own estimate); `blend`, `steps`, `seconds`, `images`, `objects`.
    """

    checkpoint: str
    checkpoint_sha256: str
    weights: dict[str, Tensor]
    figures: dict[str, float]


def shrink_mask(mask: npt.NDArray[np.bool_], side: int) -> Masks:
    """(H, W) to the share of each of (m, m) cells that it covers."""
    return np.asarray(cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA), np.float32)


def tune_decoder(
    model: Any,
    images: Sequence[TuningImage],
    others: Sequence[TuningImage] = (),
    settings: TuningSettings | None = None,
    *,
    checkpoint: str,
    checkpoint_sha256: str = "",
    on_progress: Progress | None = None,
) -> TunedDecoder | None:
    """Fine-tune `model`'s mask decoder; the model itself stays as it is.

    Parameters: the project's `images`, at least four of which have objects, of distinct groups; `others`: images of
    other kinds, against forgetting.

    Returns None where images held out say that nothing is gained, or that too much is lost elsewhere. Raises
    `TrainingError` with too few images.
    """
    settings = settings or TuningSettings()
    rng = np.random.default_rng(settings.seed)
    train, judge = _parted([image for image in images if len(image.masks)], settings, rng, 4)
    other_train, other_judge = _parted([image for image in others if len(image.masks)], settings, rng, 0)
    started = time.monotonic()
    old = model.sam_mask_decoder
    new = copy.deepcopy(old).train()
    parameters = [parameter.requires_grad_() for parameter in new.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=settings.weight_decay)
    judged = copy.deepcopy(old).eval()
    base, other_base = (_mean_iou(model, judged, part, settings.seed) for part in (judge, other_judge))
    best: tuple[float, dict[str, Tensor], dict[str, float]] | None = None
    before = {key: value.clone() for key, value in old.state_dict().items()}
    step = 0
    while step < settings.steps and time.monotonic() - started < settings.seconds:
        for group in optimizer.param_groups:
            warm, left = min(1.0, (step + 1) / 20), 1 - step / settings.steps
            group["lr"] = settings.rate * warm * min(1.0, 2 * left)
        chosen = _drawn(train, other_train, settings, rng)
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(model, new, chosen, settings, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if on_progress is not None:
            on_progress(step, settings.steps)
        late = time.monotonic() - started >= settings.seconds
        if step % settings.check_every and step < settings.steps and not late:
            continue
        for blend in settings.blends:
            weights = {key: torch.lerp(value, new.state_dict()[key], blend) for key, value in before.items()}
            judged.load_state_dict(weights)
            gain = _mean_iou(model, judged, judge, settings.seed) - base
            other = _mean_iou(model, judged, other_judge, settings.seed) - other_base if other_judge else 0.0
            if gain >= settings.least_gain and other >= -settings.most_lost and (best is None or gain > best[0]):
                best = (gain, weights, {"gain": gain, "other_gain": other, "blend": blend, "steps": float(step)})
    if best is None:
        return None
    figures = best[2] | {
        "seconds": time.monotonic() - started,
        "images": float(len(images)),
        "objects": float(sum(len(image.masks) for image in images)),
    }
    return TunedDecoder(checkpoint, checkpoint_sha256, best[1], figures)


def _parted(
    images: list[TuningImage], settings: TuningSettings, rng: np.random.Generator, least: int
) -> tuple[list[TuningImage], list[TuningImage]]:
    """Images to learn from and to judge by, parted by group."""
    groups = sorted({image.group for image in images})
    if len(groups) < least:
        raise TrainingError(f"at least {least} labelled images with objects", str(len(groups)), "label more images")
    shuffled = [groups[index] for index in rng.permutation(len(groups))]
    kept = set(shuffled[: max(1, round(settings.held_out * len(groups)))] if len(groups) > 1 else [])
    return [image for image in images if image.group not in kept], [image for image in images if image.group in kept]


def _drawn(
    train: Sequence[TuningImage], others: Sequence[TuningImage], settings: TuningSettings, rng: np.random.Generator
) -> list[TuningImage]:
    sources = [
        others if len(others) and rng.random() < settings.mixed else train for _ in range(settings.images_a_step)
    ]
    return [source[int(rng.integers(len(source)))] for source in sources]


def _loss(
    model: Any, decoder: Any, images: Sequence[TuningImage], settings: TuningSettings, rng: np.random.Generator
) -> Tensor:
    """Mean loss of one step's clicks and disturbed boxes."""
    total, count = torch.zeros(()), 0
    for image in images:
        area = np.sqrt(image.masks.mean((1, 2)) + 1e-9)
        for kind, number in (("click", settings.clicks), ("box", settings.boxes)):
            if not number:
                continue
            rows = rng.choice(len(image.masks), number, p=area / area.sum())
            targets = image.masks[rows]
            points, labels = _prompts(kind, targets, rng, disturbed=True)
            logits, ious = _decode(model, decoder, image.embedding, points, labels)
            goal = torch.from_numpy(targets).to(logits.device)
            one_click = kind == "click"
            total = total.to(logits.device) + number * prompt_loss(logits, ious, goal, settings.loss, one_click).total
            count += number
    return total / max(count, 1)


def _prompts(kind: str, masks: Masks, rng: np.random.Generator, *, disturbed: bool) -> tuple[Tensor, Tensor]:
    """Points (P, K, 2) in pixels of the model's input, four to a cell of the masks (P, m, m), and labels (P, K)."""
    points = np.stack([(_click if kind == "click" else _box)(mask, rng, disturbed) for mask in masks])
    labels = [[1] if kind == "click" else list(CORNERS)] * len(masks)
    return torch.from_numpy(points.astype(np.float32) * 4), torch.tensor(labels, dtype=torch.int32)


def _solid(mask: Masks) -> npt.NDArray[np.bool_]:
    solid = mask > 0.5
    return solid if solid.any() else np.asarray(mask >= mask.max())


def _click(mask: Masks, rng: np.random.Generator, disturbed: bool) -> npt.NDArray[np.float64]:
    """(1, 2) x, y in cells: the innermost cell, or when disturbed half of the time any of the object's."""
    solid = _solid(mask)
    if disturbed and rng.random() < 0.5:
        ys, xs = np.nonzero(solid)
        at = int(rng.integers(len(ys)))
        return np.array([[xs[at] + rng.random(), ys[at] + rng.random()]])
    depth = cv2.distanceTransform(np.pad(solid, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return np.array([[x + 0.5, y + 0.5]])


def _box(mask: Masks, rng: np.random.Generator, disturbed: bool) -> npt.NDArray[np.float64]:
    """(2, 2) corners in cells; when disturbed, each side off by up to a tenth of the extent."""
    solid = _solid(mask)
    ys, xs = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    corners = np.array([[xs[0], ys[0]], [xs[-1] + 1, ys[-1] + 1]], np.float64)
    if disturbed:
        extent = corners[1] - corners[0]
        corners += np.clip(rng.normal(0, 0.05, (2, 2)), -0.1, 0.1) * extent
    return np.clip(corners, 0, mask.shape[0])


def _decode(
    model: Any, decoder: Any, embedding: ImageEmbedding, points: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits (P, 4, m, m) and predicted IoU (P, 4) by `decoder`, on one image."""
    device = embedding.image_embed.device
    with torch.no_grad():
        sparse, dense = model.sam_prompt_encoder(points=(points.to(device), labels.to(device)), boxes=None, masks=None)
        position = model.sam_prompt_encoder.get_dense_pe()
    bfloat = device.type == "cuda" or decoder.training
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat):
        logits, ious, _, _ = decoder.predict_masks(
            image_embeddings=embedding.image_embed.float(),
            image_pe=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=True,
            high_res_features=[part.float() for part in embedding.high_res] or None,
        )
    return logits.float(), ious.float()


def _mean_iou(model: Any, decoder: Any, images: Sequence[TuningImage], seed: int) -> float:
    return float(object_ious(model, images, decoder, seed=seed).mean()) if images else 0.0


@torch.no_grad()
def object_ious(
    model: Any, images: Sequence[TuningImage], decoder: Any = None, *, seed: int = 0, most: int = 12
) -> npt.NDArray[np.float64]:
    """Mean IoU of each image's objects, at the masks' low resolution, of a click and of a box, the mask picked by the
    decoder's own estimate.

    `decoder`: another than the model's; `most`: so many objects an image, drawn by `seed`. Returns (images,).
    """
    rng = np.random.default_rng(seed)
    means = []
    for image in images:
        rows = rng.permutation(len(image.masks))[:most]
        targets = image.masks[rows]
        ious = []
        for kind in ("click", "box"):
            points, labels = _prompts(kind, targets, rng, disturbed=False)
            logits, predicted = _decode(model, decoder or model.sam_mask_decoder, image.embedding, points, labels)
            true = true_ious(logits, torch.from_numpy(targets).to(logits.device))[:, 1:]
            ious.append(true.gather(1, predicted[:, 1:].argmax(1, keepdim=True)).mean())
        means.append(float(torch.stack(ious).mean()))
    return np.array(means, np.float64)


def save_decoder(decoder: TunedDecoder, path: Path) -> Path:
    """Write it as float16 safetensors, whole or not at all."""
    from safetensors.torch import save

    tensors = {key: value.detach().cpu().half().contiguous() for key, value in decoder.weights.items()}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError("finite weights", f"infinities in {name}", "tune again at a lower rate")
    about = {
        "format": FORMAT,
        "checkpoint": decoder.checkpoint,
        "checkpoint_sha256": decoder.checkpoint_sha256,
        "figures": json.dumps(decoder.figures),
    }
    with replacing(Path(path)) as partial:
        partial.write_bytes(save(tensors, about))
    return Path(path)


def load_decoder(path: Path, *, checkpoint: str, checkpoint_sha256: str = "") -> TunedDecoder:
    """Read what `save_decoder` wrote. Raises `CheckpointError` for a broken file, or one of another checkpoint."""
    from safetensors import SafetensorError, safe_open

    remedy = "retrain the project"
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118  (no mapping)
        if about.get("format") != FORMAT:
            raise CheckpointError(f"a file of the format {FORMAT}", repr(about.get("format")), remedy)
        figures = {key: float(value) for key, value in json.loads(about["figures"]).items()}
        decoder = TunedDecoder(about["checkpoint"], about["checkpoint_sha256"], weights, figures)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"a decoder in {Path(path).name}", f"{type(error).__name__}: {error}", remedy) from error
    if (decoder.checkpoint, decoder.checkpoint_sha256) != (checkpoint, checkpoint_sha256):
        raise CheckpointError(
            f"a decoder of {checkpoint} {checkpoint_sha256[:12]}",
            f"{decoder.checkpoint} {decoder.checkpoint_sha256[:12]}",
            remedy,
        )
    return decoder


def put_decoder(model: Any, decoder: TunedDecoder) -> dict[str, Tensor]:
    """Give `model` these weights; returns those it had. Raises `CheckpointError` where they do not fit.

    Not to be called while another thread decodes.
    """
    there = model.sam_mask_decoder
    before = {key: value.clone() for key, value in there.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in decoder.weights.items()}
    if shapes != {key: tuple(value.shape) for key, value in before.items()}:
        raise CheckpointError(f"a decoder that fits {decoder.checkpoint}", "one of other shapes", "retrain the project")
    there.load_state_dict(decoder.weights)
    return before


@contextmanager
def decoder_in_place(model: Any, decoder: TunedDecoder | None) -> Iterator[None]:
    """Inside, `model` decodes with these weights (None: its own)."""
    if decoder is None:
        yield
        return
    before = put_decoder(model, decoder)
    try:
        yield
    finally:
        model.sam_mask_decoder.load_state_dict(before)
