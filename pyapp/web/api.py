"""The HTTP API: read-only JSON, thin over the views."""

import csv
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from dataclasses import fields
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Depends, HTTPException, Query
from pydantic import create_model
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from pyapp import aio
from pyapp.models import BurnupPoint, Forecast, ProgressMetrics, Stage, TimelineEntry, TreeNode, TreeProgress, Trend
from pyapp.web import reads, tasks, trees
from pyapp.web.address import again, base_of
from pyapp.web.answers import Event, Listed, Overview, Problem, SignedLink, described
from pyapp.web.cursors import Page
from pyapp.web.description import STREAM
from pyapp.web.paging import list_page
from pyapp.web.parameters import READING, Active, Key, Keys, Limit, Offset, Trees, Wanted, WantedTasks, WithTree, ask
from pyapp.web.security import key_of
from pyapp.web.shape import Shape
from pyapp.web.stream import Feed
from pyapp.web.tasks import ReportedTask
from pyapp.web.wire import Conn, as_array, encode, respond

_ONE = "/workflows/{workflow_id}"
_WORKFLOW: Any = described(Listed, "Workflow")
_TREE: Any = create_model(
    "Tree",
    __doc__="A workflow with all below it: summed up, what is above it, and each workflow, depth first.",
    progress=(described(TreeProgress), ...),
    path=(list[described(trees.Ancestor)], ...),  # type: ignore[misc, arg-type]
    workflows=(list[described(TreeNode)], ...),  # type: ignore[misc, arg-type]
)
_ANSWERS: dict[int | str, dict[str, Any]] = {
    304: {"description": "What the client has is current"},
    400: {"model": Problem, "description": "Not a cursor of this list"},
    404: {"model": Problem, "description": "No such workflow"},
    422: {"model": Problem, "description": "Not a value for this parameter"},
    503: {"model": Problem, "description": "The database does not answer, or a standby is behind; see Retry-After"},
}
router = APIRouter(prefix="/api/v1", dependencies=READING, responses={code: _ANSWERS[code] for code in (422, 503)})


def _of(what: Any, *codes: int, tag: str = "workflows") -> dict[str, Any]:
    """Describe a route: what it answers, and with which codes besides."""
    return {"tags": [tag], "response_model": what, "responses": {code: _ANSWERS[code] for code in codes or (304, 404)}}


Read: TypeAlias = Callable[[Conn, Shape, str], Awaitable[list[bytes]]]
"""Reads rows of a workflow, as JSON."""


async def _many(request: Request, workflow_id: str, read: Read) -> list[bytes]:
    """Read rows of a workflow. Raises WorkflowNotFound where there are none, nor the workflow."""

    async def find(conn: Conn, shape: Shape) -> list[bytes]:
        key = shape.key(workflow_id)
        found = await read(conn, shape, key)
        if not found:
            await reads.require_workflow(conn, shape, key)
        return found

    return await ask(request, find)


async def _one(request: Request, workflow_id: str, read: Read, what: str = "Workflow") -> Response:
    """Answer with the one row that is read; 404 where there is none."""
    for found in await _many(request, workflow_id, read):
        return respond(request, found)
    raise HTTPException(404, f"{what} not found")


async def _part(request: Request, workflow_id: str, part: reads.Part, limit: int = 1000, offset: int = 0) -> Response:
    """Answer with a part of a workflow."""
    read = partial(reads.read_part, part=part, limit=limit, offset=offset, sent=True)
    return respond(request, as_array(await _many(request, workflow_id, read)))


def _paged(request: Request, page: Page) -> Response:
    """Answer with a page; the header Link (RFC 8288) leads to those beside it."""
    beside = [(cursor, name) for cursor, name in ((page.next, "next"), (page.previous, "prev")) if cursor]
    links = [f'<{base_of(request)}{again(request, cursor=cursor)}>; rel="{name}"' for cursor, name in beside]
    return respond(request, as_array(page.rows), {"Link": ", ".join(links)} if links else {})


@router.get("/workflows", **_of(list[_WORKFLOW], 304, 400))
async def list_workflows(request: Request, wanted: Annotated[Wanted, Depends()], limit: Limit = 50) -> Response:
    """List workflows, newest first; the Link header leads to the next page and the one before."""
    return _paged(request, await ask(request, partial(list_page, wanted=wanted, limit=limit, sent=True)))


