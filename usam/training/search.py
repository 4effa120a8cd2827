"""Search of training settings with Optuna: a tree-structured Parzen estimator that drops poor trials early.

The published code searched learning rate 1e-4..1e-1, epochs 5..80, batch 16..256 and momentum 0.1..0.9 in
100 trials (SMAC; UncertainSAM, arXiv 2505.05049). This searches the same axes for our optimiser, and the
network's shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from usam.errors import TrainingError
from usam.training.network import Rows
from usam.training.settings import TrainSettings
from usam.training.split import split_groups

HIDDEN = {"64-32": (64, 32), "128-64": (128, 64), "256-128": (256, 128), "512-256": (512, 256), "512-512": (512, 512)}


@dataclass(frozen=True)
class SearchResult:
    """Best settings, their loss (mean over heads of validation loss over variance), and how trials ended."""

    settings: TrainSettings
    loss: float
    finished: int
    pruned: int


def search_settings(
    rows: Rows,
    groups: npt.NDArray[Any],
    trials: int,
    *,
    base: TrainSettings | None = None,
    storage: Path | None = None,
    progress: Callable[[int, float | None], None] | None = None,
) -> SearchResult:
    """Try `trials` settings in all, counting those that an earlier run left in `storage` (a journal file).

    Every trial trains on the same split; its loss comes from the validation groups, the test groups stay
    unseen. `progress` gets each finished trial's number and loss (None: dropped early). Raises
    `TrainingError` when no trial finished, and when `storage` holds a search of other heads.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    from usam.training.loop import train_together

    base = base or TrainSettings()
    split = split_groups(groups, base.validation, base.test, base.seed)
    spread = np.nanvar(rows.targets[split.validation], axis=(0, 1)).clip(min=1e-12)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage is not None:
        storage.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name="heads",
        storage=None if storage is None else JournalStorage(JournalFileBackend(str(storage))),
        sampler=optuna.samplers.TPESampler(seed=base.seed, n_startup_trials=8, multivariate=False),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3),
        load_if_exists=True,
    )
    made_of = {"heads": list(rows.names), "rows": len(rows), "width": rows.width}
    there = study.user_attrs.get("made_of", made_of)
    if there != made_of:
        raise TrainingError(f"a search of {made_of} in {storage}", str(there), "choose another folder")
    study.set_user_attr("made_of", made_of)

    def objective(trial: optuna.Trial) -> float:
        settings = suggest(trial, base)

        def report(epoch: int, losses: dict[str, float]) -> None:
            trial.report(float(np.mean(list(losses.values()) / spread)), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        trained = train_together(rows, split, settings, progress=report)
        return float(np.mean([trained.losses[name] for name in rows.names] / spread))

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)

    def after(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if progress is not None:
            progress(trial.number, trial.value if trial.state == ended[0] else None)

    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(_starting_point(base))
    left = trials - len(study.get_trials(deepcopy=False, states=ended))
    if left > 0:
        study.optimize(objective, n_trials=left, callbacks=[after], catch=(TrainingError,))
    finished = study.get_trials(deepcopy=False, states=ended[:1])
    if not finished:
        raise TrainingError("at least one finished trial", "none", "ask for more trials")
    best = study.best_trial
    pruned = len(study.get_trials(deepcopy=False, states=ended[1:]))
    return SearchResult(
        suggest(optuna.trial.FixedTrial(best.params), base), float(study.best_value), len(finished), pruned
    )


def suggest(trial: Any, base: TrainSettings) -> TrainSettings:
    """Settings of one trial; what is not searched comes from `base`."""
    return replace(
        base,
        optimiser="adamw",
        schedule="one-cycle",
        learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-3, 1.0, log=True),
        epochs=trial.suggest_int("epochs", 5, 60, log=True),
        batch=trial.suggest_categorical("batch", [64, 128, 256, 512]),
        hidden=HIDDEN[trial.suggest_categorical("hidden", list(HIDDEN))],
        shared_layers=trial.suggest_int("shared_layers", 0, 2),
        loss=trial.suggest_categorical("loss", ["mse", "bce"]),
    )


def _starting_point(base: TrainSettings) -> dict[str, Any]:
    """`base` as a first trial, clipped to what is searched."""
    hidden = next((name for name, widths in HIDDEN.items() if widths == base.hidden), "128-64")
    return {
        "learning_rate": float(np.clip(base.learning_rate, 1e-4, 1e-2)),
        "weight_decay": float(np.clip(base.weight_decay, 1e-3, 1.0)),
        "epochs": int(np.clip(base.epochs, 5, 60)),
        "batch": base.batch if base.batch in (64, 128, 256, 512) else 256,
        "hidden": hidden,
        "shared_layers": base.shared_layers,
        "loss": base.loss,
    }
