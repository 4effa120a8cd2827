"""`connect` and `disconnect` against a small copy of what Label Studio keeps of a project."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from backend.errors import LabelStudioError
from backend.label_studio.config import parse_config
from backend.label_studio.records import UNCERTAINTY_SAMPLING, MlBackend, Project, View, Webhook
from backend.label_studio.setup import VIDEO_VIEW_TITLE, VIEW_TITLE, Step, connect, disconnect, has_backend_of_ours
from backend.settings import Settings
from tests.backend.label_studio.test_video_config import IMAGE, VIDEO

URL = "http://10.0.0.5:9090"
CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="A"/></BrushLabels></View>"""

NO_MASKS = '<View><Text name="t" value="$t"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>'
REPEATER = '<View><Repeater on="$p"><Image name="i" value="$p"/><Brush name="b" toName="i"/></Repeater></View>'


class LabelStudioCopy:
    """One project as Label Studio keeps it. `refuses` names calls that fail; `state` is how it finds a new backend."""

    def __init__(self, config: str = CONFIG, *, state: str = "CO", version: str = "nano-m+base") -> None:
        self.kept = Project(1, "p", config, "", "Sequential sampling", "s", evaluates_by_itself=True)
        self.backends: list[MlBackend] = []
        self.hooks: list[Webhook] = []
        self.tabs: list[View] = []
        self.counts: dict[str, int] = {}
        self.scored, self.unlabelled = 0, 4
        self.state, self.version, self.refuses = state, version, ""
        self.changes: list[str] = []

    @property
    def content(self) -> Any:
        return copy.deepcopy((self.kept, self.backends, self.hooks, self.tabs))

    def _change(self, name: str) -> None:
        self.changes.append(name)
        if self.refuses == name:
            raise LabelStudioError(f"success for {name}", "HTTP 500", "try again later")

    def project(self, project: int) -> Project:
        return self.kept

    def update_project(self, project: int, **fields: Any) -> None:
        self._change("update_project")
        ours = {
            "evaluate_predictions_automatically": "evaluates_by_itself",
            "show_collab_predictions": "shows_predictions",
        }
        self.kept = replace(self.kept, **{ours.get(name, name): value for name, value in fields.items()})

    def set_model_version(self, project: int, version: str) -> None:
        self.update_project(project, model_version=version)

    def ml_backends(self, project: int) -> list[MlBackend]:
        return sorted(self.backends, key=lambda backend: backend.id)

    def create_ml_backend(self, project: int, url: str, title: str, **fields: Any) -> MlBackend:
        made = MlBackend(len(self.backends) + 1, url, title, self.state, "no answer", self.version, True)
        self.backends.append(made)
        self.kept = replace(self.kept, model_version=self.kept.model_version or title)
        self.hooks.append(Webhook(50, f"{url}/webhook", {}, (), True, True))  # Label Studio makes one by itself
        self._change("create_ml_backend")
        return made

    def update_ml_backend(self, backend: int, project: int, url: str, **fields: Any) -> MlBackend:
        self._change("update_ml_backend")
        return next(one for one in self.backends if one.id == backend)

    def delete_ml_backend(self, backend: int) -> None:
        self._change("delete_ml_backend")
        self.backends = [one for one in self.backends if one.id != backend]

    def webhooks(self, project: int) -> list[Webhook]:
        return list(self.hooks)

    def create_webhook(self, project: int, url: str, *, headers: Any, actions: Any) -> None:
        self._change("create_webhook")
        self.hooks.append(Webhook(60, url, dict(headers), tuple(actions), False, True))

    def update_webhook(self, webhook: int, url: str, *, headers: Any, actions: Any) -> None:
        self._change("update_webhook")
        changed = Webhook(webhook, url, dict(headers), tuple(actions), False, True)
        self.hooks = [changed if hook.id == webhook else hook for hook in self.hooks]

    def restore_webhook(self, webhook: Webhook) -> None:
        self._change("restore_webhook")
        self.hooks = [webhook if hook.id == webhook.id else hook for hook in self.hooks]

    def delete_webhook(self, webhook: int) -> None:
        self._change("delete_webhook")
        self.hooks = [hook for hook in self.hooks if hook.id != webhook]

    def model_versions(self, project: int) -> dict[str, int]:
        return self.counts

    def scored_count(self, project: int) -> int:
        return self.scored

    def unlabelled_count(self, project: int) -> int:
        return self.unlabelled

    def views(self, project: int) -> list[View]:
        return list(self.tabs)

    def create_view(self, project: int, title: str, **fields: Any) -> None:
        self._change("create_view")
        self.tabs.append(View(9, title, {}))

    def delete_view(self, view: int) -> None:
        self._change("delete_view")
        self.tabs = [tab for tab in self.tabs if tab.id != view]


