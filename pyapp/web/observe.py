"""What the service says of itself: a line of JSON for each request, and metrics for Prometheus."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg_pool import PoolTimeout
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pyapp.web.queries import read_overview

log = logging.getLogger("agent_progress.access")
_DRIFT_EVERY = 60.0  # seconds; it counts every task


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


class DatabaseCollector(Collector):
    """Reads, when Prometheus asks, what the database says."""

    def __init__(self, run: Callable[[Callable[[psycopg.Connection[Any]], Any]], Any], clients: Callable[[], int]):
        """Make a collector that runs its queries with ``run``."""
        self._run = run
        self._clients = clients
        self._lock = threading.Lock()
        self._drift: float = float("nan")
        self._drift_at = -_DRIFT_EVERY

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of now."""
        yield GaugeMetricFamily("agent_progress_stream_clients", "Clients that follow live.", value=self._clients())
        up = GaugeMetricFamily("agent_progress_database_up", "Whether the database answers.")
        try:
            read = self._run(read_overview)
        except (psycopg.Error, PoolTimeout):
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        by_status = GaugeMetricFamily("agent_progress_workflows", "Workflows by status.", labels=["status"])
        for name, count in read["overview"].items():
            if name != "total_workflows":
                by_status.add_metric([name.removesuffix("_workflows")], count)
        yield by_status
        tasks = GaugeMetricFamily("agent_progress_tasks", "Tasks of all workflows by outcome.", labels=["outcome"])
        for name, count in read["agents"].items():
            tasks.add_metric([name], float(count))
        yield tasks
        yield GaugeMetricFamily(
            "agent_progress_drifting_workflows",
            "Workflows whose stored progress is wrong, as of the last minute; NaN where counting took too long.",
            value=self._drifting(),
        )

    def _drifting(self) -> float:
        with self._lock:
            if time.monotonic() - self._drift_at >= _DRIFT_EVERY:
                self._drift_at = time.monotonic()
                try:
                    self._drift = self._run(_count_drift)
                except (psycopg.Error, PoolTimeout):
                    self._drift = float("nan")
            return self._drift


def _count_drift(conn: psycopg.Connection[Any]) -> float:
    row = conn.execute("select count(*) from public.workflow_progress_drift").fetchone()
    return float(row[0]) if row else float("nan")


class Observed:
    """Times each request, counts it and writes a line about it: the path without its query, and no header."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap an application."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            elapsed = time.perf_counter() - began
            # The route, not the path: ids would make a metric for each workflow.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            if not route.endswith("/stream"):
                self._metrics.request_seconds.labels(route).observe(elapsed)
            entry = {"method": scope["method"], "path": scope["path"], "status": status, "ms": round(elapsed * 1000, 1)}
            log.info(json.dumps(entry))
