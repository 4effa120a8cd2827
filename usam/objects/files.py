"""Project heads as one small safetensors file: arrays, and everything else as JSON in its metadata."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from usam.errors import HeadsError
from usam.files import plain
from usam.objects.effort import Threshold
from usam.objects.estimate import Blend
from usam.objects.linear import LinearHead
from usam.objects.project_heads import ChosenGrid, ObjectSizes, ProjectHeads

FORMAT = "usam-project-heads-1"
_ARRAYS = ("mean", "scale", "weights", "bias", "examples")


def project_heads_file(heads: ProjectHeads) -> bytes:
    """The heads as a file's content, the same for the same heads. Weights are float32: a few classes by a few hundred
    features."""
    from safetensors.numpy import save

    arrays: dict[str, Any] = {}
    about: dict[str, Any] = {
        "classes": heads.classes,
        "features_version": heads.features_version,
        "checkpoint": heads.checkpoint,
        "threshold": asdict(heads.threshold),
        "figures": dict(heads.figures),
        "sizes": asdict(heads.sizes) if heads.sizes is not None else None,
        "blend": asdict(heads.blend) if heads.blend is not None else None,
        **({"grid": asdict(heads.grid)} if heads.grid is not None else {}),
    }
    for name, head in (("classifier", heads.classifier), ("selector", heads.selector)):
        if head is not None:
            arrays |= {f"{name}.{key}": np.ascontiguousarray(getattr(head, key)) for key in _ARRAYS}
            about[name] = {
                "kind": head.kind,
                "tail": head.tail,
                "temperature": head.temperature,
                "log_loss": head.log_loss,
            }
    if not arrays:
        arrays["none"] = np.zeros(1, np.float32)
    return bytes(save(arrays, {"format": FORMAT, "heads": json.dumps(_without_nan(about))}))


def load_project_heads(path: Path) -> ProjectHeads:
    """Read what `project_heads_file` gave. Raises `HeadsError` for a file that is missing, broken or another's."""
    from safetensors import SafetensorError, safe_open

    remedy = "retrain the project"
    try:
        with safe_open(str(plain(path)), "numpy") as file:
            about = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
        if about.get("format") != FORMAT:
            raise HeadsError(f"a file of the format {FORMAT}", repr(about.get("format")), remedy)
        told = json.loads(about["heads"])
        return ProjectHeads(
            classes=tuple(told["classes"]),
            features_version=told["features_version"],
            checkpoint=told["checkpoint"],
            classifier=_head("classifier", told, arrays),
            selector=_head("selector", told, arrays),
            threshold=Threshold(**{key: _number(value) for key, value in told["threshold"].items()}),
            figures={key: _number(value) for key, value in told["figures"].items()},
            sizes=ObjectSizes(**told["sizes"]) if told.get("sizes") else None,
            blend=Blend(**told["blend"]) if told.get("blend") else None,
            grid=ChosenGrid(**told["grid"]) if told.get("grid") else None,
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise HeadsError(f"project heads in {Path(path).name}", f"{type(error).__name__}: {error}", remedy) from error


def _head(name: str, told: dict[str, Any], arrays: dict[str, Any]) -> LinearHead | None:
    if name not in told:
        return None
    parts = {key: arrays[f"{name}.{key}"] for key in _ARRAYS}
    width = len(parts["mean"])
    if parts["weights"].shape[1] != width or not all(np.isfinite(part).all() for part in parts.values()):
        raise ValueError(f"{name} has weights {parts['weights'].shape} for {width} features, or not finite ones")
    return LinearHead(
        told[name]["kind"],
        tail=int(told[name]["tail"]),
        temperature=_number(told[name]["temperature"]),
        log_loss=_number(told[name]["log_loss"]),
        **parts,
    )


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
