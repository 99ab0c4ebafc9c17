"""The dashboard: three pages rendered here, which show the same numbers from the same views as the API."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, HTTPException, Path, Query
from fastapi.templating import Jinja2Templates
from psycopg import Connection
from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pyapp.models import WorkflowStatus
from pyapp.web import charts, reads, text, trees
from pyapp.web.paging import Sort, Wanted, list_page
from pyapp.web.parameters import Cursor, Key, Text, after_position, run
from pyapp.web.security import COOKIE, local_path, same, session_of
from pyapp.web.shape import Shape
from pyapp.web.wire import error

router = APIRouter(include_in_schema=False, dependencies=[Depends(after_position)])
_HERE = FilePath(__file__).parent
_PAGE = 50
_ACTIVE = 20
_TASKS = 200
_EVENTS = 50
_LONGEST_BODY = 10_000  # bytes; nothing else reads any
_TILES = ("running", "initiated", "paused", "completed", "failed", "cancelled")
# A form sends a field that is left empty as well.
_GIVEN = BeforeValidator(lambda value: value or None)
_Given = Annotated[Text | None, _GIVEN, Query()]
_Percentage = Annotated[int, Path(ge=0, le=100)]


_MARK = hashlib.blake2b(b"".join(file.read_bytes() for file in sorted((_HERE / "static").iterdir())), digest_size=6)


def _asset(name: str) -> str:
    """Return where a file is, with a mark of what all contain, so that browsers do not mix old ones and new ones."""
    return f"/static/{_MARK.hexdigest()}/{name}"


def _called(workflow: Any) -> str:
    """Name a workflow: by its key where it has no name."""
    return text.shown(workflow.name) or text.shown(str(workflow.workflow_id))


_templates = Jinja2Templates(directory=_HERE / "templates")
_templates.env.trim_blocks = _templates.env.lstrip_blocks = True
_templates.env.globals |= {
    "asset": _asset,
    "bar": charts.bar,
    "parts": charts.parts,
    "burnup": charts.burnup,
    "stage_spans": charts.stage_spans,
    "state": charts.state,
    "called": _called,
}
_templates.env.filters |= text.FILTERS


@router.get("/")
def overview(request: Request) -> Response:
    """Show tiles, what is active, and what needs attention."""

    def read(conn: Connection[Any], shape: Shape) -> dict[str, Any]:
        active, failed, forecasts = reads.read_attention(conn, shape, _ACTIVE)
        found = reads.read_overview(conn, shape)
        counts = {status: found["overview"][f"{status}_workflows"] for status in _TILES}
        return {
            "total": found["overview"]["total_workflows"],
            "tiles": counts,
            "agents": found["agents"],
            "active": active,
            "waiting": reads.count_active_roots(conn, shape) if len(active) == _ACTIVE else len(active),
            "failed": failed,
            "forecasts": forecasts,
        }

    return _render(request, "overview.html", _read(request, read))


@router.get("/workflows")
def workflows(
    request: Request,
    status: Annotated[WorkflowStatus | None, _GIVEN, Query()] = None,
    type: _Given = None,
    priority: _Given = None,
    name: _Given = None,
    parent: _Given = None,
    sort: Annotated[Sort, BeforeValidator(lambda value: value or "-created"), Query()] = "-created",
    cursor: Cursor = None,
) -> Response:
    """Show the list, filtered, sorted and paged: the workflows that no other started, unless ``parent`` says more."""
    chosen = {"status": status, "type": type, "priority": priority, "name": name, "parent": parent}
    given = {key: value for key, value in chosen.items() if value}
    within = None if parent == "all" else parent or "none"
    wanted = Wanted([status] if status else (), type, priority, name, within, sort, _PAGE, cursor or None)

    def read(conn: Connection[Any], shape: Shape) -> dict[str, Any]:
        above = None if within in (None, "none") else reads.find_workflow(conn, shape, shape.key(within))
        return {"page": list_page(conn, shape, wanted), "above": above}

    found = _read(request, read)
    page, following = found.pop("page")

    def to(path: str = "/workflows", **more: Any) -> str:
        return f"{path}?{urlencode({**given, **more})}"

    at = {"sort": sort, **({"cursor": cursor} if cursor else {})}

    listed = {name: value for name, value in (given | {"parent": within} | at | {"limit": 200}).items() if value}
    more = {
        "workflows": page,
        "chosen": chosen,
        "filtered": bool(given),
        "sort": sort,
        "first": to(sort=sort) if cursor else None,
        "next": to(sort=sort, cursor=following) if following else None,
        "widened": to(sort=sort, parent="all"),
        "by": lambda order: to(sort=order),
        "here_again": to(**at),
        "list": f"api/v1/workflows?{urlencode(listed)}",
    }
    return _render(request, "workflows.html", found | more)


@router.get("/workflows/{workflow_id}")
def workflow(request: Request, workflow_id: Key) -> Response:
    """Show one workflow: bar, stages, tasks, burn-up and events."""

    def read(conn: Connection[Any], shape: Shape) -> dict[str, Any]:
        key = shape.key(workflow_id)
        found = reads.find_workflow(conn, shape, key)
        if found is None:
            raise HTTPException(404, "Workflow not found")
        tasks, running = reads.read_page_of_tasks(conn, shape, key, _TASKS)
        summed, tree, path = None, None, []
        if trees.has_trees(shape):
            if (found.tree_workflows or 1) > 1:
                summed, tree = trees.read_branches(conn, shape, key)
            path = trees.read_path(conn, shape, key) if found.parent_id is not None else []
        return {
            "summed": summed,
            "tree": tree,
            "path": path,
            "workflow": found,
            "running": running,
            "tasks": tasks,
            "stages": reads.read_part(conn, shape, key, reads.STAGES),
            "events": reads.read_part(conn, shape, key, reads.EVENTS, _EVENTS),
            "points": reads.read_burnup(conn, shape, key),
            "forecast": reads.read_forecast(conn, shape, key),
        }

    return _render(request, "workflow.html", _read(request, read))


@router.get("/icons/{status}-{percentage}.svg")
def icon(request: Request, status: WorkflowStatus | Literal["silent"], percentage: _Percentage) -> Response:
    """Draw the icon of a workflow's page: a ring, since the security policy allows no other way to a changing one."""
    context = {"status": status, "percentage": percentage}
    headers = {"Cache-Control": "private, max-age=86400"}
    return _templates.TemplateResponse(request, "icon.svg", context, headers=headers, media_type="image/svg+xml")


