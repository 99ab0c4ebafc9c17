"""replay and demo: see it at work on real workflow runs."""

import argparse
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pyapp.agent import Agent
from pyapp.cli.checks import check
from pyapp.cli.common import database, say
from pyapp.cli.errors import tell_loss
from pyapp.history import get_forecasts
from pyapp.models import Forecast, Key, Workflow
from pyapp.progress import get_workflows
from pyapp.render import agents, as_columns, live_table, plain_line
from pyapp.replay.player import Player
from pyapp.replay.trace import SAMPLE_PATH, Attempt, Trace, TraceTask, read_trace
from pyapp.web.command import in_background, port

_MOST_WARNINGS = 50


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "replay",
        parents=[shared],
        help="play recorded workflow runs through the database",
        description="Play recorded workflow runs through the database, as an orchestrator and its agents would, and"
        " check that stored equals counted. Reads Nextflow traces (trace.txt, trace.csv) and WfFormat 1.5 (JSON),"
        " gzipped as well. Without a database it uses the embedded server.",
    )
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a recorded run; each becomes a workflow")
    _add_options(command, agents=4)
    command.set_defaults(run=_replay)

    command = commands.add_parser(
        "demo",
        parents=[shared],
        help="see it at work: a private server and several workflows at once",
        description="Start a private server, play several workflows at once with live bars, and check the numbers."
        " Never writes into a database of yours unless you name it with --dsn.",
    )
    _add_options(command, agents=8)
    command.add_argument("--serve", action="store_true", help="show it on a live dashboard, until Ctrl-C")
    command.add_argument("--port", type=port, default=8080, help="port of the dashboard, 0 for any (default 8080)")
    command.add_argument("--keep", action="store_true", help="keep the server running at the end, until Ctrl-C")
    command.set_defaults(run=_demo, speed=40.0)


def _add_options(command: argparse.ArgumentParser, agents: int) -> None:
    command.add_argument(
        "--agents",
        type=_count,
        default=agents,
        metavar="N",
        help=f"agents at work at once, each with its own connection (default {agents})",
    )
    command.add_argument(
        "--speed",
        type=_speed,
        metavar="X",
        help="seconds of the run that pass in a second (replay: as fast as can be)",
    )
    command.add_argument("--upfront", action="store_true", help="add all tasks at the beginning")


def _replay(args: argparse.Namespace) -> int:
    # All files are read before anything is written.
    traces = [read_trace(file) for file in args.files]
    for trace in traces:
        for warning in trace.warnings[:_MOST_WARNINGS]:
            say(warning)
        if len(trace.warnings) > _MOST_WARNINGS:
            say(f"{trace.name}: {len(trace.warnings) - _MOST_WARNINGS} more warnings")
    with database(args, or_embedded=True) as dsn:
        player = Player(dsn, traces, agents=args.agents, speed=args.speed, upfront=args.upfront)
        return _play(dsn, player)


def _demo(args: argparse.Namespace) -> int:
    if args.dsn is None:
        args.embedded = True  # DATABASE_URL may mean a database that is no place for a demo
    sample = read_trace(SAMPLE_PATH)
    traces = [
        replace(sample, name="checkout service"),
        replace(_scaled(sample, 0.5, calm=True), name="login page"),
        replace(_scaled(sample, 0.8, calm=True), name="invoice export"),
        replace(_scaled(sample, 1.3), name="search index"),
    ]
    say("starting a private PostgreSQL server" if args.embedded else "playing in the database that --dsn names")
    with database(args) as dsn, in_background(dsn, args.port) if args.serve else nullcontext() as dashboard:
        if dashboard is not None:
            say(f"dashboard: {dashboard}")
        status = _play(dsn, Player(dsn, traces, agents=args.agents, speed=args.speed, upfront=args.upfront))
        again = "--embedded" if args.embedded else "--dsn ..."
        called = f"{sys.executable} -m pyapp" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
        program = "agent-progress" if shutil.which("agent-progress") else called
        print(f"\nlook around:  {program} list {again}\n              {program} psql {again}", flush=True)
        if args.embedded and (args.keep or args.serve):
            where = conninfo_to_dict(dsn)
            print(f"or with any psql:  psql -h {where['host']} -p {where['port']} -U postgres postgres", flush=True)
        if dashboard is not None:
            print(f"dashboard:    {dashboard}", flush=True)
        if args.keep or args.serve:
            say("all keeps running until Ctrl-C")
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                say("stopping")
    return status


