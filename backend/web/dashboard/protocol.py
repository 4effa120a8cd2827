"""The protocol as HTML, from the service's own OpenAPI: one document without scripts that needs no network."""

from __future__ import annotations

import json
from html import escape
from typing import Any

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem }
h1 { font-size: 1.3rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem }
h3 { font-size: .95rem; margin: 1.1rem 0 .2rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #8886; vertical-align: top }
th { font-weight: 600 } p { margin: .3rem 0 } pre { overflow-x: auto }
"""


def render_protocol(document: dict[str, Any]) -> str:
    """The document. `document` is an OpenAPI description as `FastAPI.openapi` gives it."""
    schemas = document.get("components", {}).get("schemas", {})
    routes = "".join(
        _route(method.upper(), path, operation)
        for path, operations in document.get("paths", {}).items()
        for method, operation in operations.items()
    )
    messages = "".join(f'<h3 id="{escape(name)}">{escape(name)}</h3>{_schema(schemas[name])}' for name in schemas)
    title = f"{document['info']['title']} {document['info']['version']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1><p>{escape(document['info'].get('description', ''))}</p>"
        f'<p class="quiet"><a href="openapi.json">the same for programs (OpenAPI)</a></p>{routes}'
        f"<h2>Messages</h2>{messages}</body></html>"
    )


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [
        (f"{parameter['name']} ({parameter['in']})", _type(parameter.get("schema", {})))
        for parameter in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answers = [(str(status), _answer(answer)) for status, answer in operation.get("responses", {}).items()]
    text = escape(operation.get("description") or operation.get("summary", ""))
    return (
        f"<h2>{method} {escape(path)}</h2><p>{text}</p>"
        + (_table("parameter", "type", rows) if rows else "")
        + (f"<h3>Body</h3>{_schema(body)}" if body else "")
        + _table("status", "answer", answers)
    )


def _answer(answer: dict[str, Any]) -> str:
    schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
    return " ".join(part for part in (escape(answer.get("description", "")), _type(schema) if schema else "") if part)


def _schema(schema: dict[str, Any]) -> str:
    properties = schema.get("properties")
    if properties is None:
        return f"<pre>{escape(json.dumps(schema, indent=2))}</pre>"
    needed = schema.get("required", ())
    rows = [
        (name + (" (needed)" if name in needed else ""), _type(field) + " " + escape(field.get("description", "")))
        for name, field in properties.items()
    ]
    text = f"<p>{escape(schema['description'])}</p>" if "description" in schema else ""
    return text + (_table("field", "what", rows) if rows else "")


def _type(schema: dict[str, Any]) -> str:
    if reference := schema.get("$ref", ""):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if options := schema.get("anyOf"):
        return " or ".join(map(_type, options))
    if schema.get("type") == "array":
        return "list of " + _type(schema.get("items", {}))
    return escape(str(schema.get("type", "anything")))


def _table(first: str, second: str, rows: list[tuple[str, str]]) -> str:
    """`rows` are a text and a piece of HTML each."""
    body = "".join(f"<tr><td><code>{escape(name)}</code></td><td>{html}</td></tr>" for name, html in rows)
    return f"<table><tr><th>{first}</th><th>{second}</th></tr>{body}</table>"
