"""Head sets on disk: our file, and the layout of the published heads.

Ours is one safetensors file: `<head>.<layer>.weight|bias`, and a header with format, heads, alignment, base
checkpoint, quality head, metadata (training data, figures, ... as JSON), version and the SHA-256 that the
version is taken from. The published layout is a folder `<head>/model.pth`: one pickled state dict for each
head, of which only tensors are unpickled.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from usam.errors import HeadsError

FloatArray = npt.NDArray[np.float32]
Layers = list[tuple[FloatArray, FloatArray]]
Alignment = Literal["aligned", "shifted"]
HalfOrFloatArray = npt.NDArray[np.float16] | npt.NDArray[np.float32]
FILE_NAME = "heads.safetensors"
FORMAT = "usam-heads-1"

PUBLISHED_HEADS = (
    "iou_tiny",
    "iou_small",
    "iou_base_plus",
    "iou_large",
    "iou_dense_prompt",
    "iou_unsupervised",
    "model_gap",
    "prompt_gap",
    "task_gap",
)

_LARGEST_FILE = 256 << 20
_FAMILIES = {"sam2.1": "sam2.1", "sam2.0": "sam2", "sam2": "sam2"}


@dataclass(frozen=True)
class StoredHeads:
    """What a file says of a head set, field by field as in `HeadSet`; the published layout has no `sha256`."""

    layers: dict[str, Layers]
    alignment: Alignment
    checkpoint: str
    quality: str | None
    metadata: dict[str, Any]
    sha256: str | None = None


def write(heads: StoredHeads, path: Path) -> Path:
    """See `HeadSet.save`."""
    target = path if path.suffix == ".safetensors" else path / FILE_NAME
    tensors = {
        f"{name}.{index}.{kind}": torch.from_numpy(_smallest(array))
        for name, head in heads.layers.items()
        for index, pair in enumerate(head)
        for kind, array in zip(("weight", "bias"), pair, strict=True)
    }
    header = {
        "format": FORMAT,
        "heads": json.dumps(list(heads.layers)),
        "alignment": heads.alignment,
        "checkpoint": heads.checkpoint,
        "quality": heads.quality or "",
        "metadata": json.dumps(heads.metadata, sort_keys=True),
        "version": (heads.sha256 or "")[:12],
        "sha256": heads.sha256 or "",
    }
    content = safetensors_bytes(tensors, header)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise HeadsError(
            f"room and rights to write {target}", str(error), "free space or choose another folder"
        ) from error
    return target


def _smallest(array: FloatArray) -> HalfOrFloatArray:
    """Half floats where nothing is lost by it (`HeadSet.rounded`), which halves the file."""
    half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array


def read(path: Path, checkpoint: str | None = None) -> StoredHeads:
    """See `HeadSet.load`."""
    if path.is_file():
        return _ours(path)
    if (path / FILE_NAME).is_file():
        return _ours(path / FILE_NAME)
    if path.is_dir() and any(path.glob("*/model.pth")):
        return _published(path, checkpoint)
    raise HeadsError(
        f"a head set: a .safetensors file, a folder with {FILE_NAME}, or a folder with <head>/model.pth",
        f"{path}" if path.exists() else f"no such file or folder: {path}",
        "check the path, or fetch the published heads with `usam fetch`",
    )


def _ours(file: Path) -> StoredHeads:
    remedy = "fetch or train the heads again"
    size = file.stat().st_size
    if size > _LARGEST_FILE:
        raise HeadsError(f"a head set of at most {_LARGEST_FILE} bytes", f"{size} bytes in {file}", remedy)
    try:
        with safe_open(file, framework="numpy") as opened:
            header = opened.metadata() or {}
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise HeadsError(f"a safetensors head set in {file}", str(error), remedy) from error
    if header.get("format") != FORMAT:
        found = header.get("format", "no format")
        raise HeadsError(f"format {FORMAT} in {file}", found, "save it with this program's HeadSet.save")
    try:
        layers: dict[str, Layers] = {}
        for name in json.loads(header["heads"]):
            depth = sum(1 for key in arrays if key.startswith(f"{name}.") and key.endswith(".weight"))
            layers[name] = [(arrays[f"{name}.{i}.weight"], arrays[f"{name}.{i}.bias"]) for i in range(depth)]
        metadata = json.loads(header["metadata"])
        fields = {key: header[key] for key in ("alignment", "checkpoint", "quality", "sha256")}
    except (KeyError, ValueError, TypeError) as error:
        raise HeadsError(f"a complete head set in {file}", f"missing or malformed {error}", remedy) from error
    return StoredHeads(
        layers, fields["alignment"], fields["checkpoint"], fields["quality"] or None, metadata, fields["sha256"]
    )


def _published(folder: Path, checkpoint: str | None) -> StoredHeads:
    found = {file.parent.name: file for file in sorted(folder.glob("*/model.pth"))}
    if unknown := sorted(set(found) - set(PUBLISHED_HEADS)):
        raise HeadsError(
            f"published heads ({', '.join(PUBLISHED_HEADS)})",
            f"unknown {', '.join(unknown)} in {folder}",
            "remove the folder or save your heads with HeadSet.save",
        )
    family = _FAMILIES.get(folder.resolve().name, "") if checkpoint is None else checkpoint
    return StoredHeads(
        {name: _published_layers(found[name]) for name in PUBLISHED_HEADS if name in found},
        alignment="shifted",
        checkpoint=family,
        quality="iou_large" if "iou_large" in found else None,
        metadata={"training_data": "published UncertainSAM heads", "source": folder.name},
    )


def _published_layers(file: Path) -> Layers:
    """Layers of one published head, a state dict `layers.<i>.weight|bias`."""
    size = file.stat().st_size
    if size > _LARGEST_FILE or not file.is_file() or not zipfile.is_zipfile(file):
        raise HeadsError(f"a PyTorch zip archive in {file}", f"{size} bytes of something else", "fetch it again")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises many kinds for hostile or broken files
        reason = (str(error).splitlines() or [""])[0]
        raise HeadsError(
            f"tensors only in {file}", f"{type(error).__name__}: {reason}", "do not trust this file; fetch it again"
        ) from error
    remedy = "this is not a published head"
    keys = sorted(state) if isinstance(state, dict) and all(isinstance(key, str) for key in state) else []
    depth = len(keys) // 2
    if not keys or keys != sorted(f"layers.{i}.{kind}" for i in range(depth) for kind in ("weight", "bias")):
        raise HeadsError(f"layers.<i>.weight and layers.<i>.bias in {file}", f"{keys[:6]}", remedy)
    try:
        arrays = {key: value.float().numpy() for key, value in state.items()}
    except (AttributeError, RuntimeError, TypeError) as error:
        raise HeadsError(f"plain tensors in {file}", str(error), remedy) from error
    return [(arrays[f"layers.{i}.weight"], arrays[f"layers.{i}.bias"]) for i in range(depth)]
