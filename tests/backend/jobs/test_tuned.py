"""The whole way of a mask decoder of a project's own: tuned on its labels, part of a version, taken back with it."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.inference.model import LoadedModel
from backend.jobs.retrain import run as retrain
from backend.jobs.score_pool import run as score_pool
from backend.jobs.sync import run as sync
from backend.learning.samples import sampled_by
from backend.metrics.service import Metrics
from backend.pool.kept_objects import KeptObjects
from backend.pool.policy import decoder_in_use
from backend.resources import Resources
from backend.settings import Settings
from backend.store.head_registry import DECODER_FILE
from backend.store.kept_twice import copy_of
from tests.decoders import WIDTH, shaken_decoder
from tests.factories import brush, head_set, resources
from usam.training import decoder_tuning
from usam.training.decoder_tuning import DecoderVerdict

LABELLED, OPEN = range(1, 9), range(9, 12)
BASE = head_set(1, width=WIDTH, names=("iou_nano_s", "iou_unsupervised", "task_gap"), bias={"iou_nano_s": 1.5})


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    made = Settings.from_environment(model="nano-s", threads=1, points_per_side=3)
    return LoadedModel.load("nano-s", made, Metrics(), BASE)


def opened_in(folder: Path, model: LoadedModel) -> Resources:
    return resources(folder, model, heads=BASE, own_decoder_seconds=5, points_per_side=3, pred_iou_thresh=0.0)


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory, model: LoadedModel) -> tuple[Path, Any, Any]:
    """The store of a project that is synchronized and ranked, with its Label Studio and embeddings."""
    folder = tmp_path_factory.mktemp("ranked")
    opened = opened_in(folder, model)
    studio: Any = opened.label_studio
    for number in LABELLED:
        studio.add_task(number, [brush()])
    for number in OPEN:
        studio.add_task(number)
    sync(opened, 1)
    score_pool(opened, 1)
    opened.store.close()
    return folder / "usam.db", studio, opened.embeddings


@pytest.fixture
def place(tmp_path: Path, model: LoadedModel, ranked: tuple[Path, Any, Any]) -> Iterator[Resources]:
    """A copy of the ranked project."""
    file, studio, embeddings = ranked
    shutil.copy(file, tmp_path)
    opened: Any = opened_in(tmp_path, model)
    opened.label_studio, opened.embeddings.kept = copy.deepcopy(studio), dict(embeddings.kept)
    yield opened
    opened.store.close()


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What stands for the tuning was asked, and what it finds."""
    asked: dict[str, Any] = {"decoder": shaken_decoder(1, learnt=("1", "2"))}

    def tune(model: Any, images: Any, audits: Any, others: Any, settings: Any, **more: Any) -> Any:
        asked.update(images=images, audits=audits, others=others, settings=settings, **more)
        promote = asked["decoder"] is not None
        return asked["decoder"], DecoderVerdict(promote, "images left out", 8, 0.5, 0.6, 0.99 if promote else 0.4)

    monkeypatch.setattr(decoder_tuning, "tune_decoder", tune)
    return asked


def masks(place: Resources) -> list[np.ndarray]:
    """What is kept of the open tasks."""
    rows = place.store.proposal_rows(1, list(OPEN))
    kept = [KeptObjects.unpack(rows[task]) for task in OPEN]
    return [one.masks.logits(range(len(one))) for one in kept] + [one.iou_token for one in kept]


