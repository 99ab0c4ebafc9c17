"""What /openapi.json says beside what FastAPI finds out: problems, events, who may read, what an adoption changes."""

from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any, get_args

from starlette.requests import Request

from pyapp.models import Priority
from pyapp.web.address import base_of
from pyapp.web.answers import PARENT
from pyapp.web.database import AWAY
from pyapp.web.shape import Shape
from pyapp.web.wire import Conn

_STRICT = [("format", "uuid"), ("pattern", PARENT), ("enum", list(get_args(Priority)))]
_WORKFLOW = {"$ref": "#/components/schemas/Workflow"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_EVENTS: dict[str, dict[str, Any]] = {
    "snapshot": {"type": "array", "items": _WORKFLOW},
    "workflow": _WORKFLOW,
    "deleted": _object(workflow_id={"type": "string"}),
    "ping": _object(at={"type": "string", "format": "date-time"}),
    "away": {"type": "object"},
    "standby": _object(lag_seconds={"type": ["number", "null"]}, following={"type": "boolean"})
    | {"type": ["object", "null"]},
}
STREAM = {
    "schema": {"type": "string"},
    # As OpenAPI 3.2 has it; older readers leave it out.
    "itemSchema": {
        "oneOf": [
            _object(
                event={"const": name},
                data={"type": "string", "contentMediaType": "application/json", "contentSchema": schema},
            )
            for name, schema in _EVENTS.items()
        ]
    },
}
"""What a live stream sends."""


async def describe(request: Request) -> dict[str, Any]:
    """Describe the API: what it answers, where it is, whether it wants a token, whether its tables were adopted."""
    app = request.app
    described: dict[str, Any] = deepcopy(app.openapi())
    for _, _, operation in operations(described):
        for answer in operation["responses"].values():
            content = answer.get("content", {})
            if content.get("application/json", {}).get("schema") == {"$ref": "#/components/schemas/Problem"}:
                content["application/problem+json"] = content.pop("application/json")
    described["servers"] = [{"url": base_of(request) or "/"}]
    if app.state.settings.token is not None:
        described["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"bearer": []}]
        for path in ("/healthz", "/readyz"):
            described["paths"][path]["get"]["security"] = []
    with suppress(*AWAY):
        if await app.state.database.ask(_is_adopted):
            described = _loosened(described)
    return described


async def _is_adopted(_: Conn, shape: Shape) -> bool:
    return not shape.has("workflow")


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Go through all operations: path, method, what is said of it."""
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _loosened(part: Any) -> Any:
    """Describe the same for an adoption: its keys and priorities are any text, and what it lacks is null."""
    if isinstance(part, list):
        return [_loosened(one) for one in part]
    if not isinstance(part, dict):
        return part
    found = {name: _loosened(value) for name, value in part.items() if (name, value) not in _STRICT}
    if isinstance(properties := found.get("properties"), dict) and "workflow_id" in properties:
        found["properties"] = {name: {"anyOf": [value, {"type": "null"}]} for name, value in properties.items()}
    return found
