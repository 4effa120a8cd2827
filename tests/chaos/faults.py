"""What goes wrong, and when: a list that a seed makes, the same each time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["kill", "stop", "kill twice", "kill child", "damage", "kill up", "restart"]
Part = Literal[
    "worker", "backend", "Redis", "Label Studio", "up", "pointer", "version", "heads", "queue", "notes", "database"
]
Act = Literal["add", "change", "delete"]

WEIGHTS: dict[tuple[Kind, Part], int] = {
    ("kill", "worker"): 6,
    ("kill twice", "worker"): 2,
    ("kill child", "worker"): 4,
    ("kill", "backend"): 5,
    ("kill", "Redis"): 5,
    ("kill", "Label Studio"): 2,
    ("stop", "worker"): 3,
    ("stop", "backend"): 3,
    ("stop", "Redis"): 3,
    ("stop", "Label Studio"): 3,
    ("damage", "queue"): 2,
    ("damage", "pointer"): 2,
    ("damage", "version"): 1,
    ("damage", "heads"): 1,
    ("damage", "notes"): 1,
    ("kill up", "up"): 1,
}
SERVER_WEIGHTS: dict[tuple[Kind, Part], int] = {("restart", "database"): 10, ("stop", "database"): 4}
"""What else goes wrong where the store is a database server."""
DAMAGES = ("truncated", "garbage", "empty")
ACTS: tuple[Act, ...] = ("add", "add", "add", "change", "delete")


@dataclass(frozen=True)
class Fault:
    """One fault. `seconds` is how long a part stays stopped, `damage` what becomes of a file; `work` is what a person
    does meanwhile, and `draw` in [0, 1) picks among what there is then."""

    number: int
    kind: Kind
    part: Part
    seconds: float
    damage: str
    work: tuple[Act, ...]
    draw: float

    @property
    def times(self) -> int:
        """How often a part is started again, every `seconds`."""
        return 1 + int(self.draw * 4)

    def __str__(self) -> str:
        times = f" {self.times} times" if self.kind == "restart" else ""
        more = {"stop": f" for {self.seconds:.1f} s", "damage": f": {self.damage}"}.get(self.kind, times)
        return f"{self.number}. {self.kind} {self.part}{more}; {', '.join(self.work)}"


def schedule(seed: int, count: int, *, server: bool = False) -> list[Fault]:
    """`count` faults, with `server` those of a database server too; a longer list of the same seed begins with the
    shorter one."""
    rng = random.Random(seed)
    all_weights = WEIGHTS | (SERVER_WEIGHTS if server else {})
    kinds, weights = list(all_weights), list(all_weights.values())
    faults = []
    for number in range(1, count + 1):
        kind, part = rng.choices(kinds, weights)[0]
        work = tuple(rng.choice(ACTS) for _ in range(rng.randint(1, 3)))
        faults.append(
            Fault(number, kind, part, round(rng.uniform(0.3, 2.5), 1), rng.choice(DAMAGES), work, rng.random())
        )
    return faults


def spoil(content: bytes, damage: str) -> bytes:
    """A file's content, damaged."""
    return {"truncated": content[: len(content) // 2], "garbage": b"\x00\xff{garbage" * 40, "empty": b""}[damage]
