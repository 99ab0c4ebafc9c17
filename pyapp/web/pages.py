"""The dashboard: three pages rendered here, which show the same numbers from the same views as the API."""

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, HTTPException, Path
from fastapi.templating import Jinja2Templates
from psycopg import AsyncConnection
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pyapp.models import WorkflowStatus
from pyapp.web import charts, filters, reads, tasks, text, trees, usual
from pyapp.web.address import base_of
from pyapp.web.database import AWAY
from pyapp.web.description import complete, operations
from pyapp.web.paging import list_page
from pyapp.web.parameters import Key, Wanted, after_position, ask, given_only, known_parameters
from pyapp.web.security import COOKIE, framed_by, local_path, same, session_of
from pyapp.web.shape import OURS, Shape
from pyapp.web.wire import error

router = APIRouter(
    include_in_schema=False, dependencies=[Depends(given_only), Depends(known_parameters), Depends(after_position)]
)
_HERE = FilePath(__file__).parent
_PAGE = 50
_ACTIVE = 20
_TASKS = 200
_EVENTS = 50
_LONGEST_BODY = 10_000  # bytes; nothing else reads any
_ADDRESS = re.compile(r'(?<= )(href|action|src)="/')
_TILES = ("running", "initiated", "paused", "completed", "failed", "cancelled")
_HUES = {
    "running": "#3b74e0",
    "paused": "#7c55c7",
    "completed": "#1d8a5b",
    "failed": "#d63a2f",
    "cancelled": "#a8741a",
    "other": "#7b818b",
}
_Percentage = Annotated[int, Path(ge=0, le=100)]


_MARK = hashlib.blake2b(b"".join(file.read_bytes() for file in sorted((_HERE / "static").iterdir())), digest_size=6)


def _asset(name: str) -> str:
    """Return where a file is, with a mark of what all contain, so that browsers do not mix old ones and new ones."""
    return f"/static/{_MARK.hexdigest()}/{name}"


def _called(workflow: Any) -> str:
    """Name a workflow: by its key where it has no name."""
    return text.shown(workflow.name) or text.shown(str(workflow.workflow_id))


_templates = Jinja2Templates(directory=_HERE / "templates")
_templates.env.autoescape = True  # icons and badges too
_templates.env.trim_blocks = _templates.env.lstrip_blocks = True
_templates.env.globals |= {
    "asset": _asset,
    "bar": charts.bar,
    "parts": charts.parts,
    "burnup": charts.burnup,
    "stage_spans": charts.stage_spans,
    "state": charts.state,
    "called": _called,
    "hues": _HUES,
}
_templates.env.filters |= text.FILTERS


def load_templates() -> None:
    """Compile the templates, which the first reader of each page would wait for."""
    for name in _templates.env.list_templates():
        _templates.env.get_template(name)


@router.get("/")
async def overview(request: Request) -> Response:
    """Show tiles, what is active, and what needs attention."""

    async def read(conn: AsyncConnection[Any], shape: Shape) -> dict[str, Any]:
        active, failed, forecasts = await reads.read_attention(conn, shape, _ACTIVE)
        found = json.loads(await reads.send_overview(conn, shape))
        counts = {status: found["overview"][f"{status}_workflows"] for status in _TILES}
        return {
            "total": found["overview"]["total_workflows"],
            "tiles": counts,
            "agents": found["agents"],
            "active": active,
            "waiting": await reads.count_active_roots(conn, shape) if len(active) == _ACTIVE else len(active),
            "failed": failed,
            "forecasts": forecasts,
        }

    return render(request, "overview.html", await read_page(request, read))


