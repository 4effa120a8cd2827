"""Masks accepted without a person, in a real Label Studio: refused, given, exported, taken back, withdrawn."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from backend.cli.main import app
from backend.jobs import pseudo_label
from backend.local.label_studio_server import LabelStudioServer
from backend.local.redis_server import RedisServer
from backend.pool.policy import audit_tasks
from backend.pool.publication import verify
from backend.settings import Settings
from backend.store.pseudo_label_store import accepted_by, accepting_version
from tests.e2e.conftest import PICTURES
from tests.e2e.workplace import Workplace, small_region, workplace
from usam.checkpoints.registry import weights_of
from usam.errors import PseudoLabelError
from usam.pseudo_labels.calibration import RiskGuarantee
from usam.pseudo_labels.guarantee import images_needed

pytestmark = pytest.mark.e2e
SURE = {"astronaut", "camera", "coins", "horse"}
PROMISE = RiskGuarantee(0.5, 0.5, 0.6, per_image=1)


@pytest.fixture
def place(
    tmp_path: Path,
    label_studio_server: LabelStudioServer,
    redis_server: RedisServer,
    pictures: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Workplace]:
    """Ten ranked pictures, about half of them audits; SamScore stands for the predicted IoU."""
    some = {"pred_iou_thresh": "0.05", "max_regions": "20"}  # so that something is shown of every picture
    with workplace(tmp_path, label_studio_server, redis_server, audit_share="0.5", heads="none", **some) as place:
        place.new_project(pictures)
        choose_audits(place, monkeypatch, 4, 6)
        place.do("score_pool")
        yield place


def choose_audits(place: Workplace, monkeypatch: pytest.MonkeyPatch, least: int, most: int) -> None:
    """Have so many audits, two of them on pictures that the model is sure of: which tasks are audits depends on their
    numbers, and no promise is given where the pool's best masks are better than all that was audited."""
    tasks = sorted(task.id for task in place.label_studio.tasks(place.project))
    sure = {task for number, task in enumerate(tasks) if PICTURES[number % len(PICTURES)] in SURE}
    for seed in range(200):
        monkeypatch.setenv("USAM_SEED", str(seed))
        place.resources.settings = Settings.from_environment()
        chosen = audits(place)
        if least <= len(chosen) <= most and len(sure & set(chosen)) >= 2:
            return
    raise AssertionError(f"no seed has {least} to {most} audits")


def audits(place: Workplace) -> list[int]:
    tasks = [task.id for task in place.label_studio.tasks(place.project)]
    return sorted(audit_tasks(place.resources.settings, place.project, tasks))


def label_as_proposed(place: Workplace, tasks: list[int]) -> None:
    """A person who finds each mask of these tasks right."""
    for prediction in place.label_studio.predictions(place.project, tasks):
        place.label_studio.annotate(prediction.task, prediction.result)
    place.do("sync")


def command(place: Workplace, *words: str) -> tuple[int, str]:
    """What `usam-backend pseudo-label` exits with and says."""
    result = CliRunner().invoke(app, ["pseudo-label", "--project", str(place.project), *words])
    return result.exit_code, " ".join(result.output.split())


def test_the_command_refuses_accepts_skips_and_undoes(place: Workplace) -> None:
    promise = ("--iou", "0.5", "--risk", "0.5", "--confidence", "0.6", "--per-image", "1")
    code, said = command(place, *promise)
    assert code == 2
    needed = re.search(r"label (\d+) more audit tasks", said)
    assert needed is not None
    asked = len(audits(place))
    assert int(needed[1]) == images_needed(PROMISE, 1.0, pool_masks=10 - asked)
    assert asked >= int(needed[1])
    assert "are unlabelled" not in said
    assert f"; {asked} audit tasks are unlabelled: add tasks" in command(place, "--risk", "0.05")[1]
    label_as_proposed(place, audits(place))
    code, said = command(place, *promise)
    assert code == 0
    assert re.search(rf"{10 - asked} masks on {10 - asked} tasks accepted as nano-s\+no-heads\.pseudo-\d+", said)
    assert f"on {asked} audited images 0 miss IoU 0.5" in said
    assert command(place, *promise)[1].endswith("neither annotations nor tasks have changed since the last time")
    assert command(place, "--undo")[1].endswith("1 versions, 0 annotations taken back")
    assert command(place, "--iou", "1.5")[0] == 2


