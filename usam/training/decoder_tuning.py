"""A mask decoder of a project's own: fine-tuned on images that are encoded already.

Shapes: P prompts, N objects of an image, E side of the image embedding, m = 4 E side of the decoder's masks.

Only the mask decoder learns; the encoder does not run, so a step costs a few prompts. Against forgetting and against
learning too much of too few labels: other images are mixed in (`distil_image`: the decoder's own masks of unlabelled
ones), and the weights are laid between old and new by as much as labels left out say (as in model soups, Wortsman et
al., ICML 2022, arXiv 2203.05482, and WiSE-FT, arXiv 2109.01903).

A decoder takes the place of the one in use only where images that neither has seen say so: audit images where there
are enough, else those left out of the folds by which its recipe is tried.

Whoever reads a decoder's tokens (heads) has to be taught again on the tuned one.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from usam.errors import TrainingError
from usam.predictor.embedding import ImageEmbedding
from usam.predictor.own_decoder import TunedDecoder
from usam.training.mask_losses import LossWeights, prompt_loss, true_ious

Masks = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]
CORNERS = (2, 3)
"""SAM's labels of a box's first and second corner."""
DRAWS = 2000


@dataclass(frozen=True, eq=False)
class TuningImage:
    """An encoded image with its objects: `masks` (N, m, m) float32, the share of each cell that the object covers
    (`shrink_mask`). `group` keeps images together that must not be parted."""

    embedding: ImageEmbedding
    masks: Masks
    group: str


@dataclass(frozen=True)
class TuningSettings:
    """How a decoder is tuned. `seconds`: a budget for all of it, in which each fold and the last tuning get their
    share; whoever is slower takes fewer steps."""

    rate: float = 2e-4
    weight_decay: float = 0.01
    steps: int = 60
    images_a_step: int = 4
    clicks: int = 2
    boxes: int = 2
    mixed: float = 0.35
    """Share of the steps' images that are mixed in, where there are any."""
    folds: int = 2
    blends: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    """How far to go from the old weights (0) to the new (1): what is tried."""
    least_share: float = 0.95
    """Share of bootstrap draws over images in which the new decoder has to be better."""
    least_audits: int = 5
    """Audit images from which on they judge, and not the images left out."""
    good_enough: float = 0.9
    """Mean IoU of the masks as they are from which on nothing is tuned: there is next to nothing to gain."""
    seconds: float = 60.0
    seed: int = 0
    loss: LossWeights = field(default_factory=LossWeights)

    def __post_init__(self) -> None:
        if not (0 <= self.mixed < 1 and self.folds >= 2 and self.steps > 0 and self.clicks + self.boxes > 0):
            raise TrainingError("mixed in [0, 1), folds from 2 on, steps and prompts above 0", str(self))


