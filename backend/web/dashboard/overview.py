"""The first page: each project as a card with what is done, what runs and what needs a person."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.settings import Settings
from backend.store.overview import ProjectOverview
from backend.store.pseudo_label_store import PseudoLabelRun
from backend.store.records import Run
from backend.web.dashboard.rendering import ago
from backend.web.dashboard.surroundings import Notice, Seen

JOBS: Mapping[str, str] = {
    "sync": "Fetching labels",
    "score_pool": "Ranking",
    "retrain": "Training",
    "pseudo_label": "Accepting masks",
    "plan": "Working out what more labels bring",
    "track": "Following boxes on videos",
}
ENDED: Mapping[str, str] = {
    "score_pool": "Ranked",
    "retrain": "Trained",
    "pseudo_label": "Accepted masks",
    "track": "Followed boxes on videos",
}
"""The same once they have ended, where that is worth a line."""
MIN_STEPS = 10
"""Runs of fewer steps say nothing about the time that is left."""
SHOWN = 400
"""Longest reason shown, in characters."""


@dataclass(frozen=True)
class RunLine:
    """A job that runs: `share` done in 0..1 and seconds `left`, each None where nobody can tell."""

    job: str
    done: int
    total: int
    share: float | None
    left: float | None


@dataclass(frozen=True)
class ProjectCard:
    """One project. `link` opens it in Label Studio, empty where its address is not known."""

    number: int
    title: str
    link: str
    tasks: int
    labelled: int
    left: int
    training: str
    running: tuple[RunLine, ...]
    last: tuple[str, ...]
    notices: tuple[Notice, ...]

    @property
    def share(self) -> float:
        """Labelled tasks of all, 0..1."""
        return self.labelled / self.tasks if self.tasks else 0.0


@dataclass
class Pace:
    """How fast runs go, by where they stood when they were first seen: what was kept from an earlier run counts as
    done from the start, and would make them seem fast."""

    _first: dict[int, tuple[float, int]] = field(default_factory=dict)

    def left(self, run: Run, now: float) -> float | None:
        """Seconds until a run is done; None where nobody can tell yet."""
        if run.total < MIN_STEPS or run.done <= 0:
            return None
        started, before = self._first.setdefault(run.id, (now, run.done))
        steps, seconds = run.done - before, now - started
        if steps <= 0:
            steps, seconds = run.done, now - run.started_at
        return max(run.total - run.done, 0) * max(seconds, 0.0) / steps

    def forget_others(self, runs: Sequence[int]) -> None:
        """Keep these runs alone."""
        self._first = {run: first for run, first in self._first.items() if run in set(runs)}


def title_of(number: int, seen: Seen) -> str:
    """A project's title in Label Studio, else its number."""
    project = (seen.projects or {}).get(number)
    return project.title.strip() if project is not None and project.title.strip() else f"Project {number}"


def link_to(settings: Settings, project: int, task: int | None = None) -> str:
    """The address of a project or task in Label Studio, as browsers reach it; empty where it is not known."""
    site = settings.label_studio_public_url or settings.label_studio_url
    return f"{site}/projects/{project}/data" + (f"?task={task}" if task is not None else "") if site else ""


def card_of(
    settings: Settings,
    known: ProjectOverview,
    seen: Seen,
    pace: Pace,
    promise: PseudoLabelRun | None = None,
    trouble: str = "",
) -> ProjectCard:
    """One project's card. `promise` is the record of accepted masks in use; `trouble` what is wrong with its files."""
    now = time.time()
    running = [run for run in known.runs.values() if run.state == "running"]
    ended = [run for run in known.ended.values() if run.job in ENDED]
    return ProjectCard(
        number=known.project,
        title=title_of(known.project, seen),
        link=link_to(settings, known.project),
        tasks=known.tasks,
        labelled=known.tasks - known.unlabelled,
        left=known.unlabelled,
        training=training_line(settings.retrain_after, known),
        running=tuple(
            RunLine(JOBS.get(run.job, run.job), run.done, run.total, share_of(run), pace.left(run, now))
            for run in sorted(running, key=lambda run: run.id)
        ),
        last=tuple(last_line(run) for run in sorted(ended, key=lambda run: -run.id)),
        notices=tuple(project_notices(known, seen, promise, trouble)),
    )


