"""The admin interface's OpenAPI 3.1 description, made from the records that it speaks.

`python -m controller.shell.openapi > docs/openapi.json` writes the copy that is kept.
"""

import sys
from functools import cache
from inspect import cleandoc
from typing import Any

import msgspec

from controller.shell.board import History, StudyView
from controller.shell.messages import Fault, Live, Me, Order, OrderState, Readiness

_SAID = (Fault, Live, Me, Order, OrderState, Readiness, History, StudyView)


@cache
def description() -> dict[str, Any]:
    """The description, as JSON values."""
    _, components = msgspec.json.schema_components(_SAID, ref_template="#/components/schemas/{name}")
    for schema in components.values():  # versions of msgspec differ in whether a docstring keeps its indent
        if "description" in schema:
            schema["description"] = cleandoc(schema["description"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Trimtab admin interface",
            "version": "1",
            "summary": "What a study does to live traffic, and orders to it",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths() -> dict[str, Any]:
    viewer = {
        "401": _told("No token, or one that is not known"),
        "421": _told("Another host's name"),
        "429": _told("Too many requests"),
    }
    order = {
        **viewer,
        "400": _told("No order"),
        "403": _told("A viewer's token, or another site's page"),
        "409": _told("An order for another study"),
        "413": _told("Too long"),
        "415": _told("Another content type than application/json"),
        "503": _told("The journal cannot be written"),
    }
    number = {"name": "id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 1}}
    return {
        "/livez": {"get": _open("livez", "The process answers", {"200": _said("Live", "It lives")})},
        "/readyz": {
            "get": _open(
                "readyz",
                "Whether the daemon works",
                {"200": _said("Readiness", "Ready"), "503": _said("Readiness", "Not ready, and why")},
            )
        },
        "/metrics": {"get": _open("metrics", "Prometheus metrics", {"200": _text("Metrics")})},
        "/api/v1/openapi.json": {"get": _open("openapi", "This description", {"200": _any("The description")})},
        "/api/v1/me": {"get": _closed("me", "Who the caller is", {"200": _said("Me", "Name and role"), **viewer})},
        "/api/v1/study": {
            "get": _closed(
                "study",
                "Where the study stands",
                {"200": _said("StudyView", "A snapshot"), "409": _told("Nothing was shown yet"), **viewer},
            )
        },
        "/api/v1/history": {
            "get": _closed(
                "history", "The newest decisions and events", {"200": _said("History", "Oldest first"), **viewer}
            )
        },
        "/api/v1/orders": {
            "post": _closed(
                "order",
                "Leave an order in the journal; the daemon obeys at its next poll. Operators only.",
                {"202": _said("OrderState", "It is safe in the journal"), **order},
            )
            | {"requestBody": {"required": True, "content": _content("Order")}}
        },
        "/api/v1/orders/{id}": {
            "get": _closed(
                "orderState",
                "What became of an order",
                {
                    "200": _said("OrderState", "What became of it"),
                    "404": _told("No such order"),
                    "503": _told("The journal cannot be read"),
                    **viewer,
                },
            )
            | {"parameters": [number]}
        },
    }


def _open(name: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"operationId": name, "summary": summary, "security": [], "responses": responses}


def _closed(name: str, summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    """With a token; on the daemon's machine and without any configured token, reading needs none."""
    security: list[dict[str, list[str]]] = [{"token": []}] if name == "order" else [{"token": []}, {}]
    return {"operationId": name, "summary": summary, "security": security, "responses": responses}


def _content(schema: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _said(schema: str, text: str) -> dict[str, Any]:
    return {"description": text, "content": _content(schema)}


def _told(text: str) -> dict[str, Any]:
    return _said("Fault", text)


def _text(text: str) -> dict[str, Any]:
    kinds = ("text/plain", "application/openmetrics-text")
    return {"description": text, "content": {kind: {"schema": {"type": "string"}} for kind in kinds}}


def _any(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"type": "object"}}}}


def text() -> str:
    """The description as the file that is kept."""
    return msgspec.json.format(msgspec.json.encode(description(), order="sorted"), indent=2).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
