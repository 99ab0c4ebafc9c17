"""The dashboard: three pages rendered here, which show the same numbers from the same views as the API."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, LiteralString
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.templating import Jinja2Templates
from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pyapp.source import OWN, Source
from pyapp.web import charts, looks, paging, parts, queries, text
from pyapp.web.parameters import GIVEN, Cursor, Key, Text, after_position, known, run
from pyapp.web.security import COOKIE, local_path, same, session_of
from pyapp.web.types import Priority, Row, Sort, Status
from pyapp.web.wire import error

router = APIRouter(include_in_schema=False, dependencies=[Depends(after_position)])
_HERE = Path(__file__).parent
_PAGE = 50
_TASKS = 200
_EVENTS = 50
_TILES = ("running", "initiated", "paused", "completed", "failed", "cancelled")


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
    "burnup": charts.burnup,
    "stage_spans": charts.stage_spans,
}
_templates.env.filters |= text.FILTERS


@router.get("/")
def overview(request: Request) -> Response:
    """Show tiles, what is active, and what needs attention."""

    def read(conn: Any, source: Source) -> dict[str, Any]:
        active, failed = queries.read_attention(conn, source)
        found = queries.read_overview(conn, source)
        counts = {name.removesuffix("_workflows"): count for name, count in found["overview"].items()}
        total = counts.pop("total")
        tiles = {name: counts[name] for name in (_TILES if source is OWN else list(counts)[: len(_TILES)])}
        running = total - sum(count for name, count in counts.items() if name.lower() in source.settled)
        lists = {"active": active, "failed": failed, "source": source}
        return {"total": total, "tiles": tiles, "running": running, "agents": found["agents"], **lists}

    return _render(request, "overview.html", _read(request, read))


@router.get("/workflows")
def workflows(
    request: Request,
    status: Annotated[Text | None, GIVEN, Query()] = None,
    type: Annotated[Text | None, Query(max_length=500)] = None,
    priority: Annotated[Text | None, GIVEN, Query()] = None,
    name: Annotated[Text | None, Query(max_length=500)] = None,
    sort: Annotated[Sort, BeforeValidator(lambda value: value or "-created"), Query()] = "-created",
    cursor: Cursor = None,
) -> Response:
    """Show the list, filtered, sorted and paged."""
    status, priority = known(request, "status", Status, status), known(request, "priority", Priority, priority)
    chosen = {"status": status, "type": type, "priority": priority, "name": name}
    given = {key: value for key, value in chosen.items() if value}

    def read(conn: Any, source: Source) -> dict[str, Any]:
        page, following = paging.list_page(
            conn,
            source,
            status=[status] if status else (),
            type=type,
            priority=priority,
            name=name,
            sort=sort,
            limit=_PAGE,
            cursor=cursor or None,
        )
        return {"workflows": page, "following": following, "source": source}

    try:
        found = _read(request, read)
    except paging.BadCursor as problem:
        raise HTTPException(400, str(problem)) from None
    following = found.pop("following")

    def to(**more: str) -> str:
        return f"/workflows?{urlencode({**given, **more})}"

    return _render(
        request,
        "workflows.html",
        {
            **found,
            "chosen": chosen,
            "filtered": bool(given),
            "sort": sort,
            "first": to(sort=sort) if cursor else None,
            "next": to(sort=sort, cursor=following) if following else None,
            "by": lambda order: to(sort=order),
        },
    )


@router.get("/workflows/{workflow_id}")
def workflow(request: Request, workflow_id: Key) -> Response:
    """Show one workflow: bar, stages, tasks, burn-up and events."""

    def read(conn: Any, source: Source) -> dict[str, Any]:
        found = queries.read_workflows(conn, source, [workflow_id])
        if not found:
            raise HTTPException(404, "Workflow not found")

        def rows(query: LiteralString, limit: int) -> list[Row]:
            return parts.list_rows(conn, source, query, workflow_id, limit=limit)

        tasks, running = parts.list_for_page(conn, source, workflow_id, _TASKS)
        return {
            "source": source,
            "workflow": found[0],
            "running": running,
            "tasks": tasks,
            "stages": rows(parts.STAGES, 200),
            "events": rows(parts.EVENTS, _EVENTS),
            "points": rows(parts.BURNUP, 1000),
            "forecast": next(iter(rows(parts.FORECAST, 1)), None),
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


def _read(request: Request, query: Callable[[Any, Source], dict[str, Any]]) -> dict[str, Any]:
    """Read all that a page shows as of one moment, so that its numbers agree."""

    def read(conn: Any, source: Source) -> dict[str, Any]:
        with conn.transaction():
            conn.execute("set transaction isolation level repeatable read, read only")
            found = query(conn, source)
        return {**found, "standby": request.app.state.database.meter.measure(conn)}

    return run(request, read)


def _render(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    source = context.get("source", OWN)
    look = partial(looks.look, outcomes=source.outcomes)
    words = {
        "pair": source.name,
        "looks": json.dumps(looks.of(source.outcomes), ensure_ascii=False),
        "look": look,
        "task_look": partial(looks.look, outcomes=source.task_outcomes),
        # Who has no name is called by the key, where that is the application's.
        "called": lambda workflow: (
            text.shown(workflow["name"]) or (source.name and text.shown(workflow["id"])) or "unnamed"
        ),
        "state": lambda workflow: charts.state(workflow, look(workflow["status"])),
    }
    context = {"now": datetime.now(UTC), **words, **context}
    return _templates.TemplateResponse(request, template, context, status_code=status, headers=headers)
