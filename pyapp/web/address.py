"""Requests as they are meant: without the prefix that a proxy puts in front, escaped slashes whole, HEAD as GET."""

import asyncio
import re
from urllib.parse import unquote, urlencode

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")
"""What the service may be found below."""


def base_of(request: Request) -> str:
    """Return what stands before every address of the service, as the client sees it."""
    found: str = request.scope.get("base", "")
    return found


def path_of(request: Request) -> str:
    """Return the path below that, as it was asked for: escaped."""
    path: bytes = request.scope["raw_path"]
    return path.decode("latin-1")


def again(request: Request, *dropped: str, **instead: str | None) -> str:
    """Write the address of the same request without some parameters, and with others instead."""
    kept = [pair for pair in request.query_params.multi_items() if pair[0] not in {*dropped, *instead}]
    asked = [*kept, *((name, value) for name, value in instead.items() if value)]
    return path_of(request) + (f"?{urlencode(asked)}" if asked else "")


def addressed(app: ASGIApp, base: str = "") -> ASGIApp:
    """Read the address of a request: below ``base``, else below what the header X-Forwarded-Prefix says.

    It makes no difference whether the proxy takes the prefix off.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode("latin-1").rstrip("/")
        scope["base"] = prefix = base or (given if PREFIX.fullmatch(given) else "")
        raw = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1").partition("?")[0]
        if prefix and (raw == prefix or raw.startswith(f"{prefix}/")):
            raw = raw[len(prefix) :] or "/"
        scope["raw_path"] = raw.encode("latin-1")
        # An escaped slash is no separator: keys may have any character. In the path, %2F and %25 are still escaped.
        scope["path"] = unquote(re.sub("%(2F|25)", r"%25\1", raw, flags=re.IGNORECASE))
        if scope["method"] != "HEAD":
            await app(scope, receive, send)
            return
        # Only the head is sent, after which the client counts as gone: a stream would never end.
        begun = asyncio.Event()

        async def left() -> Message:
            await begun.wait()
            return {"type": "http.disconnect"}

        async def head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                begun.set()

        # In a scope of its own: the server looks at the method to know that there is no body.
        asked = {**scope, "method": "GET"}
        try:
            await app(asked, left, head)
        finally:
            scope["route"] = asked.get("route")  # by which it is counted

    return answer
