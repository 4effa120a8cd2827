"""A sam2 without what the patch uses is refused at import, by the names that are missing."""

from __future__ import annotations

import importlib.util

import pytest
from sam2.modeling.sam.transformer import Attention
from sam2.modeling.sam2_base import SAM2Base
from sam2.sam2_image_predictor import SAM2ImagePredictor

from usam.errors import UsamError
from usam.predictor.sam2_names import USED, check_sam2, missing_names


def test_the_installed_sam2_has_everything() -> None:
    assert missing_names() == []
    check_sam2()


def test_a_renamed_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(SAM2ImagePredictor, "_prep_prompts")
    monkeypatch.delattr(Attention, "_separate_heads")
    with pytest.raises(UsamError, match=r"SAM2ImagePredictor\._prep_prompts, Attention\._separate_heads.*<1\.2"):
        check_sam2()


def test_a_sam2_without_the_names_of_video_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_encode_new_memory", "_prepare_memory_conditioned_features"):
        monkeypatch.delattr(SAM2Base, name)
    said = r"SAM2Base\._encode_new_memory, SAM2Base\._prepare_memory_conditioned_features.*<1\.2"
    with pytest.raises(UsamError, match=said):
        check_sam2()


def test_an_attribute_that_is_set_when_an_object_is_made_counts() -> None:
    class Parent:
        def __init__(self) -> None:
            self._kept = 1

    class Child(Parent):
        pass

    assert missing_names({Child: ("_kept", "_gone")}) == ["Child._gone"]


def test_every_private_name_of_the_image_predictor_that_the_source_uses_is_looked_for() -> None:
    """The names that usam/predictor reads from the image predictor stand in the list."""
    from usam.predictor import image

    used = {name for name in SAM2ImagePredictor.__init__.__code__.co_names if name.startswith("_")}
    used |= {name for name in vars(SAM2ImagePredictor) if name.startswith("_") and not name.startswith("__")}
    with open(image.__file__, encoding="utf-8") as file:
        source = file.read()
    assert {name for name in used if f".{name}" in source} <= set(USED[SAM2ImagePredictor])


def test_importing_the_patch_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec("usam.predictor.patch")
    assert spec is not None
    assert spec.loader is not None
    monkeypatch.delattr(SAM2Base, "_track_step")
    with pytest.raises(UsamError, match=r"SAM2Base\._track_step"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_every_name_of_the_model_that_following_uses_is_looked_for() -> None:
    """What `memory_tracking` reads from a `SAM2Base` besides its modules stands in the list."""
    from usam.predictor import memory_tracking

    names = {name for name in SAM2Base.__init__.__code__.co_names if "mem" in name or "obj_ptr" in name}
    with open(memory_tracking.__file__, encoding="utf-8") as file:
        source = file.read()
    assert {name for name in names if f"model.{name}" in source} <= set(USED[SAM2Base])