@router.get("/workflows")
async def workflows(request: Request, wanted: Annotated[Wanted, Depends()]) -> Response:
    """Show the list, filtered, sorted and paged: the workflows that no other started, unless asked for more.

    A search looks among all.
    """
    chosen = wanted
    within = None if wanted.parent == "all" else wanted.parent or (None if wanted.match else "none")
    wanted = replace(wanted, parent=within)

    async def read(conn: AsyncConnection[Any], shape: Shape) -> dict[str, Any]:
        above = None if within in (None, "none") else await reads.find_workflow(conn, shape, shape.key(within))
        said = await filters.searched(conn, shape, wanted.match) if wanted.match else None
        hidden = within == "none" and not chosen.parent and await filters.has_sub_workflows(conn, shape)
        page = await list_page(conn, shape, wanted, _PAGE)
        return {"page": page, "above": above, "searched": said, "hidden": hidden}

    found = await read_page(request, read)
    page = found.pop("page")
    given = request.query_params
    kept = [(name, value) for name, value in given.multi_items() if name not in ("cursor", "sort", "after_position")]

    def to(**more: str | None) -> str:
        at = [(name, value) for name, value in more.items() if value]
        return f"/workflows?{urlencode([*(pair for pair in kept if pair[0] not in more), *at])}"

    sort, again = wanted.sort, {"sort": wanted.sort, "cursor": wanted.cursor}
    more = {
        "workflows": page.rows,
        "chosen": chosen,
        "given": given,
        "filtered": bool(kept),
        "sort": sort,
        "first": to(sort=sort) if wanted.cursor else None,
        "previous": to(sort=sort, cursor=page.previous) if page.previous else None,
        "next": to(sort=sort, cursor=page.next) if page.next else None,
        "widened": to(sort=sort, parent="all"),
        "by": lambda order: to(sort=order),
        "here_again": to(**again),
        "list": f"api/v1{to(**again, parent=within, limit='200')}",
    }
    return render(request, "workflows.html", found | more)


@router.get("/workflows/{workflow_id}")
async def workflow(request: Request, workflow_id: Key) -> Response:
    """Show one workflow: bar, stages, tasks, burn-up and events."""

    async def read(conn: AsyncConnection[Any], shape: Shape) -> dict[str, Any]:
        key = shape.key(workflow_id)
        found = await reads.require_workflow(conn, shape, key)
        first, running = await tasks.read_first(conn, shape, key, _TASKS)
        summed, tree, path = None, None, []
        if trees.has_trees(shape):
            if (found.tree_workflows or 1) > 1:
                summed, tree = await trees.read_branches(conn, shape, key)
            path = await trees.read_path(conn, shape, key) if found.parent_id is not None else []
        return {
            "summed": summed,
            "tree": tree,
            "path": path,
            "workflow": found,
            "running": running,
            "tasks": first,
            "stages": await reads.read_part(conn, shape, key, reads.STAGES),
            "events": await reads.read_part(conn, shape, key, reads.EVENTS, _EVENTS),
            "points": await reads.read_part(conn, shape, key, reads.BURNUP),
            "slow": await usual.read_slow(conn, shape, found, datetime.now(UTC)),
            "forecast": next(iter(await reads.read_part(conn, shape, key, reads.FORECAST)), None),
            "archived_at": await reads.read_archived_at(conn, shape, found),
            "trace_url": request.app.state.settings.trace_url,
        }

    return render(request, "workflow.html", await read_page(request, read))


async def _one(request: Request, workflow_id: str) -> dict[str, Any]:
    async def read(conn: AsyncConnection[Any], shape: Shape) -> dict[str, Any]:
        return {"w": await reads.require_workflow(conn, shape, shape.key(workflow_id)), "words": shape.words}

    return await ask(request, read)


@router.get("/workflows/{workflow_id}/badge.svg")
async def badge(request: Request, workflow_id: Key) -> Response:
    """Draw a workflow as a badge, for pages elsewhere."""
    headers = {"Cache-Control": "no-cache", "Cross-Origin-Resource-Policy": "cross-origin"}
    context = await _one(request, workflow_id)
    return _templates.TemplateResponse(request, "badge.svg", context, headers=headers, media_type="image/svg+xml")


