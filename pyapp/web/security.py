"""Who may read, and what a browser may do with it."""

import hashlib
import hmac
import re
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyapp.web.wire import error

COOKIE = "agent_progress_session"
_LONGEST_BODY = 10_000  # bytes; only the login form sends any
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class SecurityHeaders:
    """Adds the headers that keep a browser from running, framing or guessing anything."""

    def __init__(self, app: ASGIApp, *, cross_origin: bool = False) -> None:
        """Wrap an application; ``cross_origin`` lets pages elsewhere read answers, as CORS then allows."""
        self._app = app
        self._headers = _HEADERS | ({"Cross-Origin-Resource-Policy": "cross-origin"} if cross_origin else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


class LimitBody:
    """Refuses requests with a long body, which nobody may make the service keep."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and watch what is read of it."""
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > _LONGEST_BODY:
                raise HTTPException(413, "Request body too long")
            return message

        await self._app(scope, limited if scope["type"] == "http" else receive, send)


class KnownHosts:
    """Answers only where it is called by a name of its own: a page elsewhere may lead any other name here."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        """Wrap an application that listens on this host."""
        self._app = app
        self._hosts = {"localhost", "127.0.0.1", "[::1]", host.lower(), f"[{host}]".lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        host = re.sub(r":\d+$", "", Headers(scope=scope).get("host", "")) if scope["type"] == "http" else "localhost"
        app = self._app if host.lower() in self._hosts else error("Unknown host name in the request", 421)
        await app(scope, receive, send)


class RequireToken:
    """Lets nobody in without the token: as a bearer, or as the cookie that the login form sets."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        """Wrap an application."""
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        path = scope.get("path", "")
        is_open = path in ("/healthz", "/login") or path.startswith("/static/")
        if scope["type"] != "http" or is_open or self._admits(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        if "text/html" in Headers(scope=scope).get("accept", ""):
            refusal: Response = RedirectResponse(f"/login?next={quote(_target(Request(scope)), safe='')}", 303)
        else:
            refusal = error("A token is needed: Authorization: Bearer ...", 401, {"WWW-Authenticate": "Bearer"})
        await refusal(scope, receive, send)

    def _admits(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given.strip(), self._token):
            return True
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        return same(cookie, session_of(self._token))


def same(given: str, expected: str) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))


def session_of(token: str) -> str:
    """Derive the value of the cookie, so that the token itself is not kept in browsers."""
    return hmac.new(token.encode("utf-8", "surrogatepass"), b"agent-progress session", hashlib.sha256).hexdigest()


def local_path(target: str) -> str:
    """Return where to go after the login: a path on this server, nothing else."""
    safe = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if safe else "/"


def _target(request: Request) -> str:
    # As it was asked for: escaped.
    path: str = request.scope.get("raw_path", b"").decode("latin-1") or request.url.path
    return path + (f"?{request.url.query}" if request.url.query else "")