@router.get(_ONE, **_of(_WORKFLOW))
async def get_workflow(request: Request, workflow_id: Key) -> Response:
    """Get one workflow."""
    return await _one(request, workflow_id, partial(reads.read_workflow, sent=True))


@router.get(f"{_ONE}/tree", **_of(_TREE))
async def get_whole_tree(
    request: Request,
    workflow_id: Key,
    limit: Annotated[int, Query(ge=1, le=10_000, description="At most so many workflows.")] = 1000,
) -> Response:
    """Get how far a workflow is with all below it, the path down to it, and those workflows, depth first."""

    async def read(conn: Conn, shape: Shape, key: str) -> list[bytes]:
        progress = await aio.tree_progress(conn, key, schema=shape.schema)
        nodes = await aio.get_tree(conn, key, limit=limit, schema=shape.schema)
        path = await trees.read_path(conn, shape, key)
        return [encode({"progress": progress, "path": path, "workflows": nodes})]

    return await _one(request, workflow_id, read)


@router.get(f"{_ONE}/tasks", **_of(list[described(ReportedTask, "Task", tasks.WITHOUT)], 304, 400, 404))  # type: ignore[misc]
async def list_tasks(
    request: Request, workflow_id: Key, wanted: Annotated[WantedTasks, Depends()], limit: Limit = 200
) -> Response:
    """List the tasks of a workflow in the order in which they were created; the Link header leads on, and back."""

    async def read(conn: Conn, shape: Shape) -> Page:
        key = shape.key(workflow_id)
        page = await tasks.list_page(conn, shape, key, wanted, limit, sent=True)
        if not page.rows:
            await reads.require_workflow(conn, shape, key)
        return page

    return _paged(request, await ask(request, read))


@router.get(f"{_ONE}/tasks/{{task_id}}", **_of(described(ReportedTask, "OneTask")))
async def get_task(request: Request, workflow_id: Key, task_id: Key) -> Response:
    """Get one task, with what it was given and all that is known of an error."""
    return await _one(request, workflow_id, partial(tasks.read_task, task_id=task_id, sent=True), "Task")


@router.get(f"{_ONE}/events", **_of(list[described(Event)]))  # type: ignore[misc]
async def list_events(request: Request, workflow_id: Key, limit: Limit = 200, offset: Offset = 0) -> Response:
    """List the changes of status and stage, the newest first."""
    return await _part(request, workflow_id, reads.EVENTS, limit, offset)


@router.get(f"{_ONE}/timeline", **_of(list[described(TimelineEntry)]))  # type: ignore[misc]
async def list_timeline(request: Request, workflow_id: Key, limit: Limit = 500, offset: Offset = 0) -> Response:
    """List what happened to a workflow, in time order: events, stages and tasks."""
    return await _part(request, workflow_id, reads.TIMELINE, limit, offset)


@router.get(f"{_ONE}/stages", **_of(list[described(Stage)]))  # type: ignore[misc]
async def list_stages(request: Request, workflow_id: Key) -> Response:
    """List the stages of a workflow with their agents."""
    return await _part(request, workflow_id, reads.STAGES)


@router.get(f"{_ONE}/burnup", **_of(list[described(BurnupPoint)]))  # type: ignore[misc]
async def list_burnup(request: Request, workflow_id: Key) -> Response:
    """List tasks completed and created over time, in at most about 800 points."""
    return await _part(request, workflow_id, reads.BURNUP)


@router.get(f"{_ONE}/forecast", **_of(described(Forecast)))
async def get_forecast(request: Request, workflow_id: Key) -> Response:
    """Say when a workflow will be done, and whether it has come to a halt."""
    return await _one(request, workflow_id, partial(reads.read_part, part=reads.FORECAST, sent=True))


@router.get(f"{_ONE}/metrics", **_of(described(ProgressMetrics)))
async def get_metrics(request: Request, workflow_id: Key) -> Response:
    """Measure the progress of a workflow, and count its tasks to see whether it is stale."""

    async def measure(conn: Conn, shape: Shape, key: str) -> list[bytes]:
        return [encode(await aio.progress_metrics(conn, key, schema=shape.schema))]

    return await _one(request, workflow_id, measure)


