"""Each job by itself, in this process, against a real Label Studio: edges that the whole loop does not meet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import JobBusy, JobError, LabelStudioUnreachable
from backend.jobs.entry import run_job
from backend.label_studio.client import LabelStudio
from backend.local.label_studio_server import LabelStudioServer
from backend.local.redis_server import RedisServer
from backend.pool.policy import audit_tasks
from backend.pool.publication import verify
from backend.settings import Settings
from tests.e2e.workplace import Workplace, small_region, workplace
from usam.checkpoints.registry import weights_of

pytestmark = pytest.mark.e2e


@pytest.fixture
def place(tmp_path: Path, label_studio_server: LabelStudioServer, redis_server: RedisServer) -> Iterator[Workplace]:
    with workplace(tmp_path, label_studio_server, redis_server, retrain_after="3", audit_share="0") as place:
        yield place


def task_ids(place: Workplace) -> list[int]:
    return [task.id for task in place.label_studio.tasks(place.project)]


def waiting(place: Workplace) -> set[str]:
    return {state.name for state in place.queue.states()}


def patch_annotation(place: Workplace, annotation: int, result: list[dict[str, Any]]) -> None:
    place.label_studio._send("PATCH", f"/api/annotations/{annotation}/", json={"result": result})


# sync


def test_sync_takes_labels_once_follows_changes_and_deletions(place: Workplace, pictures: list[Path]) -> None:
    project, store = place.new_project(pictures[:3]), place.store
    first, second, third = task_ids(place)
    made = place.label_studio.annotate(first, [small_region(first)])
    skipped = place.label_studio.annotate(second, [], cancelled=True)
    assert place.do("sync").details == {
        "touched": 3,
        "removed": 0,
        "annotations": 2,
        "samples": 1,
        "broken": 0,
        "new_labels": 1,
        "waked": ["score_pool"],
    }
    reasons = {one.id: one.reason for one in store.annotations(project)}
    assert reasons == {made.id: "", skipped.id: "skipped by the annotator"}
    assert place.do("sync").details["annotations"] == 0

    before = store.samples(project, weights_of("nano-s"))[0]
    patch_annotation(place, made.id, [small_region(first), small_region(first + 1)])
    assert place.do("sync").details["samples"] == 2
    assert store.samples(project, weights_of("nano-s"))[0].updated_at > before.updated_at

    place.label_studio.delete_annotation(made.id)
    place.do("sync")
    assert store.samples(project, weights_of("nano-s")) == []
    assert store.task_of(project, made.id) == first

    place.label_studio.delete_task(third)
    assert place.do("sync").details["removed"] == 1
    assert [task.id for task in store.tasks(project)] == [first, second]


def test_sync_cut_short_between_tasks_and_annotations_loses_nothing(
    place: Workplace, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = place.new_project(pictures[:2])
    place.do("sync")
    first, second = task_ids(place)
    place.label_studio.annotate(first, [small_region(first)])
    place.label_studio.annotate(second, [small_region(second)])
    monkeypatch.setattr(LabelStudio, "annotations", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        place.do("sync")
    monkeypatch.undo()
    assert place.store.runs(project, "sync")[0].state == "failed"
    assert place.do("sync").details["samples"] == 2


def test_a_broken_region_and_a_missing_image_are_recorded_and_the_rest_counts(
    place: Workplace, pictures: list[Path]
) -> None:
    project, store, client = place.new_project(pictures[:1]), place.store, place.label_studio
    client.import_tasks(project, [{"data": {"image": "/data/upload/1/no-such.png"}}])
    good, bad = task_ids(place)
    broken = small_region(good) | {"id": "wrong", "original_width": 3, "original_height": 3}
    client.annotate(good, [broken, small_region(good)])
    client.annotate(bad, [small_region(bad)])
    report = place.do("sync").details
    assert (report["samples"], report["broken"]) == (1, 2)
    reasons = [one.reason for one in store.annotations(project)]
    assert "region wrong" in reasons[0]
    assert "no-such.png" in reasons[1]
    assert place.do("sync").details["annotations"] == 1, "an image that was not there is asked for again"


def test_enough_new_labels_ask_for_a_retraining(place: Workplace, pictures: list[Path]) -> None:
    place.new_project(pictures[:3])
    for task in task_ids(place)[:2]:
        place.label_studio.annotate(task, [small_region(task)])
    place.do("sync")
    assert waiting(place) == {"score_pool"}
    last = task_ids(place)[2]
    place.label_studio.annotate(last, [small_region(last)])
    place.do("sync")
    assert waiting(place) == {"score_pool", "retrain"}


def test_start_training_is_not_forgotten_while_redis_is_away(
    place: Workplace, pictures: list[Path], redis_server: RedisServer
) -> None:
    project = place.new_project(pictures[:1])
    place.store.add_events([(project, "START_TRAINING", [])])
    redis_server.stop()
    place.do("sync")
    assert [event.action for event in place.store.open_events(project)] == ["START_TRAINING"]
    redis_server.start()
    place.do("sync")
    assert "retrain" in waiting(place)
    assert place.store.open_events(project) == []


def test_a_project_that_is_gone_for_days_is_forgotten(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    project = place.new_project([])
    place.label_studio._send("DELETE", f"/api/projects/{project}/")
    run_job(place.resources, "sync", project)
    assert project in place.store.projects()
    for name, seconds in (("KEPT_S", 1e-6), ("LONGEST_GAP_S", 0.5e-6), ("APART_S", 0.0)):
        monkeypatch.setattr(f"backend.pool.absence.{name}", seconds)
    for _ in range(2):
        assert project in place.store.projects()
        run_job(place.resources, "sync", project)
    assert project not in place.store.projects()


def test_without_label_studio_the_run_fails_with_the_reason(place: Workplace) -> None:
    place.new_project([])
    with LabelStudio("http://127.0.0.1:9", "x" * 40) as nobody:
        place.resources.label_studio = nobody
        with pytest.raises(LabelStudioUnreachable):
            place.do("sync")
    (run,) = place.store.runs(place.project, "sync")
    assert run.state == "failed"
    assert "to answer" in run.reason


def test_one_at_a_time(place: Workplace) -> None:
    project = place.new_project([])
    assert place.store.acquire(f"retrain-{project}", "another-host:1", 60)
    with pytest.raises(JobBusy):
        place.do("retrain")
    with pytest.raises(JobError, match="sync"):
        run_job(place.resources, "nonsense", project)


# score_pool


def test_a_task_that_fails_is_last_with_its_reason_and_harms_no_other(place: Workplace, pictures: list[Path]) -> None:
    project, client = place.new_project(pictures[:2]), place.label_studio
    client.import_tasks(project, [{"data": {"image": "/data/upload/1/no-such.png"}}, {"data": {"image": "file:/x"}}])
    run = place.do("score_pool")
    assert (run.state, run.details["tasks"], run.details["failed"]) == ("done", 4, 2)
    rows = place.store.ranking(project)
    assert {row.task for row in rows[2:]} == set(task_ids(place)[2:])
    assert any("no-such.png" in row.reason for row in rows[2:])
    stored = client.predictions(project, task_ids(place))
    assert len(stored) == 4
    assert all(one.score is not None and 0 < one.score <= 1 for one in stored)


def test_ranking_twice_changes_nothing_and_others_predictions_stay(place: Workplace, pictures: list[Path]) -> None:
    project, client = place.new_project(pictures[:3]), place.label_studio
    left = "nano-s+0123456789ab.0"  # what a run that was killed between import and switch leaves
    for version in ("detector-7", left):
        client.import_predictions(
            project,
            [{"task": task, "result": [], "score": 0.001, "model_version": version} for task in task_ids(place)],
        )
    first = place.do("score_pool")
    assert client.model_versions(project) == {"detector-7": 3, first.details["version"]: 3}
    assert place.do("score_pool").state == "skipped"
    assert client.project(project).model_version == first.details["version"]


def test_the_order_is_right_again_after_somebody_changed_the_version(place: Workplace, pictures: list[Path]) -> None:
    project, client = place.new_project(pictures[:3]), place.label_studio
    place.do("score_pool")
    tasks = task_ids(place)
    client.import_predictions(
        project, [{"task": task, "result": [], "score": n / 9, "model_version": "x"} for n, task in enumerate(tasks)]
    )
    client.set_model_version(project, "x")
    first = place.store.ranking(project)[0].task
    assert "not 'nano-s" in verify(client, project, place.store.served(project), first)
    place.do("sync")
    assert "score_pool" in waiting(place)
    run = place.do("score_pool")
    assert (run.state, run.details["proposed"], run.details["verified"]) == ("done", 0, True)
    assert verify(client, project, run.details["version"], place.store.ranking(project)[0].task, take_lock=True) == ""


def test_the_check_says_what_keeps_the_first_task_from_being_served(place: Workplace, pictures: list[Path]) -> None:
    project, client = place.new_project(pictures[:3]), place.label_studio
    run = place.do("score_pool")
    rows = place.store.ranking(project)
    version = run.details["version"]
    assert f"not task {rows[1].task}" in verify(client, project, version, rows[1].task)
    client.update_project(project, sampling="Sequential sampling")
    assert "usam-backend connect" in verify(client, project, version, rows[0].task)


def test_a_task_deleted_while_the_ranking_is_written_costs_only_itself(
    place: Workplace, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, client = place.new_project(pictures[:3]), place.label_studio
    gone = task_ids(place)[1]
    send = LabelStudio.import_predictions

    def delete_first(self: LabelStudio, *args: Any, **kwargs: Any) -> int:
        monkeypatch.undo()
        self.delete_task(gone)
        return send(self, *args, **kwargs)

    monkeypatch.setattr(LabelStudio, "import_predictions", delete_first)
    run = place.do("score_pool")
    assert run.state == "done"
    assert list(client.model_versions(project).values()) == [2]
    assert gone not in {row.task for row in place.store.ranking(project)}
    assert run.details["verified"], run.reason


def test_another_configuration_makes_other_regions(place: Workplace, pictures: list[Path]) -> None:
    project, client = place.new_project(pictures[:1]), place.label_studio
    place.do("score_pool")
    config = """<View><Image name="img" value="$image"/>
    <PolygonLabels name="poly" toName="img"><Label value="thing"/></PolygonLabels></View>"""
    client.update_project(project, label_config=config)
    run = place.do("score_pool")
    assert run.details["proposed"] == 1
    (stored,) = client.predictions(project, task_ids(place))
    assert {region["type"] for region in stored.result} == {"polygonlabels"}


def test_a_pool_without_a_readable_image_fails_with_the_reason(place: Workplace) -> None:
    project = place.new_project([])
    place.label_studio.import_tasks(project, [{"data": {"image": "/data/upload/1/no-such.png"}}])
    with pytest.raises(JobError, match="no-such"):
        place.do("score_pool")
    assert place.store.runs(project, "score_pool")[0].state == "failed"


# retrain


def labelled(place: Workplace, pictures: list[Path]) -> list[int]:
    place.new_project(pictures)
    tasks = task_ids(place)
    for task in tasks:
        place.label_studio.annotate(task, [small_region(task), small_region(task + 1) | {"id": "second"}])
    place.do("sync")
    return tasks


def test_retraining_twice_on_the_same_labels_does_nothing(place: Workplace, pictures: list[Path]) -> None:
    labelled(place, pictures[:6])
    run = place.do("retrain")
    assert run.state == "done", run.reason
    assert place.registry.champion(place.project) == run.details["version"]
    assert place.store.new_labels(place.project) == 0
    assert waiting(place) >= {"score_pool"}
    version = place.registry.current(place.project)
    assert version is not None
    assert version.figures["candidate_error"] < version.figures["champion_error"]
    assert place.do("retrain").state == "skipped"
    assert [one.version for one in place.registry.versions(place.project)] == [version.version]


def test_new_labels_are_judged_by_those_the_champion_has_not_seen(place: Workplace, pictures: list[Path]) -> None:
    tasks = labelled(place, pictures[:6])
    first = place.do("retrain")
    place.label_studio.upload(place.project, pictures[6:])
    for task in sorted(set(task_ids(place)) - set(tasks)):
        place.label_studio.annotate(task, [small_region(task)])
    place.do("sync")
    second = place.do("retrain")
    assert second.state in ("done", "rejected")
    assert (first.details["gate"]["tasks"], second.details["gate"]["tasks"]) == (6, len(pictures) - 6)


def test_too_few_labels_are_not_trained_on(place: Workplace, pictures: list[Path]) -> None:
    labelled(place, pictures[:2])
    run = place.do("retrain")
    assert (run.state, place.registry.champion(place.project)) == ("skipped", "")
    assert "got 2" in run.reason


def test_audit_tasks_are_never_trained_on(
    place: Workplace, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.resources.settings = Settings.from_environment(audit_share=0.4)
    tasks = labelled(place, pictures)
    audits = audit_tasks(place.resources.settings, place.project, tasks)
    assert 0 < len(audits) < len(tasks) - 3
    import usam.training

    fit_heads, seen = usam.training.fit_heads, set()

    def spy(iou: Any, masks: Any, targets: Any, groups: Any, **options: Any) -> Any:
        seen.update(int(group) for group in groups)
        return fit_heads(iou, masks, targets, groups, **options)

    monkeypatch.setattr(usam.training, "fit_heads", spy)
    run = place.do("retrain")
    assert run.details["audit_objects"] == 2 * len(audits)
    assert seen == set(tasks) - audits
