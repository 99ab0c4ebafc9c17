"""The pages of a workflow's tasks: the list, one task, all of them over time."""

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException
from psycopg import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from pyapp.web import gantt, reads, tasks
from pyapp.web.pages import read_page, render
from pyapp.web.parameters import Key, WantedTasks, after_position, given_only, known_parameters
from pyapp.web.shape import Shape
from pyapp.web.text import segment

router = APIRouter(
    include_in_schema=False, dependencies=[Depends(given_only), Depends(known_parameters), Depends(after_position)]
)
_PAGE = 100


@router.get("/workflows/{workflow_id}/tasks")
async def list_tasks(request: Request, workflow_id: Key, wanted: Annotated[WantedTasks, Depends()]) -> Response:
    """Show the tasks of a workflow in the order of their creation, filtered and paged."""

    async def read(conn: AsyncConnection[Any], shape: Shape) -> dict[str, Any]:
        found = await reads.require_workflow(conn, shape, shape.key(workflow_id))
        page = await tasks.list_page(conn, shape, str(found.id), wanted, _PAGE)
        return {"workflow": found, "page": page, "archived_at": await reads.read_archived_at(conn, shape, found)}

    found = await read_page(request, read)
    chosen = [("status", one) for one in wanted.status or ()]
    chosen += [(name, value) for name in ("agent_type", "stage", "text") if (value := getattr(wanted, name))]
    here = f"/workflows/{segment(found['workflow'].id)}/tasks"

    def to(cursor: str | None) -> str | None:
        return cursor and f"{here}?{urlencode([*chosen, ('cursor', cursor)])}"

    page = found["page"]
    more = {"wanted": wanted, "filtered": bool(chosen), "previous": to(page.previous), "next": to(page.next)}
    first = f"{here}?{urlencode(chosen)}" if chosen else here
    return render(request, "tasks.html", found | more | {"first": first, "json": f"/api/v1{first}"})


@router.get("/workflows/{workflow_id}/tasks/{task_id}")
async def show_task(request: Request, workflow_id: Key, task_id: Key) -> Response:
    """Show a task: times, attempts, what it was given and what it reported."""

    async def read(conn: AsyncConnection[Any], shape: Shape) -> dict[str, Any]:
        found = await reads.require_workflow(conn, shape, shape.key(workflow_id))
        task = await tasks.read_task(conn, shape, str(found.id), task_id)
        if task is None:
            raise HTTPException(404, "Task not found")
        return {"workflow": found, "task": task, "trace_url": request.app.state.settings.trace_url}

    return render(request, "task.html", await read_page(request, read))


@router.get("/workflows/{workflow_id}/timeline")
async def show_timeline(request: Request, workflow_id: Key, by: gantt.By | None = None) -> Response:
    """Show the tasks of a workflow over time, by stage or by type of agent."""
    now = datetime.now(UTC)

    async def read(conn: AsyncConnection[Any], shape: Shape) -> dict[str, Any]:
        found = await reads.require_workflow(conn, shape, shape.key(workflow_id))
        drawn = await gantt.read_gantt(conn, shape, found, now, by)
        return {"workflow": found, "gantt": drawn, "archived_at": await reads.read_archived_at(conn, shape, found)}

    return render(request, "timeline.html", {"now": now, **await read_page(request, read)})