@dataclass(frozen=True)
class DecoderVerdict:
    """What images said that neither decoder has seen: mean IoU over images (one click and one box an object, mask
    picked by the decoder's own estimate) of the one in use and of the new one, and the `share` of bootstrap draws in
    which the new one is better. `seconds`: of all of it."""

    promote: bool
    method: str
    images: int
    before: float
    after: float
    share: float
    seconds: float = 0.0

    @property
    def reason(self) -> str:
        """One line for people."""
        if not self.images:
            return f"decoder: {self.method}"
        words = "masks better" if self.promote else "the one in use stays, masks not surely better"
        return (
            f"decoder: {words} by {self.method}: IoU {self.after:.3f} against {self.before:.3f} on {self.images} "
            f"images, in {self.share:.0%} of draws"
        )

    def figures(self) -> dict[str, Any]:
        """For records."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


def shrink_mask(mask: npt.NDArray[np.bool_], side: int) -> Masks:
    """(H, W) to the share of each of (m, m) cells that it covers."""
    return np.asarray(cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA), np.float32)


def tune_decoder(
    model: Any,
    images: Sequence[TuningImage],
    audits: Sequence[TuningImage] = (),
    others: Sequence[TuningImage] = (),
    settings: TuningSettings | None = None,
    *,
    checkpoint: str,
    checkpoint_sha256: str = "",
    in_use: TunedDecoder | None = None,
    on_progress: Progress | None = None,
) -> tuple[TunedDecoder | None, DecoderVerdict]:
    """Fine-tune a copy of `model`'s mask decoder, which itself stays as it is, and judge it.

    Parameters
    ----------
    images
        The project's, to learn from.
    audits
        Images that are never learnt, to judge by.
    others
        Images that are mixed in against forgetting.
    in_use
        The decoder that has to be beaten, None for the model's own. It is judged only by images that it has not learnt.

    Returns
    -------
    The decoder, None where the one in use stays, and why. Raises `TrainingError` with fewer than four images.
    """
    settings, started = settings or TuningSettings(), time.monotonic()
    images, audits, others = ([one for one in part if len(one.masks)] for part in (images, audits, others))
    groups = np.array([one.group for one in images])
    names = np.random.default_rng(settings.seed).permutation(np.unique(groups))
    if len(names) < 4:
        raise TrainingError("at least 4 labelled images with objects", str(len(names)), "label more images")
    champion = copy.deepcopy(model.sam_mask_decoder).eval()
    if in_use is not None:
        champion.load_state_dict(in_use.weights)
    by_audit = len(audits) >= settings.least_audits
    judged = audits if by_audit else images
    unseen = np.array([in_use is None or one.group not in in_use.learnt for one in judged])
    if unseen.sum() < 2:
        return None, DecoderVerdict(False, "nothing new to judge by", 0, 0.0, 0.0, 0.0)
    share_s = settings.seconds / (settings.folds + 1)
    plain, gains = object_ious(model, images, seed=settings.seed), np.zeros((len(settings.blends), len(images)))
    folds = np.zeros(len(images), np.int64)
    if plain.mean() >= settings.good_enough:
        said = f"nothing to gain, masks agree with the labels at IoU {plain.mean():.3f} as they are"
        return None, DecoderVerdict(False, said, 0, 0.0, 0.0, 0.0)
    for number, part in enumerate(np.array_split(names, settings.folds)):
        left_out = np.isin(groups, part)
        folds[left_out] = number
        train = [one for one, out in zip(images, left_out, strict=True) if not out]
        test = [one for one, out in zip(images, left_out, strict=True) if out]
        made = _tuned(model, train, others, settings, started + share_s * (number + 1), on_progress)
        for row, blend in enumerate(settings.blends):
            gains[row, left_out] = object_ious(model, test, _blended(model, made, blend), seed=settings.seed)
        gains[:, left_out] -= plain[left_out]
    gained = gains_by_others(gains, folds)
    blend, method = settings.blends[int(gains.mean(1).argmax())], "audit" if by_audit else "images left out"
    if not by_audit:
        before = plain if in_use is None else object_ious(model, images, champion, seed=settings.seed)
        verdict = _verdict(method, before[unseen], (plain + gained)[unseen], settings, started)
        if not verdict.promote:
            return None, verdict
    made = _tuned(model, images, others, settings, started + settings.seconds, on_progress)
    weights = {key: value.half().float() for key, value in _blended(model, made, blend).state_dict().items()}
    figures = {
        "gain": float(gained.mean()),
        "blend": blend,
        "images": float(len(images)),
        "objects": float(sum(len(one.masks) for one in images)),
        "seconds": time.monotonic() - started,
    }
    decoder = TunedDecoder(checkpoint, checkpoint_sha256, weights, figures, tuple(sorted(set(groups.tolist()))))
    if by_audit:
        own = copy.deepcopy(champion)
        own.load_state_dict(weights)
        before, after = (object_ious(model, audits, one, seed=settings.seed) for one in (champion, own))
        verdict = _verdict(method, before[unseen], after[unseen], settings, started)
    return (decoder if verdict.promote else None), verdict


def gains_by_others(gains: Floats, folds: npt.NDArray[np.int64]) -> Floats:
    """Of gains (B, images) by B blends, each image's gain by the blend that is best on the images of the other folds
    (images,): of several tries on the same images the best looks better than it is.

    >>> gains_by_others(np.array([[0.3, 0.0], [0.0, 0.2]]), np.array([0, 1])).tolist()
    [0.0, 0.0]
    """
    chosen = np.array([gains[:, folds != fold].mean(1).argmax() for fold in range(folds.max() + 1)])
    return np.asarray(gains[chosen[folds], np.arange(len(folds))], np.float64)


def _verdict(method: str, before: Floats, after: Floats, settings: TuningSettings, started: float) -> DecoderVerdict:
    gain = after - before
    drawn = np.random.default_rng(settings.seed).integers(len(gain), size=(DRAWS, len(gain)))
    share = float((gain[drawn].mean(1) > 0).mean())
    seconds = time.monotonic() - started
    promote = share >= settings.least_share
    return DecoderVerdict(promote, method, len(gain), float(before.mean()), float(after.mean()), share, seconds)


def _tuned(
    model: Any,
    images: Sequence[TuningImage],
    others: Sequence[TuningImage],
    settings: TuningSettings,
    until: float,
    on_progress: Progress | None,
) -> Any:
    """A decoder that learnt these images, in `settings.steps` or, where time is up before, in fewer."""
    rng = np.random.default_rng(settings.seed)
    new = copy.deepcopy(model.sam_mask_decoder).train()
    parameters = [parameter.requires_grad_() for parameter in new.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=settings.weight_decay)
    started, steps = time.monotonic(), settings.steps
    step = 0
    while step < steps and time.monotonic() < until:
        if step == 5:  # what the machine does in the time that is left, so that the rate has fallen by then
            each = (time.monotonic() - started) / step
            steps = max(step + 1, min(steps, step + int((until - time.monotonic()) / each)))
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min(1.0, (step + 1) / 20) * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(model, new, _drawn(images, others, settings, rng), settings, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if on_progress is not None:
            on_progress(step, steps)
    return new.eval()


def _blended(model: Any, new: Any, blend: float) -> Any:
    """A decoder between the model's own (0) and a new one (1)."""
    made, old = copy.deepcopy(new), model.sam_mask_decoder.state_dict()
    made.load_state_dict({key: torch.lerp(old[key], value, blend) for key, value in new.state_dict().items()})
    return made


@torch.no_grad()
def distil_image(model: Any, embedding: ImageEmbedding, group: str, *, side: int = 6, most: int = 12) -> TuningImage:
    """An unlabelled image with what the model's own decoder finds on it (a grid of `side` points a side, the surest
    masks first, no near-copies): mixed in, it keeps a decoder from forgetting what it knew."""
    from usam.masks import nms

    cells = 4 * model.sam_image_embedding_size
    xy = (np.arange(side) + 0.5) / side * cells * 4
    points = torch.from_numpy(np.stack(np.meshgrid(xy, xy), -1).reshape(-1, 1, 2).astype(np.float32))
    labels = torch.ones((len(points), 1), dtype=torch.int32)
    logits, ious = _decode(model, model.sam_mask_decoder, embedding, points, labels)
    best = ious[:, 1:].argmax(1)
    rows = torch.arange(len(best), device=best.device)
    masks, sure = (logits[rows, best + 1] > 0).cpu().numpy(), ious[rows, best + 1].cpu().numpy()
    good = np.flatnonzero((sure >= 0.5) & masks.any((1, 2)))
    kept = good[nms(masks[good], sure[good], 0.7)][:most] if len(good) else good
    return TuningImage(embedding, masks[kept].astype(np.float32), group)


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
