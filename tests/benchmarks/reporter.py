"""Agents that report to one hot workflow and wait until it is committed: a connection each, or one TaskReporter."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import cache
from statistics import median
from time import perf_counter
from uuid import UUID

from psycopg.conninfo import make_conninfo

from pyapp import TaskReporter, report_task
from tests.benchmarks.methods import Options, say
from tests.benchmarks.report import Measurement
from tests.benchmarks.server import Bench
from tests.benchmarks.work import FIRST_ID

AGENTS = (1, 8, 32, 64)
ALONE, SHARED = "a connection each", "one TaskReporter"
Report = Callable[[UUID, UUID], object]


def reporter(bench: Bench, options: Options) -> Measurement:
    """Compare how many reports are committed per second."""
    rates = {name: [rate for rate, _ in runs] for name, runs in _run_all(bench, options).items()}
    return Measurement("reporter", "Reports to one hot workflow", "tps", rates, _name(1, ALONE))


def reporter_latency(bench: Bench, options: Options) -> Measurement:
    """Compare how long an agent waits for its report; of the same runs as the rates."""
    times = {name: [wait for _, wait in runs] for name, runs in _run_all(bench, options).items()}
    title = "Reports to one hot workflow, from the report to its commit, median"
    return Measurement("reporter-latency", title, "ms", times, _name(1, ALONE))


def _name(agents: int, how: str) -> str:
    return f"{agents} agent{'s' if agents > 1 else ''}, {how}"


@cache
def _run_all(bench: Bench, options: Options) -> dict[str, list[tuple[float, float]]]:
    runs: dict[str, list[tuple[float, float]]] = {_name(n, how): [] for n in AGENTS for how in (ALONE, SHARED)}
    bench.ensure("ours")
    for number in range(options.few):
        say(f"Reports to one hot workflow: round {number + 1} of {options.few}")
        for agents in AGENTS:
            for how in (ALONE, SHARED) if number % 2 else (SHARED, ALONE):
                bench.reset("ours")
                runs[_name(agents, how)].append(_run(bench, agents, how, options.seconds))
    if wrong := bench.wrong("ours"):
        raise RuntimeError(f"{wrong} workflows are wrong")
    return runs


def _run(bench: Bench, agents: int, how: str, seconds: int) -> tuple[float, float]:
    """Return reports per second, and how long one took, in milliseconds."""
    workflow = UUID(f"10000000-0000-4000-8000-{FIRST_ID + bench.size.workflows}")
    first = FIRST_ID + bench.size.spread
    begin = threading.Barrier(agents + 1)

    def work(number: int, report: Report) -> list[float]:
        times: list[float] = []
        begin.wait()
        end = perf_counter() + seconds
        for task in range(number, bench.size.hot, agents):
            began = perf_counter()
            if began > end:
                break
            report(workflow, UUID(f"20000000-0000-4000-8000-{first + task}"))
            times.append(perf_counter() - began)
        return times

    with ExitStack() as stack, ThreadPoolExecutor(agents) as pool:
        reports = _reports(bench, agents, how, stack)
        working = [pool.submit(work, number, report) for number, report in enumerate(reports)]
        begin.wait()
        began = perf_counter()
        times = [time for each in working for time in each.result()]
        return len(times) / (perf_counter() - began), median(times) * 1000


def _reports(bench: Bench, agents: int, how: str, stack: ExitStack) -> list[Report]:
    if how == SHARED:
        reporter = stack.enter_context(TaskReporter(make_conninfo(bench.server.dsn, dbname="ours")))
        return [lambda workflow, task: reporter.report(workflow, task, "completed").result()] * agents
    connections = [stack.enter_context(closing(bench.connect("ours"))) for _ in range(agents)]
    return [
        lambda workflow, task, conn=conn: report_task(conn, workflow, task, "completed")  # type: ignore[misc]
        for conn in connections
    ]
