"""list, show and watch: reading progress."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from uuid import UUID

import psycopg
from psycopg import Connection

from pyapp.cli.common import STATUSES, database, print_json, say, workflow_id
from pyapp.cli.errors import explain
from pyapp.db import connect
from pyapp.history import get_forecasts, list_timeline
from pyapp.models import Forecast, Workflow
from pyapp.progress import get_workflow, list_tasks, list_workflows, progress_metrics
from pyapp.render import agents, as_columns, clean, live_table, outlook, plain_bar, plain_line, stage_line
from pyapp.stages import get_state, list_stages, stage_progress
from pyapp.watch import watch_changes

_PRIORITIES = ("low", "medium", "high", "critical")


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser("list", parents=[shared], help="list workflows, newest first")
    command.add_argument("--status", choices=STATUSES, help="only those with this status")
    command.add_argument("--type", help="only those of this type")
    command.add_argument("--priority", choices=_PRIORITIES, help="only those with this priority")
    command.add_argument("--limit", type=_positive, default=50, metavar="N", help="at most N of them (default 50)")
    command.add_argument(
        "--after", type=workflow_id, metavar="ID", help="the next page: those after this one in the list"
    )
    command.add_argument("--json", action="store_true", help="print them as JSON")
    command.set_defaults(run=_list)

    command = commands.add_parser("show", parents=[shared], help="show one workflow")
    command.add_argument("id", type=workflow_id, metavar="ID", help="the workflow's id")
    command.add_argument("--tasks", action="store_true", help="list its tasks as well")
    command.add_argument("--timeline", action="store_true", help="list what happened to it: events, stages and tasks")
    command.add_argument("--metrics", action="store_true", help="say how long reading took, and whether it is stale")
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.set_defaults(run=_show)

    command = commands.add_parser(
        "watch",
        parents=[shared],
        help="follow workflows live",
        description="Follow workflows live: bars in a terminal, a line for each change in a pipe. Ends when all those"
        " given have ended; without an id it follows the active ones until Ctrl-C.",
    )
    command.add_argument("ids", type=workflow_id, nargs="*", metavar="ID", help="workflows to follow")
    command.add_argument(
        "--interval",
        type=_seconds,
        default=0.5,
        metavar="SECONDS",
        help="time between two looks (default 0.5)",
    )
    command.add_argument("--json", action="store_true", help="print each change as a line of JSON")
    command.set_defaults(run=_watch)


def _list(args: argparse.Namespace) -> int:
    with database(args) as dsn, connect(dsn) as conn:
        workflows = list_workflows(
            conn,
            status=args.status,
            type=args.type,
            priority=args.priority,
            limit=args.limit,
            after=get_workflow(conn, args.after) if args.after else None,
        )
    if args.json:
        print_json(workflows)
        return 0
    header = ("ID", "NAME", "PROGRESS", "AGENTS", "FAILED", "STATUS", "STAGE", "CREATED")
    rows = [
        (
            w.workflow_id,
            w.name[:40],
            f"{plain_bar(w.progress, 10)} {w.progress:3d} %",
            agents(w),
            w.agents_failed or None,
            w.status,
            w.current_stage,
            f"{w.created_at:%Y-%m-%d %H:%M}",
        )
        for w in workflows
    ]
    print(as_columns(rows, header) if rows else "no workflows")
    return 0


def _show(args: argparse.Namespace) -> int:
    with database(args) as dsn, connect(dsn) as conn:
        workflow = get_workflow(conn, args.id)
        tasks = list_tasks(conn, args.id) if args.tasks else None
        metrics = progress_metrics(conn, args.id) if args.metrics else None
        state = get_state(conn, args.id)
        stages, by_stages = list_stages(conn, args.id), stage_progress(conn, args.id)
        forecast = get_forecasts(conn, [args.id]).get(args.id)
        timeline = list_timeline(conn, args.id, limit=None) if args.timeline else None
    if args.json:
        parts = asdict(workflow) | {"version": state.version, "stages": stages, "stage_progress": by_stages}
        parts |= {"forecast": forecast} | ({} if timeline is None else {"timeline": timeline})
        parts |= {} if tasks is None else {"tasks": tasks}
        print_json(parts | ({} if metrics is None else {"metrics": metrics}))
        return 0
    print(_description(workflow))
    print(f"version    {state.version}")
    if stages:
        share = "" if by_stages.progress_percentage is None else f"{by_stages.progress_percentage} %: "
        print(f"stages     {share}{stage_line(stages)}")
    if forecast is not None and (told := outlook(forecast)):
        print(f"forecast   {told}")
    if metrics is not None:
        print(f"read in    {metrics.calculation_time_ms:.2f} ms, {'STALE' if metrics.stale_data else 'not stale'}")
    if timeline is not None:
        moments = [(f"{m.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], m.kind, m.name, m.what) for m in timeline]
        print("\n" + as_columns(moments, ("AT", "KIND", "NAME", "WHAT")))
    if tasks is not None:
        header = ("TASK", "KEY", "AGENT", "STAGE", "STATUS", "RETRIES", "COMPLETED")
        rows = [
            (t.id, t.external_id, t.agent_type, t.stage, t.status, t.retry_count or "", _time(t.completed_at))
            for t in tasks
        ]
        print("\n" + as_columns(rows, header))
    return 0


def _description(w: Workflow) -> str:
    uncreated = w.agents_total - w.agents_created
    counts = {
        "completed": w.agents_completed,
        "failed": w.agents_failed,
        "cancelled": w.agents_cancelled,
        "open": w.agents_open,
        "not created yet": uncreated,
    }
    lines = {
        "workflow": f"{clean(w.name)}  ({w.workflow_id})",
        "about": clean(w.description) if w.description else None,
        "progress": f"{plain_bar(w.progress)} {w.progress} %  ({agents(w)})",
        "agents": ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none yet",
        "settled": f"{w.settled_percentage} %",
        "status": w.status,
        "stage": clean(w.current_stage),
        "type": f"{clean(w.type)}, priority {w.priority}",
        "trace": clean(w.trace_id) if w.trace_id else None,
        "created": _time(w.created_at),
        "updated": _time(w.updated_at),
        "moved": _time(w.last_updated_at),
        "completed": _time(w.completed_at),
    }
    return "\n".join(f"{name:<10} {value}" for name, value in lines.items() if value)


def _watch(args: argparse.Namespace) -> int:
    forecasts: dict[UUID, Forecast] = {}

    def read_forecasts(conn: Connection[Any], workflows: list[Workflow]) -> None:
        forecasts.clear()
        forecasts.update(get_forecasts(conn, [w.workflow_id for w in workflows if w.status == "running"]))

    def tell(error: psycopg.Error | None) -> None:
        say("the database is back" if error is None else f"the database is away, trying again: {explain(error)}")

    with database(args) as dsn:
        if args.json:
            for workflows in watch_changes(dsn, args.ids or None, args.interval, on_loss=tell):
                for workflow in workflows:
                    print_json(workflow)
            return 0
        changes = watch_changes(dsn, args.ids or None, args.interval, read_forecasts, tell)
        if sys.stdout.isatty() and _has_rich():
            _watch_live(changes, forecasts)
            return 0
        for workflows in changes:
            for workflow in workflows:
                print(plain_line(workflow, forecasts.get(workflow.workflow_id)), flush=True)
    return 0


def _watch_live(changes: Iterator[list[Workflow]], forecasts: dict[UUID, Forecast]) -> None:
    from rich.live import Live

    seen: dict[UUID, Workflow] = {}
    with Live(auto_refresh=False) as display:
        for workflows in changes:
            seen |= {workflow.workflow_id: workflow for workflow in workflows}
            rows = sorted(seen.values(), key=lambda w: (w.created_at, w.workflow_id), reverse=True)
            waiting = "no active workflows; waiting (Ctrl-C ends)"
            display.update(live_table(rows, forecasts) if rows else waiting, refresh=True)


def _has_rich() -> bool:
    try:
        import rich.live  # noqa: F401 (only asks whether it is there)
    except ImportError:
        return False
    return True


def _time(value: Any) -> str | None:
    return f"{value:%Y-%m-%d %H:%M:%S %Z}".strip() if value else None


def _positive(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 2**31:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if 0 < seconds <= 3600:
        return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0 to 3600)")
