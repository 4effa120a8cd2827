"""What the editor puts in place of a tag's value: variables of the labelling configuration, from a task's data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_VARIABLE = re.compile(r"\$[\w\[\].{}]+", re.ASCII)
"""What the editor takes from the task's data in a tag's value."""


def has_variable(value: str) -> bool:
    """Whether the editor takes something of a tag's value from the task's data."""
    return _VARIABLE.search(value) is not None


def task_value(source: str, data: Mapping[str, Any]) -> Any:
    """What the editor puts in place of a tag's value: `$image`, `$photos[1].url`, `https://host/$name`.

    A value that is a variable alone may be of any type, None where the task has nothing there. A key that is written
    just like the variable comes first.
    """
    if source.startswith("$") and source[1:] in data:
        return data[source[1:]]
    if _VARIABLE.fullmatch(source):
        return _lookup(source[1:], data)
    found = [_lookup(name[1:], data) for name in _VARIABLE.findall(source)]
    if not found or not all(isinstance(value, str | int) for value in found):
        return None
    parts = iter(found)
    return _VARIABLE.sub(lambda _: str(next(parts)), source)


def dynamic_labels(value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Each label of a task's own list by its value and its alias, and how the editor writes it."""
    if not isinstance(value, list) or depth > 8:
        return
    for label in value:
        if not isinstance(label, dict):
            continue
        names = [name for name in (label.get("value"), label.get("alias")) if isinstance(name, str) and name]
        yield from ((name, names[-1]) for name in names)
        yield from dynamic_labels(label.get("children"), depth + 1)


def _lookup(path: str, data: Mapping[str, Any]) -> Any:
    """The value at `photos[1].url` in a task's data; None where there is nothing."""
    found: Any = data
    for step in [path] if path in data else re.findall(r"[^.\[\]]+", path):
        if isinstance(found, dict):
            found = found.get(step)
        elif isinstance(found, list) and step.isdecimal() and len(step) < 10 and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    return found