@router.get("/favicon.ico")
def favicon() -> Response:
    """Lead browsers that ask for it to the icon."""
    return RedirectResponse("/static/favicon.svg", 301)


@router.get("/login")
def login(request: Request, next: str = "/") -> Response:
    """Show the form that asks for the token."""
    return _render(request, "login.html", {"next": local_path(next), "wrong": False})


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
        return RedirectResponse(target, 303)
    if not same(given, token):
        return _render(request, "login.html", {"next": target, "wrong": True}, 403)
    response = RedirectResponse(target, 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, session_of(token), httponly=True, samesite="strict", secure=secure, max_age=30 * 86400)
    return response


def failure(request: Request, status: int, message: str, headers: dict[str, str]) -> Response:
    """Answer with an error: a page where a browser asks for one, else JSON."""
    path = request.url.path
    if path.startswith(("/api/", "/metrics", "/readyz")) or "text/html" not in request.headers.get("accept", ""):
        return error(message, status, headers)
    response = _render(request, "error.html", {"status": status, "message": message}, status)
    response.headers.update(headers)
    return response


def _read(request: Request, query: Callable[[Connection[Any], Shape], dict[str, Any]]) -> dict[str, Any]:
    """Read all that a page shows as of one moment, so that its numbers agree."""

    def read(conn: Connection[Any], shape: Shape) -> dict[str, Any]:
        with conn.transaction():
            conn.execute("set transaction isolation level repeatable read, read only")
            found = query(conn, shape)
        return {**found, "shape": shape, "standby": request.app.state.database.meter.measure(conn)}

    return run(request, read)


def _render(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    schema = request.app.state.settings.schema
    context = {"now": datetime.now(UTC), "schema": None if schema == "public" else schema, **context}
    headers = {"Cache-Control": "no-store"}
    return _templates.TemplateResponse(request, template, context, status_code=status, headers=headers)
