"""Heads from tokens and targets: split by image, all heads at once, each stopped at its own best epoch.

Legend: N rows (objects), D token width, T heads. Targets are IoUs, and gaps as 0.5 + gap; losses are
squared errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from usam.arrays import numbers
from usam.checkpoints.registry import weights_of
from usam.errors import TrainingError
from usam.heads.head_set import HeadSet
from usam.statistics import calibration_error, pearson
from usam.training.adaptation import Adaptation, adapt_heads
from usam.training.loop import Progress, Trained, train_together
from usam.training.network import Alignment, Layers, Rows, merge_layers
from usam.training.settings import Preset, TrainSettings, preset_for
from usam.training.split import Split, group_folds, split_groups

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FitResult:
    """A head set and how it came about.

    `history`: a dictionary an epoch, {head: validation loss}, the mean over members. `figures`: {head:
    {mse, mae, pearson, calibration_error, variance, rows}} on the test images (validation images where no
    test share was set aside), which no weight has seen. `alignment_losses`: mean validation loss over
    variance for each alignment tried. `split`: row indices. `adaptation`: what was chosen for each head,
    where given heads were adapted.
    """

    heads: HeadSet
    history: list[dict[str, float]]
    figures: dict[str, dict[str, float]]
    alignment_losses: dict[str, float]
    split: Split | None
    adaptation: Adaptation | None = None


def fit_heads(
    iou_token: Floats,
    mask_tokens: Floats,
    targets: Mapping[str, Floats],
    groups: Sequence[object] | npt.NDArray[Any],
    *,
    settings: TrainSettings | Preset | None = None,
    checkpoint: str = "",
    quality: str | None = None,
    init: HeadSet | None = None,
    alignment: Literal["aligned", "shifted", "both"] = "aligned",
    weights: Floats | None = None,
    metadata: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Train a head for each of `targets`, all at once. N objects, tokens of width D.

    With `init`, training starts there and is pulled back to it, in its alignment; up to `settings.adapt_up_to` rows
    its heads are adapted in closed form instead, and 'no change' is always one of the candidates. Heads of `init`
    without targets are kept as they are.

    Parameters
    ----------
    iou_token, mask_tokens
        (N, D) and (N, 4, D), of one point on each object (`PatchedImagePredictor.predict_tokens`).
    targets
        {head: (N, M)} in [0, 1], gaps as 0.5 + gap; M = 3 for the three multimask outputs, or 4 with the single mask
        before them. NaN where unknown: such values weigh nothing.
    groups
        (N,) what a split keeps together: the image of each object.
    settings
        None: by the number of rows (`preset_for`).
    checkpoint
        Whose tokens these are.
    quality
        The head for the IoU of the checkpoint's own masks (default: that of `init`, or the last `iou_` head of a
        model).
    init
        The head set to start from.
    alignment
        Which token a mask's score is read from (`usam.heads.head_set`); 'both' tries both and keeps the one with the
        lower validation loss.
    weights
        (N,) of rows; None weighs them alike.
    metadata
        What else the head set is to remember: JSON values.
    progress
        Called after every epoch.

    Returns
    -------
    `FitResult`: the head set, and its figures on images that no weight has seen.

    Raises
    ------
    TrainingError
        Shapes, ranges or too few groups; or `init` fits neither tokens nor heads.

    Examples
    --------
    >>> from usam.training.settings import TrainSettings
    >>> rng = np.random.default_rng(0)
    >>> mask_tokens = rng.normal(size=(80, 4, 8)).astype(np.float32)
    >>> iou = 1 / (1 + np.exp(-mask_tokens[:, 1:, 0]))
    >>> images = np.arange(80) // 4
    >>> fitted = usam.fit_heads(
    ...     mask_tokens[:, 0], mask_tokens, {"iou_nano_s": iou}, images, settings=TrainSettings(epochs=3, members=1)
    ... )
    >>> fitted.heads.names
    ('iou_nano_s',)
    >>> sorted(fitted.figures["iou_nano_s"])
    ['calibration_error', 'mae', 'mse', 'pearson', 'rows', 'variance']
    """
    iou_token = numbers(iou_token, "iou_token (N, D)", 2, TrainingError)
    mask_tokens = numbers(mask_tokens, "mask_tokens (N, 4, D)", 3, TrainingError)
    targets = {
        name: numbers(values, f"targets of {name} (N, M)", 2, TrainingError) for name, values in (targets or {}).items()
    }
    weights = None if weights is None else numbers(weights, "weights (N,)", 1, TrainingError)
    if alignment not in ("aligned", "shifted", "both"):
        raise TrainingError("alignment 'aligned', 'shifted' or 'both'", repr(alignment), "'aligned' is the usual one")
    if settings is None:
        settings = preset_for(len(iou_token))
    preset = settings if isinstance(settings, Preset) else Preset(settings)
    main = preset.default
    names = _group_names(groups)
    if names.shape != (len(iou_token),):
        raise TrainingError(f"({len(iou_token)},) groups", str(names.shape), "name the image of each row")
    if init is not None:
        _check_init(init, iou_token, targets, checkpoint)
        alignment = init.alignment
        targets = {name: values for name, values in targets.items() if not np.isnan(values).all()}
    tried: tuple[Alignment, ...] = ("aligned", "shifted") if alignment == "both" else (alignment,)
    if init is not None and len(iou_token) <= main.adapt_up_to:
        rows = Rows.of(iou_token, mask_tokens, targets, init.alignment, weights)
        adaptation = adapt_heads(init, rows, names, seed=main.seed)
        heads = _head_set(adaptation.layers, init.alignment, checkpoint, quality, init, metadata, adaptation.summary())
        return FitResult(heads, [], adaptation.figures, {}, None, adaptation)

    split = split_groups(names, main.validation, main.test, main.seed)
    outcomes: dict[str, Trained] = {}
    for way in tried:
        rows = Rows.of(iou_token, mask_tokens, targets, way, weights)
        outcomes[way] = _train(rows, names, split, preset, init, progress)
    rows = Rows.of(iou_token, mask_tokens, targets, tried[0], weights)
    variance = _variances(rows, split.validation)
    scaled = {
        way: float(np.mean([trained.losses[name] / max(variance[name], 1e-12) for name in rows.names]))
        for way, trained in outcomes.items()
    }
    best = min(tried, key=scaled.__getitem__)
    layers = outcomes[best].layers
    rows = Rows.of(iou_token, mask_tokens, targets, best, weights)
    figures = _figures(layers, rows, split.test if len(split.test) else split.validation)
    facts = {
        "figures": figures,
        "alignment_losses": scaled,
        "rows": {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)},
        "groups": len(np.unique(names)),
        "settings": {"default": asdict(main), **{head: asdict(each) for head, each in preset.heads.items()}},
        "epochs": len(outcomes[best].history),
    }
    heads = _head_set(layers, best, checkpoint, quality, init, metadata, facts)
    return FitResult(heads, outcomes[best].history, figures, scaled, split)


