"""The main job from end to end: real Label Studio, real Redis, the service and its worker, real photographs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.local.label_studio_server import LabelStudioServer
from backend.local.redis_server import RedisServer
from tests.e2e.workplace import Workplace, small_region, workplace
from usam.checkpoints.registry import weights_of

pytestmark = pytest.mark.e2e
LABELS = 4


@pytest.fixture
def place(tmp_path: Path, label_studio_server: LabelStudioServer, redis_server: RedisServer) -> Iterator[Workplace]:
    with workplace(tmp_path, label_studio_server, redis_server, retrain_after=str(LABELS), audit_share="0") as place:
        yield place


def test_import_score_click_annotate_retrain_and_roll_back(place: Workplace, pictures: list[Path]) -> None:
    client, store = place.label_studio, place.store
    project = place.new_project(pictures)
    url = place.start_backend()
    place.connect(url)
    place.start("worker", "worker")

    # imported pictures are ranked, and Label Studio serves the one ranked first, with its masks
    place.queue.wake(project, "score_pool")
    first_run = place.run_after("score_pool", 0)
    assert first_run.details["verified"], first_run.reason
    ranking = store.ranking(project)
    assert len(ranking) == len(pictures)
    assert len({row.confidence for row in ranking}) == len(pictures)
    served = client.next_task(project)
    assert served is not None
    assert served.id == ranking[0].task
    version = client.project(project).model_version
    assert version == store.served(project) == first_run.details["version"]
    (prediction,) = served.predictions
    assert prediction["model_version"] == version
    assert {region["type"] for region in prediction["result"]} == {"brushlabels"}

    # a click is answered through Label Studio
    (backend,) = client.ml_backends(project)
    width, height = (prediction["result"][0][f"original_{side}"] for side in ("width", "height"))
    point = {
        "id": "click",
        "from_name": "point",
        "to_name": "img",
        "type": "keypointlabels",
        "is_positive": True,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"x": 50, "y": 50, "width": 0.5, "keypointlabels": ["thing"]},
    }
    place.wait("loaded model", lambda: "ready" if backend.state == "CO" else None)
    body = {"task": served.id, "context": {"result": [point]}}
    answer = client._object("POST", f"/api/ml/{backend.id}/interactive-annotating", json=body, long=True)
    (region,) = answer["data"]["result"]
    assert (region["type"], region["value"]["brushlabels"]) == ("brushlabels", ["thing"])

    # answers arrive by webhook, and enough of them start a retraining whose heads are served
    before = place.last()
    answered = [row.task for row in ranking[: LABELS + 1]]
    for task in answered:
        client.annotate(task, [small_region(task)])
    retrained = place.run_after("retrain", before)
    assert retrained.state == "done", retrained.reason
    champion = place.registry.champion(project)
    assert champion == retrained.details["version"]
    rescored = place.run_after("score_pool", retrained.id)
    assert f"+{champion}." in rescored.details["version"]
    assert rescored.details["proposed"] == 0, "new heads need no new decoding"
    assert client.project(project).model_version == store.served(project) == rescored.details["version"]
    only = [rescored.details["version"]]
    place.wait("the earlier ranking to go", lambda: list(client.model_versions(project)) == only)
    ranking = store.ranking(project)
    assert {row.task for row in ranking}.isdisjoint(answered)
    assert client.first_by_score(project)[0][0] == ranking[0].task
    served = client.next_task(project)
    assert served is not None
    assert (served.id, served.locked) == (ranking[0].task, False)
    assert [event for event in store.open_events(project) if "ANNOTATION" in event.action] == []

    # a deleted annotation takes its samples along, and its task is ranked again
    before = place.last()
    (annotation,) = client.annotations(project, answered[:1])
    client.delete_annotation(annotation.id)
    place.run_after("score_pool", before)
    assert answered[0] in {row.task for row in store.ranking(project)}
    assert answered[0] not in {row.task for row in store.samples(project, weights_of("nano-s"))}

    # the earlier heads come back
    before = place.last()
    assert place.registry.rollback(project) is None
    place.queue.wake(project, "score_pool")
    rolled = place.run_after("score_pool", before)
    assert rolled.details["version"].split(".")[0] == version.split(".")[0]
    assert client.project(project).model_version == rolled.details["version"]


def test_new_and_deleted_tasks_are_followed(place: Workplace, pictures: list[Path]) -> None:
    project = place.new_project(pictures[:3])
    url = place.start_backend()
    place.connect(url)
    place.start("worker", "worker")
    place.queue.wake(project, "score_pool")
    place.run_after("score_pool", 0)

    before = place.last()
    place.label_studio.upload(project, pictures[3:5])
    run = place.run_after("score_pool", before)
    assert (run.details["tasks"], run.details["proposed"]) == (5, 2)

    gone = place.store.ranking(project)[0].task
    place.label_studio.delete_task(gone)
    place.queue.wake(project, "sync")  # one that began before the deletion may be going on

    def forgotten() -> bool:
        return gone not in {row.task for row in place.store.ranking(project)}

    assert place.wait("a ranking without the deleted task", forgotten)
    assert place.label_studio.first_by_score(project)[0][0] == place.store.ranking(project)[0].task
