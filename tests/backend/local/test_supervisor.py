"""What dies is started again: at once after a long life, ever later where it dies at once, with a word each time."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import cast

import pytest

from backend.errors import ServerError
from backend.local.processes import ServerProcess
from backend.local.supervisor import LONGEST_PAUSE_S, Supervisor


class FakeProcess:
    running, ending, log = True, "signal 9", Path("part.log")


class FakePart:
    def __init__(self) -> None:
        self.fake, self.starts, self.refuses = FakeProcess(), 0, False

    @property
    def process(self) -> ServerProcess:
        return cast(ServerProcess, self.fake)

    def restart(self) -> None:
        self.starts += 1
        if self.refuses:
            raise ServerError("it to come up", "its port taken", "end that program")
        self.fake.running = True


class Scene:
    def __init__(self) -> None:
        self.now, self.said = 0.0, list[str]()
        self.part, self.other = FakePart(), FakePart()
        self.supervisor = Supervisor(self.said.append, lambda: self.now)
        self.supervisor.add("Redis", self.part)
        self.supervisor.add("worker", self.other)

    def pass_by(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.supervisor.look()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_what_lives_is_left_alone(scene: Scene) -> None:
    scene.pass_by(300)
    assert (scene.part.starts, scene.said) == (0, [])


def test_what_died_is_started_again_with_a_word(scene: Scene) -> None:
    scene.pass_by(100)
    scene.part.fake.running = False
    scene.pass_by(3)
    assert scene.part.starts == 1
    assert scene.other.starts == 0
    assert scene.said == ["Redis ended (signal 9); started again in 1 s, log part.log", "Redis runs again"]


def test_one_that_dies_at_once_is_tried_ever_later_and_a_long_life_is_forgiven(scene: Scene) -> None:
    starts = []
    for _ in range(600):
        scene.part.fake.running = False
        scene.pass_by(1)
        starts.append(scene.part.starts)
    assert 30 <= starts[-1] <= 45, "1, 2, 4 ... 15 s apart"
    scene.part.fake.running = True
    scene.pass_by(int(LONGEST_PAUSE_S) + 120)
    before = scene.part.starts
    scene.part.fake.running = False
    scene.pass_by(3)
    assert scene.part.starts == before + 1


def test_one_that_cannot_be_started_is_tried_again_and_holds_up_no_other(scene: Scene) -> None:
    scene.part.refuses = True
    scene.part.fake.running = scene.other.fake.running = False
    scene.pass_by(4)
    assert scene.other.starts == 1
    assert scene.part.starts == 2
    assert any("its port taken" in line and "tried again in" in line for line in scene.said)
    scene.part.refuses = False
    scene.pass_by(int(LONGEST_PAUSE_S))
    assert scene.said[-1] == "Redis runs again"


def test_nothing_is_started_once_it_stops(scene: Scene) -> None:
    scene.supervisor.stop()
    scene.part.fake.running = False
    scene.pass_by(5)
    assert scene.part.starts == 0


def test_a_full_disk_does_not_end_the_looking_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was noted of a restart could not be written, and from then on nothing that died was started again."""
    monkeypatch.setattr("backend.local.supervisor.LOOK_EVERY_S", 0.01)
    said, part, noted, tries = list[str](), FakePart(), threading.Event(), itertools.count()

    def note() -> None:
        part.fake.running = False
        if next(tries) < 2:
            raise OSError(28, "No space left on device")
        noted.set()

    supervisor = Supervisor(said.append, itertools.count(0.0, 100.0).__next__)
    supervisor.add("Redis", part)
    part.fake.running = False
    supervisor.begin(after=note)
    assert noted.wait(20)
    supervisor.stop()
    assert sum("No space left on device" in line for line in said) == 1, "said once"


def test_a_start_that_could_not_be_noted_is_noted_once_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a later run would not know which process a killed one left."""
    monkeypatch.setattr("backend.local.supervisor.LOOK_EVERY_S", 0.01)
    part, noted, tries = FakePart(), threading.Event(), itertools.count()

    def note() -> None:
        if next(tries) < 5:
            raise OSError(28, "No space left on device")
        noted.set()

    supervisor = Supervisor(lambda line: None, itertools.count(0.0, 100.0).__next__)
    supervisor.add("Redis", part)
    part.fake.running = False
    supervisor.begin(after=note)
    assert noted.wait(20)
    supervisor.stop()
    assert part.starts == 1


def test_whatever_keeps_a_part_from_starting_is_said_and_it_is_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise FileExistsError(17, "File exists", "logs")

    with monkeypatch.context() as broken:
        broken.setattr(scene.part, "restart", refuse)
        scene.part.fake.running = False
        scene.pass_by(3)
    assert any("did not come up: FileExistsError" in line for line in scene.said)
    scene.pass_by(30)
    assert scene.part.fake.running
