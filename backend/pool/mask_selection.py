"""What a project's masks are chosen by, as its retrainings measured it.

A retraining measures, for each head set that it looked at, what choosing by predicted IoU gained in true IoU on
labelled objects that the set had not learned from (`usam.active.mask_selection`), and the store keeps it.
"""

from __future__ import annotations

from backend.settings import Settings
from backend.store import Store
from usam.active.mask_selection import MaskSelection, decide


def mask_choice(settings: Settings, store: Store, project: int, version: str, base: str) -> MaskSelection:
    """What to choose by with the heads `version` of a project; `base` is the version of the checkpoint's own heads.

    A gain that is not measured yet says nothing: then a project's heads choose as the checkpoint's do, and those by
    predicted IoU, which was measured when they were made.
    """
    if settings.mask_choice != "auto":
        return settings.mask_choice
    ours = decide(store.selection_gain(project, base))
    return ours if version == base else decide(store.selection_gain(project, version), ours)
