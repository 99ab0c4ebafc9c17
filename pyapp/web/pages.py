"""The dashboard: three pages rendered here, which show the same numbers from the same views as the API."""

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query
from fastapi.templating import Jinja2Templates
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pyapp.web import charts, queries
from pyapp.web.security import COOKIE, local_path, same, session_of
from pyapp.web.types import Priority, Row, Sort, Status
from pyapp.web.wire import error

router = APIRouter(include_in_schema=False)
_templates = Jinja2Templates(directory=Path(__file__).parent / "templates")
_templates.env.globals |= {"bar": charts.bar, "burnup": charts.burnup}
_templates.env.filters |= {"moment": charts.moment, "iso": charts.iso, "until": charts.until}
_PAGE = 50
_TASKS = 200


@router.get("/")
def overview(request: Request) -> Response:
    """Show tiles, what is active, and what needs attention."""

    def read(conn: Any) -> dict[str, Any]:
        active, failed = queries.read_attention(conn)
        return {"active": active, "failed": failed, **queries.read_overview(conn)}

    return _render(request, "overview.html", request.app.state.database.run(read))


@router.get("/workflows")
def workflows(
    request: Request,
    status: Annotated[Status | None, Query()] = None,
    type: Annotated[str | None, Query(max_length=500, pattern=r"^[^\x00]*$")] = None,
    priority: Annotated[Priority | None, Query()] = None,
    name: Annotated[str | None, Query(max_length=500, pattern=r"^[^\x00]*$")] = None,
    sort: Annotated[Sort, Query()] = "-created",
    cursor: Annotated[str | None, Query(max_length=4000)] = None,
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
                cursor=cursor,
            )
        )
    except queries.BadCursor as problem:
        raise HTTPException(400, str(problem)) from None
    return _render(
        request,
        "workflows.html",
        {
            "workflows": page,
            "chosen": chosen,
            "sort": sort,
            "first": f"?{urlencode({**given, 'sort': sort})}" if cursor else None,
            "next": f"?{urlencode({**given, 'sort': sort, 'cursor': following})}" if following else None,
            "by": lambda order: f"?{urlencode({**given, 'sort': order})}",
        },
    )


@router.get("/workflows/{workflow_id}")
def workflow(request: Request, workflow_id: UUID) -> Response:
    """Show one workflow: bar, stages, tasks, burn-up and events."""

    def read(conn: Any) -> dict[str, Any]:
        found = queries.read_workflows(conn, [workflow_id])
        if not found:
            raise HTTPException(404, "Workflow not found")

        def rows(query: Any, limit: int) -> list[Row]:
            return queries.list_rows(conn, query, workflow_id, limit=limit)

        return {
            "workflow": found[0],
            "stages": rows(queries.STAGES, 200),
            "tasks": rows(queries.TASKS, _TASKS),
            "events": rows(queries.EVENTS, 50),
            "points": rows(queries.BURNUP, 1000),
            "forecast": next(iter(rows(queries.FORECAST, 1)), None),
        }

    return _render(request, "workflow.html", request.app.state.database.run(read))


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


def _render(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return _templates.TemplateResponse(request, template, context, status_code=status, headers=headers)
