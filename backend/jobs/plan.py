"""The job `plan`: what more labels would bring to a project, after each training, for the page."""

from __future__ import annotations

from backend.errors import JobError
from backend.learning.kept_plan import KeptPlan, KeptPlans
from backend.learning.label_plan import plan_project
from backend.resources import Resources

JOB = "plan"


def run(resources: Resources, project_id: int) -> str:
    """Make the plan and keep it; returns the run's state. Too few labels to tell anything skip it."""
    with resources.run(project_id, JOB) as progress:
        try:
            planned = plan_project(
                resources.settings,
                resources.store,
                project_id,
                resources.heads,
                say=lambda done, total: progress.step(done, total, "learning again"),
            )
        except JobError as error:
            progress.state, progress.reason = "skipped", str(error)
        else:
            KeptPlans(resources.settings.data_dir).put(project_id, KeptPlan.of(planned))
            progress.reason = planned.plan.curve.suggestion()
    return progress.state
