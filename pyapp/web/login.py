"""The form that asks a browser for the token."""

from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pyapp.web.address import base_of
from pyapp.web.html import render
from pyapp.web.parameters import OF_PAGES
from pyapp.web.security import COOKIE, same, session_of

router = APIRouter(include_in_schema=False, dependencies=OF_PAGES)
_LONGEST_BODY = 10_000  # bytes; nothing else reads any


@router.get("/login")
async def login(request: Request, next: str = "/") -> Response:
    """Show the form."""
    return render(request, "login.html", {"next": _local(next), "wrong": False})


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Take the token and set the cookie."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise HTTPException(413, "Request body too long")
    form = parse_qs(body.decode("utf-8", "replace"))
    given, target = form.get("token", [""])[0], _local(form.get("next", ["/"])[0])
    token, base = request.app.state.settings.token, base_of(request)
    response = RedirectResponse(base + target, 303)
    if token is None:
        return response
    if not same(given, token):
        return render(request, "login.html", {"next": target, "wrong": True}, 403)
    secure = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, session_of(token), 30 * 86400, path=base or "/", secure=secure, httponly=True, samesite="strict"
    )
    return response


def _local(target: str) -> str:
    """Return where to go after the login: a path on this server, nothing else."""
    safe = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if safe else "/"