def connected(studio: LabelStudioCopy, url: str = URL, served: str = "", **settings: Any) -> list[Step]:
    client: Any = studio
    return list(connect(client, Settings(**settings), 1, url, served))


def states(steps: list[Step]) -> dict[str, str]:
    return {step.name: step.state for step in steps}


def test_everything_is_done_and_the_second_time_nothing_is() -> None:
    studio = LabelStudioCopy()
    settings = {"auth_user": "u", "auth_password": "p"}
    assert not any(step.failed for step in connected(studio, **settings))
    (hook,) = studio.hooks
    assert (hook.headers, hook.all_actions) == ({"Authorization": "Basic dTpw"}, False)
    assert (studio.kept.sampling, studio.kept.evaluates_by_itself) == (UNCERTAINTY_SAMPLING, False)
    before = studio.content
    again = states(connected(studio, **settings))
    assert {again[name] for name in ("backend", "webhook", "queue", "view")} == {"was done"}
    assert studio.content == before


@pytest.mark.parametrize(
    ("fault", "settings"),
    [
        ({"config": "<View>"}, {}),
        ({"config": NO_MASKS}, {}),
        ({"config": REPEATER}, {}),
        ({}, {"auth_token": "t" * 20}),
        ({}, {"url": "http://backend:9090"}),
        ({}, {"url": "ftp://10.0.0.5"}),
        ({}, {"url": "10.0.0.5:9090"}),
        ({}, {"url": "http://10.0.0.5:x"}),
    ],
)
def test_what_can_be_seen_before_is_refused_before_anything_changes(fault: Any, settings: Any) -> None:
    studio = LabelStudioCopy(**fault)
    (step,) = [step for step in connected(studio, **settings) if step.failed]
    assert "nothing was changed" in step.detail
    assert studio.changes == []


def test_a_wrong_url_leaves_no_backend_and_no_webhook() -> None:
    studio = LabelStudioCopy(state="ER")
    before = studio.content
    steps = connected(studio)
    assert states(steps)["webhook"] == "taken back"
    assert [step.name for step in steps if step.failed] == ["backend"]
    assert studio.content == before


def test_another_service_at_the_url_is_not_taken_for_ours() -> None:
    studio = LabelStudioCopy(version="INITIAL")
    before = studio.content
    assert "another backend" in next(step.detail for step in connected(studio) if step.failed)
    assert studio.content == before


@pytest.mark.parametrize("refuses", ["create_ml_backend", "update_webhook", "update_project", "create_view"])
def test_whatever_fails_all_is_as_it_was(refuses: str) -> None:
    studio = LabelStudioCopy()
    studio.hooks = [Webhook(3, "http://elsewhere/webhook", {"X": "y"}, (), True, True)]
    before = studio.content
    studio.refuses = refuses

    def stop_refusing(step: Step) -> Step:
        if step.failed:
            studio.refuses = ""
        return step

    client: Any = studio
    steps = [stop_refusing(step) for step in connect(client, Settings(), 1, URL)]
    assert sum(step.failed for step in steps) == 1
    assert studio.content == before