def training_line(after: int, known: ProjectOverview) -> str:
    """How far the next training is."""
    missing = after - known.new_labels
    if any(run.job == "retrain" and run.state == "running" for run in known.runs.values()):
        return "learning from the new labels now"
    if missing > 0:
        return f"{missing} more {'label' if missing == 1 else 'labels'} until the next training"
    return f"{known.new_labels} new labels: training is next"


def share_of(run: Run) -> float | None:
    """How much of a run is done, 0..1."""
    return min(max(run.done / run.total, 0.0), 1.0) if run.total > 0 else None


def last_line(run: Run) -> str:
    """What a run that ended came to."""
    when = ago(run.finished_at or run.changed_at)
    if run.state != "rejected":
        return f"{ENDED[run.job]} {when}"
    if run.job == "retrain":
        return f"{ENDED[run.job]} {when}: not put in use, {run.reason}"[:SHOWN]
    return f"{JOBS[run.job]} {when}: refused, {run.reason}"[:SHOWN]


def project_notices(known: ProjectOverview, seen: Seen, promise: PseudoLabelRun | None, trouble: str) -> list[Notice]:
    """What of one project needs a person."""
    number, found = known.project, []
    if trouble:
        found.append(Notice(f"Files of this project cannot be read: {trouble}", "Run `usam-backend repair`."))
    found += gone_notices(number, seen)
    for run in known.runs.values():
        if run.state == "failed":
            what = JOBS.get(run.job, run.job)
            when = ago(run.finished_at or run.changed_at)
            found.append(Notice(f"{what} failed {when}: {run.reason[:SHOWN]}", "It is tried again by itself."))
    sync = known.runs.get("sync")
    if sync is not None and sync.details.get("set_aside"):
        found.append(Notice(sync.reason[:SHOWN], "Correct or delete these in Label Studio; the rest goes on."))
    if promise is not None and promise.state == "withdrawn":
        found.append(
            Notice(
                f"The promise behind {len(promise.masks)} accepted masks is withdrawn: new audit labels speak against "
                "it.",
                f"Take them back on its page or with `usam-backend pseudo-label --project {number} --undo`, or label "
                "more audit tasks and accept again.",
                f"projects/{number}/trust",
                "What it rests on",
            )
        )
    if known.unusable:
        found.append(
            Notice(
                f"{counted(known.unusable, 'picture')} could not be used and wait at the end of the queue. "
                f"One of them: {known.unusable_reason[:SHOWN]}",
                "",
                f"projects/{number}/queue?show=unusable",
                "Show them",
            )
        )
    if known.set_aside:
        found.append(
            Notice(
                f"{counted(known.set_aside, 'answer')} could not be learnt from whole. One of them: "
                f"{known.set_aside_reason[:SHOWN]}",
                "Open the task in Label Studio and draw the region again.",
            )
        )
    return found


def counted(count: int, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "picture"), counted(2000, "picture")
    ('1 picture', '2,000 pictures')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def gone_notices(number: int, seen: Seen) -> list[Notice]:
    """That Label Studio has a project no more, where it does not show it."""
    if seen.projects is None or number in seen.projects:
        return []
    return [
        Notice(
            "Label Studio does not show this project to our token: it was deleted, or the account may not see it.",
            "Nothing of it is dropped for three days. Give the account access, or leave it.",
        )
    ]


def engine_notices(state: str, checkpoint: str) -> list[Notice]:
    """What of the model needs a person."""
    if state == "failed":
        return [
            Notice(f"The model {checkpoint} could not be loaded: clicks get no mask.", "The service's log says why.")
        ]
    return []


def event_notices(bytes_aside: int) -> list[Notice]:
    """What of Label Studio's events needs a person. `bytes_aside`: how much no store could hold."""
    if not bytes_aside:
        return []
    return [
        Notice(
            "Events of Label Studio were set aside because no store can hold them.",
            "`inbox/set-aside.jsonl` in the data folder has each with the reason; delete the file once it is read.",
        )
    ]


def summary_line(cards: Sequence[ProjectCard]) -> str:
    """All projects in one line."""
    tasks, left = sum(card.tasks for card in cards), sum(card.left for card in cards)
    needy = sum(bool(card.notices) for card in cards)
    line = f"{counted(len(cards), 'project')}, {tasks - left:,} of {counted(tasks, 'task')} labelled, {left:,} left"
    return line + (f"; {counted(needy, 'project')} with something for a person" if needy else "")