def _group_names(groups: Any) -> npt.NDArray[Any]:
    try:
        names = np.asarray(groups)
        np.unique(names)
    except (TypeError, ValueError) as cause:
        raise TrainingError(
            "groups (N,) of numbers or texts", str(cause)[:120], "name the image of each row"
        ) from cause
    return names


def _check_init(init: HeadSet, iou_token: Floats, targets: Mapping[str, Floats], checkpoint: str) -> None:
    if iou_token.ndim != 2 or init.width != iou_token.shape[1]:
        raise TrainingError(f"tokens of width {init.width}", str(iou_token.shape), "use heads of this checkpoint")
    if not init.fits(checkpoint):
        raise TrainingError(f"heads of {checkpoint}", f"heads of {init.checkpoint}", "start from heads of its own")
    if unknown := set(targets) - set(init.names):
        raise TrainingError(f"targets of {', '.join(init.names)}", ", ".join(sorted(unknown)), "leave these out")


def _head_set(
    layers: Mapping[str, Layers],
    alignment: Alignment,
    checkpoint: str,
    quality: str | None,
    init: HeadSet | None,
    metadata: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
) -> HeadSet:
    known = {**init.layers(), **layers} if init is not None else dict(layers)
    if quality is None:
        own = [
            name for name in known if name.startswith("iou_") and name not in ("iou_dense_prompt", "iou_unsupervised")
        ]
        quality = init.quality if init is not None else (own[-1] if own else None)
    described = {**(metadata or {}), "training": dict(facts)}
    if init is not None:
        described["parent"] = init.version
    return HeadSet(
        known,
        alignment="shifted" if alignment == "shifted" else "aligned",
        checkpoint=weights_of(checkpoint) if checkpoint else (init.checkpoint if init is not None else ""),
        quality=quality,
        metadata=described,
    )


