"""What the editor puts in place of a tag's value."""

from __future__ import annotations

from typing import Any

import pytest

from backend.label_studio.task_values import dynamic_labels, has_variable, task_value

DATA: dict[str, Any] = {"image": "a.png", "photos": [{"url": "b.png"}, {"url": 7}], "a.b": "c", "list": [1]}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("$image", "a.png"),
        ("$photos[0].url", "b.png"),
        ("$a.b", "c"),
        ("https://host/$image?n=$photos[1].url", "https://host/a.png?n=7"),
        ("https://host/$list", None),
        ("$list", [1]),
        ("$photos[9].url", None),
        ("$nothing", None),
        ("plain", None),
    ],
)
def test_variables_are_looked_up_as_the_editor_does(source: str, value: object) -> None:
    assert task_value(source, DATA) == value
    assert has_variable(source) == (source != "plain")


def test_labels_of_a_task_are_found_by_value_and_by_alias_at_any_depth() -> None:
    value = [{"value": "cat", "alias": "c"}, "no label", {"children": [{"value": "dog"}]}]
    assert list(dynamic_labels(value)) == [("cat", "c"), ("c", "c"), ("dog", "dog")]