def test_a_webhook_that_was_there_gets_its_headers_back() -> None:
    studio = LabelStudioCopy()
    connected(studio, auth_user="u", auth_password="p")
    before, studio.refuses, studio.tabs = studio.hooks, "create_view", []
    client: Any = studio
    for step in connect(client, Settings(auth_user="u", auth_password="new"), 1, URL):
        studio.refuses = "" if step.failed else studio.refuses
    assert studio.hooks == before


def test_a_project_that_asks_another_backend_first_is_refused() -> None:
    studio = LabelStudioCopy()
    studio.backends = [MlBackend(0, "http://other", "yolo", "CO", "", "1", True)]
    assert "yolo" in next(step.detail for step in connected(studio) if step.failed)
    assert studio.changes == []


# what is said


@pytest.mark.parametrize(
    ("current", "counts", "scored", "served", "state", "version"),
    [
        ("a+1.1", {"a+1.1": 4}, 4, "", "was done", "a+1.1"),
        ("a+1.1", {"a+1.1": 4}, 0, "", "advice", "a+1.1"),
        ("a+1.1", {"a+1.1": 4, "a+2.1": 4}, 4, "a+2.1", "done", "a+2.1"),
        ("yolo", {"yolo": 9, "a+1.1": 4}, 4, "", "done", "a+1.1"),
        ("yolo", {"yolo": 9}, 4, "", "advice", "yolo"),
        ("", {"a+1.1": 0}, 0, "", "advice", "usam"),
        ("", {"a+9.1": 1, "a+1.1": 4}, 1, "gone", "done", "a+1.1"),
    ],
)
def test_a_version_that_serves_nothing_is_never_called_done(
    current: str, counts: dict[str, int], scored: int, served: str, state: str, version: str
) -> None:
    studio = LabelStudioCopy()
    studio.kept = replace(studio.kept, model_version=current)
    studio.counts, studio.scored = counts, scored
    steps = connected(studio, served=served)
    assert states(steps)["version"] == state
    assert studio.kept.model_version == version


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ('<KeyPoint name="k" toName="img"/>', "prompts come from brush, k"),
        ('<KeyPoint name="k" toName="img" smart="true"/>', "prompts come from k"),
        ("", "prompts come from brush"),
    ],
)
def test_clicks_are_said_to_be_answered_where_they_are(controls: str, said: str) -> None:
    studio = LabelStudioCopy(CONFIG.replace("</View>", controls + "</View>"))
    assert said in connected(studio)[0].detail


def test_a_configuration_without_prompts_is_said() -> None:
    studio = LabelStudioCopy(CONFIG.replace('name="brush"', 'name="brush" smart="false"'))
    step = connected(studio)[0]
    assert step.state == "advice"
    assert "clicks are not answered" in step.detail


def test_labels_that_nobody_can_tell_apart_are_said() -> None:
    alike = '<Label value="A" alias="x"/><Label value="B" alias="x"/>'
    step = connected(LabelStudioCopy(CONFIG.replace('<Label value="A"/>', alike)))[0]
    assert (step.state, "labels 'A' and 'B' of brush are both written 'x'" in step.detail) == ("advice", True)


def test_a_configuration_without_prompts_becomes_one_with_them_by_what_is_advised() -> None:
    labels = ["Monkey", 'a "tiger" & co']
    rows = "".join(f"<Label value={quoteattr(label)}/>" for label in labels)
    masks = f'<PolygonLabels name="click" toName="img">{rows}</PolygonLabels>'
    told = f'<View><Image name="img" value="$image"/>{masks}</View>'
    advice = connected(LabelStudioCopy(told))[0].detail
    mended = parse_config(told.replace("</View>", advice[advice.index("<") :] + "</View>"))
    assert [(one.name, one.labels) for one in mended.smart] == [("click1", tuple(labels))]
    assert mended.output.kind == "polygon", "and masks go where they went"


