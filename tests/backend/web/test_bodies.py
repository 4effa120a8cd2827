"""Bodies are judged by what parsing them would cost."""

from __future__ import annotations

import json
import math

import pytest

from backend.label_studio.messages import PredictRequest
from backend.web import bodies
from backend.web.bodies import SMALL_BYTES, TooMuch, parse_json, read_message
from usam.errors import UsamError

MIB = 2**20


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * (16 * MIB // 3) + b"[]]",
        b'{"tasks": [' + b"{}," * 1_000_000 + b"{}]}",
        b"[" + b'"",' * 1_000_000 + b'""]',
        b"{" + b",".join(b'"%d":1' % number for number in range(300_000)) + b"}",
        b'["' + rb"\n" * 4 * MIB + b'"]',
        b"[" + b"1," * 5_000_000 + b"1]",
    ],
    ids=["lists", "tasks", "texts", "keys", "escapes", "numbers"],
)
def test_what_would_take_long_is_not_parsed(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_: bytes) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(bodies, "from_json", parse)
    with pytest.raises(TooMuch, match="in a body"):
        read_message(PredictRequest, body)


def test_masks_and_pictures_of_many_megabytes_are_parsed() -> None:
    rle = [255, 0, 17] * 500_000
    task = {"id": 1, "data": {"image": "data:image/png;base64," + "A" * 8 * MIB}}
    message = {"tasks": [task], "params": {"context": {"result": [{"value": {"rle": rle}}]}}}
    request = read_message(PredictRequest, json.dumps(message).encode())
    assert request.params.context.result[0]["value"]["rle"] == rle
    assert request.tasks == [task]


def test_small_and_large_bodies_mean_the_same() -> None:
    value = {"a": [1, 2.5, "\u00e9\U0001f600", None, True, {"b": -(10**30)}]}
    raw = json.dumps(value).encode()
    assert parse_json(raw) == parse_json(raw + b" " * SMALL_BYTES) == value
    assert parse_json(b"") == {}


def test_what_one_item_holds_refuses_no_other() -> None:
    raw = b'{"tasks": [{"id": ' + b"9" * 5000 + b'}, {"id": -' + b"9" * 5000 + b'}, {"a": "\\ud800"}, {"id": 1}]}'
    for body in (raw, raw + b" " * SMALL_BYTES):
        assert parse_json(body) == {"tasks": [{"id": math.inf}, {"id": -math.inf}, {"a": "\ud800"}, {"id": 1}]}


@pytest.mark.parametrize("depth", [500, 100_000])
def test_what_is_nested_without_end_is_its_item_s_trouble(depth: int) -> None:
    raw = b'{"tasks": [{"id": 1, "data": ' + b"[" * depth + b"]" * depth + b'}, {"id": 2, "data": {"a": "]"}}]}'
    for body in (raw, raw + b" " * SMALL_BYTES):
        assert [task["id"] for task in read_message(PredictRequest, body).tasks] == [1, 2]


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 100_000, b"\xff\xfe", b"9" * 5000, b'["\\ud800"', b'{"tasks": "\\ud800"}']
)
def test_what_is_no_message_is_told_without_its_content(body: bytes) -> None:
    for raw in (body, b" " * SMALL_BYTES + body):
        with pytest.raises(UsamError, match="/docs"):
            read_message(PredictRequest, raw)
