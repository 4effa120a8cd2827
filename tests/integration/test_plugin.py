"""The model class in the real server of label-studio-ml 1.0.9, asked as Label Studio 1.23.2 asks.

That release pins a web stack of 2021, so it runs in an environment of its own beside the project, made once;
what it does not have itself (torch, our own packages) it sees behind its own.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from backend.local.redis_server import RedisServer
from backend.queue import JobQueue
from backend.store import Store
from backend.store.head_registry import Registry
from usam.checkpoints import registry as checkpoints

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "label-studio-ml.md"
ENVIRONMENT = ROOT / ".venv-label-studio-ml"
PINNED = "label-studio-ml==1.0.9"
PROJECT, STAMP = 2, "2.1795423842"
START_S, EVENT_S = 120.0, 120.0
CONFIG = """<View><Image name="img" value="$image" zoom="true"/>
<BrushLabels name="brush" toName="img"><Label value="A" background="red"/><Label value="B"/></BrushLabels>
<KeyPointLabels name="kp" toName="img"><Label value="A" smart="true"/><Label value="B" smart="true"/></KeyPointLabels>
</View>"""


@pytest.fixture(scope="session")
def environment() -> Path:
    """The folder of programs of the environment with label-studio-ml 1.0.9; made if it is not there."""
    made = ENVIRONMENT / "made"
    version = f"{PINNED} {sys.version_info.major}.{sys.version_info.minor}"
    if not made.exists() or made.read_text() != version:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        venv.create(ENVIRONMENT, with_pip=True)
        pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, PINNED], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    (own,) = (ENVIRONMENT / "lib").glob("python*/site-packages")
    (own / "usam-behind.pth").write_text(f"{ROOT}\n{sysconfig.get_paths()['purelib']}\n")
    partial = made.with_suffix(".partial")
    partial.write_text(version)
    partial.replace(made)
    return ENVIRONMENT / "bin"


@dataclass(frozen=True)
class Running:
    """A label-studio-ml server that answers, and where its model keeps things."""

    client: httpx.Client
    data: Path
    folder: Path
    redis_url: str
    log: Path

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        answer = self.client.post(path, json=body)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text[:2000]}"
        return answer

    def setup(self, stamp: str = STAMP) -> str:
        """The version that Label Studio would keep."""
        body = {
            "project": stamp,
            "schema": CONFIG,
            "hostname": "http://127.0.0.1:18080",
            "access_token": "0123456789abcdef",
            "extra_params": {"foo": "bar"},
        }
        return str(self.post("/setup", body).json()["model_version"])

    def predict(self, tasks: list[Any], context: Any = None, config: str = CONFIG) -> dict[str, Any]:
        params = {"login": None, "password": None, "context": context}
        body = {"tasks": tasks, "project": STAMP, "label_config": config, "params": params}
        found: dict[str, Any] = self.post("/predict", body).json()
        return found


@pytest.fixture(scope="module")
def server(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """What `label-studio-ml init` and `start` make of the script in the docs."""
    folder = tmp_path_factory.mktemp("server")
    (script,) = re.findall(r"^```py\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    (folder / "model.py").write_text(script)
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    data = tmp_path_factory.mktemp("data")
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("USAM_", "LABEL_STUDIO_", "PYTHON", "VIRTUAL_"))}
    variables = {
        **keep,
        "PATH": f"{environment}{os.pathsep}{os.environ['PATH']}",
        "USAM_DATA_DIR": str(data),
        "REDIS_URL": redis.url,
        "USAM_POINTS_PER_SIDE": "2",
        "USAM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    if not checkpoints.checkpoint_path("nano-m").exists():
        variables["USAM_RANDOM_WEIGHTS"] = "true"
    command = str(environment / "label-studio-ml")
    subprocess.run([command, "init", "served", "--script", "model.py:UsamModel"], cwd=folder, env=variables, check=True)
    port, log = free_port(), folder / "server.log"
    start = [command, "start", "served", "--host", "127.0.0.1", "--port", str(port)]
    with redis, log.open("w") as out, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=100) as client:
        process = subprocess.Popen(
            start, cwd=folder, env=variables, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_until_up(client, process, log)
            yield Running(client, data, folder / "served", redis.url, log)
        finally:
            end(process)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_up(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            assert client.get("/health").json()["status"] == "UP"
            return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the server did not come up:\n{log.read_text()[-4000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started, which its command line leaves running."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def picture() -> str:
    """A bright ellipse on dark ground, 64 x 48, as a data: URI."""
    image = Image.new("RGB", (64, 48), (30, 40, 60))
    ImageDraw.Draw(image).ellipse((6, 12, 28, 36), fill=(240, 200, 60))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def task(number: int, image: str) -> dict[str, Any]:
    return {
        "id": number,
        "data": {"image": image},
        "meta": {},
        "project": PROJECT,
        "annotations": [],
        "predictions": [],
    }


def click() -> dict[str, Any]:
    keypoint = {
        "original_width": 64,
        "original_height": 48,
        "image_rotation": 0,
        "value": {"x": 25.0, "y": 50.0, "width": 0.5, "labels": ["A"], "keypointlabels": ["A"]},
        "is_positive": True,
        "id": "kp1",
        "from_name": "kp",
        "to_name": "img",
        "type": "keypointlabels",
        "origin": "manual",
    }
    return {"type": "keypointlabels", "result": [keypoint]}


def test_batch_has_one_item_a_task_and_the_version_of_setup(server: Running) -> None:
    version = server.setup()
    assert version.startswith("nano-m+")
    answer = server.predict([task(2, picture()), task(6, "http://192.0.2.1/im.png"), task(10, "")])
    items = answer["results"]
    assert len(items) == 3
    assert answer["model_version"] == version
    assert all(item["model_version"] == version and math.isfinite(item["score"]) for item in items)
    assert items[0]["reason"] is None
    assert all(item["result"] == [] and item["reason"] for item in items[1:])


def test_click_is_answered_with_a_mask(server: Running) -> None:
    from usam.masks import decode_rle

    server.setup()
    (item,) = server.predict([task(2, picture())], click())["results"]
    (region,) = item["result"]
    assert (region["from_name"], region["type"], region["value"]["brushlabels"]) == ("brush", "brushlabels", ["A"])
    mask = decode_rle(region["value"]["rle"], (48, 64)) > 0
    assert mask.any()


def test_configuration_is_that_of_the_request_not_of_the_last_setup(server: Running) -> None:
    server.setup("3.1795423999")
    other = CONFIG.replace("BrushLabels", "RectangleLabels").replace('name="brush"', 'name="box"')
    (item,) = server.predict([task(2, picture())], click(), other)["results"]
    assert [(region["from_name"], region["type"]) for region in item["result"]] == [("box", "rectanglelabels")]


def test_promotion_changes_the_version_at_once(server: Running) -> None:
    from usam.heads.head_set import HeadSet

    before = server.setup()
    rng = np.random.default_rng(3)
    layers = [(rng.normal(0, 0.1, shape), np.zeros(shape[0])) for shape in ((4, 256), (1, 4))]
    heads = HeadSet.from_layers({"task_gap": layers}, alignment="aligned", checkpoint="nano-m")
    registry = Registry(server.data / "heads")
    registry.publish(PROJECT, heads)
    registry.promote(PROJECT, heads.version)
    assert server.setup() == f"nano-m+{heads.version}" != before
    assert server.setup("3.1795423999") == before
    answer = server.predict([task(2, picture())], click())
    assert {answer["model_version"], answer["results"][0]["model_version"]} == {f"nano-m+{heads.version}"}
    registry.rollback(PROJECT)
    assert server.setup() == before


def test_events_land_in_the_store_and_wake_the_worker(server: Running) -> None:
    version = server.setup()
    project = {"id": PROJECT, "label_config": CONFIG, "token": "invite", "model_version": version}
    annotation = {"id": 5, "result": [], "was_cancelled": False, "task": 3, "project": PROJECT}
    created = {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": project, "task": {"id": 3}}
    started = time.monotonic()
    server.post("/webhook", created)
    assert time.monotonic() - started < 1, "Label Studio gives up after a second"
    assert isinstance(server.post("/webhook", {"action": "START_TRAINING", "project": project}).json(), dict)
    store, queue = Store(f"sqlite:///{server.data / 'usam.db'}"), JobQueue(server.redis_url)
    try:
        events: set[Any] = set()
        jobs: set[Any] = set()
        deadline = time.monotonic() + EVENT_S
        while time.monotonic() < deadline and (len(events) < 2 or len(jobs) < 2):
            time.sleep(0.3)
            events = {(event.action, event.subjects) for event in store.open_events(PROJECT)}
            jobs = {(job.name, job.project, job.state) for job in queue.states()}
        assert events == {("ANNOTATION_CREATED", (5,)), ("START_TRAINING", ())}, server.log.read_text()[-4000:]
        assert jobs == {("sync", PROJECT, "queued"), ("retrain", PROJECT, "queued")}
    finally:
        store.close()
        queue.close()
    outputs = wait_for_outputs(server.folder)
    assert {output["project"] for output in outputs} == {PROJECT}
    assert not list(server.folder.glob("*/event.json")), "an invite token was left on disk"
    assert server.setup() == version, "the version is the model's, not the time of the last event"


def wait_for_outputs(folder: Path) -> list[dict[str, Any]]:
    """What `fit` returned, as the server keeps it; events within one second share a file there."""
    deadline = time.monotonic() + EVENT_S
    while time.monotonic() < deadline:
        files = list(folder.glob("*/job_result.json"))
        payloads = list(folder.glob("*/event.json"))
        if files and not payloads and all(file.stat().st_size for file in files):
            return [json.loads(file.read_text()) for file in files]
        time.sleep(0.3)
    return []
