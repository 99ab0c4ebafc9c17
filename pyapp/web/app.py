"""The service, put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import psycopg
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from psycopg import errors
from psycopg_pool import PoolTimeout, TooManyRequests
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles

from pyapp import StandbyBehind, WorkflowNotFound
from pyapp.web import api, html, login, pages
from pyapp.web.address import addressed
from pyapp.web.answers import Problem, Ready, Standby
from pyapp.web.database import AWAY, Database
from pyapp.web.description import describe
from pyapp.web.observe import DatabaseCollector, Metrics, observed
from pyapp.web.security import known_hosts, require_token, security_headers
from pyapp.web.shape import LACKING, Shape, lacking, readable
from pyapp.web.stream import Feed
from pyapp.web.wire import Conn

# What is accepted instead, by what pydantic calls the fault.
_ACCEPTED = {
    "literal_error": "should be one of {expected}",
    "int_parsing": "should be a whole number",
    "int_parsing_size": "should be a smaller number",
    "bool_parsing": "should be true or false",
    "greater_than_equal": "should be at least {ge}",
    "less_than_equal": "should be at most {le}",
    "string_too_long": "should have at most {max_length} characters",
    "too_long": "should be given at most {max_length} times",
    "missing": "is needed",
    "string_pattern_mismatch": "should be a position in the log, as 0/16B3748",
}


@dataclass(frozen=True)
class Settings:
    """How the service is run.

    ``interval`` is the time between two looks, in seconds. ``read_dsn`` is that of a standby to read from, while
    ``dsn`` tells of changes; None to do both in one place. ``base_path`` stands before all addresses, behind a proxy.
    ``trace_url`` leads to a trace, with ``{trace_id}`` where its id belongs; ``embed_origins`` may
    frame the bar of a workflow.
    """

    dsn: str = field(repr=False)
    schema: str = "public"
    host: str = "127.0.0.1"
    token: str | None = field(default=None, repr=False)
    interval: float = 0.5
    cors_origins: tuple[str, ...] = ()
    base_path: str = ""
    trace_url: str | None = None
    embed_origins: tuple[str, ...] = ()
    read_dsn: str | None = field(default=None, repr=False)


def create_app(settings: Settings) -> FastAPI:
    """Put the service together: API, dashboard, streams, metrics and what guards them."""
    metrics = Metrics()
    read_dsn, primary = (settings.dsn, None) if settings.read_dsn is None else (settings.read_dsn, settings.dsn)
    database = Database(read_dsn, settings.schema, primary, metrics.query_seconds.observe)
    feed = Feed(database, settings.interval, metrics.stream_queries.inc)
    collector = DatabaseCollector(database, lambda: feed.clients)
    metrics.registry.register(collector)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with database, feed.running():
            loading = asyncio.create_task(asyncio.to_thread(html.load_templates))
            yield
            await loading

    app = FastAPI(
        title="agent-progress",
        version=version("agent-progress"),
        description="Exact, live progress of agent workflows, read-only.",
        lifespan=lifespan,
        # FastAPI's viewers load scripts from elsewhere: there is a page of the service's own.
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings, app.state.database, app.state.feed = settings, database, feed
    for part in (api, pages, login):
        app.include_router(part.router)
    app.mount("/static/{mark}", StaticFiles(directory=html.STATIC))
    app.mount("/static", StaticFiles(directory=html.STATIC), name="static")
    _add_probes(app, database, metrics, collector)
    _add_errors(app, settings.schema)

    # The last one added comes first.
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=4)
    if settings.token is not None:
        app.add_middleware(require_token, token=settings.token)
    else:
        # Without a token only this machine may read.
        app.add_middleware(known_hosts, host=settings.host)
    if settings.cors_origins:
        allowed: dict[str, Any] = {"allow_methods": ["GET", "HEAD"], "allow_headers": ["Authorization"]}
        seen = ["ETag", "Link"]
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, expose_headers=seen, **allowed)
    app.add_middleware(addressed, base=settings.base_path)
    app.add_middleware(observed, metrics=metrics)
    app.add_middleware(security_headers, cross_origin=bool(settings.cors_origins))
    return app


def _add_probes(app: FastAPI, database: Database, metrics: Metrics, collector: DatabaseCollector) -> None:
    @app.get("/healthz", tags=["probes"], response_model=dict[str, str])
    async def healthz() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["probes"], response_model_exclude_unset=True, responses={503: {"model": Problem}})
    async def readyz(request: Request) -> Ready:
        """Say whether the database answers and has the schema.

        Whoever may read is told what is missing, and how far behind the database is where it is a standby.
        """

        async def read(conn: Conn, shape: Shape) -> Standby | None:
            await readable(conn, shape.schema)
            return await database.meter.measure(conn)

        may_know = request.scope.get("admitted", True)
        try:
            standby = await database.ask(read)
        except AWAY:
            if may_know:
                raise
            raise HTTPException(503, "Not ready", {"Retry-After": "2"}) from None
        return Ready(status="ready", standby=standby) if standby and may_know else Ready(status="ready")

    @app.get("/metrics", tags=["probes"], response_class=Response)
    async def prometheus() -> Response:
        """Give the metrics in the format of Prometheus."""
        await collector.look()
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/openapi.json", include_in_schema=False)
    async def description(request: Request) -> Response:
        return JSONResponse(await describe(request))


def _add_errors(app: FastAPI, schema: str) -> None:
    def says(status: int, message: str, wait: int | None, *kinds: type[Exception]) -> None:
        """Answer errors with a message, and with the seconds after which to ask again."""
        headers = {} if wait is None else {"Retry-After": str(wait)}

        async def answer(request: Request, _: Exception) -> Response:
            return html.failure(request, status, message, headers)

        for kind in kinds:
            app.add_exception_handler(kind, answer)

    says(503, "Database unavailable", 2, psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, TooManyRequests)
    says(503, "The standby has not got to after_position yet", 1, StandbyBehind)
    says(503, "The database took too long", 10, errors.QueryCanceled)
    says(503, lacking(schema), 30, *LACKING)
    rights = "The service's role lacks rights in the database, which agent-progress grant --reader ROLE gives it"
    says(503, f"{rights}, also to what came with an upgrade", 30, errors.InsufficientPrivilege)
    # For example a character that the encoding of the database does not have, or a number that no key can be.
    says(422, "A value that the database cannot take", None, psycopg.DataError)
    says(404, "Workflow not found", None, WorkflowNotFound)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: Any) -> Response:
        first = problem.errors()[0]
        where = first["loc"][1] if len(first["loc"]) > 1 else "request"
        said = first["msg"]
        if accepted := _ACCEPTED.get(first["type"]):
            said = accepted.format_map(first.get("ctx", {})).replace("'", "")
        return html.failure(request, 422, f"{where}: {said}", {})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, problem: Any) -> Response:
        return html.failure(request, problem.status_code, str(problem.detail), dict(problem.headers or {}))
