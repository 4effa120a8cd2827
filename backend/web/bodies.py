"""Bodies of requests, parsed so that nobody else waits for it.

A parser holds the interpreter until it is done, in whatever thread it runs: 64 MB of `[]` would stop every route for
seconds and take gigabytes. So what costs time is counted first, in pieces between which others get their turn, and
a body that would cost too much is refused unparsed.
"""

from __future__ import annotations

import json
import time
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from backend.label_studio.records import loads
from usam.errors import UsamError

SMALL_BYTES = 64 * 1024
"""Bodies up to this are parsed where they arrive."""
PIECE_BYTES = 2**20
MAX_COUNTS = {b"[": 200_000, b"{": 200_000, b":": 200_000, b'"': 500_000, b"\\": 1_000_000, b",": 4_000_000}
"""Signs of a body by what they cost: the containers, keys and texts that would be made, and the numbers of masks'
run lengths, which are cheap. Signs within texts count too."""
Received = TypeVar("Received", bound=BaseModel)


class TooMuch(UsamError):
    """A body that would take too long to parse, or asks for too much at once."""


def read_message(kind: type[Received], raw: bytes) -> Received:
    """A request's body as a message. Raises `UsamError` that says what is wrong, without its content."""
    try:
        return kind.model_validate(parse_json(raw))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        got = f"{'.'.join(map(str, first['loc']))[:100] or 'something else'}: {first['msg']}"
        raise UsamError(f"a {kind.__name__}", got, "see /docs") from None
    except ValueError:
        raise UsamError("a body of JSON", f"{len(raw)} bytes of something else", "see /docs") from None


def parse_json(raw: bytes) -> Any:
    """The JSON value of a body; an empty one is `{}`.

    What only one task of many holds is that task's trouble: lone surrogates stay, the rest is as `records.loads`
    reads it.

    Raises `TooMuch` for one that would take long, `ValueError` for what is no JSON.
    """
    if len(raw) > SMALL_BYTES:
        check_cost(raw)
        try:
            return from_json(raw)
        except ValueError as error:
            if not any(sign in str(error) for sign in ("hex escape", "out of range", "recursion limit")):
                raise
    return loads(raw.decode("utf-8-sig", "surrogatepass") or "{}")


def check_cost(raw: bytes) -> None:
    """Raise `TooMuch` where parsing would hold up other requests for long. Lets them through while it counts."""
    left = dict(MAX_COUNTS)
    for start in range(0, len(raw), PIECE_BYTES):
        for sign in left:
            left[sign] -= raw.count(sign, start, start + PIECE_BYTES)
            if left[sign] < 0:
                raise TooMuch(
                    f"at most {MAX_COUNTS[sign]:,} {sign.decode()!r} in a body", "more", "send fewer tasks at once"
                )
        time.sleep(0)  # gives the interpreter to whoever waits for it


def takes(kind: type[BaseModel]) -> dict[str, Any]:
    """What OpenAPI says of a body that a route reads by itself."""
    schema = kind.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs", {})
    inlined = json.loads(json.dumps(schema))

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inline(definitions[node["$ref"].rpartition("/")[2]])
            return {key: inline(value) for key, value in node.items()}
        return [inline(value) for value in node] if isinstance(node, list) else node

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inline(inlined)}}}}
