"""JSON for the wire, with entity tags."""

import hashlib
import json
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response


def encode(value: Any) -> bytes:
    """Encode as JSON: times ISO 8601, ids as text."""
    return json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def respond(request: Request, value: Any, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON and an entity tag, or 304 where the client has that already."""
    body = encode(value)
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache"} | (headers or {})
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def error(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Answer with an error as JSON."""
    return Response(encode({"error": message}), status, headers, "application/json")


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(type(value))
