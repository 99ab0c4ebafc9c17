"""The service, put together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from psycopg_pool import PoolTimeout, TooManyRequests
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from pyapp.adopt.pair import AdoptError
from pyapp.source import Source
from pyapp.standby import StandbyBehind
from pyapp.web import api, lag, pages
from pyapp.web.database import Database
from pyapp.web.models import Problem, Ready, Standby, loosened
from pyapp.web.observe import DatabaseCollector, Metrics, Observed
from pyapp.web.parameters import WholeAddresses
from pyapp.web.queries import readable
from pyapp.web.security import KnownHosts, LimitBody, RequireToken, SecurityHeaders
from pyapp.web.settings import Settings, incomplete
from pyapp.web.stream import Feed

_UNMIGRATED = "The database has no agent-progress schema, or an old one: run agent-progress migrate"
_STATIC = Path(__file__).parent / "static"


def create_app(settings: Settings) -> FastAPI:
    """Put the service together: API, dashboard, streams, metrics and what guards them."""
    metrics = Metrics()
    read_dsn, primary = (settings.dsn, None) if settings.read_dsn is None else (settings.read_dsn, settings.dsn)
    database = Database(read_dsn, metrics.query_seconds.observe, settings.name, primary)
    feed = Feed(database, settings.interval, metrics.stream_queries.inc)
    metrics.registry.register(DatabaseCollector(database, lambda: feed.clients))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        database.open()
        feed.start()
        yield
        await feed.stop()
        database.close()

    app = FastAPI(
        title="agent-progress",
        version=version("agent-progress"),
        description="Exact, live progress of agent workflows, read-only.",
        lifespan=lifespan,
        # The viewers load scripts from elsewhere; the description itself is at /openapi.json.
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings, app.state.database, app.state.feed = settings, database, feed
    app.include_router(api.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    _add_probes(app, database, metrics)
    _add_errors(app)

    if settings.name is not None:
        _adopted(app, settings.name)
    # The last one added comes first.
    app.add_middleware(LimitBody)
    if settings.token is not None:
        app.add_middleware(RequireToken, token=settings.token)
    else:
        # Without a token only this machine may read.
        app.add_middleware(KnownHosts, host=settings.host)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET"],
            allow_headers=["Authorization"],
            expose_headers=["ETag", "Link"],
        )
    app.add_middleware(Observed, metrics=metrics)
    app.add_middleware(SecurityHeaders, cross_origin=bool(settings.cors_origins))
    return app


def _add_probes(app: FastAPI, database: Database, metrics: Metrics) -> None:
    @app.get("/healthz", tags=["probes"], response_model=dict[str, str])
    async def healthz() -> dict[str, str]:
        """Say that the process answers."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["probes"], response_model_exclude_unset=True, responses={503: {"model": Problem}})
    def readyz() -> Ready:
        """Say whether the database answers and has the schema, and how far behind it is where it is a standby."""

        def read(conn: psycopg.Connection[Any], source: Source) -> lag.Standby | None:
            readable(conn, source)
            return database.meter.measure(conn)

        standby = database.run(read)
        return Ready(status="ready") if standby is None else Ready(status="ready", standby=Standby(**asdict(standby)))

    @app.get("/metrics", tags=["probes"], response_class=Response)
    def prometheus() -> Response:
        """Give the metrics in the format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _adopted(app: FastAPI, name: str) -> None:
    """Take what adopted tables may have, and say what is wrong with them."""
    app.add_middleware(WholeAddresses)
    describe = app.openapi
    app.openapi = lambda: loosened(describe())  # type: ignore[method-assign]

    @app.exception_handler(AdoptError)
    async def gone(request: Request, problem: Exception) -> Response:
        return pages.failure(request, 503, str(problem), {"Retry-After": "30"})

    @app.exception_handler(psycopg.errors.UndefinedTable)
    @app.exception_handler(psycopg.errors.UndefinedColumn)
    @app.exception_handler(psycopg.ProgrammingError)
    async def lacking(request: Request, _: Exception) -> Response:
        return pages.failure(request, 503, incomplete(name), {"Retry-After": "30"})


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(psycopg.OperationalError)
    @app.exception_handler(psycopg.InterfaceError)
    @app.exception_handler(PoolTimeout)
    @app.exception_handler(TooManyRequests)
    async def away(request: Request, _: Exception) -> Response:
        return pages.failure(request, 503, "Database unavailable", {"Retry-After": "2"})

    @app.exception_handler(StandbyBehind)
    async def behind(request: Request, _: Exception) -> Response:
        return pages.failure(request, 503, "The standby has not got to after_position yet", {"Retry-After": "1"})

    @app.exception_handler(psycopg.errors.QueryCanceled)
    async def slow(request: Request, _: Exception) -> Response:
        return pages.failure(request, 503, "The database took too long", {"Retry-After": "10"})

    @app.exception_handler(psycopg.errors.UndefinedTable)
    @app.exception_handler(psycopg.errors.UndefinedColumn)
    async def unmigrated(request: Request, _: Exception) -> Response:
        return pages.failure(request, 503, _UNMIGRATED, {"Retry-After": "30"})

    @app.exception_handler(psycopg.errors.InsufficientPrivilege)
    async def forbidden(request: Request, _: Exception) -> Response:
        return pages.failure(request, 503, "The service's role lacks rights in the database", {"Retry-After": "30"})

    @app.exception_handler(psycopg.DataError)
    async def unfit(request: Request, _: Exception) -> Response:
        # For example a character that the encoding of the database does not have.
        return pages.failure(request, 422, "A value that the database cannot take", {})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, RequestValidationError)
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "request"
        return pages.failure(request, 422, f"{where}: {first['msg']}", {})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        return pages.failure(request, problem.status_code, str(problem.detail), dict(problem.headers or {}))
