"""By what a project's pool is ranked: heads, mask selection, strategy, audits, and the names of our versions."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from backend.errors import RegistryError
from backend.pool.mask_selection import mask_choice
from backend.settings import Settings
from usam.active.mask_selection import MaskSelection
from usam.checkpoints.registry import registry as registered
from usam.checkpoints.registry import weights_of
from usam.errors import UsamError

if TYPE_CHECKING:
    from backend.resources import Resources
    from backend.store.head_registry import Registry
    from usam.heads.head_set import HeadSet
    from usam.objects.project_heads import ProjectHeads
    from usam.predictor.own_decoder import TunedDecoder

_log = logging.getLogger(__name__)
_OWN_RANKING = re.compile(r"(?P<model>[A-Za-z0-9._-]+)\+(?P<heads>[0-9a-f]{12}|no-heads)\.(?P<run>\d{1,18})(-\d+)?")
_OWN_MODEL = re.compile(r"(?P<model>[A-Za-z0-9._-]+)\+([0-9a-f]{12}|no-heads)(\..*)?", re.DOTALL)
GAP_STRATEGIES: Mapping[str, tuple[str, ...]] = {
    "task": ("task_gap",),
    "epistemic": ("model_gap",),
    "task+epistemic": ("task_gap", "model_gap"),
    "prompt": ("prompt_gap",),
}


def is_own_version(version: str) -> bool:
    """Whether a version is of anything that we write, answers to Label Studio's own questions included: checkpoint and
    heads. Another program's `1.4.2+9f3a1c2b4d5e` is not: no checkpoint is called so.

    >>> is_own_version("nano-m+9f3a1c2b4d5e.7"), is_own_version("1.4.2+9f3a1c2b4d5e.7")
    (True, False)
    """
    found = _OWN_MODEL.fullmatch(version)
    return found is not None and found["model"] in registered()


def ranking_run(version: str) -> int | None:
    """The run whose ranking has this version: checkpoint and heads, then the run; None for any other version."""
    found = _ranking(version)
    return int(found["run"]) if found is not None else None


def ranking_heads(version: str) -> str:
    """What the ranking of this version is named after (`version_in_use`); empty for any other version."""
    found = _ranking(version)
    return found["heads"] if found is not None else ""


def _ranking(version: str) -> re.Match[str] | None:
    found = _OWN_RANKING.fullmatch(version)
    return found if found is not None and found["model"] in registered() else None


def project_seed(settings: Settings, project_id: int) -> int:
    """Seed of a project's audit draw. The same settings draw the same tasks again."""
    return settings.seed * 1_000_003 + project_id


def audit_tasks(settings: Settings, project_id: int, tasks: Sequence[int]) -> set[int]:
    """Which of these tasks are audits. Depends on nothing but task, project_id, seed and share."""
    from usam.statistics import stable_uniform

    if not tasks:
        return set()
    draw = stable_uniform(tasks, project_seed(settings, project_id), "audit")
    return {task for task, value in zip(tasks, draw, strict=True) if value < settings.audit_share}


def control_tasks(settings: Settings, project_id: int, tasks: Sequence[int]) -> set[int]:
    """On which of these tasks nothing is shown, so that it can be told what showing masks saves. Depends on nothing but
    task, project_id, seed and share."""
    from usam.statistics import stable_uniform

    if not tasks or not settings.control_share:
        return set()
    draw = stable_uniform(tasks, project_seed(settings, project_id), "control")
    return {task for task, value in zip(tasks, draw, strict=True) if value < settings.control_share}


def heads_in_use(resources: Resources, project_id: int) -> tuple[HeadSet | None, str]:
    """A project's heads, else the checkpoint's; and why the project's own are not used, if they are not."""
    name = resources.registry.champion(project_id)
    if not name:
        return resources.heads, ""
    heads = resources.registry.load(project_id, name)
    if not heads.fits(resources.settings.model):
        return resources.heads, f"heads {name} are for {heads.checkpoint}, not for {resources.settings.model}"
    return heads, ""


def learnt_in_use(resources: Resources, project_id: int) -> ProjectHeads | None:
    """What a project's version in use has learnt of what it wants and calls things; None where it has learnt nothing,
    or on another checkpoint."""
    name = resources.registry.champion(project_id)
    learnt = resources.registry.load_learnt(project_id, name) if name else None
    return learnt if learnt is not None and learnt.checkpoint == resources.settings.model else None


