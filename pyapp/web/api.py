"""The HTTP API: read-only JSON, thin over the views."""

from typing import Annotated, Any, LiteralString
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pyapp.progress import progress_metrics
from pyapp.source import OWN, Source
from pyapp.web import paging, parts, queries
from pyapp.web.models import (
    BurnupPoint,
    Event,
    Forecast,
    Metrics,
    Moment,
    Overview,
    Problem,
    Stage,
    Task,
    Workflow,
)
from pyapp.web.parameters import (
    AnyPriority,
    AnyStatuses,
    Cursor,
    Key,
    Keys,
    Limit,
    Offset,
    Text,
    after_position,
    known,
    run,
)
from pyapp.web.stream import Feed, Subscriber
from pyapp.web.types import Priority, Row, Sort, Status
from pyapp.web.wire import respond

router = APIRouter(prefix="/api/v1", dependencies=[Depends(after_position)])


def _responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    said = {304: "What the client has is current", 404: "No such workflow", 400: "Not a cursor of this list"}
    found: dict[int | str, dict[str, Any]] = {
        code: {"description": said[code]} | ({} if code == 304 else {"model": Problem}) for code in codes
    }
    return found | {
        422: {"model": Problem, "description": "Not a value for this parameter"},
        503: {"model": Problem, "description": "The database does not answer, or a standby is behind; see Retry-After"},
    }


def _found(row: Row | None) -> Row:
    if row is None:
        raise HTTPException(404, "Workflow not found")
    return row


def _one(request: Request, workflow_id: str) -> Row:
    rows = run(request, lambda conn, source: queries.read_workflows(conn, source, [workflow_id]))
    return _found(rows[0] if rows else None)


def _rows(request: Request, workflow_id: str, query: LiteralString, limit: int, offset: int = 0) -> Response:
    def read(conn: Any, source: Source) -> list[Row]:
        rows = parts.list_rows(conn, source, query, workflow_id, limit=limit, offset=offset, raw_json=True)
        if not rows:
            _found(next(iter(queries.read_workflows(conn, source, [workflow_id])), None))
        return rows

    return respond(request, run(request, read))


