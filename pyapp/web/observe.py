"""What the service says of itself: a line of JSON for each request, and metrics for Prometheus."""

import asyncio
import json
import logging
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg import AsyncConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyapp.web.answers import Standby
from pyapp.web.database import AWAY, Database
from pyapp.web.reads import count_drift, count_stalled, send_overview
from pyapp.web.shape import Shape
from pyapp.web.wire import error

log = logging.getLogger("agent_progress.access")
_DRIFT_EVERY = 60.0  # seconds; it counts every task, so it rests 100 times as long as it takes
_STALLED_EVERY = 15.0


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        """Make them, all at zero."""
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "agent_progress_http_requests_total", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "agent_progress_http_request_seconds", "Time to answer a request.", ["route"], registry=self.registry
        )
        self.query_seconds = Histogram(
            "agent_progress_query_seconds", "Time in the database for a request.", registry=self.registry
        )
        self.stream_queries = Counter(
            "agent_progress_stream_queries_total", "Queries for the live streams.", registry=self.registry
        )
        ProcessCollector(registry=self.registry)  # memory, processor, open files


class DatabaseCollector(Collector):
    """Tells what the database said at the last ``look``, which is had when Prometheus asks."""

    def __init__(self, database: Database, clients: Callable[[], int]):
        """Make a collector that reads this database."""
        self._database = database
        self._clients = clients
        self._drifting = _Rarely(database, count_drift)
        self._stalled = _Rarely(database, count_stalled)
        self._found: Sequence[Metric] = ()

    def collect(self) -> Sequence[Metric]:
        """Return what was found."""
        return self._found

    async def look(self) -> None:
        """Read what the database says now."""
        self._found = [metric async for metric in self._read()]

    async def _read(self) -> AsyncIterator[Metric]:
        async def read(conn: AsyncConnection[Any], shape: Shape) -> tuple[Any, Standby | None]:
            return json.loads(await send_overview(conn, shape)), await self._database.meter.measure(conn)

        def gauge(name: str, meaning: str, value: float) -> Metric:
            return GaugeMetricFamily(f"agent_progress_{name}", meaning, value=value)

        yield gauge("stream_clients", "Clients that follow live.", self._clients())
        try:
            overview, standby = await self._database.ask(read)
        except AWAY:
            yield gauge("database_up", "Whether the database answers.", 0)
            return
        yield gauge("database_up", "Whether the database answers.", 1)
        yield gauge("in_recovery", "Whether what is read is a standby.", standby is not None)
        lag = 0.0 if standby is None else standby.lag_seconds
        yield gauge(
            "standby_lag_seconds",
            "Age of what the standby shows, at most; 0 on a primary, NaN where it is not known.",
            float("nan") if lag is None else lag,
        )
        by_status = GaugeMetricFamily("agent_progress_workflows", "Workflows by status.", labels=["status"])
        for name, count in overview["overview"].items():
            if name != "total_workflows":
                by_status.add_metric([name.removesuffix("_workflows")], count)
        yield by_status
        tasks = GaugeMetricFamily("agent_progress_tasks", "Tasks of all workflows by outcome.", labels=["outcome"])
        for name, count in overview["agents"].items():
            tasks.add_metric([name], count)
        yield tasks
        yield gauge(
            "drifting_workflows",
            "Workflows whose stored progress is wrong, counted once a minute or less; NaN where that took too long.",
            await self._drifting.count(),
        )
        yield gauge(
            "stalled_workflows",
            "Workflows that run and rest, counted four times a minute or less; NaN where that took too long.",
            await self._stalled.count(_STALLED_EVERY),
        )


class _Rarely:
    """Counts what takes long to count, and remembers it."""

    def __init__(self, database: Database, count: Callable[[AsyncConnection[Any], Shape], Awaitable[float]]) -> None:
        self._database, self._count = database, count
        self._lock = asyncio.Lock()
        self._found = float("nan")
        self._next = float("-inf")

    async def count(self, every: float = _DRIFT_EVERY) -> float:
        """Return what was counted within so many seconds, or within 100 times of what it took."""
        async with self._lock:
            began = time.monotonic()
            if began >= self._next:
                try:
                    self._found = await self._database.ask(self._count)
                except AWAY:
                    self._found = float("nan")
                now = time.monotonic()
                self._next = now + max(every, 100 * (now - began))
            return self._found


def observed(app: ASGIApp, metrics: Metrics) -> ASGIApp:
    """Time each request, count it and write a line about it: the path without its query, and no header.

    An internal fault ends here, in a line that tells where it is and no values.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, watched)
        except Exception as fault:
            where = traceback.extract_tb(fault.__traceback__)[-1]
            log.error(_line(event="fault", error=type(fault).__name__, where=f"{where.filename}:{where.lineno}"))
            if status == 0:
                await error("Internal error", 500)(scope, receive, watched)
        finally:
            elapsed = time.perf_counter() - began
            # The route, not the path: ids would make a metric for each workflow. No status: the client left first.
            route = getattr(scope.get("route"), "path", "other")
            metrics.requests.labels(route, str(status or 499)).inc()
            if not route.endswith("/stream"):
                metrics.request_seconds.labels(route).observe(elapsed)
            told = {"method": scope["method"], "path": scope["path"], "status": status or 499}
            log.info(_line(event="request", **told, ms=round(elapsed * 1000, 1)))

    return answer


def _line(**entry: Any) -> str:
    return json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry})
