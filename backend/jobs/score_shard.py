"""The job `score_shard`: help with a ranking that another worker puts together. It keeps no record of its own: what it
does is told by the ranking's."""

from __future__ import annotations

import logging

from backend.pool.sharing import help_out
from backend.resources import Resources

_log = logging.getLogger(__name__)


def run(resources: Resources, project: int) -> None:
    """Take shards of a project's ranking until none is left or other jobs wait. Nothing where there is none: it may
    run twice, late, or beside itself.

    Raises `LabelStudioError` where Label Studio does not answer; the shard is anybody's then.
    """
    taken = help_out(resources, project)
    _log.info("helped to rank project %s with %s shards", project, taken)
