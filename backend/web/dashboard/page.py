"""The page as HTML: one document without scripts, which asks for itself again every few seconds.

Everything shown is escaped: names of pictures and reasons come from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from backend.web.dashboard.view import ProjectView, RunLine, View

REFRESH_S = 5
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1c2733 }
h1 { font-size: 1.3rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem }
h3 { font-size: .95rem; margin: 1.1rem 0 .2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #dde3ea; vertical-align: top }
th { font-weight: 600; color: #5a6b7c } p { margin: .3rem 0 } .quiet { color: #5a6b7c }
.failed, .interrupted { color: #b3261e } .running { color: #1f6f43 } progress { width: 8rem }
"""


def render(view: View) -> str:
    """The document."""
    projects = "".join(_project(project) for project in view.projects)
    empty = "<p>No project yet. Connect one: <code>usam-backend connect --project N</code></p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>usam</title>'
        f'<meta http-equiv="refresh" content="{REFRESH_S}">'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<h1>usam: {escape(view.checkpoint)}, engine {escape(view.engine)}</h1>"
        '<p class="quiet"><a href="docs">protocol</a> &middot; <a href="metrics">metrics</a></p>'
        f"{projects or empty}</body></html>"
    )


def _project(project: ProjectView) -> str:
    title = f"project {project.number}"
    heading = _link(project.link, title) if project.link else title
    asked = [
        [str(line.place), _link(line.link, str(line.task)), escape(line.picture), escape(line.why)]
        for line in project.asked_first
    ]
    versions = [
        [
            escape(line.name) + (" <strong>in use</strong>" if line.in_use else ""),
            escape(line.made_at),
            str(line.objects),
            escape(line.gate),
        ]
        for line in project.versions
    ]
    facts = (
        f"{project.unlabelled} of {project.tasks} tasks unlabelled, {project.annotations} annotations, "
        f"{project.new_labels} labels not learnt from yet"
    )
    return "".join(
        [
            f'<section id="project-{project.number}"><h2>{heading}</h2>',
            f"<p>{facts}</p>",
            f"<p>predictions <code>{escape(project.served or 'none yet')}</code>, "
            f"heads <code>{escape(project.heads)}</code></p>",
            "<h3>ranked first</h3>",
            _table(("", "task", "picture", "reason"), asked, "not ranked yet"),
            "<h3>last jobs</h3>",
            _table(("job", "state", "for", "reason"), map(_run, project.runs), "none yet"),
            "<h3>versions</h3>",
            _table(("heads", "made", "objects", "gate"), versions, "none of its own yet"),
            "<h3>masks accepted without a person</h3>",
            f"<p>{escape(project.promise) or '<span class=quiet>none</span>'}</p></section>",
        ]
    )


def _run(run: RunLine) -> list[str]:
    state = f'<span class="{escape(run.state)}">{escape(run.state)}</span>'
    if run.share is not None:
        state += f' <progress max="1" value="{min(max(run.share, 0.0), 1.0):.3f}">{run.share:.0%}</progress>'
    return [escape(run.job), state, f"{run.seconds:.0f} s", escape(run.said)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> str:
    """A table of cells that are HTML already."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    if not body:
        return f'<p class="quiet">{empty}</p>'
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{body}</table>"


def _link(address: str, text: str) -> str:
    if not address.startswith(("http://", "https://")):
        return escape(text)
    return f'<a href="{escape(address)}">{escape(text)}</a>'
