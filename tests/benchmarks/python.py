"""What the Python package adds: helpers beside the bare psycopg call, and the command line from start to end."""

import os
import subprocess
import sys
from collections.abc import Callable
from time import process_time
from typing import Any
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from pyapp import TaskReport, list_workflows, report_task, report_tasks
from tests.benchmarks.methods import Options, Samples, say
from tests.benchmarks.reads import WORKFLOW_COLUMNS
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench
from tests.benchmarks.work import FIRST_ID

Conn = psycopg.Connection[Any]
_LIST = f"select {WORKFLOW_COLUMNS} from public.workflow_progress order by created_at desc, workflow_id desc limit %s"
_REPORT = "select * from public.report_task(%s, %s, %s)"
_REPORTS = "select * from public.report_tasks(%s, %s)"


def helpers(bench: Bench, options: Options) -> Measurement:
    """Compare each helper with the same statement sent by psycopg, processor time of the client alone."""
    bench.ensure("ours")
    workflow = UUID(f"10000000-0000-4000-8000-{FIRST_ID + bench.size.workflows}")
    tasks = [UUID(f"20000000-0000-4000-8000-{FIRST_ID + bench.size.spread + n}") for n in range(1_000)]
    tasks = tasks[: bench.size.hot]
    reports = [TaskReport(task, "completed") for task in tasks]
    texts = [{"task_id": str(task), "status": "completed"} for task in tasks]
    calls: dict[str, tuple[int, Callable[[Conn], object], Callable[[Conn], object]]] = {
        "report of one task": (
            200,
            lambda conn: conn.execute(_REPORT, [workflow, tasks[0], "completed"]).fetchone(),
            lambda conn: report_task(conn, workflow, tasks[0], "completed"),
        ),
        f"report of {len(tasks):,}": (
            5,
            lambda conn: conn.execute(_REPORTS, [workflow, Jsonb(texts)]).fetchall(),
            lambda conn: report_tasks(conn, workflow, reports),
        ),
        "list of 50": (
            100,
            lambda conn: conn.execute(_LIST, [50]).fetchall(),
            lambda conn: list_workflows(conn),
        ),
    }
    samples: Samples = {f"{how}, {name}": [] for name in calls for how in ("psycopg", "helper")}
    with bench.connect("ours") as conn:
        for number in range(-1, options.rounds):
            say(f"helpers: round {number + 1} of {options.rounds}")
            for name, (times, bare, helper) in calls.items():
                for how, call in {"psycopg": bare, "helper": helper}.items():
                    begin = process_time()
                    for _ in range(times):
                        call(conn)
                    if number >= 0:  # the first round fills caches
                        samples[f"{how}, {name}"].append((process_time() - begin) / times * 1e6)
    bench.reset("ours")
    return Measurement("helpers", "Processor time of the client for one call", "µs", samples, None)


def children_seconds() -> float:
    used = os.times()
    return used.children_user + used.children_system


def command(bench: Bench, options: Options) -> Measurement:
    """Take the processor time of `agent-progress list` in all, beside the start of Python with psycopg."""
    bench.ensure("ours")
    dsn = make_conninfo(bench.server.dsn, dbname="ours")
    lines = {"python -c 'import psycopg'": ["-c", "import psycopg"], "agent-progress list": ["-m", "pyapp", "list"]}
    samples: Samples = {name: [] for name in lines}
    for _ in range(options.rounds):
        for name, line in lines.items():
            begin = children_seconds()
            subprocess.run(
                [sys.executable, *line], check=True, stdout=subprocess.DEVNULL, env=os.environ | {"DATABASE_URL": dsn}
            )
            samples[name].append(children_seconds() - begin)
    return Measurement(
        "command", "Processor time of a command", "s", samples, None, (Target("agent-progress list", 0.35),)
    )
