"""The pages of a workflow's tasks: the list, one task, all of them over time."""

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query
from psycopg import Connection
from starlette.requests import Request
from starlette.responses import Response

from pyapp.web import gantt, reads, tasks
from pyapp.web.pages import GIVEN, Given, read_page, render
from pyapp.web.parameters import Cursor, Key, TaskStatuses, after_position, known_parameters
from pyapp.web.shape import Shape
from pyapp.web.text import segment

router = APIRouter(include_in_schema=False, dependencies=[Depends(known_parameters), Depends(after_position)])
_PAGE = 100


@router.get("/workflows/{workflow_id}/tasks")
def list_tasks(
    request: Request,
    workflow_id: Key,
    status: TaskStatuses = None,
    agent_type: Given = None,
    stage: Given = None,
    text: Given = None,
    cursor: Cursor = None,
) -> Response:
    """Show the tasks of a workflow in the order of their creation, filtered and paged."""
    wanted = tasks.Wanted(status or (), agent_type, stage, text, _PAGE, cursor or None)

    def read(conn: Connection[Any], shape: Shape) -> dict[str, Any]:
        found = reads.require_workflow(conn, shape, shape.key(workflow_id))
        page = tasks.list_page(conn, shape, str(found.id), wanted, without=("payload", "result"))
        return {"workflow": found, "page": page, "archived_at": reads.read_archived_at(conn, shape, found)}

    found = read_page(request, read)
    chosen = [("status", one) for one in wanted.status]
    chosen += [(name, value) for name in ("agent_type", "stage", "text") if (value := getattr(wanted, name))]
    here = f"/workflows/{segment(found['workflow'].id)}/tasks"

    def to(cursor: str | None) -> str | None:
        return cursor and f"{here}?{urlencode([*chosen, ('cursor', cursor)])}"

    page = found["page"]
    more = {"wanted": wanted, "filtered": bool(chosen), "previous": to(page.previous), "next": to(page.next)}
    first = f"{here}?{urlencode(chosen)}" if chosen else here
    return render(request, "tasks.html", found | more | {"first": first, "json": f"/api/v1{first}"})


@router.get("/workflows/{workflow_id}/tasks/{task_id}")
def show_task(request: Request, workflow_id: Key, task_id: Key) -> Response:
    """Show a task: times, attempts, what it was given and what it reported."""

    def read(conn: Connection[Any], shape: Shape) -> dict[str, Any]:
        found = reads.require_workflow(conn, shape, shape.key(workflow_id))
        task = tasks.read_task(conn, shape, str(found.id), task_id, for_page=True)
        if task is None:
            raise HTTPException(404, "Task not found")
        return {"workflow": found, "task": task, "trace_url": request.app.state.settings.trace_url}

    return render(request, "task.html", read_page(request, read))


@router.get("/workflows/{workflow_id}/timeline")
def show_timeline(
    request: Request, workflow_id: Key, by: Annotated[gantt.By | None, GIVEN, Query()] = None
) -> Response:
    """Show the tasks of a workflow over time, by stage or by type of agent."""
    now = datetime.now(UTC)

    def read(conn: Connection[Any], shape: Shape) -> dict[str, Any]:
        found = reads.require_workflow(conn, shape, shape.key(workflow_id))
        drawn = gantt.read_gantt(conn, shape, found, now, by)
        return {"workflow": found, "gantt": drawn, "archived_at": reads.read_archived_at(conn, shape, found)}

    return render(request, "timeline.html", {"now": now, **read_page(request, read)})
