"""demo and replay: see it at work on recorded workflow runs."""

import logging
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import click
from psycopg.conninfo import conninfo_to_dict

import pyapp
from pyapp.cli.common import Target, clean, command, database, in_terminal, require_extra, say, vocabulary
from pyapp.cli.errors import telling_what_lacks
from pyapp.cli.main import NAME
from pyapp.cli.options import Number
from pyapp.cli.tables import below_parents, print_workflows
from pyapp.cli.watch import Following
from pyapp.db import connect, find_schema
from pyapp.demo.files import demo_traces, read_trace
from pyapp.demo.player import Player
from pyapp.demo.trace import Trace

_MOST_WARNINGS = 50
SERVED_SPEED = 1
"""As it was: there is something to be seen on the dashboard for four minutes."""
_SPEED = Number(0, 1_000_000, min_open=True)
_agents = click.option(
    "--agents",
    type=click.IntRange(1, 150),
    default=8,
    show_default=True,
    metavar="N",
    help="Agents, each with its own connection.",
)


@command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@_agents
@click.option(
    "--speed", type=_SPEED, metavar="X", help="Seconds of the run that pass in a second; as fast as can be by default."
)
def replay(target: Target, files: tuple[Path, ...], agents: int, speed: float | None) -> int:
    """Play recorded workflow runs through the database.

    As an orchestrator and its agents would; then stored and counted numbers are compared, and it exits 1 where they
    differ. Reads Nextflow traces (trace.txt, trace.csv) and WfFormat 1.5 (JSON), gzipped as well; each FILE becomes a
    workflow. Without a database it uses the embedded server.

    Example:
      agent-progress replay trace.txt run.json.gz --embedded
      agent-progress replay trace.csv --speed 60    (an hour in a minute)
    """
    traces = [read_trace(file) for file in files]  # all, before anything is written
    for trace in traces:
        for warning in trace.warnings[:_MOST_WARNINGS]:
            say(clean(warning))
        if len(trace.warnings) > _MOST_WARNINGS:
            say(f"{clean(trace.name)}: {len(trace.warnings) - _MOST_WARNINGS} more warnings")
    with database(target, or_embedded=True, install=True) as dsn:
        return _play(dsn, target.schema, traces, agents, speed)


@command()
@_agents
@click.option(
    "--speed", type=_SPEED, metavar="X", help="Seconds of the runs in a second: 40, with --serve 1 (4 minutes)."
)
@click.option("--serve", is_flag=True, help="Show it on a live dashboard, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Its port; 0 for any.")
@click.option("--keep", is_flag=True, help="Keep the server running at the end, until Ctrl-C.")
def demo(target: Target, agents: int, speed: float | None, serve: bool, port: int, keep: bool) -> int:
    """See it at work: a private server, and several workflows at once.

    Starts a private server, plays four workflows with live bars, three of them a tree, and compares what is stored with
    what is counted. Never writes into a database of yours unless you name it with --dsn.

    Example:
      agent-progress demo
      agent-progress demo --serve    (with the dashboard on http://127.0.0.1:8080/)
    """
    target.embedded = target.dsn is None  # DATABASE_URL may mean a database that is no place for a demo
    if serve:
        require_extra("web", "fastapi", "uvicorn")
    say("starting a private PostgreSQL server" if target.embedded else "playing in the database that --dsn names")
    with database(target, install=True) as dsn, ExitStack() as until_then:
        if serve:
            from pyapp.web import Settings, in_background

            dashboard = in_background(Settings(dsn, find_schema(target.schema)), port)
            say(f"dashboard: {until_then.enter_context(dashboard)}")
        status = _play(dsn, target.schema, demo_traces(), agents, speed or (SERVED_SPEED if serve else 40))
        _tell_where(target, dsn, stays=keep or serve)
        if keep or serve:
            say("all keeps running until Ctrl-C")
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                say("stopping")
    return status


def _play(dsn: str, schema: str | None, traces: Sequence[Trace], agents: int, speed: float | None) -> int:
    """Play to the end with a live display, then compare what is stored with what is counted."""
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of what a lost connection interrupts
    with connect(dsn) as conn, telling_what_lacks(conn, schema):
        called = vocabulary(conn, schema)
    began = time.monotonic()
    player = Player(dsn, traces, agents, speed, schema)
    with ThreadPoolExecutor(1, "player") as pool:
        playing = pool.submit(player.play)
        try:
            following = Following(player.workflow_ids, schema, called)
            following.show(dsn, 0.1 if in_terminal() else 0.5, ended=playing.done, transient=True)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                say("stopping: open tasks and their workflows are cancelled")
            player.stopped.set()
            raise
    playing.result()
    elapsed = time.monotonic() - began
    with connect(dsn, autocommit=True) as conn:
        workflows = pyapp.get_workflows(conn, player.workflow_ids, schema=schema)
        drift = pyapp.find_drift(conn, player.workflow_ids, schema=schema)
    print_workflows(below_parents(reversed(workflows)), called.task_nouns)
    tasks = sum(workflow.agents_created for workflow in workflows)
    verdict = f"{len(drift)} of {len(workflows)} workflows WRONG" if drift else "stored equals counted for all"
    print(f"{tasks} tasks in {elapsed:.1f} s, {verdict}")
    return 1 if drift else 0


def _tell_where(target: Target, dsn: str, *, stays: bool) -> None:
    """Say how to look around."""
    again = "--embedded" if target.embedded else "--dsn ..."
    program = NAME if shutil.which(NAME) else f"{sys.executable} -m pyapp"
    print(f"\nlook around:  {program} list {again}\n              {program} psql {again}", flush=True)
    if target.embedded and stays:
        where = conninfo_to_dict(dsn)
        print(f"or with any psql:  psql -h {where['host']} -p {where['port']} -U postgres postgres", flush=True)
