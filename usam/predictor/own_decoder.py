"""A mask decoder of a project's own: its file, and predictors that decode with it.

The encoder stays the checkpoint's, so embeddings serve both. A predictor with another decoder shares everything else
with the one that it is made from, and holds an image of its own: what one decodes never shows in the other.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from usam.errors import CheckpointError, TrainingError
from usam.files import plain

if TYPE_CHECKING:
    from usam.predictor.image import PatchedImagePredictor

FORMAT = "usam-decoder-1"
REMEDY = "retrain the project"


@dataclass(frozen=True, eq=False)
class TunedDecoder:
    """A decoder's weights, for one checkpoint only: for the file of this SHA-256, where it has one.

    `figures`: what was measured of it when it was tuned (`usam.training.decoder_tuning`); `learnt`: groups of images
    that it has seen.
    """

    checkpoint: str
    checkpoint_sha256: str
    weights: dict[str, Tensor] = field(repr=False)
    figures: dict[str, float]
    learnt: tuple[str, ...] = field(default=(), repr=False)

    @cached_property
    def version(self) -> str:
        """A name that no decoder of other weights has."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.weights.items()):
            digest.update(name.encode() + tensor.detach().cpu().half().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]


def decoder_file(decoder: TunedDecoder) -> bytes:
    """It as the content of a safetensors file, in float16. Raises `TrainingError` for weights that are not finite."""
    from safetensors.torch import save

    tensors = {key: value.detach().cpu().half().contiguous() for key, value in decoder.weights.items()}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise TrainingError("finite weights", f"infinities in {name}", "tune again at a lower rate")
    about = {
        "format": FORMAT,
        "checkpoint": decoder.checkpoint,
        "checkpoint_sha256": decoder.checkpoint_sha256,
        "figures": json.dumps(decoder.figures),
        "learnt": json.dumps(decoder.learnt),
    }
    return bytes(save(tensors, about))


def load_decoder(path: Path) -> TunedDecoder:
    """Read what `decoder_file` gave. Raises `CheckpointError` for a broken file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(plain(path)), "pt") as file:
            about = file.metadata() or {}
            weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118  (no mapping)
        if about.get("format") != FORMAT:
            raise CheckpointError(f"a file of the format {FORMAT}", repr(about.get("format")), REMEDY)
        figures = {key: float(value) for key, value in json.loads(about["figures"]).items()}
        return TunedDecoder(
            about["checkpoint"], about["checkpoint_sha256"], weights, figures, tuple(json.loads(about["learnt"]))
        )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"a decoder in {Path(path).name}", f"{type(error).__name__}: {error}", REMEDY) from error


def with_decoder(predictor: PatchedImagePredictor, decoder: TunedDecoder) -> PatchedImagePredictor:
    """A predictor that decodes with these weights and is otherwise `predictor`, which stays as it is.

    Both share the encoder; neither sees the other's image. Raises `CheckpointError` where the weights do not fit.
    """
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    from usam.predictor.patch import patch

    old: Any = predictor
    own = copy.deepcopy(old.model.sam_mask_decoder)
    shapes = [{key: tuple(value.shape) for key, value in part.items()} for part in (decoder.weights, own.state_dict())]
    if shapes[0] != shapes[1]:
        raise CheckpointError(f"a decoder that fits {old.checkpoint_name}", "one of other shapes", REMEDY)
    own.load_state_dict(decoder.weights)
    model = copy.copy(old.model)
    model._modules = {**old.model._modules, "sam_mask_decoder": own.eval()}
    made = SAM2ImagePredictor(model)
    made.checkpoint_name = old.checkpoint_name
    patched: Any = patch(made, old.heads)
    patched.keep_stages, patched.encoder_dtype, patched.chunk = old.keep_stages, old.encoder_dtype, old.chunk
    return patched  # type: ignore[no-any-return]
