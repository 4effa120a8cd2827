"""What is said of a version is read back, also where an earlier release said less; damage is an error."""

from __future__ import annotations

import json

import pytest

from backend.store.head_versions import Version, parse_pointer

OLD = {
    "version": "0123456789ab",
    "parent": "",
    "made_at": 1.0,
    "checkpoint": "nano-m",
    "samples": 3,
    "labels": ["1@t"],
    "figures": {"tasks": 3},
    "sha256": "0" * 64,
}


def test_a_version_of_an_earlier_release_has_learnt_nothing_of_objects() -> None:
    version = Version.parse(json.dumps(OLD).encode())
    assert (version.heads, version.classes, version.learnt_sha256) == ("0123456789ab", (), "")


def test_what_was_learnt_beside_the_heads_is_said() -> None:
    more = {"heads": "fedcba987654", "classes": ["cat", "dog"], "learnt_sha256": "1" * 64, "learnt_figures": {"a": 0.5}}
    version = Version.parse(json.dumps(OLD | more).encode())
    assert (version.heads, version.classes) == ("fedcba987654", ("cat", "dog"))
    assert version.learnt_figures == {"a": 0.5}


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", json.dumps(OLD | {"made_at": "x"}).encode()])
def test_a_damaged_version_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=":"):
        Version.parse(content)


def test_a_pointer_names_a_version_and_how_it_came_to_be() -> None:
    step = {"version": "a", "before": "", "kind": "promotion", "at": 1.0, "reason": ""}
    assert parse_pointer(json.dumps({"version": "a", "history": [step]}).encode())["version"] == "a"
    for content in (b"{}", b"[]", json.dumps({"version": "../x", "history": []}).encode()):
        with pytest.raises(ValueError, match=r"history|list|no version"):
            parse_pointer(content)


@pytest.mark.parametrize("field", ["version", "before", "kind", "at", "reason"])
def test_of_a_pointer_each_step_is_what_it_has_to_be(field: str) -> None:
    step = {"version": "a", "before": "", "kind": "promotion", "at": 1.0, "reason": "better"}
    assert parse_pointer(json.dumps({"version": "a", "history": [step]}).encode())["version"] == "a"
    with pytest.raises(ValueError, match=field):
        parse_pointer(json.dumps({"version": "a", "history": [step | {field: ["x"]}]}).encode())
