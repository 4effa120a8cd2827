"""The client of Label Studio's REST API: tasks, annotations, predictions, versions, views, webhooks,
backends.

Nothing here takes a task's lock except `next_task`, which says so. What can go wrong is in `http`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from backend.errors import LabelStudioError
from backend.label_studio.batches import BatchSize, batches
from backend.label_studio.http import Connection, items, readable
from backend.label_studio.pages import Repeats, read_tasks
from backend.label_studio.records import (
    Annotation,
    Json,
    MlBackend,
    Prediction,
    Project,
    ServedTask,
    Task,
    View,
    Webhook,
    number,
    score_of,
)

_FILES_AT_ONCE = 50
CHUNK_ITEMS = 20_000
_TASK_FIELDS = "id,data,updated_at,total_annotations,cancelled_annotations,total_predictions,is_labeled"
_ANNOTATION_FIELDS = "id,annotations,result,updated_at,was_cancelled,ground_truth,completed_by,task"
_PREDICTION_FIELDS = "id,predictions,result,score,model_version,task"
UNLABELLED: Json = {
    "conjunction": "and",
    "items": [{"filter": "filter:tasks:total_annotations", "operator": "equal", "type": "Number", "value": 0}],
}
PREDICTED: Json = {
    "conjunction": "and",
    "items": [{"filter": "filter:tasks:total_predictions", "operator": "greater", "type": "Number", "value": 0}],
}
_COLUMNS = (
    "inner_id", "completed_at", "total_annotations", "cancelled_annotations", "annotators", "annotations_results",
    "annotations_ids", "predictions_model_versions", "predictions_results", "file_upload", "storage_filename",
    "created_at", "updated_at", "updated_by", "avg_lead_time", "draft_exists",
)  # fmt: skip
HIDDEN = [f"tasks:{name}" for name in _COLUMNS]
"""Columns that only push the pictures out of sight."""


class LabelStudio(Connection):
    """One Label Studio: everything the service reads from it and writes to it."""

    # projects

    def project(self, project: int) -> Project:
        """One project with its labelling config."""
        return Project.read(self._object("GET", f"/api/projects/{project}"))

    def projects(self) -> list[Project]:
        """All projects this token can see. Raises `LabelStudioError` where the list does not end."""
        found: list[Project] = []
        repeats = Repeats("projects")
        for page in count(1):
            answer = self._object("GET", "/api/projects", params={"page": page, "page_size": 100})
            new = repeats.new(items(answer.get("results"), "projects"))
            found += readable(Project.read, new, "project")
            if not answer.get("next"):
                break
            repeats.go_on(new)
        return found

    def create_project(self, title: str, label_config: str, **fields: Any) -> Project:
        """Make a project. `fields` are Label Studio's own (`sampling`, `description`, ...)."""
        body = {"title": title, "label_config": label_config, **fields}
        return Project.read(self._object("POST", "/api/projects", json=body))

    def update_project(self, project: int, **fields: Any) -> Project:
        """Change `fields` of a project."""
        return Project.read(self._object("PATCH", f"/api/projects/{project}", json=fields))

    def set_model_version(self, project: int, version: str) -> None:
        """Make `version` the one whose scores order the queue. It must have predictions already."""
        self.update_project(project, model_version=version)

    # tasks and annotations

    def tasks(self, project: int, *, since: str = "", unreadable: list[int] | None = None) -> Iterator[Task]:
        """All tasks by id, or those touched after `since` (an `updated_at`): new, edited, annotation added,
        changed or deleted. Storing predictions does not touch a task. Tasks that Label Studio itself cannot tell are
        left out, and their ids added to `unreadable`."""
        query: Json = {"ordering": ["tasks:id"]}
        if since:
            condition = {
                "filter": "filter:tasks:updated_at", "operator": "greater", "type": "Datetime", "value": since
            }  # fmt: skip
            query["filters"] = {"conjunction": "and", "items": [condition]}
        yield from readable(Task.read, self._task_pages(project, query, {"include": _TASK_FIELDS}, unreadable), "task")

    def task_count(self, project: int) -> int:
        """How many tasks there are now."""
        answer = self._object(
            "GET", "/api/tasks", params={"project": project, "page": 1, "page_size": 1, "include": "id"}
        )
        return number(answer.get("total", 0), "task count")

    def annotations(
        self, project: int, task_ids: Sequence[int], *, unreadable: list[int] | None = None
    ) -> list[Annotation]:
        """All annotations of these tasks as they are now, skipped ones included; `unreadable` as in `tasks`."""
        found: list[Annotation] = []
        for item in self.selected_tasks(project, task_ids, _ANNOTATION_FIELDS, unreadable):
            task, rows = number(item.get("id"), "task id"), items(item.get("annotations"), "annotations")
            found += readable(partial(Annotation.read, task=task), rows, f"annotation of task {task}")
        return found

    def predictions(self, project: int, task_ids: Sequence[int]) -> list[Prediction]:
        """All stored predictions of these tasks, of every version. Raises `LabelStudioError`, with status 500, where
        Label Studio cannot tell those of one."""
        found: list[Prediction] = []
        unreadable: list[int] = []
        for item in self.selected_tasks(project, task_ids, _PREDICTION_FIELDS, unreadable):
            task, rows = number(item.get("id"), "task id"), items(item.get("predictions"), "predictions")
            found += readable(partial(Prediction.read, task=task), rows, f"prediction of task {task}")
        if unreadable:
            expected = f"predictions of task {', '.join(map(str, unreadable[:5]))}"
            raise LabelStudioError(expected, "HTTP 500", "delete those of other models there", status=500)
        return found

    def import_tasks(self, project: int, items: Sequence[Mapping[str, Any]]) -> int:
        """Add tasks (`{"data": {...}}` each, may carry annotations); returns how many Label Studio made."""
        answer = self._object("POST", f"/api/projects/{project}/import", json=list(items), long=True)
        return number(answer.get("task_count", 0), "task count")

    def upload(self, project: int, paths: Iterable[Path]) -> int:
        """Upload image files, one task each; returns how many tasks Label Studio made."""
        made, waiting = 0, list(paths)
        for start in range(0, len(waiting), _FILES_AT_ONCE):
            part = waiting[start : start + _FILES_AT_ONCE]
            # Label Studio keeps one file for each field name
            files = [(f"file{number}", (path.name, path.read_bytes())) for number, path in enumerate(part)]
            answer = self._object("POST", f"/api/projects/{project}/import", files=files, long=True)
            made += number(answer.get("task_count", 0), "task count")
        return made

    def annotate(self, task: int, result: Sequence[Json], *, cancelled: bool = False) -> Annotation:
        """Add an annotation in this account's name; `cancelled` skips the task."""
        body = {"result": list(result), "was_cancelled": cancelled}
        return Annotation.read(self._object("POST", f"/api/tasks/{task}/annotations/", json=body), task)

    def delete_annotation(self, annotation: int) -> None:
        """Delete one annotation."""
        self._send("DELETE", f"/api/annotations/{annotation}/")

    def delete_task(self, task: int) -> None:
        """Delete one task with all it carries."""
        self._send("DELETE", f"/api/tasks/{task}/")

    def local_folders(self, project: int) -> list[str]:
        """Folders of whose files tasks of this project can be."""
        return [str(storage.get("path")) for storage in self._list("/api/storages/localfiles/", {"project": project})]

    def allow_local_folder(self, project: int, folder: Path) -> None:
        """Let tasks of this project show files below `folder`, which must lie inside Label Studio's
        document root."""
        if str(folder) in self.local_folders(project):
            return
        body = {"project": project, "path": str(folder), "title": folder.name, "use_blob_urls": True}
        self._send("POST", "/api/storages/localfiles/", json=body)

    # predictions and their versions

    def import_predictions(
        self, project: int, predictions: Iterable[Mapping[str, Any]], *, chunk: int = CHUNK_ITEMS
    ) -> int:
        """Store predictions in bulk: `{"task", "result", "score", "model_version"}` each; returns how many.

        Label Studio stores wrong names, labels and geometry as they come, drops without a word what has a score
        outside 0..1, and refuses a whole chunk for one unknown task id. Here a score must be a finite number, and
        fewer stored than sent is an error. Requests are kept short (`batches`), with pauses between.
        """
        sent, size = 0, BatchSize(chunk)
        for part in batches(predictions, size):
            time.sleep(0.1 * size.seconds)
            started = time.perf_counter()
            answer = self._object(
                "POST",
                f"/api/projects/{project}/import/predictions",
                content=b"[" + b",".join(part) + b"]",
                headers={"Content-Type": "application/json"},
                long=True,
            )
            if answer.get("created") != len(part):
                raise LabelStudioError(
                    f"{len(part)} predictions stored", str(answer.get("created")), "score the pool again"
                )
            size.took(len(part), time.perf_counter() - started)
            sent += len(part)
        return sent

    def model_versions(self, project: int) -> dict[str, int]:
        """Prediction versions of a project and how many predictions each has."""
        answer = self._object("GET", f"/api/projects/{project}/model-versions")
        return {name: number(count, "count of predictions") for name, count in answer.items()}

    def of_version(self, project: int, version: str, page: int, *, count: int = 100) -> list[int] | None:
        """Numbers of predictions of a version on a page of `count` tasks; None after the last page. A page may have
        none: Label Studio finds all whose version has `version` in it."""
        has = {"filter": "filter:tasks:predictions_model_versions", "operator": "contains", "type": "List"}
        query = {"filters": {"conjunction": "and", "items": [has | {"value": [version]}]}, "ordering": ["tasks:id"]}
        params = {"project": project, "page": page, "page_size": count, "query": json.dumps(query)}
        params |= {"fields": "all", "resolve_uri": "false", "include": "id,predictions"}
        tasks = items(self._object("GET", "/api/tasks", params=params, empty_on={404}).get("tasks", []), "tasks")
        rows = [row for task in tasks for row in items(task.get("predictions"), "predictions")]
        found = {number(row.get("id"), "id") for row in rows if row.get("model_version") == version}
        return sorted(found) if tasks else None

    def update_prediction(self, prediction: int, *, score: float, result: Sequence[Json]) -> None:
        """Give one prediction another score and other regions. It touches the task."""
        self._send("PATCH", f"/api/predictions/{prediction}/", json={"score": score, "result": list(result)})

    def delete_prediction(self, prediction: int) -> None:
        """Delete one prediction; nothing where it is gone already."""
        try:
            self._send("DELETE", f"/api/predictions/{prediction}/")
        except LabelStudioError as error:
            if error.status != 404:
                raise

    def delete_version(self, project: int, version: str) -> None:
        """Delete all predictions of a version. Deleting the project's current one leaves it without any.

        Label Studio takes several seconds for each thousand, in which nobody else can write.
        """
        path = f"/api/projects/{project}/model-versions"
        self._send("DELETE", path, json={"model_version": version}, long=True)

    # the queue

    def next_task(self, project: int) -> ServedTask | None:
        """The task Label Studio serves this account now; None when nothing is left.

        It **locks** the task for this account, for a day by default: other annotators do not get it
        meanwhile, and this account gets nothing else. `first_by_score` asks without a lock.
        """
        try:
            return ServedTask.read(self._object("GET", f"/api/projects/{project}/next"))
        except LabelStudioError as error:
            if error.status == 404 and self.project(project).id == project:
                return None
            raise

    def first_by_score(self, project: int, count: int = 1) -> list[tuple[int, float | None]]:
        """The first `count` unlabelled tasks by lowest score of the project's current version, with that
        score.

        The order of uncertainty sampling, read through the Data Manager: it takes no lock.
        """
        query = {"ordering": ["tasks:predictions_score"], "filters": UNLABELLED}
        params = {"project": project, "page": 1, "page_size": count, "include": "id,predictions_score"}
        answer = self._object("GET", "/api/tasks", params={**params, "query": json.dumps(query)})
        rows = items(answer.get("tasks"), "tasks")
        return [(number(row.get("id"), "task id"), score_of(row.get("predictions_score"))) for row in rows]

    def unlabelled_count(self, project: int) -> int:
        """How many tasks have no annotation."""
        return self._count(project, [])

    def scored_count(self, project: int) -> int:
        """How many unlabelled tasks have a score of the project's current version."""
        scored = {
            "filter": "filter:tasks:predictions_score", "operator": "greater_or_equal", "type": "Number", "value": 0
        }  # fmt: skip
        return self._count(project, [scored])

    def _count(self, project: int, conditions: list[Json]) -> int:
        filters = UNLABELLED | {"items": [*UNLABELLED["items"], *conditions]}
        params = {"project": project, "page": 1, "page_size": 1, "include": "id"}
        answer = self._object("GET", "/api/tasks", params=params | {"query": json.dumps({"filters": filters})})
        return number(answer.get("total", 0), "task count")

    # views, webhooks, ML backends

    def views(self, project: int) -> list[View]:
        """The Data Manager's tabs."""
        return [View.read(item) for item in self._list("/api/dm/views/", {"project": project})]

    def create_view(self, project: int, title: str, *, ordering: Sequence[str], filters: Json) -> View:
        """Add a tab with pictures, such as `ordering=["tasks:predictions_score"]` with the filters `UNLABELLED`."""
        hidden = {"explore": HIDDEN, "labeling": HIDDEN}
        data = {"title": title, "ordering": list(ordering), "filters": filters, "hiddenColumns": hidden}
        return View.read(self._object("POST", "/api/dm/views/", json={"project": project, "data": data}))

    def delete_view(self, view: int) -> None:
        """Delete a tab of the Data Manager."""
        self._send("DELETE", f"/api/dm/views/{view}/")

    def webhooks(self, project: int) -> list[Webhook]:
        """The project's webhooks."""
        return [Webhook.read(item) for item in self._list("/api/webhooks/", {"project": project})]

    def create_webhook(self, project: int, url: str, *, headers: Mapping[str, str], actions: Sequence[str]) -> Webhook:
        """Add a webhook that carries `headers` verbatim. Label Studio refuses one-label host names."""
        body = _webhook_body(headers, actions) | {"project": project, "url": url}
        return Webhook.read(self._object("POST", "/api/webhooks/", json=body))

    def update_webhook(self, webhook: int, url: str, *, headers: Mapping[str, str], actions: Sequence[str]) -> Webhook:
        """Set address, headers and actions of a webhook."""
        body = _webhook_body(headers, actions) | {"url": url}
        return Webhook.read(self._object("PATCH", f"/api/webhooks/{webhook}/", json=body))

    def restore_webhook(self, webhook: Webhook) -> None:
        """Set a webhook to what it was when it was read."""
        body = _webhook_body(webhook.headers, webhook.actions) | {
            "url": webhook.url, "send_for_all_actions": webhook.all_actions, "is_active": webhook.active
        }  # fmt: skip
        self._send("PATCH", f"/api/webhooks/{webhook.id}/", json=body)

    def delete_webhook(self, webhook: int) -> None:
        """Delete a webhook: no event goes there any more."""
        self._send("DELETE", f"/api/webhooks/{webhook}/")

    def ml_backends(self, project: int) -> list[MlBackend]:
        """The project's backends, lowest id (the one Label Studio asks) first. Asking makes Label Studio
        call each."""
        found = [MlBackend.read(item) for item in self._list("/api/ml/", {"project": project})]
        return sorted(found, key=lambda backend: backend.id)

    def create_ml_backend(self, project: int, url: str, title: str, **fields: Any) -> MlBackend:
        """Connect a backend. Label Studio calls it before it answers, and sets `project.model_version` to
        `title`."""
        body = {"project": project, "url": url, "title": title, **fields}
        return MlBackend.read(self._object("POST", "/api/ml", json=body, long=True))

    def update_ml_backend(self, backend: int, project: int, url: str, **fields: Any) -> MlBackend:
        """Change a backend. `project` and `url` must always be given, or Label Studio fails."""
        body = {"project": project, "url": url, **fields}
        return MlBackend.read(self._object("PATCH", f"/api/ml/{backend}", json=body, long=True))

    def delete_ml_backend(self, backend: int) -> None:
        """Disconnect a backend. Its webhook stays."""
        self._send("DELETE", f"/api/ml/{backend}")

    def train(self, backend: int) -> None:
        """Press Start Training."""
        self._send("POST", f"/api/ml/{backend}/train", json={}, long=True)

    # pages

    def _task_pages(
        self, project: int, query: Json, params: Json, unreadable: list[int] | None = None
    ) -> Iterator[Json]:
        asked = {"project": project, "resolve_uri": "false", "query": json.dumps(query), **params}

        def ask(**more: Any) -> Json:
            fewer = {404} if more["page"] > 1 else set[int]()  # than there were when the page before was read
            return self._object("GET", "/api/tasks", params=asked | more, empty_on=fewer)

        return read_tasks(ask, unreadable)

    def selected_tasks(
        self, project: int, task_ids: Sequence[int], include: str, unreadable: list[int] | None = None
    ) -> Iterator[Json]:
        """These tasks as Label Studio tells them, with the fields that `include` names, separated by commas;
        `unreadable` as in `tasks`."""
        for start in range(0, len(task_ids), 50):  # the ids travel in the address, which has a limit
            chosen = {"all": False, "included": list(task_ids[start : start + 50])}
            params = {"fields": "all", "include": include}
            yield from self._task_pages(project, {"selectedItems": chosen}, params, unreadable)


def _webhook_body(headers: Mapping[str, str], actions: Sequence[str]) -> Json:
    return {
        "headers": dict(headers),
        "actions": list(actions),
        "send_for_all_actions": not actions,
        "send_payload": True,
        "is_active": True,
    }
