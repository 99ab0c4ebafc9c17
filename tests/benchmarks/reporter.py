"""Agents that report to one hot workflow and wait until it is committed: a connection each, or one TaskReporter."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from time import perf_counter
from uuid import UUID

from psycopg.conninfo import make_conninfo

from pyapp import TaskReporter, report_task
from tests.benchmarks.methods import Options, Samples, say
from tests.benchmarks.report import Measurement
from tests.benchmarks.server import Bench
from tests.benchmarks.work import FIRST_ID

AGENTS = (1, 8, 32, 64)
ALONE, SHARED = "a connection each", "one TaskReporter"
Report = Callable[[UUID, UUID], object]


def reporter(bench: Bench, options: Options) -> Measurement:
    """Compare how many reports are committed per second."""
    title = "Reports to one hot workflow"
    rates: Samples = {_name(n, how): [] for n in AGENTS for how in (ALONE, SHARED)}
    bench.ensure("ours")
    for number in range(options.few):
        say(f"{title}: round {number + 1} of {options.few}")
        for agents in AGENTS:
            for how in (ALONE, SHARED) if number % 2 else (SHARED, ALONE):
                bench.reset("ours")
                rates[_name(agents, how)].append(_run(bench, agents, how, options.seconds))
    if wrong := bench.wrong("ours"):
        raise RuntimeError(f"{wrong} workflows are wrong")
    return Measurement("reporter", title, "tps", rates, _name(1, ALONE))


def _name(agents: int, how: str) -> str:
    return f"{agents} agent{'s' if agents > 1 else ''}, {how}"


def _run(bench: Bench, agents: int, how: str, seconds: int) -> float:
    """Return reports per second."""
    workflow = UUID(f"10000000-0000-4000-8000-{FIRST_ID + bench.size.workflows}")
    first = FIRST_ID + bench.size.spread
    begin = threading.Barrier(agents + 1)

    def work(number: int, report: Report) -> int:
        begin.wait()
        end, done = perf_counter() + seconds, 0
        for task in range(number, bench.size.hot, agents):
            if perf_counter() > end:
                break
            report(workflow, UUID(f"20000000-0000-4000-8000-{first + task}"))
            done += 1
        return done

    with ExitStack() as stack, ThreadPoolExecutor(agents) as pool:
        reports = _reports(bench, agents, how, stack)
        working = [pool.submit(work, number, report) for number, report in enumerate(reports)]
        begin.wait()
        began = perf_counter()
        return sum(each.result() for each in working) / (perf_counter() - began)


def _reports(bench: Bench, agents: int, how: str, stack: ExitStack) -> list[Report]:
    if how == SHARED:
        reporter = stack.enter_context(TaskReporter(make_conninfo(bench.server.dsn, dbname="ours")))
        return [lambda workflow, task: reporter.report(workflow, task, "completed").result()] * agents
    connections = [stack.enter_context(closing(bench.connect("ours"))) for _ in range(agents)]
    return [
        lambda workflow, task, conn=conn: report_task(conn, workflow, task, "completed")  # type: ignore[misc]
        for conn in connections
    ]
