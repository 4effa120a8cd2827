"""What the page shows, gathered: the head of the queue, progress, versions and promises, each project for itself."""

from __future__ import annotations

from typing import Any

import pytest

from backend.label_studio.records import Task
from backend.settings import Settings
from backend.store import Store
from backend.store.head_registry import Registry
from backend.store.pseudo_label_store import PseudoLabelStore
from backend.web.dashboard import view as module
from backend.web.dashboard.view import ASKED_FIRST, AUDIT, BASE_HEADS, RUNS, VERSIONS, ProjectView, gather
from tests.factories import head_set


def only(settings: Settings, store: Store, registry: Registry | None = None) -> ProjectView:
    (project,) = gather(settings, "ready", store, registry).projects
    return project


def test_it_says_what_is_asked_first_and_why(settings: Settings, store: Store) -> None:
    project = only(settings, store, Registry(settings.registry_dir))
    assert (project.tasks, project.unlabelled, project.annotations) == (5, 4, 1)
    assert [line.picture for line in project.asked_first] == [
        "a.png",
        "b c.png",
        "script>&\"'.png",
        "(in the task itself)",
    ]
    assert [line.place for line in project.asked_first] == [1, 2, 3, 4]
    assert project.asked_first[1].why == AUDIT
    assert project.asked_first[0].link == "http://labels.example:8080/projects/3/data?task=1"
    assert (project.heads, project.versions, project.promise) == (BASE_HEADS, (), "")


def test_without_label_studios_address_nothing_links_to_it(settings: Settings, store: Store) -> None:
    project = only(settings.model_copy(update={"label_studio_url": ""}), store)
    assert (project.link, {line.link for line in project.asked_first}) == ("", {""})


def test_only_a_run_that_goes_on_has_a_share(settings: Settings, store: Store) -> None:
    rejected, running = only(settings, store).runs
    assert (running.job, running.state, running.share) == ("score_pool", "running", 0.25)
    assert (rejected.job, rejected.share, rejected.said) == ("retrain", None, "not surely better")
    assert 0 <= rejected.seconds < 60


def test_a_run_of_unknown_length_has_no_share(settings: Settings, store: Store) -> None:
    store.start_run(3, "sync")
    assert only(settings, store).runs[0].share is None


def test_the_newest_runs_are_shown_first_and_old_ones_no_more(settings: Settings, store: Store) -> None:
    for number in range(RUNS + 2):
        store.finish_run(store.start_run(3, "sync"), "done", str(number))
    assert [run.said for run in only(settings, store).runs] == [str(n) for n in range(RUNS + 1, 1, -1)]


def test_versions_say_what_they_learnt_from_and_which_one_is_in_use(settings: Settings, store: Store) -> None:
    registry = Registry(settings.registry_dir)
    figures = {"champion_error": 0.0412, "candidate_error": 0.0123, "method": "audit"}
    first = registry.publish(3, head_set(0), samples=40, figures=figures).version
    second = registry.publish(3, head_set(1), samples=50).version
    registry.promote(3, first)
    project = only(settings, store, registry)
    assert project.heads == first
    assert [(line.name, line.in_use, line.objects, line.gate) for line in project.versions] == [
        (second, False, 50, ""),
        (first, True, 40, "error 0.0123 against 0.0412 by audit"),
    ]


def test_of_many_versions_the_latest_are_shown(settings: Settings, store: Store) -> None:
    registry = Registry(settings.registry_dir)
    made = [registry.publish(3, head_set(seed)).version for seed in range(VERSIONS + 1)]
    assert {line.name for line in only(settings, store, registry).versions} == set(made[1:])


def test_a_big_pool_is_not_read_to_show_its_head(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.record_tasks(3, [Task(number, {"image": f"{number}.png"}, "t1", 0) for number in range(10, 60)])
    asked: list[Any] = []
    tasks = store.tasks

    def noted(project: int, **more: Any) -> Any:
        asked.append(more.get("only"))
        return tasks(project, **more)

    monkeypatch.setattr(store, "tasks", noted)
    gather(settings, "ready", store, None)
    assert asked == [[1, 2, 3, 4]]
    assert len(asked[0]) <= ASKED_FIRST


def test_one_projects_damaged_pointer_leaves_the_others(settings: Settings, store: Store) -> None:
    store.join(4)
    folder = settings.registry_dir / "4"
    folder.mkdir(parents=True)
    (folder / "champion.json").write_text("{")
    sound, damaged = gather(settings, "ready", store, Registry(settings.registry_dir)).projects
    assert (sound.number, sound.heads) == (3, BASE_HEADS)
    assert damaged.heads.startswith("not known: ")
    assert "usam-backend repair" in damaged.heads


def test_a_record_of_accepted_masks_that_cannot_be_read_is_said_in_its_place(settings: Settings, store: Store) -> None:
    folder = PseudoLabelStore.of(settings).folder_of(3, 1)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{")
    project = only(settings, store)
    assert "record" in project.promise
    assert project.tasks == 5


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"image": "https://host/a/b%20c.png?signature=hush"}, "b c.png"),
        ({"image": "/data/local-files/?d=folder/d.png"}, "d.png"),
        ({"image": "data:image/png;base64,AAAA"}, "(in the task itself)"),
        ({"number": 3, "image": "e.png"}, "e.png"),
        ({}, ""),
    ],
)
def test_a_picture_is_named_as_a_person_knows_it_without_its_signature(data: dict[str, object], name: str) -> None:
    assert module._picture(data) == name


def test_without_a_store_there_are_no_projects(settings: Settings) -> None:
    found = gather(settings, "loading", None, None)
    assert (found.checkpoint, found.engine, found.projects) == ("nano-s", "loading", ())