def test_nothing_is_accepted_before_audits_are_labelled(place: Workplace) -> None:
    with pytest.raises(PseudoLabelError, match="audit tasks") as refused:
        pseudo_label.run(place.resources, place.project, PROMISE)
    assert refused.value.needed >= 2
    (run,) = place.store.runs(place.project, "pseudo_label")
    assert (run.state, run.details["needed"]) == ("rejected", refused.value.needed)
    assert len(place.label_studio.model_versions(place.project)) == 1


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_accepted_masks_are_predictions_of_their_own_traced_exported_and_taken_back(place: Workplace) -> None:
    client, project = place.label_studio, place.project
    label_as_proposed(place, audits(place))
    served = client.project(project).model_version
    record = pseudo_label.run(place.resources, project, PROMISE)
    assert record is not None
    assert not set(record.tasks) & set(audits(place))
    assert client.model_versions(project)[record.version] == len(record.tasks) > 0
    assert client.project(project).model_version == served
    first = next(row.task for row in place.store.ranking(project) if row.task not in audits(place))
    assert verify(client, project, served, first) == ""
    stored = [one for one in client.predictions(project, record.tasks) if one.model_version == record.version]
    by_task = {one.task: one for one in record.masks}
    for one in stored:
        assert {region["id"] for region in one.result} == set(by_task[one.task].regions)
        assert {accepted_by(region) for region in one.result} == {record.version}

    folder = pseudo_label.acceptances(place.resources).folder_of(project, record.run)
    check_export(folder, len(record.masks))
    kept = json.loads((folder / "record.json").read_text())
    assert kept["calibration"]["threshold"] == record.calibration.threshold
    assert record.calibrated_on().digest() == record.calibration.digest
    assert sorted(record.calibrated_on().audited) == audits(place)  # type: ignore[type-var]

    assert pseudo_label.run(place.resources, project, PROMISE) is None
    place.do("score_pool")
    assert record.version in client.model_versions(project)

    other = pseudo_label.run(place.resources, project, RiskGuarantee(0.5, 0.55, 0.6, per_image=1))
    assert other is not None
    assert record.version not in client.model_versions(project)
    undone = pseudo_label.undo(place.resources, project)
    assert (undone.versions, undone.annotations, undone.kept) == ((other.version,), 0, ())
    assert list(client.model_versions(project)) == [served]
    assert pseudo_label.undo(place.resources, project).versions == ()
    again = pseudo_label.run(place.resources, project, PROMISE)
    assert again is not None
    assert len(again.masks) == len(record.masks)


def check_export(folder: Path, count: int) -> None:
    """The COCO file is one to its own reader, and says of each mask what its picture shows."""
    mask = pytest.importorskip("pycocotools.mask")
    coco = json.loads((folder / "coco.json").read_text())
    assert len(coco["annotations"]) == len(list((folder / "masks").iterdir())) == count
    for one in coco["annotations"]:
        size = one["segmentation"]["size"]
        decoded = mask.decode(mask.frPyObjects(one["segmentation"], *size))
        shown = np.asarray(Image.open(folder / one["mask_file"]))
        assert ((shown == 255) == (decoded == 1)).all()
        assert mask.area(mask.frPyObjects(one["segmentation"], *size)) == one["area"] > 0


def test_marked_annotations_are_no_labels_and_a_persons_change_makes_them_one(place: Workplace) -> None:
    client, project = place.label_studio, place.project
    place.resources.settings = Settings.from_environment(max_regions=1)
    place.do("score_pool")
    label_as_proposed(place, audits(place))
    samples = len(place.store.samples(project, weights_of("nano-s")))
    promise = RiskGuarantee(0.5, 0.5, 0.6, per_image=1, whole_images=True)
    record = pseudo_label.run(place.resources, project, promise, as_annotations=True)
    assert record is not None
    made = client.annotations(project, record.tasks)
    assert len(made) == len(record.tasks) >= 2
    assert {accepting_version(one.result) for one in made} == {record.version}
    place.do("sync")
    assert len(place.store.samples(project, weights_of("nano-s"))) == samples
    reasons = {one.id: one.reason for one in place.store.annotations(project)}
    assert all(reasons[one.id] == f"accepted by {record.version}" for one in made)

    changed = {**made[0].result[0], "value": small_region(1)["value"], "type": "polygonlabels"}
    client._send("PATCH", f"/api/annotations/{made[0].id}/", json={"result": [changed]})
    place.do("sync")
    assert len(place.store.samples(project, weights_of("nano-s"))) == samples + 1
    undone = pseudo_label.undo(place.resources, project)
    assert undone.kept == (made[0].id,)
    assert undone.annotations == len(made) - 1
    assert [one.id for one in client.annotations(project, record.tasks)] == [made[0].id]