@router.get(f"{_ONE}/link", **_of(SignedLink))
async def sign_link(
    request: Request,
    workflow_id: Key,
    seconds: Annotated[int, Query(ge=1, le=366 * 86400, description="How long it opens.")] = 3600,
) -> Response:
    """Sign a link: a key that opens this workflow, its stream, its badge and its bar, and nothing else, for a while."""
    token, until = request.app.state.settings.token, int(time.time()) + seconds

    async def sign(conn: Conn, shape: Shape, key: str) -> list[bytes]:
        found = str((await reads.require_workflow(conn, shape, key)).id)
        opens = token and key_of(token, found, until)
        return [encode({"key": opens, "expires_at": datetime.fromtimestamp(until, UTC)})]

    return await _one(request, workflow_id, sign)


@router.get("/stats/overview", **_of(Overview, 304, tag="stats"))
async def get_overview(request: Request) -> Response:
    """Count workflows by status, and their agents."""
    return respond(request, await ask(request, reads.send_overview))


_TRENDS = _of(list[described(Trend)], 304, tag="stats")  # type: ignore[misc]
_TRENDS["responses"][200] = {"content": {"text/csv": {}}}


@router.get("/stats/trends", **_TRENDS)
async def list_trends(
    request: Request,
    by: Annotated[reads.By, Query(description="Workflows by their type, or tasks by the type of their agents.")],
    format: Literal["json", "csv"] = "json",
) -> Response:
    """List how many ended in 24 hours, 7 days and 30 days, how many of them failed, and how long they took, by type."""
    rows = await ask(request, partial(reads.read_trends, by=by, sent=True))
    if format == "json":
        return respond(request, as_array(rows))
    headers = {"Content-Disposition": f'attachment; filename="trends-by-{by}.csv"', "Cache-Control": "no-store"}
    return Response(_as_csv(rows), headers=headers, media_type="text/csv")


def _as_csv(rows: list[bytes]) -> str:
    """Write trends as CSV. A type that a spreadsheet would take for a formula gets an apostrophe in front."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [field.name for field in fields(Trend)])
    writer.writeheader()
    for row in map(json.loads, rows):
        risky = (row["type"] or "").startswith(("=", "+", "-", "@", "\t", "\r"))
        writer.writerow(row | {"type": f"'{row['type']}" if risky else row["type"]})
    return file.getvalue()


_STREAM: dict[str, Any] = {"tags": ["live"], "response_class": StreamingResponse}
_SENT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": STREAM}}}


async def _until_sent() -> AsyncIterator[ExitStack]:
    """Undo what is put here when the answer was sent, or its client has left."""
    with ExitStack() as stack:
        yield stack


Undone = Annotated[ExitStack, Depends(_until_sent)]


@router.get("/stream", **_STREAM, responses=_SENT)
async def stream(
    request: Request, undone: Undone, id: Keys = None, active: Active = False, tree: Trees = None
) -> Response:
    """Follow workflows live, as server-sent events: those of `id`, and the newest active roots where none is given.

    `snapshot` is an array of all that is followed and comes first, and again after a loss of the database, which `away`
    tells of; `workflow` is one in its new state, `deleted` the id of one that is gone; `ping` comes after 5 s without
    any of them and says that nothing has changed; `standby` says how far behind the standby is that is read, null when
    it has become a primary.
    """
    return await _follow(request, undone, id or [], tree or [], active or not (id or tree))


@router.get(f"{_ONE}/stream", **_STREAM, responses=_SENT | {404: _ANSWERS[404]})
async def stream_workflow(request: Request, undone: Undone, workflow_id: Key, tree: WithTree = False) -> Response:
    """Follow one workflow live, as server-sent events."""
    return await _follow(request, undone, [workflow_id], [workflow_id] if tree else [], active=False)


async def _follow(request: Request, undone: ExitStack, ids: list[str], tops: list[str], active: bool) -> Response:
    feed: Feed = request.app.state.feed

    async def written(conn: Conn, shape: Shape) -> list[str]:
        keys = [shape.key(given) for given in (*ids, *tops)]
        # All clients share the feed: what the database does not take is refused before it gets there.
        return keys if shape.knows_keys else await shape.written(conn, keys)

    if ids or tops or "after_position" in request.query_params:
        keys = await ask(request, written)
        ids, tops = keys[: len(ids)], keys[len(ids) :]
    subscriber = feed.subscribe(ids, active, tops)
    undone.callback(feed.unsubscribe, subscriber)
    # The answer says at once what is wrong: no such workflow, or no database.
    if await subscriber.found == 0 and "workflow_id" in request.path_params:
        raise HTTPException(404, "Workflow not found")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(subscriber.frames(), headers=headers, media_type="text/event-stream")
