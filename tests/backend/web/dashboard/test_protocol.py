"""The protocol page says every route, parameter, body and answer, as one document that needs no network."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from backend.web.dashboard.protocol import _type, render_protocol
from tests.backend.web.dashboard.reading import Text


class Wish(BaseModel):
    """What is wished for."""

    name: str = Field(description="whose <wish>")
    count: int | None = None
    parts: list[int] = []


def document(**more: Any) -> dict[str, Any]:
    operation = {
        "summary": "Ask",
        "parameters": [{"name": "project", "in": "query", "schema": {"type": "integer"}}],
        "requestBody": {"content": {"application/json": {"schema": Wish.model_json_schema()}}},
        "responses": {
            "200": {
                "description": "Taken",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Wish"}}},
            },
            "413": {"description": "Too large"},
        },
    }
    return {
        "info": {"title": "usam", "version": "1.2"},
        "paths": {"/ask": {"post": {**operation, **more}}, "/health": {"get": {"responses": {}}}},
        "components": {"schemas": {"Wish": Wish.model_json_schema()}},
    }


def test_every_route_stands_with_its_method_and_text() -> None:
    page = render_protocol(document())
    text = Text(page)
    for words in ("usam 1.2", "POST /ask", "GET /health", "project (query)", "integer", "200", "413", "Too large"):
        assert words in text, words
    assert page.index("POST /ask") < page.index("GET /health"), "in the order of the description"


def test_a_routes_own_description_goes_before_its_name() -> None:
    assert "Ask" in Text(render_protocol(document()))
    text = Text(render_protocol(document(description="Asks for it.")))
    assert "Asks for it." in text
    assert "Ask" not in text.words


def test_a_body_is_a_table_of_its_fields_and_says_which_are_needed() -> None:
    text = Text(render_protocol(document()))
    for words in ("name (needed)", "whose <wish>", "integer or null", "list of integer", "What is wished for."):
        assert words in text, words
    assert "count (needed)" not in text


def test_an_answer_links_to_its_message() -> None:
    page = render_protocol(document())
    assert "#Wish" in Text(page).links
    assert '<h3 id="Wish">' in page


def test_nothing_of_the_description_becomes_markup_and_nothing_is_fetched() -> None:
    hostile = "<script src='https://evil.example'>&"
    page = render_protocol(document(description=hostile, parameters=[{"name": hostile, "in": hostile}]))
    text = Text(page)
    assert text.all("script") == []
    assert text.links == ["openapi.json", "#Wish"]
    assert hostile in text


def test_an_empty_description_is_a_page_too() -> None:
    assert "nothing 0" in Text(render_protocol({"info": {"title": "nothing", "version": "0"}}))


@pytest.mark.parametrize(
    ("schema", "html"),
    [
        ({"type": "string"}, "string"),
        ({}, "anything"),
        ({"type": "array"}, "list of anything"),
        ({"type": "array", "items": {"$ref": "#/x/Wish"}}, 'list of <a href="#Wish">Wish</a>'),
        ({"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "number"}}]}, "null or list of number"),
    ],
)
def test_a_type_reads_as_words(schema: dict[str, Any], html: str) -> None:
    assert _type(schema) == html
