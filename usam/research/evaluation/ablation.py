"""What each token is worth: heads trained and judged on both tokens, on the mask token, on the IoU token.

Done as in UncertainSAM (arXiv 2505.05049): a head set of its own for each subset of tokens. A token that is
left out is zero in training and in judging, which is the same as a network without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from usam.research.evaluation.objects import Objects, scores_of
from usam.research.evaluation.tables import Figure
from usam.research.tokens.examples import Examples
from usam.statistics import bootstrap_auc, bootstrap_pearson
from usam.training.fitting import fit_heads
from usam.training.settings import Preset, TrainSettings

SUBSETS: Mapping[str, tuple[bool, bool]] = {
    "both tokens": (True, True),
    "mask token": (False, True),
    "IoU token": (True, False),
}


def token_ablation(
    train: Examples,
    test: Examples,
    objects: Objects,
    *,
    settings: TrainSettings | Preset | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> list[Figure]:
    """Relative AUC of every use and Pearson of predicted IoU for each subset of tokens.

    `test` holds the tokens of `objects`, row by row. Objects of `train` from the groups of `test` are left
    out of training, so the figures are on unseen images whatever is passed.
    """
    keep = ~np.isin(train.groups, np.unique(test.groups))
    targets = {name: values[keep] for name, values in train.targets.items()}
    figures = []
    for subset, (with_iou, with_mask) in SUBSETS.items():
        heads = fit_heads(
            train.iou_token[keep] * np.float16(with_iou),
            train.mask_tokens[keep] * np.float16(with_mask),
            targets,
            train.groups[keep],
            settings=settings,
            checkpoint=train.model,
            quality=objects.quality,
        ).heads
        scores = scores_of(heads, test.iou_token * np.float16(with_iou), test.mask_tokens * np.float16(with_mask))
        judged = replace(objects, predictions=scores)
        for name in judged.uses:
            use = judged.use(name)
            if "USAM" in use.measures:
                auc, _ = bootstrap_auc(
                    use.measures["USAM"], use.before, use.after, objects.groups, replicates=replicates, seed=seed
                )
                figures.append(Figure.of("token ablation", subset, f"relative AUC {name}", auc))
        correlation = bootstrap_pearson(
            scores[objects.quality].ravel(),
            objects.iou.ravel(),
            np.repeat(objects.groups, 3),
            replicates=replicates,
            seed=seed,
        )
        figures.append(Figure.of("token ablation", subset, "Pearson with true IoU", correlation))
    return figures
