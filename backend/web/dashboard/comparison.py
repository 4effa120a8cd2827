"""Two versions of a project side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backend.web.dashboard.rendering import moment
from backend.web.dashboard.versions import VersionLine, VersionsPage, WorkLine


@dataclass(frozen=True)
class Comparison:
    """The names of two versions, and rows of what is known of both: (what, of the first, of the second)."""

    first: VersionLine
    second: VersionLine
    rows: tuple[tuple[str, str, str], ...]


def compared(page: VersionsPage, asked: Mapping[str, str]) -> Comparison | None:
    """The two versions that `a` and `b` name, else the one in use and the newest other one; None where there are not
    two."""
    in_use = next((line for line in page.lines if line.in_use), None)
    by_address = {line.address: line for line in page.lines}
    first = by_address.get(asked.get("a", ""), in_use)
    others = [line for line in page.lines if line is not first]
    if first is None or not others:
        return None
    second = by_address.get(asked.get("b", ""), others[0])
    rows = [
        (what, one, two)
        for (what, one), (_, two) in zip(facts_of(first, page), facts_of(second, page), strict=True)
        if one or two
    ]
    return Comparison(first, second, tuple(rows))


def facts_of(line: VersionLine, page: VersionsPage) -> list[tuple[str, str]]:
    """What is known of a version, empty where nothing is."""
    judged, work = line.judgement, work_of(line, page)
    facts = [
        ("In use", "yes" if line.in_use else "no"),
        ("Made", moment(line.made_at) if line.name else "with the checkpoint"),
        ("Learnt from", f"{line.objects:,} objects" if line.name else "no label of this project"),
        ("Error by the gate (lower is better)", f"{judged.error:.4f}" if judged else ""),
        ("Error of the version before it", f"{judged.before:.4f}" if judged and judged.before is not None else ""),
        ("Better than that in", f"{judged.share:.0%} of draws" if judged and judged.share is not None else ""),
        ("Judged on", f"{judged.objects} objects of {judged.tasks} tasks ({judged.how})" if judged else ""),
        ("Scores", line.scores_stay),
        ("Knows of objects", line.learnt),
    ]
    for kind, words in (
        ("kept", "kept"),
        ("relabelled", "label given or changed"),
        ("corrected", "redrawn"),
        ("deleted", "deleted"),
    ):
        facts.append((f"Of 100 masks shown: {words}", f"{getattr(work, kind):.0f}" if work else ""))
    facts.append(("Wanted objects that had to be added", f"{work.added:.0%}" if work else ""))
    facts.append(("Time an image (median)", f"{work.seconds:.0f} s" if work and work.seconds is not None else ""))
    return facts


def work_of(line: VersionLine, page: VersionsPage) -> WorkLine | None:
    """What people did with the masks of a version; None where it showed none that is counted."""
    ending = f"+{line.name}"
    return next((one for one in page.work if line.name and one.version.endswith(ending)), None)
