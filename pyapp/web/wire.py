"""From the database to the wire: values that reading does not fail on, whatever a writer stored, and JSON of them."""

import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any
from uuid import UUID

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader
from starlette.requests import Request
from starlette.responses import Response

# Stands in for JSON that goes through unparsed; nobody who writes to the database can know it.
_MARK = secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class RawJson:
    """JSON as the database wrote it: exact numbers, any depth, never parsed here."""

    text: str


class _JsonLoader(Loader):
    def load(self, data: Buffer) -> RawJson:
        return RawJson(bytes(data).decode())


class _TimeLoader(Loader):
    """Reads times of sessions in UTC, and moves those that Python has not into its range: infinity, BC, 10000."""

    def load(self, data: Buffer) -> datetime:
        text = bytes(data).decode()
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            limit = datetime.min if text.startswith("-") or text.endswith("BC") else datetime.max
            return limit.replace(tzinfo=UTC)


class _SentLoader(Loader):
    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def adapters(*, sent: bool = False) -> AdaptersMap:
    """Make the adapters that the service's connections use; ``sent``: which read JSON as it is sent."""
    made = AdaptersMap(psycopg.adapters)
    made.register_loader("timestamptz", _TimeLoader)
    made.register_loader("jsonb", _JsonLoader)
    if sent:
        made.register_loader("json", _SentLoader)
    return made


def encode(value: Any) -> bytes:
    """Encode as JSON: rows as objects, times ISO 8601, keys as text, JSON of the database as it is."""
    raw: list[str] = []

    def plain(part: Any) -> Any:
        if isinstance(part, RawJson):
            raw.append(part.text)
            return _MARK
        if is_dataclass(part):
            found = {field.name: getattr(part, field.name) for field in fields(part)}
            # Keys are text, whatever their type is.
            keys = {name: str(found[name]) for name in ("workflow_id", "parent_id") if found.get(name) is not None}
            return found | keys
        if isinstance(part, datetime):
            return part.isoformat()
        if isinstance(part, UUID):
            return str(part)
        if isinstance(part, Decimal):
            return float(part)
        raise TypeError(type(part))

    text = json.dumps(value, default=plain, ensure_ascii=False, separators=(",", ":"))
    if raw:
        first, *others = text.split(f'"{_MARK}"')
        text = first + "".join(json_text + other for json_text, other in zip(raw, others, strict=True))
    return text.encode("utf-8", "replace")


def as_array(rows: Iterable[bytes]) -> bytes:
    """Put JSON together to an array."""
    return b"[%s]" % b",".join(rows)


def event(name: str, value: Any) -> bytes:
    """Encode as a server-sent event, JSON as it is: it has no line breaks of its own."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), value if isinstance(value, bytes) else encode(value))


def respond(request: Request, value: Any, headers: dict[str, str] | None = None) -> Response:
    """Answer with JSON and an entity tag, or 304 where the client has that already."""
    body = value if isinstance(value, bytes) else encode(value)
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