def test_images_that_are_not_ranked_are_named() -> None:
    second = '<Image name="second" value="$b"/><Brush name="b2" toName="second"/></View>'
    assert "second" in connected(LabelStudioCopy(CONFIG.replace("</View>", second)))[0].detail


# videos


def test_a_project_of_videos_gets_events_and_a_tab_but_no_backend_that_nobody_would_ask() -> None:
    studio = LabelStudioCopy(VIDEO)
    studio.kept = replace(studio.kept, shows_predictions=False)
    studio.hooks = [Webhook(3, "http://elsewhere/webhook", {}, (), True, True)]
    before = studio.content
    steps = connected(studio)
    assert [(step.name, step.state) for step in steps[1:]] == [("webhook", "done"), ("queue", "done"), ("view", "done")]
    assert "a box (box) on one frame of a video is followed" in steps[0].detail
    assert (studio.backends, studio.kept.shows_predictions, studio.kept.sampling) == ([], True, before[0].sampling)
    assert [tab.title for tab in studio.tabs] == [VIDEO_VIEW_TITLE]
    assert set(states(connected(studio)).values()) == {"was done"}
    client: Any = studio
    assert [step.name for step in disconnect(client, 1)] == ["webhook", "view", "queue"]
    assert (studio.hooks, studio.tabs) == (before[2], [])


@pytest.mark.parametrize("refuses", ["create_webhook", "update_project", "create_view"])
def test_of_a_project_of_videos_all_is_connected_or_nothing(refuses: str) -> None:
    studio = LabelStudioCopy(VIDEO)
    studio.kept = replace(studio.kept, shows_predictions=False)
    before, studio.refuses = studio.content, refuses
    client: Any = studio
    failed = []
    for step in connect(client, Settings(), 1, URL):
        failed += [step.name] if step.failed else []
        studio.refuses = "" if step.failed else studio.refuses
    assert (len(failed), studio.content) == (1, before)


def test_images_beside_videos_are_connected_as_ever() -> None:
    studio = LabelStudioCopy(VIDEO.replace("</View>", IMAGE + "</View>"))
    steps = connected(studio)
    assert "followed" in steps[0].detail
    assert "masks go to brush" in steps[1].detail
    assert (len(studio.backends), [tab.title for tab in studio.tabs]) == (1, [VIEW_TITLE])


# disconnect


@pytest.mark.parametrize("url", ["", URL, URL + "/"])
def test_disconnect_takes_out_what_connect_put_in_and_nothing_else(url: str) -> None:
    studio = LabelStudioCopy()
    connected(studio)
    theirs = Webhook(3, "http://elsewhere/webhook", {}, (), True, True)
    studio.hooks.append(theirs)
    studio.tabs.append(View(2, "mine", {}))
    client: Any = studio
    assert has_backend_of_ours(client, 1)
    done = list(disconnect(client, 1, url))
    assert not has_backend_of_ours(client, 1)
    assert [step.name for step in done] == ["webhook", "backend", "view", "queue"]
    assert (studio.backends, studio.hooks) == ([], [theirs])
    assert [tab.title for tab in studio.tabs] == ["mine"]
    assert studio.changes[-3:] == ["delete_webhook", "delete_ml_backend", "delete_view"]
    assert [step.state for step in disconnect(client, 1, url)] == ["was done", "advice"]
    assert VIEW_TITLE in done[2].detail


def test_of_a_project_that_label_studio_has_no_more_nothing_is_left_to_take_out() -> None:
    def gone(_: int) -> None:
        raise LabelStudioError("a project", "404", "check", status=404, is_from_label_studio=True)

    client: Any = SimpleNamespace(project=gone)
    assert [(step.name, step.state) for step in disconnect(client, 1)] == [("project", "was done")]
