"""The client against a real Label Studio: what it reads and writes, and the traps it knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.errors import LabelStudioError, LabelStudioUnreachable, TokenError
from backend.label_studio.client import UNLABELLED, LabelStudio
from backend.label_studio.records import UNCERTAINTY_SAMPLING, Project, Task
from backend.local.label_studio_server import LabelStudioServer
from backend.pool.publication import delete_before, revise, write
from backend.pool.revision import revision
from backend.store.records import ScoreRow

pytestmark = pytest.mark.e2e
CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="A"/></BrushLabels></View>"""


@pytest.fixture
def project(label_studio: LabelStudio) -> Project:
    return label_studio.create_project("client test", CONFIG, sampling=UNCERTAINTY_SAMPLING)


def imported(client: LabelStudio, project: Project, count: int) -> list[Task]:
    client.import_tasks(project.id, [{"data": {"image": f"http://127.0.0.1:9/{n}.png"}} for n in range(count)])
    return list(client.tasks(project.id))


def test_all_pages_of_tasks_are_read_in_order(
    label_studio: LabelStudio, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.label_studio.pages.PAGE", 3)
    tasks = imported(label_studio, project, 7)
    assert [task.data["image"][-5:] for task in tasks] == [f"{n}.png" for n in range(7)]
    assert label_studio.task_count(project.id) == 7


def test_a_change_of_annotations_touches_the_task_and_a_prediction_does_not(
    label_studio: LabelStudio, project: Project
) -> None:
    first, second, third = imported(label_studio, project, 3)
    cut = max(task.updated_at for task in (first, second, third))
    assert list(label_studio.tasks(project.id, since=cut)) == []

    annotation = label_studio.annotate(second.id, [{"id": "r"}])
    label_studio.import_predictions(project.id, [{"task": third.id, "result": [], "score": 0.5, "model_version": "v"}])
    changed = list(label_studio.tasks(project.id, since=cut))
    assert [(task.id, task.annotations) for task in changed] == [(second.id, 1)]

    found = label_studio.annotations(project.id, [first.id, second.id])
    assert [(one.id, one.task, one.cancelled) for one in found] == [(annotation.id, second.id, False)]

    cut = changed[0].updated_at
    label_studio.delete_annotation(annotation.id)
    assert [task.id for task in label_studio.tasks(project.id, since=cut)] == [second.id]
    assert label_studio.annotations(project.id, [second.id]) == []


def test_the_lowest_score_of_the_projects_version_is_served(label_studio: LabelStudio, project: Project) -> None:
    tasks = imported(label_studio, project, 5)
    for version, order in (("old", [0, 1, 2, 3, 4]), ("new", [3, 0, 4, 1, 2])):
        label_studio.import_predictions(
            project.id,
            (
                {"task": tasks[n].id, "result": [], "score": (place + 1) / 5, "model_version": version}
                for place, n in enumerate(order)
            ),
            chunk=2,
        )
    assert label_studio.model_versions(project.id) == {"old": 5, "new": 5}
    label_studio.set_model_version(project.id, "new")
    label_studio.delete_version(project.id, "old")
    assert label_studio.model_versions(project.id) == {"new": 5}
    assert [task for task, _ in label_studio.first_by_score(project.id, 2)] == [tasks[3].id, tasks[0].id]

    served = label_studio.next_task(project.id)
    assert served is not None
    assert (served.id, served.locked) == (tasks[3].id, False)


def test_an_earlier_ranking_goes_bit_by_bit_while_what_is_served_and_others_models_stay(
    label_studio: LabelStudio, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.pool.publication.AT_ONCE", 3)
    tasks = imported(label_studio, project, 30)
    old, longer, served = "nano-m+no-heads.1", "nano-m+no-heads.12", "nano-m+no-heads.11"
    for version, count in ((old, 30), (longer, 28), (served, 30), ("detector-7", 5)):
        rows = [{"task": task.id, "result": [], "score": 0.5, "model_version": version} for task in tasks[:count]]
        label_studio.import_predictions(project.id, rows)
    label_studio.set_model_version(project.id, served)

    assert delete_before(label_studio, project.id, served, lambda: False) == []
    counts = label_studio.model_versions(project.id)
    assert 3 < counts[old] < 30
    assert delete_before(label_studio, project.id, served) == [old]
    assert label_studio.model_versions(project.id) == {longer: 28, served: 30, "detector-7": 5}
    assert [task.predictions for task in list(label_studio.tasks(project.id))[4:6]] == [3, 2]
    assert len(label_studio.predictions(project.id, [tasks[0].id])) == 3


def test_a_change_is_written_into_the_ranking_that_is_served(label_studio: LabelStudio, project: Project) -> None:
    tasks = imported(label_studio, project, 21)
    version = "nano-m+no-heads.1"
    order = [ScoreRow(task.id, version, 1.0, (n + 1) / 21, n, False) for n, task in enumerate(tasks[:20])]

    def prediction_of(row: ScoreRow) -> dict[str, object]:
        return {"task": row.task, "score": row.confidence, "result": [{"id": "r", "from_name": "brush"}]}

    write(label_studio, project.id, order, prediction_of, version)
    new = [order[7], replace(order[0], task=tasks[20].id), *order[:7], *order[8:]]
    change = revision({row.task: row for row in order}, new, version)
    assert change is not None
    assert [row.task for row in change.written] == [tasks[7].id, tasks[20].id]
    revise(label_studio, project.id, change, prediction_of, version)
    served = [task for task, _ in label_studio.first_by_score(project.id, 21)]
    assert served == [row.task for row in new]
    assert label_studio.model_versions(project.id) == {version: 21}
    assert [one.result[0]["id"] for one in label_studio.predictions(project.id, [tasks[7].id])] == ["r"]
    assert label_studio.project(project.id).model_version == version


def test_a_served_task_is_locked_whatever_the_new_scores_say(label_studio: LabelStudio, project: Project) -> None:
    tasks = imported(label_studio, project, 2)
    for version, first in (("a", 0), ("b", 1)):
        label_studio.import_predictions(
            project.id,
            [
                {"task": task.id, "result": [], "score": 0.1 if n == first else 0.9, "model_version": version}
                for n, task in enumerate(tasks)
            ],
        )
        label_studio.set_model_version(project.id, version)
        served = label_studio.next_task(project.id)
        assert served is not None
        assert served.id == tasks[0].id
    assert served.locked
    assert label_studio.first_by_score(project.id)[0][0] == tasks[1].id


def test_no_task_left_is_none(label_studio: LabelStudio, project: Project) -> None:
    assert label_studio.next_task(project.id) is None


def test_views_webhooks_and_their_headers(label_studio: LabelStudio, project: Project) -> None:
    view = label_studio.create_view(project.id, "first", ordering=["tasks:predictions_score"], filters=UNLABELLED)
    assert [(one.id, one.title) for one in label_studio.views(project.id)] == [(view.id, "first")]
    (kept,) = label_studio._list("/api/dm/views/", {"project": project.id})
    columns = label_studio._object("GET", "/api/dm/columns", params={"project": project.id})["columns"]
    shown = {f"tasks:{column['id']}" for column in columns} - {*kept["data"]["hiddenColumns"]["explore"]}
    assert shown == {"tasks:id", "tasks:total_predictions", "tasks:predictions_score", "tasks:image", "tasks:data"}
    hook = label_studio.create_webhook(
        project.id, "http://127.0.0.1:9/webhook", headers={"Authorization": "Bearer x"}, actions=["TASKS_CREATED"]
    )
    label_studio.update_webhook(hook.id, hook.url, headers={"Authorization": "Bearer y"}, actions=[])
    (found,) = label_studio.webhooks(project.id)
    assert found.headers == {"Authorization": "Bearer y"}
    assert found.all_actions
    assert "Bearer" not in repr(found)


def test_a_missing_project_is_a_404_with_label_studios_words(label_studio: LabelStudio) -> None:
    with pytest.raises(LabelStudioError, match="No Project matches") as caught:
        label_studio.project(10**6)
    assert caught.value.status == 404


def test_a_wrong_token_is_a_token_error_that_does_not_show_it(label_studio_server: LabelStudioServer) -> None:
    secret = "f" * 40
    with LabelStudio(label_studio_server.url, secret) as client, pytest.raises(TokenError) as caught:
        client.projects()
    assert secret not in str(caught.value)
    assert caught.value.status == 401


def test_a_personal_access_token_is_exchanged(label_studio_server: LabelStudioServer) -> None:
    import httpx

    account = label_studio_server.account
    headers = {"Authorization": f"Token {account.token}"}
    with httpx.Client(base_url=label_studio_server.url, headers=headers, timeout=30) as http:
        settings = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        assert http.post("/api/jwt/settings", json=settings).is_success
        made = http.post("/api/token/").json()
    with LabelStudio(label_studio_server.url, made["token"]) as client:
        assert isinstance(client.projects(), list)


def test_nobody_there_is_unreachable() -> None:
    with LabelStudio("http://127.0.0.1:9", "x" * 40) as client, pytest.raises(LabelStudioUnreachable):
        client.project(1)
