"""What the service says of itself: a line of JSON for each request, and metrics for Prometheus."""

import asyncio
import json
import logging
import math
import time
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyapp.web.answers import Standby
from pyapp.web.database import AWAY, Database
from pyapp.web.reads import count_drift, count_stalled, send_overview
from pyapp.web.shape import Shape
from pyapp.web.wire import Conn, error

log = logging.getLogger("agent_progress.access")


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        """Make them, all at zero."""
        self.registry = CollectorRegistry()
        ours: dict[str, Any] = {"namespace": "agent_progress", "registry": self.registry}
        self.requests = Counter("http_requests_total", "Requests answered.", ["route", "status"], **ours)
        self.request_seconds = Histogram("http_request_seconds", "Time to answer a request.", ["route"], **ours)
        self.query_seconds = Histogram("query_seconds", "Time in the database for a request.", **ours)
        self.stream_queries = Counter("stream_queries_total", "Queries for the live streams.", **ours)
        ProcessCollector(registry=self.registry)  # memory, processor, open files


class DatabaseCollector(Collector):
    """Tells what the database said at the last ``look``, which is had when Prometheus asks."""

    def __init__(self, database: Database, clients: Callable[[], int]):
        """Make a collector that reads this database."""
        self._database = database
        self._clients = clients
        self._drifting = _Rarely(database, count_drift, every=60.0)
        self._stalled = _Rarely(database, count_stalled, every=15.0)
        self._found: list[Metric] = []

    def collect(self) -> list[Metric]:
        """Return what was found."""
        return self._found

    async def look(self) -> None:
        """Read what the database says now."""

        async def read(conn: Conn, shape: Shape) -> tuple[Any, Standby | None]:
            return json.loads(await send_overview(conn, shape)), await self._database.meter.measure(conn)

        found: list[Metric] = []

        def gauge(name: str, meaning: str, value: Any, label: str | None = None) -> None:
            family = GaugeMetricFamily(f"agent_progress_{name}", meaning, labels=[label] if label else [])
            for key, count in (value if label else {"": value}).items():
                family.add_metric([key] if label else [], math.nan if count is None else count)
            found.append(family)

        gauge("stream_clients", "Clients that follow live.", self._clients())
        overview = None
        with suppress(*AWAY):
            overview, standby = await self._database.ask(read)
        gauge("database_up", "Whether the database answers.", overview is not None)
        if overview is not None:
            statuses = {name.removesuffix("_workflows"): count for name, count in overview["overview"].items()}
            del statuses["total"]
            gauge("workflows", "Workflows by status.", statuses, "status")
            gauge("tasks", "Tasks of all workflows by outcome.", overview["agents"], "outcome")
            gauge("in_recovery", "Whether what is read is a standby.", standby is not None)
            lag = 0.0 if standby is None else standby.lag_seconds
            age = "Age of what the standby shows, at most; 0 on a primary, NaN where it is not known."
            gauge("standby_lag_seconds", age, lag)
            wrong = (
                "Workflows whose stored progress is wrong, counted once a minute or less; NaN where that took too long."
            )
            gauge("drifting_workflows", wrong, await self._drifting.count())
            rest = "Workflows that run and rest, counted four times a minute or less; NaN where that took too long."
            gauge("stalled_workflows", rest, await self._stalled.count())
        self._found = found


class _Rarely:
    """Counts what takes long to count at most every so many seconds, or 100 times what it took, and remembers it."""

    def __init__(self, database: Database, count: Callable[[Conn, Shape], Awaitable[int]], every: float):
        self._database, self._count, self._every = database, count, every
        self._lock = asyncio.Lock()
        self._found: int | None = None
        self._next = -math.inf

    async def count(self) -> int | None:
        """Return what was counted last; None where that failed."""
        async with self._lock:
            began = time.monotonic()
            if began >= self._next:
                self._found = None
                with suppress(*AWAY):
                    self._found = await self._database.ask(self._count)
                now = time.monotonic()
                self._next = now + max(self._every, 100 * (now - began))
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
