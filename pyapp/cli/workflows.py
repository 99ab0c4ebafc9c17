"""list, show and watch: reading progress."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import psycopg
from psycopg import Connection

from pyapp.cli.common import (
    STATUSES,
    UsageError,
    add_name,
    add_read_dsn,
    find_source,
    print_json,
    readable_database,
    say,
    workflow_key,
)
from pyapp.cli.errors import explain
from pyapp.db import connect
from pyapp.history import get_forecasts, list_timeline
from pyapp.models import Forecast, Key, ProgressMetrics, Task, Workflow
from pyapp.progress import get_workflow, list_tasks, list_workflows, progress_metrics
from pyapp.render import agents, as_columns, clean, live_table, outlook, plain_bar, plain_line, stage_line
from pyapp.stages import get_state, list_stages, stage_progress
from pyapp.watch import watch_changes

_PRIORITIES = ("low", "medium", "high", "critical")


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser("list", parents=[shared], help="list workflows, newest first")
    add_name(command)
    add_read_dsn(command)
    command.add_argument("--status", help=f"only those with this status ({', '.join(STATUSES)})")
    command.add_argument("--type", help="only those of this type")
    command.add_argument("--priority", help=f"only those with this priority ({', '.join(_PRIORITIES)})")
    command.add_argument("--limit", type=_positive, default=50, metavar="N", help="at most N of them (default 50)")
    command.add_argument("--after", metavar="ID", help="the next page: those after this one in the list")
    command.add_argument("--json", action="store_true", help="print them as JSON")
    command.set_defaults(run=_list)

    command = commands.add_parser("show", parents=[shared], help="show one workflow")
    add_name(command)
    add_read_dsn(command)
    command.add_argument("id", metavar="ID", help="the workflow's id")
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
    add_name(command)
    add_read_dsn(command)
    command.add_argument("ids", nargs="*", metavar="ID", help="workflows to follow")
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
    _require_known(args)
    with readable_database(args) as dsn, connect(dsn) as conn:
        source = find_source(conn, args)
        workflows = list_workflows(
            conn,
            status=args.status,
            type=args.type,
            priority=args.priority,
            limit=args.limit,
            after=get_workflow(conn, workflow_key(args.after, args), source=source) if args.after else None,
            source=source,
        )
    if args.json:
        print_json(workflows)
        return 0
    header = ("ID", "NAME", "PROGRESS", "AGENTS", "FAILED", "STATUS", "STAGE", "CREATED")
    rows = [
        (
            w.workflow_id,
            (w.name or "")[:40],
            f"{plain_bar(w.progress, 10)} {w.progress:3d} %",
            agents(w),
            w.agents_failed or None,
            w.status,
            w.current_stage,
            f"{w.created_at:%Y-%m-%d %H:%M}" if w.created_at else None,
        )
        for w in workflows
    ]
    print(as_columns(rows, header) if rows else "no workflows")
    return 0


def _show(args: argparse.Namespace) -> int:
    key = workflow_key(args.id, args)
    if args.name is not None:
        return _show_adopted(args, key)
    with readable_database(args) as dsn, connect(dsn) as conn:
        workflow = get_workflow(conn, key)
        tasks = list_tasks(conn, key) if args.tasks else None
        metrics = progress_metrics(conn, key) if args.metrics else None
        state = get_state(conn, key)
        frozen = conn.execute("select progress_frozen_at from public.workflow where id = %s", [key]).fetchone()
        stages, by_stages = list_stages(conn, key), stage_progress(conn, key)
        forecast = get_forecasts(conn, [key]).get(key)
        timeline = list_timeline(conn, key, limit=None) if args.timeline else None
    if args.json:
        parts = asdict(workflow) | {"version": state.version, "stages": stages, "stage_progress": by_stages}
        parts["progress_frozen_at"] = frozen[0] if frozen else None
        parts |= {"forecast": forecast} | ({} if timeline is None else {"timeline": timeline})
        parts |= {} if tasks is None else {"tasks": tasks}
        print_json(parts | ({} if metrics is None else {"metrics": metrics}))
        return 0
    print(_description(workflow))
    print(f"version    {state.version}")
    if frozen and frozen[0]:
        print(f"frozen     {_time(frozen[0])}: its numbers stay as they were then")
    if stages:
        share = "" if by_stages.progress_percentage is None else f"{by_stages.progress_percentage} %: "
        print(f"stages     {share}{stage_line(stages)}")
    if forecast is not None and (told := outlook(forecast)):
        print(f"forecast   {told}")
    if metrics is not None:
        print(_measured(metrics))
    if timeline is not None:
        moments = [(f"{m.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], m.kind, m.name, m.what) for m in timeline]
        print("\n" + as_columns(moments, ("AT", "KIND", "NAME", "WHAT")))
    if tasks is not None:
        print("\n" + _task_table(tasks))
    return 0


def _show_adopted(args: argparse.Namespace, key: Key) -> int:
    """Show what adopted tables have: no stages and no history of ours."""
    with readable_database(args) as dsn, connect(dsn) as conn:
        source = find_source(conn, args)
        workflow = get_workflow(conn, key, source=source)
        tasks = list_tasks(conn, key, source=source) if args.tasks else None
        metrics = progress_metrics(conn, key, source=source) if args.metrics else None
    if args.timeline:
        say("adopted tables have no timeline")
    if args.json:
        parts = asdict(workflow) | ({} if tasks is None else {"tasks": tasks})
        print_json(parts | ({} if metrics is None else {"metrics": metrics}))
        return 0
    print(_description(workflow))
    if metrics is not None:
        print(_measured(metrics))
    if tasks is not None:
        print("\n" + _task_table(tasks))
    return 0


def _measured(metrics: ProgressMetrics) -> str:
    return f"read in    {metrics.calculation_time_ms:.2f} ms, {'STALE' if metrics.stale_data else 'not stale'}"


def _task_table(tasks: list[Task]) -> str:
    header = ("TASK", "KEY", "AGENT", "STAGE", "STATUS", "RETRIES", "COMPLETED")
    rows = [
        (t.id, t.external_id, t.agent_type, t.stage, t.status, t.retry_count or "", _time(t.completed_at))
        for t in tasks
    ]
    return as_columns(rows, header)


def _require_known(args: argparse.Namespace) -> None:
    """Refuse statuses and priorities that our own tables cannot have."""
    for option, known in (("status", STATUSES), ("priority", _PRIORITIES)):
        given = getattr(args, option)
        if args.name is None and given is not None and given not in known:
            raise UsageError(f"argument --{option}: invalid choice: {given!r} (choose from {', '.join(known)})")


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
        "workflow": f"{clean(w.name)}  ({clean(str(w.workflow_id))})".strip(),
        "about": clean(w.description) if w.description else None,
        "progress": f"{plain_bar(w.progress)} {w.progress} %  ({agents(w)})",
        "agents": ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none yet",
        "settled": f"{w.settled_percentage} %",
        "status": clean(w.status),
        "stage": clean(w.current_stage),
        "type": ", ".join(filter(None, (clean(w.type), f"priority {clean(w.priority)}" if w.priority else ""))),
        "trace": clean(w.trace_id) if w.trace_id else None,
        "created": _time(w.created_at),
        "updated": _time(w.updated_at),
        "moved": _time(w.last_updated_at),
        "completed": _time(w.completed_at),
    }
    return "\n".join(f"{name:<10} {value}" for name, value in lines.items() if value)


def _watch(args: argparse.Namespace) -> int:
    forecasts: dict[Key, Forecast] = {}
    keys = [workflow_key(text, args) for text in args.ids] or None

    def read_forecasts(conn: Connection[Any], workflows: list[Workflow]) -> None:
        forecasts.clear()
        if args.name is not None:
            return  # adopted tables have none
        forecasts.update(get_forecasts(conn, [w.workflow_id for w in workflows if w.status == "running"]))

    def tell(error: psycopg.Error | None) -> None:
        say("the database is back" if error is None else f"the database is away, trying again: {explain(error)}")

    with readable_database(args) as dsn:
        with connect(dsn) as conn:
            source = find_source(conn, args)
        if args.json:
            for workflows in watch_changes(dsn, keys, args.interval, on_loss=tell, source=source):
                for workflow in workflows:
                    print_json(workflow)
            return 0
        changes = watch_changes(dsn, keys, args.interval, read_forecasts, tell, source=source)
        if sys.stdout.isatty() and _has_rich():
            _watch_live(changes, forecasts)
            return 0
        for workflows in changes:
            for workflow in workflows:
                print(plain_line(workflow, forecasts.get(workflow.workflow_id)), flush=True)
    return 0


def _watch_live(changes: Iterator[list[Workflow]], forecasts: dict[Key, Forecast]) -> None:
    from rich.live import Live

    seen: dict[Key, Workflow] = {}
    with Live(auto_refresh=False) as display:
        for workflows in changes:
            seen |= {workflow.workflow_id: workflow for workflow in workflows}
            rows = sorted(seen.values(), key=lambda w: (str(w.created_at), str(w.workflow_id)), reverse=True)
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