def same(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(one.shape == other.shape and np.allclose(one, other) for one, other in zip(some, others, strict=True))


def run(place: Resources) -> Any:
    return place.store.runs(1, "retrain", limit=1)[0]


def test_a_version_brings_its_decoder_and_a_rollback_the_former_masks(place: Resources, tuned: dict[str, Any]) -> None:
    before = masks(place)
    assert retrain(place, 1) == "done"
    assert len(tuned["images"]) == len(LABELLED)
    assert tuned["images"][0].masks.ndim == 3
    assert 0 < tuned["settings"].seconds <= 5, "less what had to be encoded first"
    assert len(tuned["others"]) == len(OPEN), "unlabelled images are mixed in"
    current = place.registry.current(1)
    assert current is not None
    assert current.decoder == tuned["decoder"].version
    assert current.decoder_figures["gain"] == 0.05
    assert "decoder: masks better by images left out" in run(place).reason
    assert run(place).details["decoder"]["share"] == 0.99
    score_pool(place, 1)
    assert not same(masks(place), before)
    sync(place, 1)
    rows = place.store.samples(1, sampled_by("nano-s", current.decoder))
    assert len(rows) == len(LABELLED)
    assert place.store.samples(1, sampled_by("nano-s")) == []
    assert place.store.new_labels(1) == 0, "nobody has labelled anything meanwhile"
    assert retrain(place, 1) == "skipped"
    assert run(place).reason == "no label has changed since the last time"
    place.registry.rollback(1)
    score_pool(place, 1)
    assert same(masks(place), before)
    sync(place, 1)
    assert len(place.store.samples(1, sampled_by("nano-s"))) == len(LABELLED)
    assert retrain(place, 1) == "skipped"


def test_where_the_gate_says_no_the_decoder_in_use_stays_with_new_heads(
    place: Resources, tuned: dict[str, Any]
) -> None:
    retrain(place, 1)
    sync(place, 1)
    first, tuned["decoder"] = tuned["decoder"], None
    studio: Any = place.label_studio
    studio.add_task(20, [brush()], updated_at="2026-01-02T00:00:00.000000Z")
    sync(place, 1)
    state = retrain(place, 1)
    assert tuned["in_use"].version == first.version
    assert "the one in use stays" in run(place).reason
    current = place.registry.current(1)
    assert current is not None
    assert state in ("done", "rejected")
    assert current.decoder == first.version


def test_a_model_with_another_decoder_has_the_checkpoint_s_heads_whatever_was_set_last(model: LoadedModel) -> None:
    model.predictor.set_heads(None)
    assert model.with_decoder(shaken_decoder()).own_heads is model.own_heads is BASE
    model.predictor.set_heads(BASE)


def test_audits_are_not_learnt(place: Resources, tuned: dict[str, Any]) -> None:
    place.settings = place.settings.model_copy(update={"audit_share": 0.4})
    retrain(place, 1)
    assert tuned["audits"]
    assert len(tuned["audits"]) + len(tuned["images"]) == len(LABELLED)


def test_a_damaged_decoder_is_named_and_the_checkpoint_s_takes_its_place(
    place: Resources, tuned: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    before = masks(place)
    retrain(place, 1)
    version = place.registry.champion(1)
    path = place.registry.folder / "1" / "versions" / version / DECODER_FILE
    whole = path.read_bytes()
    path.write_bytes(b"cut short")
    assert decoder_in_use(place, 1) is not None, "mended from its copy"
    assert path.read_bytes() == whole
    for one in (path, copy_of(path)):
        one.write_bytes(b"cut short")
    assert decoder_in_use(place, 1) is None
    assert f"not by that of version {version}" in caplog.text
    assert DECODER_FILE in place.registry.damaged(1)[version]
    score_pool(place, 1)
    assert same(masks(place), before)
    assert "masks are by the checkpoint's decoder" in place.store.runs(1, "score_pool", limit=1)[0].reason
    assert any(version in line for line in place.registry.repair(1))
    assert place.registry.champion(1) == ""


def test_a_decoder_of_another_checkpoint_is_not_used(place: Resources, tuned: dict[str, Any]) -> None:
    retrain(place, 1)
    place.settings = place.settings.model_copy(update={"model": "nano-m"})
    assert decoder_in_use(place, 1) is None


def test_without_a_budget_nothing_is_tuned(place: Resources, tuned: dict[str, Any]) -> None:
    place.settings = place.settings.model_copy(update={"own_decoder_seconds": 0})
    retrain(place, 1)
    assert "images" not in tuned
    assert "decoder" not in run(place).reason
