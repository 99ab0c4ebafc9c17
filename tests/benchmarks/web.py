"""The list page over 100,000 workflows with 1,000,000 tasks, and requests beside a bare select.

Run by hand: python -m tests.benchmarks.web [--workflows N] [--tasks N]. Takes a private server of its own.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from pyapp import embedded, migrate
from pyapp.web import paging, parameters
from pyapp.web.database import Database
from pyapp.web.shape import Shape
from pyapp.web.wire import fetch_values

Conn = psycopg.AsyncConnection[Any]

SETTINGS = {"fsync": "off", "shared_buffers": "512MB", "max_wal_size": "8GB", "synchronous_commit": "off"}
# Five types, one rare; four priorities, one rare; 2 % active, and these among the oldest as well as the newest; a third
# of all names equal.
FILL = [
    "insert into workflow (id, name, type, status, priority, created_at)"
    " select md5('w' || n)::uuid,"
    " case when n %% 3 = 0 then 'nightly build' else 'workflow ' || lpad((n * 7919 %% %(w)s)::text, 6, '0') end,"
    " case when n %% 1000 = 7 then 'rare' else (array['app', 'feature', 'bugfix', 'report'])[1 + n %% 4] end,"
    " (case when n %% 50 = 0 then (array['initiated', 'running', 'paused'])[1 + n / 50 %% 3]"
    " when n %% 20 = 1 then 'failed' when n %% 100 = 3 then 'cancelled' else 'completed' end)::workflow_status,"
    " (case when n %% 1000 = 9 then 'critical' else (array['low', 'medium', 'high'])[1 + n %% 3] end)::priority_level,"
    " now() - n * interval '1 minute' from generate_series(1, %(w)s) as n",
    "insert into agent_task (workflow_id, agent_type, status, created_at)"
    " select md5('w' || 1 + n %% %(w)s)::uuid, 'agent',"
    " (array['completed', 'completed', 'completed', 'failed', 'pending'])[1 + n %% 5]::task_status, now()"
    " from generate_series(1, %(t)s) as n",
]
LIST: list[tuple[str, dict[str, Any]]] = [
    ("default order", {}),
    *((f"sort {sort}", {"sort": sort}) for sort in ("created", "name", "-name", "status", "-status")),
    ("status running", {"status": ["running"]}),
    ("status completed", {"status": ["completed"]}),
    ("status active (3)", {"status": ["initiated", "running", "paused"]}),
    ("status active, by name", {"status": ["initiated", "running", "paused"], "sort": "name"}),
    ("type frequent", {"type": "app"}),
    ("type rare", {"type": "rare"}),
    ("type rare, by name", {"type": "rare", "sort": "name"}),
    ("type none", {"type": "nothing"}),
    ("priority frequent", {"priority": "low"}),
    ("priority rare", {"priority": "critical"}),
    ("priority rare, by name", {"priority": "critical", "sort": "name"}),
    ("priority none, status failed", {"priority": "critical", "status": ["cancelled"]}),
    ("name prefix, few", {"name": "workflow 0123"}),
    ("name prefix, many", {"name": "nightly"}),
    ("name prefix, many, by name", {"name": "nightly", "sort": "name"}),
    ("name prefix, none", {"name": "zzz"}),
    ("all filters", {"name": "workflow", "type": "app", "priority": "high", "status": ["failed"]}),
]


@contextmanager
def filled(workflows: int, tasks: int) -> Iterator[str]:
    """A server with that much in it."""
    parent = Path(tempfile.mkdtemp(prefix="ap-web-"))
    parent.chmod(0o755)
    try:
        with embedded.server(parent / "data", settings=SETTINGS) as server:
            migrate(server.dsn)
            with psycopg.connect(server.dsn, autocommit=True) as conn:
                for statement in FILL:
                    conn.execute(statement, {"w": workflows, "t": tasks})
                conn.execute("vacuum analyze")
            yield server.dsn
    finally:
        shutil.rmtree(parent, ignore_errors=True)


async def explained(conn: Conn, query: Any, values: Any) -> tuple[float, float]:
    """Planning and execution time in milliseconds, as the server measures them."""
    [told] = await fetch_values(conn, b"explain (analyze, timing off, format json) " + query.as_bytes(conn), values)
    [found] = json.loads(told)
    return found["Planning Time"], found["Execution Time"]


async def measure_pages(database: Database, runs: int = 30) -> None:
    """The first page, and one further on, of each order and filter."""
    print(f"\n{'list page of 50, p50 in the database':40} {'plan ms':>8} {'run ms':>8} {'2nd page':>9}")
    worst = 0.0

    async def measure(conn: Conn, shape: Shape) -> None:
        nonlocal worst
        for label, chosen in LIST:
            wanted = parameters.Wanted(**chosen)
            cursor = (await paging.list_page(conn, shape, wanted, 50)).next
            figures = []
            for after in (None, cursor) if cursor else (None,):
                query, values = paging.page_query(shape, replace(wanted, cursor=after), 50)
                times = [await explained(conn, query, values) for _ in range(runs)]
                figures.append([statistics.median(column) for column in zip(*times, strict=True)])
            worst = max(worst, *(run for _, run in figures))
            further = f"{figures[1][1]:9.2f}" if len(figures) > 1 else ""
            print(f"{label:40} {figures[0][0]:8.2f} {figures[0][1]:8.2f} {further}", flush=True)

    await database.ask(measure)
    print(f"worst: {worst:.2f} ms, target 5 ms: {'met' if worst < 5 else 'MISSED'}")


def measure_requests(dsn: str, seconds: float = 5.0, clients: int = 8) -> None:
    """Answers per second over kept connections, beside a bare select of the same row, and what each costs the service.

    Its processor time does not depend on what else the machine has to do.
    """
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select id::text from workflow limit 1").fetchone()
        assert row is not None
    bare = select_rate(dsn, row[0], seconds, clients)
    print(f"\n{f'{clients} clients':32} {'per second':>10} {'of bare':>8} {'ms of CPU each':>15}")
    print(f"{'bare select of one workflow':32} {bare:10.0f}", flush=True)
    line = [sys.executable, "-m", "pyapp", "serve", "--port", "0", "--dsn", dsn]
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(line, stderr=said) as service:
        try:
            port = 0
            while not port:
                time.sleep(0.1)
                said.seek(0)
                port = int(said.readline().partition("127.0.0.1:")[2].partition("/")[0] or 0)
            paths = ("/healthz", f"/api/v1/workflows/{row[0]}", "/api/v1/workflows", "/workflows")
            for path in paths:
                before = processor_seconds(service.pid)
                answers = ask_for(port, path, seconds, clients)
                cost = (processor_seconds(service.pid) - before) / answers * 1000
                rate = answers / seconds
                print(f"{path.replace(row[0], 'ID'):32} {rate:10.0f} {rate / bare:8.2f} {cost:15.2f}", flush=True)
        finally:
            service.terminate()


def select_rate(dsn: str, workflow: str, seconds: float, clients: int) -> float:
    """Selects of one workflow by its key per second, by pgbench."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(f"select * from workflow_progress where workflow_id = '{workflow}';\n")
        script.flush()
        line = [embedded.binaries(18) / "pgbench", "-n", "-f", script.name, "-M", "prepared"]
        line += ["-c", str(clients), "-T", str(round(seconds)), f"--dbname={dsn}"]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
    return float(done.stdout.partition("tps = ")[2].split()[0])


def processor_seconds(pid: int) -> float:
    """What a process has used of the processor so far."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def ask_for(port: int, path: str, seconds: float, clients: int) -> int:
    """Ask for a path again and again; return the number of answers."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    stop = threading.Event()

    def go() -> int:
        answers = 0
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not stop.is_set():
                connection.sendall(request)
                head, _, body = connection.recv(1 << 18).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200"), head
                left = int(head.lower().partition(b"content-length: ")[2].split()[0]) - len(body)
                while left > 0:
                    left -= len(connection.recv(1 << 18))
                answers += 1
        return answers

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(go) for _ in range(clients)]
        time.sleep(seconds)
        stop.set()
        return sum(one.result() for one in running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workflows", type=int, default=100_000)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    size = parser.parse_args()
    print(f"filling: {size.workflows:,} workflows, {size.tasks:,} tasks", flush=True)
    with filled(size.workflows, size.tasks) as dsn:

        async def measure_reads() -> None:
            async with Database(dsn) as database:
                await measure_pages(database)

        asyncio.run(measure_reads())
        measure_requests(dsn)


if __name__ == "__main__":
    main()
