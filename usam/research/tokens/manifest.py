"""What a folder of tokens was made from and how, so that it is never mixed with another make.

DIR/manifest.json
DIR/shards/000000.safetensors ...
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from usam.errors import TokensError
from usam.research.datasets import splits

FILE_NAME = "manifest.json"
FORMAT = "usam-tokens-1"
NANO_PARTS = ("nano-train", "nano-heads", "nano-test")
LEARNT_PARTS = NANO_PARTS[:2]
"""What ships was learnt from these, so images whose licence forbids derivatives are left out of them."""


@dataclass(frozen=True)
class TokenSettings:
    """How tokens are made.

    seed         of the random points and of the choice of objects
    max_objects  at most so many objects of an image (0: all)
    min_pixels   leave out objects with fewer pixels
    limit        at most so many records, spread evenly over the data set (0: all)
    entropies    the six entropy baselines too (about five times the forward passes)
    shard_size   records in one shard file, which is what a kill can cost
    part         keep one part of a split by group ('' keeps all), with its `fractions` and `split_seed`; or
                 `nano-train`, `nano-heads` or `nano-test`, the split the nano family was trained by, the first two
                 without images whose licence forbids derivatives
    view         0: images as they are; another number: a random view of each (`usam.research.tokens.views`)
    """

    seed: int = 0
    max_objects: int = 0
    min_pixels: int = 1
    limit: int = 0
    entropies: bool = False
    shard_size: int = 16
    part: str = ""
    fractions: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1})
    split_seed: int = 0
    view: int = 0

    def __post_init__(self) -> None:
        if min(self.max_objects, self.limit, self.view) < 0 or self.shard_size < 1 or self.min_pixels < 1:
            raise TokensError(
                "max_objects, limit and view of 0 or more, min_pixels and shard_size of 1 or more", str(self)
            )
        if self.part and self.part not in (*self.fractions, *NANO_PARTS):
            parts = ", ".join((*self.fractions, *NANO_PARTS))
            raise TokensError(f"one of the parts {parts}", f"'{self.part}'")

    def part_of(self, group: str) -> str:
        """The part of the split in question that `group` belongs to."""
        if self.part in NANO_PARTS:
            from usam.research.nano.stored_images import nano_split

            return f"nano-{nano_split(group)}"
        return splits.part_of(group, self.fractions, self.split_seed)


@dataclass(frozen=True)
class Manifest:
    """The data set (name, split, options, number of records), the models (name to checksum), the settings."""

    dataset: Mapping[str, Any]
    models: Mapping[str, str]
    settings: TokenSettings

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits over all of it; every shard carries it."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:12]

    @property
    def positions(self) -> list[int]:
        """Places in the data set's list that are taken, spread evenly where there is a limit."""
        records, limit = int(self.dataset["records"]), self.settings.limit
        if not limit or limit >= records:
            return list(range(records))
        return [int(place) for place in np.linspace(0, records - 1, limit).round()]

    @property
    def shards(self) -> list[list[int]]:
        """The places that each shard holds."""
        places, size = self.positions, self.settings.shard_size
        return [places[start : start + size] for start in range(0, len(places), size)]

    def _text(self) -> str:
        settings = asdict(self.settings)
        if not self.settings.view:
            del settings["view"]
        content = {
            "format": FORMAT,
            "dataset": dict(self.dataset),
            "models": dict(self.models),
            "settings": settings,
        }
        return json.dumps(content, indent=2) + "\n"

    def claim(self, folder: Path) -> None:
        """Write this manifest into a folder, or find the same one there.

        Raises `TokensError` naming what differs from the manifest that is there, or when the folder holds
        something else. Safe when several processes start at once.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        if not path.exists():
            if any(folder.glob("shards/*.safetensors")):
                raise TokensError(f"shards with their {FILE_NAME} in {folder}", "shards alone", "empty it")
            partial = folder / f".{FILE_NAME}.{os.getpid()}"
            partial.write_text(self._text(), encoding="utf-8")
            try:
                os.link(partial, path)
            except FileExistsError:
                pass
            except OSError:
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        there = Manifest.read(folder)
        if there != self:
            raise TokensError(
                f"tokens of the same make in {folder}",
                "; ".join(_differences(there, self)),
                "choose another folder, or the settings it was begun with",
            )

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder. Raises `TokensError` when there is none, or one of another format."""
        path = folder / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise TokensError(f"the format {FORMAT}", f"{content['format']}", "make the tokens again")
            return cls(content["dataset"], content["models"], TokenSettings(**content["settings"]))
        except FileNotFoundError as error:
            raise TokensError(f"{FILE_NAME} in {folder}", "none", "make the tokens with usam tokens") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TokensError(f"a readable {path}", f"{error!r:.200}", "make the tokens again") from error


def _differences(there: Manifest, wanted: Manifest) -> list[str]:
    found = []
    for title in ("dataset", "models", "settings"):
        old, new = getattr(there, title), getattr(wanted, title)
        if title == "settings":
            old, new = asdict(old), asdict(new)
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                found.append(f"{title} {key}: {old.get(key)!r} there, {new.get(key)!r} wanted")
    return found
