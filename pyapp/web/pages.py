"""The dashboard, which shows the same numbers from the same views as the API."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import groupby, islice
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pyapp.models import WorkflowStatus
from pyapp.web import filters, gantt, reads, tasks, trees
from pyapp.web.address import again, base_of
from pyapp.web.cursors import Page
from pyapp.web.description import describe, operations
from pyapp.web.html import render, show
from pyapp.web.paging import list_page
from pyapp.web.parameters import OF_PAGES, Key, Wanted, WantedTasks, ask
from pyapp.web.security import framed_by
from pyapp.web.shape import Shape
from pyapp.web.wire import Conn

router = APIRouter(include_in_schema=False, dependencies=OF_PAGES)
_ACTIVE = 20
_WORKFLOWS = 50  # on a page
_TASKS = 100
_FIRST_TASKS = 200
_EVENTS = 50
_TYPES = 50
_TILES = ("running", "initiated", "paused", "completed", "failed", "cancelled")
_ONE = "/workflows/{workflow_id}"


@router.get("/")
async def overview(request: Request) -> Response:
    """Show tiles, what is active, and what needs attention."""

    async def read(conn: Conn, shape: Shape) -> dict[str, Any]:
        active, failed, forecasts = await reads.read_attention(conn, shape, _ACTIVE)
        found = json.loads(await reads.send_overview(conn, shape))
        waiting = await reads.count_roots(conn, shape) if len(active) == _ACTIVE else len(active)
        return {
            "total": found["overview"]["total_workflows"],
            "tiles": {status: found["overview"][f"{status}_workflows"] for status in _TILES},
            "agents": found["agents"],
            "active": active,
            "waiting": waiting,
            "failed": failed,
            "forecasts": forecasts,
        }

    return await show(request, "overview.html", read)


@router.get("/workflows")
async def workflows(request: Request, wanted: Annotated[Wanted, Depends()]) -> Response:
    """Show the list, filtered, sorted and paged: the workflows that no other started, unless asked for more.

    A search looks among all.
    """
    within = None if wanted.parent == "all" else wanted.parent or (None if wanted.match else "none")
    to = partial(again, request, "cursor", "sort", "after_position")

    async def read(conn: Conn, shape: Shape) -> dict[str, Any]:
        hidden = within == "none" and not wanted.parent and await filters.has_sub_workflows(conn, shape)
        page = await list_page(conn, shape, replace(wanted, parent=within), _WORKFLOWS)
        above = []
        if within not in (None, "none"):
            above = await reads.read_workflow(conn, shape, shape.key(within))
        return {
            "above": above[0] if above else None,
            "searched": await filters.searched(conn, shape, wanted.match) if wanted.match else None,
            "hidden": hidden,
            "workflows": page.rows,
            "chosen": wanted,
            "given": request.query_params,
            "filtered": to() != "/workflows",
            "sort": wanted.sort,
            "by": lambda order: to(sort=order),
            "widened": to(sort=wanted.sort, parent="all"),
            "here_again": to(sort=wanted.sort, cursor=wanted.cursor),
            "list": f"api/v1{to(sort=wanted.sort, cursor=wanted.cursor, parent=within, limit='200')}",
            **_beside(page, wanted.cursor, partial(to, sort=wanted.sort)),
        }

    return await show(request, "workflows.html", read)


def _beside(page: Page, cursor: str | None, to: Callable[..., str]) -> dict[str, str | None]:
    """Write the addresses of the pages beside one of a list."""
    return {
        "first": to() if cursor else None,
        "previous": page.previous and to(cursor=page.previous),
        "next": page.next and to(cursor=page.next),
    }


@router.get(_ONE)
async def workflow(request: Request, workflow_id: Key) -> Response:
    """Show one workflow: bar, stages, tasks, burn-up and events."""

    async def read(conn: Conn, shape: Shape) -> dict[str, Any]:
        key = shape.key(workflow_id)
        found = await reads.require_workflow(conn, shape, key)
        first, running = await tasks.read_first(conn, shape, key, _FIRST_TASKS)
        summed, tree = await trees.read_branches(conn, shape, key) if (found.tree_workflows or 1) > 1 else (None, None)
        return {
            "summed": summed,
            "tree": tree,
            "path": await trees.read_path(conn, shape, key) if found.parent_id is not None else [],
            "workflow": found,
            "running": running,
            "tasks": first,
            "stages": await reads.read_part(conn, shape, key, reads.STAGES),
            "events": await reads.read_part(conn, shape, key, reads.EVENTS, _EVENTS),
            "points": await reads.read_part(conn, shape, key, reads.BURNUP),
            "slow": await reads.read_slow(conn, shape, found, datetime.now(UTC)),
            "forecast": next(iter(await reads.read_part(conn, shape, key, reads.FORECAST)), None),
            "archived_at": await reads.read_archived_at(conn, shape, found),
            "trace_url": request.app.state.settings.trace_url,
        }

    return await show(request, "workflow.html", read)


@router.get(f"{_ONE}/tasks")
async def list_tasks(request: Request, workflow_id: Key, wanted: Annotated[WantedTasks, Depends()]) -> Response:
    """Show the tasks of a workflow in the order of their creation, filtered and paged."""
    to = partial(again, request, "cursor", "after_position")

    async def read(conn: Conn, shape: Shape) -> dict[str, Any]:
        found = await reads.require_workflow(conn, shape, shape.key(workflow_id))
        page = await tasks.list_page(conn, shape, str(found.id), wanted, _TASKS)
        return {
            "workflow": found,
            "tasks": page.rows,
            "archived_at": await reads.read_archived_at(conn, shape, found),
            "wanted": wanted,
            "filtered": wanted != WantedTasks(cursor=wanted.cursor),
            "json": f"/api/v1{to()}",
            **_beside(page, wanted.cursor, to),
        }

    return await show(request, "tasks.html", read)


@router.get(f"{_ONE}/tasks/{{task_id}}")
async def show_task(request: Request, workflow_id: Key, task_id: Key) -> Response:
    """Show a task: times, attempts, what it was given and what it reported."""

    async def read(conn: Conn, shape: Shape) -> dict[str, Any]:
        found = await reads.require_workflow(conn, shape, shape.key(workflow_id))
        for task in await tasks.read_task(conn, shape, str(found.id), task_id):
            return {"workflow": found, "task": task, "trace_url": request.app.state.settings.trace_url}
        raise HTTPException(404, "Task not found")

    return await show(request, "task.html", read)


@router.get(f"{_ONE}/timeline")
async def show_timeline(request: Request, workflow_id: Key, by: gantt.By | None = None) -> Response:
    """Show the tasks of a workflow over time, by stage or by type of agent."""
    now = datetime.now(UTC)

    async def read(conn: Conn, shape: Shape) -> dict[str, Any]:
        found = await reads.require_workflow(conn, shape, shape.key(workflow_id))
        drawn = await gantt.read_gantt(conn, shape, found, now, by)
        archived_at = await reads.read_archived_at(conn, shape, found)
        return {"workflow": found, "gantt": drawn, "archived_at": archived_at, "now": now}

    return await show(request, "timeline.html", read)


@router.get("/trends")
async def trends(request: Request) -> Response:
    """Show how workflows and tasks ended in a day, a week and a month, by their types, the most frequent first."""

    async def read(conn: Conn, shape: Shape) -> dict[str, Any]:
        async def by_type(by: reads.By) -> list[tuple[str | None, list[Any]]]:
            found = groupby(await reads.read_trends(conn, shape, by), lambda one: one.type)
            return [(type_, list(of)) for type_, of in islice(found, _TYPES)]

        return {"of_workflows": await by_type("type"), "of_tasks": await by_type("agent_type"), "most": _TYPES}

    return await show(request, "trends.html", read)


# --- In pages elsewhere -----------------------------------------------------------------------------------------


async def _one(request: Request, workflow_id: str) -> dict[str, Any]:
    async def read(conn: Conn, shape: Shape) -> dict[str, Any]:
        return {"w": await reads.require_workflow(conn, shape, shape.key(workflow_id)), "words": shape.words}

    return await ask(request, read)


@router.get(f"{_ONE}/badge.svg")
async def badge(request: Request, workflow_id: Key) -> Response:
    """Draw a workflow as a badge."""
    headers = {"Cache-Control": "no-cache", "Cross-Origin-Resource-Policy": "cross-origin"}
    return render(request, "badge.svg", await _one(request, workflow_id), headers=headers)


@router.get(f"{_ONE}/embed")
async def embed(request: Request, workflow_id: Key) -> Response:
    """Show a workflow as a bar, to be framed by pages of the origins that may."""
    headers = {"Content-Security-Policy": framed_by(request.app.state.settings.embed_origins)}
    return render(request, "embed.html", await _one(request, workflow_id), headers=headers)


@router.get("/icons/{status}-{percentage}.svg")
async def icon(
    request: Request, status: WorkflowStatus | Literal["silent"], percentage: Annotated[int, Path(ge=0, le=100)]
) -> Response:
    """Draw the icon of a workflow's page: a ring, since the security policy allows no other way to a changing one."""
    headers = {"Cache-Control": "private, max-age=86400"}
    ring = {"status": status, "percentage": percentage}
    return render(request, "icon.svg", ring, headers=headers)


@router.get("/favicon.ico")
async def favicon(request: Request) -> Response:
    """Lead browsers that ask for it to the icon."""
    return RedirectResponse(f"{base_of(request)}/static/favicon.svg", 301)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Show what the API takes and answers; FastAPI's own page has a script that the security policy forbids."""
    whole = await describe(request)
    tags = groupby(operations(whole), lambda found: found[2]["tags"][0])
    context = {"api": whole, "tags": [(tag, list(found)) for tag, found in tags], "host": request.url.netloc}
    return render(request, "docs.html", context)
