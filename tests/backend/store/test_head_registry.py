"""Versions are whole or absent, and the pointer is before or after, whoever is killed when."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from backend.errors import RegistryError
from backend.store.head_registry import DECODER_FILE, HEADS_FILE, Registry
from backend.store.kept_twice import copy_of
from tests.decoders import shaken_decoder
from tests.factories import head_set


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


def test_a_published_version_reads_back_and_is_not_in_use(registry: Registry) -> None:
    heads = head_set(0)
    version = registry.publish(3, heads, parent="p", samples=7, figures={"share": 0.9})
    assert (version.version, version.parent, version.samples) == (heads.version, "p", 7)
    assert version.figures == {"share": 0.9}
    assert registry.load(3, heads.version).version == heads.version
    assert registry.current(3) is None
    assert registry.versions(4) == []


def test_publishing_twice_changes_nothing(registry: Registry) -> None:
    first = registry.publish(3, head_set(0), samples=7)
    assert registry.publish(3, head_set(0), samples=9) == first
    assert len(registry.versions(3)) == 1


def test_a_decoder_makes_another_version_of_the_same_heads(registry: Registry) -> None:
    decoder = shaken_decoder(1)
    plain = registry.publish(3, head_set(0))
    tuned = registry.publish(3, head_set(0), decoder=decoder)
    assert plain.version != tuned.version
    assert (plain.decoder, tuned.decoder, tuned.heads) == ("", decoder.version, plain.heads)
    assert tuned.decoder_figures == decoder.figures
    read = registry.load_decoder(3, tuned.version)
    assert read is not None
    assert read.version == decoder.version
    assert registry.load_decoder(3, plain.version) is None
    copy = copy_of(registry.folder / "3" / "versions" / tuned.version / DECODER_FILE)
    copy.unlink()
    assert registry.keep_copies() == 1


def test_promotions_and_rollbacks(registry: Registry) -> None:
    one, two, three = (registry.publish(3, head_set(seed)).version for seed in range(3))
    for version in (one, two, three):
        registry.promote(3, version)
    registry.promote(3, three)
    assert registry.champion(3) == three

    def back(to: str | None = None) -> str | None:
        now = registry.rollback(3, to)
        return now.version if now else None

    assert back() == two
    assert back() == one
    assert back() is None
    assert registry.champion(3) == ""
    with pytest.raises(RegistryError, match="nothing to go back to"):
        back()
    assert back(three) == three
    assert [step.kind for step in registry.history(3)] == ["promotion"] * 3 + ["rollback"] * 4


def test_projects_are_apart(registry: Registry) -> None:
    version = registry.publish(3, head_set(0)).version
    registry.promote(3, version)
    assert registry.champion(4) == ""
    with pytest.raises(RegistryError, match="no such version"):
        registry.promote(4, version)


def test_altered_heads_are_refused(registry: Registry) -> None:
    version = registry.publish(3, head_set(0)).version
    path = registry.folder / "3" / "versions" / version / HEADS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    for altered in (path, copy_of(path)):
        altered.write_bytes(content)
    with pytest.raises(RegistryError, match="another digest"):
        registry.load(3, version)
    with pytest.raises(RegistryError, match="another digest"):
        registry.promote(3, version)


@pytest.mark.parametrize("name", ["../../etc", "", ".partial-x", "a/b", "x" * 99])
def test_a_name_cannot_leave_the_folder(registry: Registry, name: str) -> None:
    with pytest.raises(RegistryError, match="version's name"):
        registry.about(3, name)


def test_a_half_written_folder_is_no_version(registry: Registry) -> None:
    whole = registry.publish(3, head_set(0)).version
    partial = registry.folder / "3" / "versions" / ".partial-abc"
    partial.mkdir()
    (partial / HEADS_FILE).write_bytes(b"half")
    assert [version.version for version in registry.versions(3)] == [whole]
    os.utime(partial, (0, 0))
    registry.publish(3, head_set(1))
    assert not partial.exists()


def publish_for_ever(folder: Path, seed: int) -> None:
    registry = Registry(folder)
    while True:
        version = registry.publish(3, head_set(seed, width=256)).version
        registry.promote(3, version)
        seed += 1


def test_kill_9_leaves_whole_versions_and_a_pointer_that_works(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    context = multiprocessing.get_context("fork")
    for round_ in range(5):
        before = len(registry.history(3))
        process = context.Process(target=publish_for_ever, args=(tmp_path, 1000 * round_))
        process.start()
        deadline = time.monotonic() + 20
        while len(registry.history(3)) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.003)
        time.sleep(0.007 * round_)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert len(registry.history(3)) >= before + 2
        assert registry.load(3, registry.champion(3)).version == registry.champion(3)
        for version in registry.versions(3):
            assert registry.load(3, version.version).version == version.version