@router.get("/workflows", tags=["workflows"], response_model=list[Workflow], responses=_responses(304, 400))
def list_workflows(
    request: Request,
    status: AnyStatuses = None,
    type: Annotated[Text | None, Query()] = None,
    priority: AnyPriority = None,
    name: Annotated[Text | None, Query(description="Beginning of the name.")] = None,
    sort: Annotated[Sort, Query(description="With - in front: descending.")] = "-created",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Response:
    """List workflows, newest first; the Link header leads to the next page."""
    statuses = known(request, "status", list[Status], status or [])
    priority = known(request, "priority", Priority, priority)
    try:
        page, following = run(
            request,
            lambda conn, source: paging.list_page(
                conn,
                source,
                status=statuses,
                type=type,
                priority=priority,
                name=name,
                sort=sort,
                limit=limit,
                cursor=cursor,
            ),
        )
    except paging.BadCursor as problem:
        raise HTTPException(400, str(problem)) from None
    if following is None:
        return respond(request, page)
    parameters = [(key, value) for key, value in request.query_params.multi_items() if key != "cursor"]
    target = f"{request.url.path}?{urlencode([*parameters, ('cursor', following)])}"
    return respond(request, page, {"Link": f'<{target}>; rel="next"'})


@router.get("/workflows/{workflow_id}", tags=["workflows"], response_model=Workflow, responses=_responses(304, 404))
def get_workflow(request: Request, workflow_id: Key) -> Response:
    """Get one workflow."""
    return respond(request, _one(request, workflow_id))


@router.get(
    "/workflows/{workflow_id}/tasks", tags=["workflows"], response_model=list[Task], responses=_responses(304, 404)
)
def list_tasks(request: Request, workflow_id: Key, limit: Limit = 200, offset: Offset = 0) -> Response:
    """List the tasks of a workflow in the order in which they were created."""
    return _rows(request, workflow_id, parts.TASKS, limit, offset)


@router.get(
    "/workflows/{workflow_id}/events", tags=["workflows"], response_model=list[Event], responses=_responses(304, 404)
)
def list_events(request: Request, workflow_id: Key, limit: Limit = 200, offset: Offset = 0) -> Response:
    """List the changes of status and stage, the newest first."""
    return _rows(request, workflow_id, parts.EVENTS, limit, offset)


@router.get(
    "/workflows/{workflow_id}/timeline", tags=["workflows"], response_model=list[Moment], responses=_responses(304, 404)
)
def list_timeline(request: Request, workflow_id: Key, limit: Limit = 500, offset: Offset = 0) -> Response:
    """List what happened to a workflow, in time order: events, stages and tasks."""
    return _rows(request, workflow_id, parts.TIMELINE, limit, offset)


@router.get(
    "/workflows/{workflow_id}/stages", tags=["workflows"], response_model=list[Stage], responses=_responses(304, 404)
)
def list_stages(request: Request, workflow_id: Key) -> Response:
    """List the stages of a workflow with their agents."""
    return _rows(request, workflow_id, parts.STAGES, 1000)


@router.get(
    "/workflows/{workflow_id}/burnup",
    tags=["workflows"],
    response_model=list[BurnupPoint],
    responses=_responses(304, 404),
)
def list_burnup(request: Request, workflow_id: Key) -> Response:
    """List tasks completed and created over time, in at most about 800 points."""
    return _rows(request, workflow_id, parts.BURNUP, 1000)


@router.get("/workflows/{workflow_id}/forecast", tags=["workflows"], response_model=Forecast, responses=_responses(404))
def get_forecast(request: Request, workflow_id: Key) -> Response:
    """Say when a workflow will be done, and whether it has come to a halt."""

    def read(conn: Any, source: Source) -> Row | None:
        rows = parts.list_rows(conn, source, parts.FORECAST, workflow_id, limit=1)
        if not rows and source is not OWN and queries.read_workflows(conn, source, [workflow_id]):
            return dict.fromkeys(Forecast.model_fields) | {"workflow_id": workflow_id}
        return next(iter(rows), None)

    return respond(request, _found(run(request, read)))


@router.get("/workflows/{workflow_id}/metrics", tags=["workflows"], response_model=Metrics, responses=_responses(404))
def get_metrics(request: Request, workflow_id: Key) -> Response:
    """Measure the progress of a workflow, and count its tasks to see whether it is stale."""

    def read(conn: Any, source: Source) -> Row:
        try:
            measured = progress_metrics(conn, workflow_id, source=source)
        except LookupError:
            raise HTTPException(404, "Workflow not found") from None
        return {name: getattr(measured, name) for name in Metrics.model_fields} | {"workflow_id": workflow_id}

    return respond(request, run(request, read))


@router.get("/stats/overview", tags=["stats"], response_model=Overview, responses=_responses(304))
def get_overview(request: Request) -> Response:
    """Count workflows by status, and their agents."""
    return respond(request, run(request, queries.read_overview))


_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}


class EventStream(StreamingResponse):
    """Sends what a subscriber is offered until the client leaves, and then stops following."""

    media_type = "text/event-stream"

    def __init__(self, feed: Feed, subscriber: Subscriber) -> None:
        """Take over a subscriber."""
        super().__init__(subscriber.frames(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._feed, self._subscriber = feed, subscriber

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send, and stop following even where the client left before the first byte."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feed.unsubscribe(self._subscriber)


@router.get("/stream", tags=["live"], response_class=StreamingResponse, responses=_responses() | _STREAM)
async def stream(request: Request, id: Keys) -> Response:
    """Follow workflows live, as server-sent events.

    `snapshot` is an array of all that is followed and comes first, and again after a loss of the database, which `away`
    tells of; `workflow` is one in its new state, `deleted` the id of one that is gone; `standby` says how far behind
    the standby is that is read, null when it has become a primary.
    """
    return await _follow(request, id)


@router.get(
    "/workflows/{workflow_id}/stream",
    tags=["live"],
    response_class=StreamingResponse,
    responses=_responses(404) | _STREAM,
)
async def stream_workflow(request: Request, workflow_id: Key) -> Response:
    """Follow one workflow live, as server-sent events."""
    return await _follow(request, [workflow_id], must_exist=True)


async def _follow(request: Request, ids: list[str] | None, *, must_exist: bool = False) -> Response:
    feed: Feed = request.app.state.feed
    if "after_position" in request.query_params:
        await run_in_threadpool(run, request, lambda *_: None)
    subscriber = feed.subscribe(ids)
    try:
        # The answer says at once what is wrong: no such workflow, or no database.
        if await subscriber.found == 0 and must_exist:
            raise HTTPException(404, "Workflow not found")
        return EventStream(feed, subscriber)
    except BaseException:
        feed.unsubscribe(subscriber)
        raise
