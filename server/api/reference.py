"""GET /docs: the OpenAPI document as one plain page. No scripts and nothing from other hosts, so it works offline."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

Schema = dict[str, Any]

HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'", "cache-control": "no-cache"}
STYLE = """:root { color-scheme: light dark } body { font: 15px/1.5 sans-serif; max-width: 60rem; margin: 2rem auto }
code { background: #8881 } td { vertical-align: top; border-top: 1px solid #8883; padding-right: 1rem }"""


def router() -> APIRouter:
    """The page."""
    routes = APIRouter()

    @routes.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        """Written anew from `openapi()`, which is cached."""
        app: FastAPI = request.app
        prefix = request.scope.get("root_path", "")
        return Response(page(app.openapi(), prefix), headers=HEADERS, media_type="text/html")

    return routes


def page(document: Schema, prefix: str = "") -> str:
    """The whole page; `prefix` is the path under which the server is mounted."""
    info = document["info"]
    schemas = document.get("components", {}).get("schemas", {})
    operations = (
        part
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        for part in _operation(path, method, operation)
    )
    models = (part for name, schema in sorted(schemas.items()) for part in _model(name, schema))
    return "".join(
        [
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f"<title>{escape(info['title'])}</title><style>{STYLE}</style>",
            f"<h1>{escape(info['title'])}</h1><p>{escape(info.get('summary', ''))}. ",
            f'For programs: <a href="{escape(prefix)}/openapi.json">openapi.json</a></p><h2>Routes</h2>',
            *operations,
            "<h2>Objects</h2>",
            *models,
            "</html>",
        ]
    )


def _operation(path: str, method: str, operation: Schema) -> Iterator[str]:
    yield f"<details><summary><code>{escape(method.upper())} {escape(path)}</code> "
    yield f"{escape(operation.get('summary', ''))}</summary><p>{escape(operation.get('description', ''))}</p>"
    body = operation.get("requestBody", {}).get("content", {})
    yield "<table>"
    for kind, content in body.items():
        yield f"<tr><td>body<td>{escape(kind)}<td>{_type(content.get('schema', {}))}"
    for parameter in operation.get("parameters", ()):
        yield f"<tr><td>{escape(parameter['in'])}<td>{escape(parameter['name'])}<td>{_type(parameter['schema'])}"
    for status, response in operation.get("responses", {}).items():
        kinds = "; ".join(
            f"{escape(kind)} {_type(content.get('schema', {}))}"
            for kind, content in response.get("content", {}).items()
        )
        yield f"<tr><td>{escape(status)}<td>{escape(response.get('description', ''))}<td>{kinds}"
    yield "</table></details>"


def _model(name: str, schema: Schema) -> Iterator[str]:
    yield f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
    yield f"<p>{escape(schema.get('description', ''))}</p><table>"
    required = schema.get("required", ())
    for field, about in schema.get("properties", {}).items():
        needed = "required" if field in required else ""
        why = f"{needed} {escape(about.get('description', ''))}"
        yield f"<tr><td><code>{escape(field)}</code><td>{_type(about)}<td>{why}"
    yield "</table></details>"


def _type(schema: Schema) -> str:
    """A schema in a few words; named objects are links."""
    if reference := schema.get("$ref"):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if alternatives := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(_type, alternatives)))
    if "enum" in schema or "const" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema.get("enum", [schema.get("const")]))
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    kind = schema.get("type", "anything")
    bounds = [f"{word} {schema[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return escape(" ".join([kind if isinstance(kind, str) else " or ".join(kind), *bounds]))