@router.get("/workflows/{workflow_id}/embed")
async def embed(request: Request, workflow_id: Key) -> Response:
    """Show a workflow as a bar, to be framed by pages of the origins that may."""
    response = render(request, "embed.html", await _one(request, workflow_id))
    response.headers["Content-Security-Policy"] = framed_by(request.app.state.settings.embed_origins)
    return response


@router.get("/icons/{status}-{percentage}.svg")
async def icon(request: Request, status: WorkflowStatus | Literal["silent"], percentage: _Percentage) -> Response:
    """Draw the icon of a workflow's page: a ring, since the security policy allows no other way to a changing one."""
    context = {"status": status, "percentage": percentage}
    headers = {"Cache-Control": "private, max-age=86400"}
    return _templates.TemplateResponse(request, "icon.svg", context, headers=headers, media_type="image/svg+xml")


@router.get("/favicon.ico")
async def favicon(request: Request) -> Response:
    """Lead browsers that ask for it to the icon."""
    return RedirectResponse(f"{base_of(request)}/static/favicon.svg", 301)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Show what the API takes and answers; FastAPI's own page has a script that the security policy forbids."""
    whole = await described(request)
    tags = groupby(operations(whole), lambda found: found[2]["tags"][0])
    context = {"api": whole, "tags": [(tag, list(found)) for tag, found in tags], "host": request.url.netloc}
    return render(request, "docs.html", context)


async def described(request: Request) -> dict[str, Any]:
    """Describe the API."""
    state = request.app.state
    try:
        adopted = not (await state.database.shape()).has("workflow")
    except AWAY:
        adopted = False
    whole = deepcopy(request.app.openapi())
    return complete(whole, base=base_of(request), guarded=state.settings.token is not None, adopted=adopted)


@router.get("/login")
async def login(request: Request, next: str = "/") -> Response:
    """Show the form that asks for the token."""
    return render(request, "login.html", {"next": local_path(next), "wrong": False})


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Take the token and set the cookie."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_BODY:
            raise HTTPException(413, "Request body too long")
    form = parse_qs(body.decode("utf-8", "replace"))
    given, target = form.get("token", [""])[0], local_path(form.get("next", ["/"])[0])
    token = request.app.state.settings.token
    if token is None:
        return RedirectResponse(base_of(request) + target, 303)
    if not same(given, token):
        return render(request, "login.html", {"next": target, "wrong": True}, 403)
    response = RedirectResponse(base_of(request) + target, 303)
    secure = request.url.scheme == "https"
    path = base_of(request) or "/"
    response.set_cookie(
        COOKIE, session_of(token), httponly=True, samesite="strict", secure=secure, max_age=30 * 86400, path=path
    )
    return response


def failure(request: Request, status: int, message: str, headers: dict[str, str]) -> Response:
    """Answer with an error: a page where a browser asks for one, else JSON."""
    if request.url.path.startswith(("/api/", "/metrics", "/readyz")) or "text/html" not in request.headers.get(
        "accept", ""
    ):
        return error(message, status, headers)
    response = render(request, "error.html", {"status": status, "message": message}, status)
    response.headers.update(headers)
    return response


async def read_page(
    request: Request, query: Callable[[AsyncConnection[Any], Shape], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    """Read all that a page shows as of one moment, so that its numbers agree."""

    async def read(conn: AsyncConnection[Any], shape: Shape) -> dict[str, Any]:
        async with conn.transaction():
            await conn.execute("set transaction isolation level repeatable read, read only")
            found = await query(conn, shape)
        return {**found, "shape": shape, "standby": await request.app.state.database.meter.measure(conn)}

    return await ask(request, read)


def render(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    """Answer with a page."""
    schema = request.app.state.settings.schema
    words = context["shape"].words if "shape" in context else OURS
    context = {"now": datetime.now(UTC), "schema": None if schema == "public" else schema, "words": words, **context}
    html = _templates.get_template(template).render(request=request, **context)
    if base := base_of(request):
        # Every quote in a text is escaped: this is found in markup only.
        html = _ADDRESS.sub(rf'\1="{base}/', html)
    return HTMLResponse(html, status, {"Cache-Control": "no-store"})
