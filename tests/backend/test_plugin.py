"""The model class in the form of label-studio-ml 2.x, on a stand-in for that base class: it is not on PyPI."""

from __future__ import annotations

import base64
import importlib
import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image, ImageDraw

import backend
from backend.errors import BackendError, PluginUnavailable
from usam.checkpoints import registry as checkpoints

CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="A"/><Label value="B"/></BrushLabels>
<KeyPointLabels name="kp" toName="img" smart="true"><Label value="A"/><Label value="B"/></KeyPointLabels></View>"""
CLICK = {
    "result": [
        {
            "original_width": 96,
            "original_height": 64,
            "image_rotation": 0,
            "value": {"x": 50.0, "y": 50.0, "width": 0.5, "labels": ["B"], "keypointlabels": ["B"]},
            "is_positive": True,
            "id": "kp1",
            "from_name": "kp",
            "to_name": "img",
            "type": "keypointlabels",
            "origin": "manual",
        }
    ]
}


class BaseOfTwo:
    """What 2.x's base class does as far as a model class can see: keyed texts outlive the object, `setup` ends the
    constructor, `label_config` and `model_version` cannot be assigned."""

    INITIAL_MODEL_VERSION = "0.0.1"
    kept: ClassVar[dict[tuple[str, str], str]] = {}

    def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
        self.project_id = project_id or ""
        if label_config is not None and self.get("label_config") != label_config:
            self.set("label_config", label_config)
        if not self.model_version:
            self.set("model_version", self.INITIAL_MODEL_VERSION)
        self.setup()

    def setup(self) -> None: ...

    def get(self, key: str) -> str | None:
        return self.kept.get((self.project_id, key))

    def set(self, key: str, value: str) -> None:
        if not isinstance(value, str):
            raise ValueError("Value must be a string")
        self.kept[(self.project_id, key)] = value

    def set_extra_params(self, extra_params: Any) -> None:
        self.set("extra_params", extra_params)

    @property
    def label_config(self) -> str | None:
        return self.get("label_config")

    @property
    def model_version(self) -> str | None:
        return self.get("model_version")


def forget_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "backend.plugin", raising=False)
    monkeypatch.delattr(backend, "plugin", raising=False)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module, imported over the stand-in, on a data folder of its own and without Redis."""
    with pytest.MonkeyPatch.context() as patch:
        package, model = ModuleType("label_studio_ml"), ModuleType("label_studio_ml.model")
        package.model = model  # type: ignore[attr-defined]
        model.LabelStudioMLBase = BaseOfTwo  # type: ignore[attr-defined]
        patch.setitem(sys.modules, "label_studio_ml", package)
        patch.setitem(sys.modules, "label_studio_ml.model", model)
        folder = tmp_path_factory.mktemp("plugin")
        patch.setenv("USAM_DATA_DIR", str(folder))
        patch.setenv("REDIS_URL", f"unix://{folder}/nobody-listens.sock")
        patch.setenv("USAM_POINTS_PER_SIDE", "2")
        patch.setenv("USAM_THREADS", "1")
        if not checkpoints.checkpoint_path("nano-m").exists():
            patch.setenv("USAM_RANDOM_WEIGHTS", "true")
        for name in ("LABEL_STUDIO_URL", "USAM_MODEL", "USAM_DATABASE_URL", "USAM_ALLOWED_HOSTS"):
            patch.delenv(name, raising=False)
        forget_plugin(patch)
        module = importlib.import_module("backend.plugin")
        yield module
        module.close()
        forget_plugin(patch)


def picture() -> str:
    """A bright ellipse on dark ground, 96 x 64, as a data: URI."""
    image = Image.new("RGB", (96, 64), (30, 40, 60))
    ImageDraw.Draw(image).ellipse((28, 14, 68, 50), fill=(240, 200, 60))
    file = io.BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def ask(plugin: Any, tasks: Any, context: Any = None, project: str = "2", config: str = CONFIG) -> Any:
    """As 2.x's route `/predict` does: a new object for each request."""
    model = plugin.UsamModel(project_id=project, label_config=config)
    return model.predict(tasks, context=context, login=None, password=None)


def test_import_without_the_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_plugin(monkeypatch)
    monkeypatch.setitem(sys.modules, "label_studio_ml", None)
    with pytest.raises(PluginUnavailable, match=r"pip install \"usam\[label-studio-ml\]\"") as raised:
        importlib.import_module("backend.plugin")
    assert isinstance(raised.value, ImportError)
    assert isinstance(raised.value, BackendError)


def test_fit_in_a_process_of_its_own_opens_no_engine(plugin: Any, tmp_path: Path) -> None:
    plugin.close()
    (tmp_path / "event.json").write_text('{"data": {"project": {"token": "invite"}}}')
    model = object.__new__(plugin.UsamModel)
    data = {"annotations": [{"id": 5}], "project": {"id": 9}}
    output = model.fit((), event="ANNOTATIONS_DELETED", data=data, job_id="1", workdir=str(tmp_path))
    assert json.loads(json.dumps(output)) == {"event": "ANNOTATIONS_DELETED", "project": 9, "taken": True}
    assert [event.subjects for event in plugin.parts().store.open_events(9)] == [(5,)]
    assert plugin.parts()._engine is None
    assert list(tmp_path.iterdir()) == []


