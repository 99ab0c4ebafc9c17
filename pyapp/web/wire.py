"""From the database to the wire: values that reading does not fail on, whatever a writer stored, and JSON of them."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.abc import Buffer, Params
from psycopg.adapt import AdaptersMap, Loader
from psycopg.rows import scalar_row
from psycopg.types.string import TextLoader
from starlette.requests import Request
from starlette.responses import Response

from pyapp.both import TimeLoader

Conn: TypeAlias = AsyncConnection[Any]
Query: TypeAlias = LiteralString | bytes | sql.SQL | sql.Composed


class _SentLoader(Loader):
    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def adapters() -> AdaptersMap:
    """Make the adapters that the service's connections use: json is what is sent, jsonb is text. None is parsed."""
    made = AdaptersMap(psycopg.adapters)
    made.register_loader("timestamptz", TimeLoader)
    made.register_loader("json", _SentLoader)
    made.register_loader("jsonb", TextLoader)
    return made


async def fetch_values(conn: Conn, query: Query, values: Params = ()) -> list[Any]:
    """Read the first column of all rows."""
    reader = conn.cursor(row_factory=scalar_row)
    return await (await reader.execute(query, values)).fetchall()


def encode(value: Any) -> bytes:
    """Encode as JSON: rows as objects, times ISO 8601, keys as text."""
    return json.dumps(value, default=_plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _plain(part: Any) -> Any:
    if is_dataclass(part) and not isinstance(part, type):
        found = asdict(part)
        # Keys are text, whatever their type is.
        return found | {name: str(found[name]) for name in ("workflow_id", "parent_id") if found.get(name) is not None}
    return part.isoformat() if isinstance(part, datetime) else str(part)


def as_array(rows: Iterable[bytes]) -> bytes:
    """Put JSON together to an array."""
    return b"[%s]" % b",".join(rows)


def event(name: str, value: Any) -> bytes:
    """Encode as a server-sent event, JSON as it is: it has no line breaks of its own."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), value if isinstance(value, bytes) else encode(value))


def respond(request: Request, body: bytes, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON and an entity tag, or 304 where the client has that already."""
    tag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"} | (headers or {})
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag.removeprefix("W/") in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def error(message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Answer with an error as JSON: problem details (RFC 9457), and ``error`` beside them."""
    headers = {"Cache-Control": "no-store"} | (headers or {})
    told = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": message}
    return Response(encode({**told, "error": message}), status, headers, "application/problem+json")
