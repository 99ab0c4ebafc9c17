"""The dashboard: three pages rendered here, which show the same numbers from the same views as the API."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, LiteralString, TypeVar
from urllib.parse import parse_qs, urlencode
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query
from fastapi.templating import Jinja2Templates
from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pyapp.web import charts, queries, text
from pyapp.web.api import Cursor, Text
from pyapp.web.security import COOKIE, local_path, same, session_of
from pyapp.web.types import Priority, Row, Sort, Status
from pyapp.web.wire import error

T = TypeVar("T")
router = APIRouter(include_in_schema=False)
_HERE = Path(__file__).parent
_PAGE = 50
_TASKS = 200
_EVENTS = 50
# A form sends a field that is left empty as well.
_GIVEN = BeforeValidator(lambda value: value or None)

# Those that failed and those at work come first: with thousands of tasks they would not be among the oldest.
_TASK_ROWS: LiteralString = (
    "select id, external_id, agent_type, stage, status, priority, created_at, started_at, completed_at, retry_count,"
    " left(result::text, 1000) as result from ("
    "(select a.*, 0 as place from public.agent_task as a where workflow_id = %(workflow)s and status = 'failed'"
    " order by created_at, id limit 50) union all"
    " (select a.*, 1 as place from public.agent_task as a where workflow_id = %(workflow)s"
    " and status in ('assigned', 'running') order by created_at, id limit 50) union all"
    " (select a.*, 2 as place from public.agent_task as a where workflow_id = %(workflow)s"
    " and status in ('pending', 'completed', 'cancelled') order by created_at, id limit 200)"
    ") as t order by place, created_at, id"
)
_AT_WORK: LiteralString = (
    "select count(*) as running from public.agent_task"
    " where workflow_id = %(workflow)s and status in ('assigned', 'running')"
)


def _asset(name: str) -> str:
    """Return where a file is, with a mark of its content, so that browsers do not show an old one."""
    content = (_HERE / "static" / name).read_bytes()
    return f"/static/{name}?v={hashlib.blake2b(content, digest_size=6).hexdigest()}"


_templates = Jinja2Templates(directory=_HERE / "templates")
_templates.env.trim_blocks = _templates.env.lstrip_blocks = True
_templates.env.globals |= {
    "asset": _asset,
    "bar": charts.bar,
    "parts": charts.parts,
    "state": charts.state,
    "burnup": charts.burnup,
    "stage_spans": charts.stage_spans,
}
_templates.env.filters |= text.FILTERS


@router.get("/")
def overview(request: Request) -> Response:
    """Show tiles, what is active, and what needs attention."""

    def read(conn: Any) -> dict[str, Any]:
        active, failed = queries.read_attention(conn)
        return {"active": active, "failed": failed, **queries.read_overview(conn)}

    return _render(request, "overview.html", _read(request, read))


@router.get("/workflows")
def workflows(
    request: Request,
    status: Annotated[Status | None, _GIVEN, Query()] = None,
    type: Annotated[Text | None, Query(max_length=500)] = None,
    priority: Annotated[Priority | None, _GIVEN, Query()] = None,
    name: Annotated[Text | None, Query(max_length=500)] = None,
    sort: Annotated[Sort, BeforeValidator(lambda value: value or "-created"), Query()] = "-created",
    cursor: Cursor = None,
) -> Response:
    """Show the list, filtered, sorted and paged."""
    chosen = {"status": status, "type": type, "priority": priority, "name": name}
    given = {key: value for key, value in chosen.items() if value}
    try:
        page, following = request.app.state.database.run(
            lambda conn: queries.list_page(
                conn,
                status=[status] if status else (),
                type=type,
                priority=priority,
                name=name,
                sort=sort,
                limit=_PAGE,
                cursor=cursor or None,
            )
        )
    except queries.BadCursor as problem:
        raise HTTPException(400, str(problem)) from None

    def to(**more: str) -> str:
        return f"/workflows?{urlencode({**given, **more})}"

    return _render(
        request,
        "workflows.html",
        {
            "workflows": page,
            "chosen": chosen,
            "filtered": bool(given),
            "sort": sort,
            "first": to(sort=sort) if cursor else None,
            "next": to(sort=sort, cursor=following) if following else None,
            "by": lambda order: to(sort=order),
        },
    )


@router.get("/workflows/{workflow_id}")
def workflow(request: Request, workflow_id: UUID) -> Response:
    """Show one workflow: bar, stages, tasks, burn-up and events."""

    def read(conn: Any) -> dict[str, Any]:
        found = queries.read_workflows(conn, [workflow_id])
        if not found:
            raise HTTPException(404, "Workflow not found")

        def rows(query: LiteralString, limit: int) -> list[Row]:
            return queries.list_rows(conn, query, workflow_id, limit=limit)

        return {
            "workflow": found[0],
            "running": rows(_AT_WORK, 1)[0]["running"],
            "stages": rows(queries.STAGES, 200),
            "tasks": rows(_TASK_ROWS, _TASKS),
            "events": rows(queries.EVENTS, _EVENTS),
            "points": rows(queries.BURNUP, 1000),
            "forecast": next(iter(rows(queries.FORECAST, 1)), None),
        }

    return _render(request, "workflow.html", _read(request, read))


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
    form = parse_qs((await request.body())[:10_000].decode("utf-8", "replace"))
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


def _read(request: Request, query: Callable[[Any], T]) -> T:
    """Read all that a page shows as of one moment, so that its numbers agree."""

    def read(conn: Any) -> T:
        with conn.transaction():
            conn.execute("set transaction isolation level repeatable read, read only")
            return query(conn)

    database = request.app.state.database
    found: T = database.run(read)
    return found


def _render(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    context = {"now": datetime.now(UTC), **context}
    return _templates.TemplateResponse(request, template, context, status_code=status, headers=headers)