def _play(dsn: str, player: Player) -> int:
    """Play to the end with a live display, then compare what is stored with what is counted."""

    def read(conn: psycopg.Connection[Any]) -> tuple[dict[Key, Workflow], dict[Key, Forecast]]:
        by_id = {workflow.workflow_id: workflow for workflow in get_workflows(conn, player.workflow_ids)}
        running = [workflow.workflow_id for workflow in by_id.values() if workflow.status == "running"]
        return by_id, get_forecasts(conn, running)

    began = time.monotonic()
    try:
        player.start()
        with Agent(dsn, on_loss=tell_loss) as reader:
            with _display() as show:
                ended = False
                while not ended:
                    ended = player.join(0.1)
                    by_id, forecasts = reader.persist(read)
                    show([by_id[found] for found in player.workflow_ids if found in by_id], forecasts)
            elapsed = time.monotonic() - began
            workflows = reader.persist(lambda conn: get_workflows(conn, player.workflow_ids))
            drift = reader.persist(lambda conn: check(conn, player.workflow_ids)[1])
    except KeyboardInterrupt:
        say("stopping: open tasks and their workflows are cancelled")
        player.stop()
        raise
    except BaseException:
        player.stop()
        raise
    rows = [
        (
            w.name,
            f"{w.progress:3d} %",
            agents(w),
            w.agents_failed or None,
            w.agents_cancelled or None,
            w.status,
            w.workflow_id,
        )
        for w in reversed(workflows)
    ]
    print(as_columns(rows, ("WORKFLOW", "PROGRESS", "AGENTS", "FAILED", "CANCELLED", "STATUS", "ID")))
    tasks = sum(workflow.agents_created for workflow in workflows)
    verdict = f"{len(drift)} of {len(workflows)} workflows WRONG" if drift else "stored equals counted for all"
    print(f"{tasks} tasks in {elapsed:.1f} s, {verdict}")
    return 1 if drift else 0


@contextmanager
def _display() -> Iterator[Any]:
    """Show workflows as they go: live bars in a terminal, a line for each tenth elsewhere."""
    try:
        if not sys.stdout.isatty():
            raise ImportError
        from rich.live import Live
    except ImportError:
        told: dict[Any, Any] = {}

        def tell(workflows: Sequence[Workflow], forecasts: Mapping[Key, Forecast]) -> None:
            for workflow in workflows:
                news = (workflow.progress // 10, workflow.status)
                if told.get(workflow.workflow_id) != news:
                    told[workflow.workflow_id] = news
                    print(plain_line(workflow, forecasts.get(workflow.workflow_id)), flush=True)

        yield tell
        return
    with Live(auto_refresh=False, transient=True) as live:
        yield lambda workflows, forecasts: live.update(live_table(workflows, forecasts), refresh=True)


def _scaled(trace: Trace, factor: float, *, calm: bool = False) -> Trace:
    """Make another run of a trace: stretched in time, and with ``calm`` one in which all goes well in the end."""

    def attempt(a: Attempt, last: bool) -> Attempt:
        status = "completed" if calm and last else a.status
        return Attempt(a.submitted * factor, a.started * factor, a.finished * factor, status)

    def task(t: TraceTask) -> TraceTask:
        return replace(t, attempts=tuple(attempt(a, a is t.attempts[-1]) for a in t.attempts))

    return replace(trace, tasks=tuple(task(t) for t in trace.tasks))


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text) <= 150:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of agents (1 to 150)")


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if 0 < speed < math.inf:
        return speed
    raise argparse.ArgumentTypeError(f"{text!r} is not a speed (a positive number)")
