"""All that a replay needs to know of a labelled set, read once: a campaign then takes seconds.

Legend: N objects, D token width, K numbers of clicks tried.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import HeadsError, SimulationError
from usam.heads.head_set import HeadSet
from usam.research.tokens import TokenTable
from usam.research.tokens.examples import common_models, read_examples

Float32s = npt.NDArray[np.float32]
DENSE_POINTS = 8
"""Points of the dense prompt, whose masks a token table knows."""


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """N objects in images of a labelled set, under one model.

    images (N,) is what a person opens at a time (one annotator's version of an image is another); groups (N,) what a
    split keeps together. iou, samscore (N, 3) of the multimask outputs for one point; `clicked` (N, K) the IoU after
    `clicks` (K,) corrective clicks, the first included. targets {head: (N, 3)}, gaps as 0.5 + gap. `entropy` (N, 3) in
    bits where the table has it.
    """

    model: str
    images: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    iou_token: npt.NDArray[np.float16]
    mask_tokens: npt.NDArray[np.float16]
    iou: Float32s
    samscore: Float32s
    targets: dict[str, Float32s]
    clicks: tuple[int, ...]
    clicked: Float32s
    entropy: Float32s | None
    source: str

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def read(cls, tables: Sequence[TokenTable], model: str) -> LabelledSet:
        """From token tables. What clicks do is known for the dense prompt only: 8 points, all on the object;
        `with_clicks` puts real ones in its place.

        Raises `TokensError` where the tables do not fit together or lack the model.
        """
        common_models(tables)
        examples = read_examples(tables, model)
        columns = ["iou", "samscore", "dense_iou", "image_id", "annotator", "dataset"]
        columns += ["h_std"] if all(table.entropies for table in tables) else []
        parts = [table.arrays(model, columns) for table in tables]
        arrays: dict[str, npt.NDArray[Any]] = {name: np.concatenate([part[name] for part in parts]) for name in columns}
        names = zip(arrays["dataset"], arrays["image_id"], arrays["annotator"], strict=True)
        return cls(
            model,
            np.array(["/".join(filter(None, name)) for name in names], np.str_),
            examples.groups,
            examples.iou_token,
            examples.mask_tokens,
            arrays["iou"][:, 1:],
            arrays["samscore"][:, 1:],
            {head: values[:, 1:] for head, values in examples.targets.items()},
            (DENSE_POINTS,),
            arrays["dense_iou"][:, 1:].max(axis=1, keepdims=True),
            arrays.get("h_std"),
            "+".join(table.manifest.fingerprint for table in tables),
        )

    def with_clicks(self, clicked: Float32s) -> LabelledSet:
        """The set with the IoU after 1 to K real clicks, (N, K), in place of the dense prompt.

        The first click is the one that made the three masks. Raises `SimulationError` where the sizes differ or K < 2.
        """
        if clicked.ndim != 2 or len(clicked) != len(self) or clicked.shape[1] < 2:
            raise SimulationError(f"({len(self)}, 2 or more) IoUs", str(clicked.shape), "click every object twice")
        digest = hashlib.sha256(np.ascontiguousarray(clicked).tobytes()).hexdigest()[:12]
        counts = tuple(range(2, clicked.shape[1] + 1))
        return replace(self, clicks=counts, clicked=clicked[:, 1:], source=f"{self.source}+{digest}")

    def fitting(self, heads: HeadSet) -> str:
        """The head that predicts the IoU of this model's masks. Raises `HeadsError` where the heads are for another."""
        if not heads.fits(self.model):
            raise HeadsError(f"heads of {self.model}", f"heads of {heads.checkpoint}", "name the model they are for")
        quality = heads.quality_for(self.model)
        if quality is None:
            raise HeadsError("a head set that names the head of its own IoU", repr(heads), "train one with usam train")
        return quality

    def batch(self, rows: npt.NDArray[np.int64], heads: HeadSet) -> dict[str, Any]:
        """Some objects as `usam.training.gate` and `fit_heads` take them, with targets for these heads."""
        return {
            "iou_token": self.iou_token[rows].astype(np.float32),
            "mask_tokens": self.mask_tokens[rows].astype(np.float32),
            "targets": {name: self.targets[name][rows] for name in self.targets if name in heads.names},
            "groups": self.images[rows],
        }