def _train(
    rows: Rows,
    groups: npt.NDArray[Any],
    split: Split,
    preset: Preset,
    init: HeadSet | None,
    progress: Progress | None,
) -> Trained:
    """Train the heads of equal settings together, and put the sets together in the rows' order."""
    by_settings: dict[TrainSettings, list[str]] = {}
    for name in rows.names:
        by_settings.setdefault(preset.of(name), []).append(name)
    layers: dict[str, Layers] = {}
    losses: dict[str, float] = {}
    history: list[dict[str, float]] = []
    for settings, heads in by_settings.items():
        columns = [rows.names.index(name) for name in heads]
        part = Rows(tuple(heads), rows.iou, rows.masks, rows.targets[..., columns], rows.weights)
        members = [
            train_together(part, own, replace(settings, seed=seed), init, progress)
            for seed, own in _splits(groups, split, settings, init)
        ]
        layers |= {name: merge_layers([member.layers[name] for member in members]) for name in heads}
        losses |= {name: float(np.mean([member.losses[name] for member in members])) for name in heads}
        for epoch in range(max(len(member.history) for member in members)):
            if epoch == len(history):
                history.append({})
            running = [member.history[epoch] for member in members if epoch < len(member.history)]
            history[epoch] |= {name: float(np.mean([values[name] for values in running])) for name in heads}
    return Trained({name: layers[name] for name in rows.names}, losses, history)


def _splits(
    groups: npt.NDArray[Any], split: Split, settings: TrainSettings, init: HeadSet | None
) -> list[tuple[int, Split]]:
    """Seed and split of each member: all share the test groups, each is stopped by other groups of the
    rest.
    """
    members = 1 if init is not None else settings.members
    if members == 1:
        return [(settings.seed, split)]
    rest = np.sort(np.concatenate([split.train, split.validation]))
    folds = group_folds(groups[rest], max(members, round(1 / settings.validation)), settings.seed)
    usable = min(members, int(folds.max()) + 1)
    return [
        (settings.seed + 1000 * number, Split(rest[folds != number], rest[folds == number], split.test))
        for number in range(usable)
    ]


def predict(layers: Layers, rows: Rows, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Output of one head on some rows, (n, M), in [0, 1], in float32 as it will be served (gaps as 0.5 +
    gap).
    """
    (first, bias), *rest = layers
    width = rows.width
    hidden = rows.masks[indices].astype(np.float32) @ first[:, width:].T
    hidden += (rows.iou[indices].astype(np.float32) @ first[:, :width].T + bias)[:, None]
    for weight, offset in rest:
        hidden = np.maximum(hidden, 0) @ weight.T + offset
    values: npt.NDArray[np.float32] = 1 / (1 + np.exp(-hidden[..., 0]))
    return values


def _variances(rows: Rows, indices: npt.NDArray[np.int64]) -> dict[str, float]:
    return {name: float(np.nanvar(rows.targets[indices, :, index])) for index, name in enumerate(rows.names)}


def _figures(layers: Mapping[str, Layers], rows: Rows, indices: npt.NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Of the three multimask outputs."""
    figures = {}
    for index, name in enumerate(rows.names):
        true = rows.targets[indices, -3:, index].ravel()
        known = ~np.isnan(true)
        if known.any():
            figures[name] = figures_of(predict(layers[name], rows, indices)[:, -3:].ravel()[known], true[known])
    return figures


def figures_of(predicted: Floats, true: Floats) -> dict[str, float]:
    """Squared and absolute error, correlation, calibration error; variance of the truth and number of
    values.
    """
    error = np.asarray(predicted, np.float64) - true
    return {
        "mse": float((error**2).mean()),
        "mae": float(np.abs(error).mean()),
        "pearson": pearson(predicted, true),
        "calibration_error": calibration_error(predicted, true),
        "variance": float(np.var(true)),
        "rows": float(len(true)),
    }