def decoder_in_use(resources: Resources, project_id: int) -> TunedDecoder | None:
    """The mask decoder of a project's version in use; None for the checkpoint's (`usable_decoder`), as where it cannot
    be told which version is in use (`registry_fault`)."""
    if registry_fault(resources, project_id):
        return None
    version = resources.registry.champion(project_id)
    return usable_decoder(resources.registry, project_id, version, resources.settings)[0]


def registry_fault(resources: Resources, project_id: int) -> str:
    """Why it cannot be told which version of a project is in use; empty where it can."""
    try:
        resources.registry.champion(project_id)
    except RegistryError as error:
        return str(error)
    return ""


def usable_decoder(
    registry: Registry, project_id: int, version: str, settings: Settings
) -> tuple[TunedDecoder | None, str]:
    """The mask decoder of a version, None for the checkpoint's; and why its own is not used, if it is not, which the
    log has too."""
    try:
        decoder = registry.load_decoder(project_id, version) if version else None
        if decoder is None:
            return None, ""
        is_for, is_now = (decoder.checkpoint, decoder.checkpoint_sha256), checkpoint_key(settings.model)
        if is_for == is_now:
            return decoder, ""
        reason = f"it is for {is_for[0]} {is_for[1][:12]}, not for {is_now[0]} {is_now[1][:12]}"
    except UsamError as error:
        reason = str(error)
    reason = f"masks are by the checkpoint's decoder, not by that of version {version}: {reason}"
    _log.warning("project %s: %s", project_id, reason)
    return None, reason


def checkpoint_key(model: str) -> tuple[str, str]:
    """What a decoder of one's own belongs to: the weights' name, and the SHA-256 of their file where it is known."""
    known = registered().get(model)
    return weights_of(model), known.sha256 if known is not None else ""


def version_in_use(resources: Resources, project_id: int, heads: HeadSet | None) -> str:
    """What predictions of a project are named after, besides the checkpoint: its version, else that of `heads`."""
    name = resources.registry.champion(project_id)
    if name and heads is not None and heads is not resources.heads:
        return name
    return heads.version if heads is not None else "no-heads"


def version_named(resources: Resources, project_id: int, name: str) -> tuple[HeadSet | None, ProjectHeads | None]:
    """The heads that predictions are named after (`version_in_use`), and what was learnt of the project beside them,
    whichever are in use now. Raises `RegistryError` where they are gone."""
    base = resources.heads
    if name == "no-heads" or (base is not None and base.version == name):
        return base if name != "no-heads" else None, None
    return resources.registry.load(project_id, name), resources.registry.load_learnt(project_id, name)


def mask_selection_in_use(resources: Resources, project_id: int, heads: HeadSet | None) -> MaskSelection:
    """What this project's masks are chosen by, with these heads."""
    version, base = (one.version if one is not None else "" for one in (heads, resources.heads))
    return mask_choice(resources.settings, resources.store, project_id, version, base)


def strategy_for(settings: Settings, heads: HeadSet | None) -> tuple[str, str]:
    """The strategy that these heads allow, and why it is not the one that was set, if it is not."""
    needed = GAP_STRATEGIES.get(settings.strategy, ())
    missing = [name for name in needed if heads is None or name not in heads.names]
    if not missing and not (settings.strategy == "predicted-iou" and (heads is None or heads.quality is None)):
        return settings.strategy, ""
    if len(missing) < len(needed):
        left = "epistemic" if "task_gap" in missing else "task"
        return left, f"the heads have no {', '.join(missing)}: ranked by `{left}`"
    return "samscore", f"the heads do not serve `{settings.strategy}`: ranked by `samscore`"


def settings_key(settings: Settings, champion: str, label_config: str) -> str:
    """What an order depends on besides the pool."""
    parts = [
        weights_of(settings.model),
        settings.heads,
        settings.strategy,
        settings.image_rule,
        settings.audit_share,
        settings.control_share,
        settings.seed,
        settings.points_per_side,
        settings.pred_iou_thresh,
        settings.nms_iou,
        settings.max_regions,
        settings.polygon_tolerance,
        settings.unknown_label,
        settings.mask_choice,
        settings.larger_model,
        settings.larger_budget,
        0.0,  # where the budget of more points stood: orders made then stay right
        settings.alternatives_budget,
        champion,
        label_config,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