def test_click_gives_one_region_with_the_clicks_label(plugin: Any) -> None:
    from usam.masks import decode_rle

    items = ask(plugin, [{"id": 1, "data": {"image": picture()}, "project": 2}], CLICK)
    assert len(items) == 1
    (region,) = items[0]["result"]
    assert region["type"] == "brushlabels"
    assert region["value"]["brushlabels"] == ["B"]
    mask = decode_rle(region["value"]["rle"], (64, 96)) > 0
    assert mask.shape == (64, 96)
    assert mask.any()
    assert 0 <= items[0]["score"] <= 1


def test_batch_has_one_item_a_task_whatever_fails(plugin: Any) -> None:
    tasks = [
        {"id": 1, "data": {"image": picture()}},
        {"id": 2, "data": {}},
        {"id": 3, "data": {"image": "http://192.0.2.1/secret.png"}},
        "not a task",
    ]
    items = ask(plugin, tasks)
    assert len(items) == 4
    assert all(math.isfinite(item["score"]) and item["model_version"].startswith("nano-m+") for item in items)
    assert items[0]["reason"] is None
    assert all(item["result"] == [] and item["reason"] for item in items[1:])


@pytest.mark.parametrize("tasks", [None, [], {}])
def test_no_tasks_give_no_items(plugin: Any, tasks: Any) -> None:
    assert ask(plugin, tasks) == []


def test_bad_labelling_configuration_is_said_in_each_item(plugin: Any) -> None:
    items = ask(plugin, [{"id": 1, "data": {"image": picture()}}] * 2, config="<View/>")
    assert [item["result"] for item in items] == [[], []]
    assert all("labelling configuration" in item["reason"] for item in items)


def test_objects_share_one_engine(plugin: Any) -> None:
    ask(plugin, [])
    engine = plugin.parts()._engine
    ask(plugin, [], project="3")
    assert engine is not None
    assert plugin.parts()._engine is engine


def test_version_follows_the_champion(plugin: Any) -> None:
    from backend.store.head_registry import Registry
    from usam.heads.head_set import HeadSet

    before = plugin.UsamModel(project_id="7", label_config=CONFIG).get("model_version")
    rng = np.random.default_rng(7)
    layers = [(rng.normal(0, 0.1, shape), np.zeros(shape[0])) for shape in ((4, 256), (1, 4))]
    heads = HeadSet.from_layers({"task_gap": layers}, alignment="aligned", checkpoint="nano-m")
    registry = Registry(plugin.parts().settings.registry_dir)
    registry.publish(7, heads)
    registry.promote(7, heads.version)
    after = plugin.UsamModel(project_id="7", label_config=CONFIG)
    assert before.startswith("nano-m+")
    assert after.get("model_version") == f"nano-m+{heads.version}" != before
    (item,) = after.predict([{"id": 1, "data": {"image": picture()}}], context=CLICK)
    assert item["model_version"] == f"nano-m+{heads.version}"
    assert plugin.UsamModel(project_id="2", label_config=CONFIG).get("model_version") == before


def test_fit_keeps_events_without_redis(plugin: Any) -> None:
    model = plugin.UsamModel("5", label_config=CONFIG)
    created = {"annotation": {"id": 31, "task": 3}, "project": {"id": 5, "token": "invite"}, "task": {"id": 3}}
    assert model.fit("ANNOTATION_CREATED", created) == {"event": "ANNOTATION_CREATED", "project": 5, "taken": True}
    model.fit("START_TRAINING", {"project": {"id": 5}}, login=None)
    plugin.parts().inbox.drain()
    events = plugin.parts().store.open_events(5)
    assert [(event.action, event.subjects) for event in events] == [
        ("ANNOTATION_CREATED", (31,)),
        ("START_TRAINING", ()),
    ]


@pytest.mark.parametrize("data", [None, [], {}, {"project": None}, {"project": {"id": "x"}}])
def test_fit_takes_what_it_cannot_use(plugin: Any, data: Any) -> None:
    assert plugin.UsamModel("5").fit("ANNOTATION_CREATED", data)["project"] is None


def test_extra_params_may_be_an_object(plugin: Any) -> None:
    model = plugin.UsamModel("2", label_config=CONFIG)
    model.set_extra_params({"foo": "bar"})
    assert model.get("extra_params") == '{"foo": "bar"}'
    model.set_extra_params("as it is")
    assert model.get("extra_params") == "as it is"


def test_service_that_cannot_answer_leaves_nothing_to_keep(
    plugin: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plugin.close()
    monkeypatch.setenv("USAM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("USAM_MODEL", "no-such-model")
    try:
        items = ask(plugin, [{"id": 1, "data": {"image": picture()}}] * 3)
        version = plugin.UsamModel("2", label_config=CONFIG).get("model_version")
    finally:
        plugin.close()
    assert len(items) == 3
    assert all(item["result"] == [] and item["score"] == 1.0 and item["reason"] for item in items)
    assert version not in {item["model_version"] for item in items}