def test_the_promise_is_withdrawn_when_new_audits_disagree(place: Workplace, pictures: list[Path]) -> None:
    client, project = place.label_studio, place.project
    label_as_proposed(place, audits(place))
    record = pseudo_label.run(place.resources, project, PROMISE)
    assert record is not None
    before = {task.id for task in client.tasks(project)}
    client.upload(project, pictures * 2)
    place.resources.settings = Settings.from_environment(audit_share=1.0)
    place.do("score_pool")
    new = sorted({task.id for task in client.tasks(project)} - before)
    for task in new:
        client.annotate(task, [small_region(task)])
    place.do("sync")
    assert "pseudo_label" in {state.name for state in place.queue.states()}
    run = place.do("pseudo_label")
    assert (run.state, run.reason.split(",")[0]) == ("rejected", "withdrawn")
    standing = pseudo_label.acceptances(place.resources).standing(project)
    assert standing is not None
    assert (standing.state, standing.drift["images"]) == ("withdrawn", len(new))
    with pytest.raises(PseudoLabelError):  # the labels that deceived are not calibrated on again
        pseudo_label.run(place.resources, project, PROMISE)


def press(page: httpx.Client, link: str) -> None:
    """Follow a button of the page, and say yes to what it asks."""
    question = page.get(link)
    assert question.status_code == 200, question.text
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', question.text))
    action = re.search(r'<form method="post" action="\.\./([\w-]+)"', question.text)
    assert action is not None
    origin = {"Origin": str(page.base_url).partition("/projects")[0]}
    answer = page.post(action[1], data=form, headers=origin)
    assert (answer.status_code, answer.headers["location"]) == (303, "trust"), answer.text


def trust(page: httpx.Client) -> str:
    """The words of the page of trust."""
    return " ".join(re.sub(r"<[^>]*>", " ", page.get("trust").text).split())


def test_the_pages_buttons_accept_and_take_back_and_lose_nothing_of_people(
    place: Workplace, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, project = place.label_studio, place.project
    client.upload(project, pictures * 2)
    choose_audits(place, monkeypatch, 17, 20)
    place.do("score_pool")
    served = client.project(project).model_version
    place.environment["USAM_SEED"] = os.environ["USAM_SEED"]
    url = place.start_backend()
    with httpx.Client(base_url=f"{url}/projects/{project}", headers={"Accept": "text/html"}, timeout=60) as page:
        wish = "confirm/accept?iou=0.5&risk=0.3&confidence=0.5"
        press(page, wish)
        assert "Waits for a worker." in trust(page)
        place.start("worker", "worker")
        place.wait("refusal", lambda: "the promise cannot be kept yet" in trust(page))
        assert re.search(r"Label \d+ more audit tasks? first", trust(page))
        assert list(client.model_versions(project)) == [served], "nothing is written"

        own = next(task.id for task in client.tasks(project) if task.id not in audits(place))
        mine = client.annotate(own, [small_region(own)])
        label_as_proposed(place, audits(place))
        press(page, wish)
        place.wait("acceptance", lambda: "Done:" in trust(page))
        assert "IoU 0.5 for all but 30%, confidence 50%, at most 3 of an image, by somebody at this machine" in trust(
            page
        )
        record = pseudo_label.acceptances(place.resources).standing(project)
        assert record is not None
        assert client.model_versions(project)[record.version] == len(record.tasks) > 0
        assert not set(record.tasks) & {own, *audits(place)}
        told = httpx.get(f"{url}/api/projects/{project}/acceptance").json()
        assert (told["state"], told["version"], told["masks"]) == ("in force", record.version, len(record.masks))
        assert [one["state"] for one in told["requests"]] == ["done", "refused"]

        press(page, wish)
        place.wait("second look", lambda: "Nothing to do: neither labels nor tasks have changed" in trust(page))
        taken = next(one for one in client.predictions(project, record.tasks) if one.model_version == record.version)
        submitted = client.annotate(taken.task, taken.result)  # a person who finds an accepted mask right, and says so
        before = {one.id for one in client.annotations(project, [task.id for task in client.tasks(project)])}
        press(page, "confirm/take-back")
        place.wait("taking back", lambda: "Done: 1 versions and 0 annotations taken back" in trust(page))
        assert list(client.model_versions(project)) == [served]
        after = {one.id for one in client.annotations(project, [task.id for task in client.tasks(project)])}
        assert after == before >= {mine.id, submitted.id}

        said = httpx.post(f"{url}/api/projects/{project}/take-back", json={}).json()
        assert said == {"project": project, "action": "take-back", "outcome": "asked for"}
        place.wait("second taking back", lambda: "Nothing to do: nothing was accepted" in trust(page))
        code, _ = command(place, "--iou", "0.5", "--risk", "0.3", "--confidence", "0.5")
        assert code == 0
        assert " on the command line. Done:" in trust(page), "what a command did is told too"
        log = [json.loads(line) for line in (place.settings.data_dir / "page-actions.jsonl").read_text().splitlines()]
        assert [one["action"] for one in log] == ["accept", "accept", "accept", "take-back", "take-back", "accept"]
