"""Who may read, and what a browser may do with it."""

import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from urllib.parse import parse_qs, quote, unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyapp.web.address import base_of, path_of
from pyapp.web.wire import error

COOKIE = "agent_progress_session"
_OPEN = ("/healthz", "/readyz", "/login")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors "
)
# What a signed link to a workflow opens.
_BY_KEY = re.compile(r"/api/v1/workflows/([^/]+)(?:/stream)?|/workflows/([^/]+)/(?:badge\.svg|embed)")
_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def security_headers(app: ASGIApp, *, cross_origin: bool = False) -> ASGIApp:
    """Add the headers that keep a browser from running, framing or guessing anything.

    ``cross_origin`` lets pages elsewhere read answers, as CORS then allows.
    """
    headers = _HEADERS | ({"Cross-Origin-Resource-Policy": "cross-origin"} if cross_origin else {})

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = MutableHeaders(scope=message)
                # What may be framed says itself by whom.
                may_be_framed = "content-security-policy" in given
                for name, value in headers.items():
                    if not (may_be_framed and name == "X-Frame-Options"):
                        given.setdefault(name, value)
            await send(message)

        await app(scope, receive, with_headers if scope["type"] == "http" else send)

    return answer


def framed_by(origins: Sequence[str]) -> str:
    """Write the policy of a page that these origins, and the service itself, may frame."""
    return _POLICY + " ".join(["'self'", *origins])


def known_hosts(app: ASGIApp, host: str) -> ASGIApp:
    """Answer only where it is called by a name of its own: a page elsewhere may lead any other name here."""
    hosts = {"localhost", "127.0.0.1", "[::1]", host.lower(), f"[{host}]".lower()}

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        given = re.sub(r":\d+$", "", Headers(scope=scope).get("host", "")) if scope["type"] == "http" else "localhost"
        known = given.lower() in hosts
        await (app if known else error("Unknown host name in the request", 421))(scope, receive, send)

    return answer


def require_token(app: ASGIApp, token: str) -> ASGIApp:
    """Let nobody in without the token: as a bearer, or as the cookie that the login form sets."""

    def admits(headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given.strip(), token):
            return True
        return same(cookie_parser(headers.get("cookie", "")).get(COOKIE, ""), session_of(token))

    def opened_by_key(path: str, query: str) -> bool:
        found, (key,) = _BY_KEY.fullmatch(path), parse_qs(query).get("key", [""])[-1:]
        until = key.partition(".")[0]
        if not found or not (until.isascii() and until.isdigit() and time.time() < int(until[:12])):
            return False
        return same(key, key_of(token, unquote(found[1] or found[2]), int(until[:12])))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        is_open = scope["type"] != "http" or path in _OPEN or path.startswith("/static/")
        scope["admitted"] = scope["type"] == "http" and admits(Headers(scope=scope))
        if is_open or scope["admitted"] or opened_by_key(path, scope.get("query_string", b"").decode("latin-1")):
            await app(scope, receive, send)
            return
        if "text/html" in Headers(scope=scope).get("accept", ""):
            request = Request(scope)
            target = path_of(request) + (f"?{request.url.query}" if request.url.query else "")
            refusal: Response = RedirectResponse(f"{base_of(request)}/login?next={quote(target, safe='')}", 303)
        else:
            refusal = error("A token is needed: Authorization: Bearer ...", 401, {"WWW-Authenticate": "Bearer"})
        await refusal(scope, receive, send)

    return answer


def same(given: str, expected: str) -> bool:
    """Compare secrets in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode("utf-8", "surrogatepass"))


def session_of(token: str) -> str:
    """Derive the value of the cookie, so that the token itself is not kept in browsers."""
    return hmac.new(token.encode("utf-8", "surrogatepass"), b"agent-progress session", hashlib.sha256).hexdigest()


def key_of(token: str, workflow_id: str, until: int) -> str:
    """Derive the key of a link that opens one workflow, until a time in seconds since 1970."""
    said = f"agent-progress link {until} {workflow_id}".encode("utf-8", "surrogatepass")
    signed = hmac.new(token.encode("utf-8", "surrogatepass"), said, hashlib.sha256)
    return f"{until}.{signed.hexdigest()}"
