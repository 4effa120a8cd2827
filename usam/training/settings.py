"""How heads are trained: our default and what the paper used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from usam.errors import TrainingError


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run.

    `batch` counts objects; each gives three inputs, one a mask. `shared_layers` hidden layers (0 to 2) are
    one for all heads while they train; the head set stores a copy in each head, so it is the same plain
    network either way. `patience` epochs without gain on the validation images, in any head, end the run;
    each head keeps its own best epoch. `validation` and `test` are shares of the groups (images). `pull`
    weighs the squared distance to the initial weights when there are some. With at most `adapt_up_to`
    objects and initial heads, heads are adapted (`usam.training.adaptation`) rather than trained.
    """

    optimiser: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    loss: Literal["mse", "bce"] = "mse"
    learning_rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 0.05
    epochs: int = 20
    batch: int = 256
    hidden: tuple[int, int] = (128, 64)
    shared_layers: int = 1
    members: int = 4
    patience: int = 6
    validation: float = 0.15
    test: float = 0.15
    pull: float = 1.0
    adapt_up_to: int = 3_000
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        """Refuse settings under which nothing would be learnt. Raises `TrainingError`."""
        checks = {
            "a learning rate above 0": self.learning_rate > 0,
            "at least one epoch": self.epochs >= 1,
            "a batch of at least one object": self.batch >= 1,
            "hidden widths of at least 1": min(self.hidden) >= 1,
            "0, 1 or 2 shared layers": self.shared_layers in (0, 1, 2),
            "at least one member": self.members >= 1,
            "shares with validation > 0, test >= 0 and a sum below 1": self.validation > 0
            and self.test >= 0
            and self.validation + self.test < 1,
            "a momentum in [0, 1)": 0 <= self.momentum < 1,
        }
        for expected, holds in checks.items():
            if not holds:
                raise TrainingError(expected, str(self), "change the training settings")


@dataclass(frozen=True)
class Preset:
    """Settings for all heads, and for single heads where they differ."""

    default: TrainSettings
    heads: Mapping[str, TrainSettings] = field(default_factory=dict)

    def of(self, head: str) -> TrainSettings:
        """Settings of one head."""
        return self.heads.get(head, self.default)

    def replace(self, **changes: object) -> Preset:
        """The same preset with some fields changed in all its settings."""
        return Preset(
            replace(self.default, **changes),  # type: ignore[arg-type]
            {head: replace(settings, **changes) for head, settings in self.heads.items()},  # type: ignore[arg-type]
        )


def _paper(batch: int, epochs: int, learning_rate: float, momentum: float) -> TrainSettings:
    return TrainSettings(
        optimiser="sgd",
        schedule="constant",
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=0.001,
        epochs=epochs,
        batch=batch,
        hidden=(512, 512),
        shared_layers=0,
        members=1,
        patience=epochs,
    )


_COCO = _paper(189, 36, 0.00871, 0.164)

LARGE_TABLE = 20_000
"""Objects from which on one wide network is better than several narrow ones."""

PRESETS: Mapping[str, Preset] = {
    "default": Preset(TrainSettings()),
    "large": Preset(TrainSettings(hidden=(512, 512), shared_layers=2, members=1, epochs=12, weight_decay=0.01)),
    "coco": Preset(_COCO),
    "sav": Preset(_paper(193, 9, 0.00871, 0.164)),
    "ade20k": Preset(_paper(106, 79, 0.00131, 0.830), {"task_gap": _paper(208, 75, 0.0411, 0.246)}),
    "davis": Preset(
        _COCO,
        {
            "task_gap": _paper(158, 55, 0.0294, 0.709),
            "model_gap": _paper(235, 77, 0.00397, 0.128),
            "prompt_gap": _paper(154, 40, 0.000899, 0.538),
        },
    ),
}
"""`default` and `large` are ours, for tables below and from `LARGE_TABLE` objects on; the others are the
settings published with UncertainSAM (arXiv 2505.05049), found by its search.
For DAVIS it published the three gaps only: the other heads take COCO's."""


def preset_for(rows: int) -> Preset:
    """Our settings for a table of so many objects."""
    return PRESETS["large" if rows >= LARGE_TABLE else "default"]
