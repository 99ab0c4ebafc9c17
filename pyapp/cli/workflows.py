"""list and show: reading progress."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from psycopg import sql

from pyapp import helpers
from pyapp.cli import tables
from pyapp.cli.common import (
    PRIORITIES,
    STATUSES,
    Command,
    Target,
    as_json,
    clean,
    complete_from,
    complete_ids,
    connection,
    number,
    pass_target,
    print_json,
    say,
    views_of,
    workflow_id,
)
from pyapp.cli.text import agents, moment, outlook, plain_bar, stage_line
from pyapp.db import find_schema
from pyapp.models import ProgressMetrics, Task, Workflow

if TYPE_CHECKING:
    from psycopg import Connection


@click.command(
    cls=Command,
    reads=True,
    example="""
    agent-progress list --status running --limit 10
    agent-progress list --json | jq -r '.[] | "\\(.name) \\(.progress)"'
    """,
)
@click.option(
    "--status", help=f"Only those with this status: {', '.join(STATUSES)}.", shell_complete=complete_from(STATUSES)
)
@click.option("--type", help="Only those of this type.")
@click.option(
    "--priority",
    help=f"Only those with this priority: {', '.join(PRIORITIES)}.",
    shell_complete=complete_from(PRIORITIES),
)
@click.option(
    "--limit",
    type=number(1, 2**31 - 1, "a positive number"),
    default=50,
    show_default=True,
    metavar="N",
    help="At most N of them.",
)
@click.option(
    "--after", metavar="ID", help="The next page: those after this one in the list.", shell_complete=complete_ids
)
@as_json
@pass_target
def list_(
    target: Target,
    status: str | None,
    type: str | None,
    priority: str | None,
    limit: int,
    after: str | None,
    as_json: bool,
) -> None:
    """List workflows, newest first."""
    with connection(target, reads=True) as conn:
        workflows = helpers.list_workflows(
            conn,
            status=status,
            type=type,
            priority=priority,
            limit=limit,
            after=helpers.get_workflow(conn, after, schema=target.schema) if after else None,
            schema=target.schema,
        )
    if as_json:
        print_json(workflows)
    elif not workflows:
        print("no workflows")
    elif tables.in_terminal():
        tables.print_table(
            [
                tables.Column("ID"),
                tables.Column("NAME", least=10, most=40),
                tables.Column("PROGRESS", least=8, most=16, leaves=2),
                tables.Column("", right=True, style="bold"),
                tables.Column("AGENTS", right=True),
                tables.Column("FAILED", right=True, style="red", leaves=1),
                tables.Column("STATUS"),
                tables.Column("STAGE", least=8, most=24, style="dim", leaves=3),
                tables.Column("CREATED", style="dim", leaves=4),
            ],
            [
                (
                    w.workflow_id,
                    w.name,
                    tables.stacked_bar(w),
                    f"{w.progress} %",
                    f"{w.agents_completed} of {w.agents_total}",
                    w.agents_failed or None,
                    tables.coloured(w.status),
                    w.current_stage,
                    f"{w.created_at:%Y-%m-%d %H:%M}" if w.created_at else None,
                )
                for w in workflows
            ],
        )
    else:
        tables.print_table(
            ("ID", "NAME", "PROGRESS", "AGENTS", "FAILED", "STATUS", "STAGE", "CREATED"),
            [
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
            ],
        )


@click.command(
    cls=Command,
    reads=True,
    example="""
    agent-progress show 6f1c29a0-… --tasks
    agent-progress show 6f1c29a0-… --timeline --json
    """,
)
@workflow_id
@click.option("--tasks", is_flag=True, help="List its tasks as well.")
@click.option("--timeline", is_flag=True, help="List what happened to it: events, stages and tasks.")
@click.option("--metrics", is_flag=True, help="Say how long reading took, and whether it is stale.")
@as_json
@pass_target
def show(target: Target, id: str, tasks: bool, timeline: bool, metrics: bool, as_json: bool) -> None:
    """Show one workflow: its progress, stages and forecast."""
    with connection(target, reads=True) as conn:
        parts = _read(conn, target.schema, id, tasks=tasks, timeline=timeline, metrics=metrics)
    if timeline and "timeline" not in parts:
        say("adopted tables have no timeline")
    workflow: Workflow = parts["workflow"]
    if as_json:
        print_json(asdict(workflow) | {name: part for name, part in parts.items() if name != "workflow"})
        return
    tables.print_fields(_fields(workflow, parts))
    if "timeline" in parts:
        print()
        tables.print_table(
            (tables.Column("AT", style="dim"), "KIND", tables.Column("NAME", least=8), tables.Column("WHAT", least=8)),
            [(f"{m.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], m.kind, m.name, m.what) for m in parts["timeline"]],
        )
    if "tasks" in parts:
        print()
        _print_tasks(parts["tasks"])


def _read(
    conn: "Connection[Any]", schema: str | None, key: str, *, tasks: bool, timeline: bool, metrics: bool
) -> dict[str, Any]:
    """Read what the schema has of it: adopted tables have no stages and no history."""
    workflow = helpers.get_workflow(conn, key, schema=schema)
    key = str(workflow.workflow_id)
    views = views_of(conn, schema)
    parts: dict[str, Any] = {"workflow": workflow}
    if "workflow" in views:
        parts["version"] = helpers.get_state(conn, key, schema=schema).version
        query = sql.SQL("select progress_frozen_at from {} where id = %s").format(
            sql.Identifier(find_schema(schema), "workflow")
        )
        row = conn.execute(query, [key]).fetchone()
        parts["progress_frozen_at"] = row[0] if row else None
    if "workflow_stage_agents" in views:
        parts["stages"] = helpers.list_stages(conn, key, schema=schema)
    if "workflow_stage_progress" in views:
        parts["stage_progress"] = helpers.stage_progress(conn, key, schema=schema)
    if "workflow_forecast" in views:
        parts["forecast"] = next(iter(helpers.get_forecasts(conn, [key], schema=schema).values()), None)
    if timeline and "workflow_timeline" in views:
        parts["timeline"] = helpers.list_timeline(conn, key, limit=None, schema=schema)
    if tasks:
        parts["tasks"] = helpers.list_tasks(conn, key, schema=schema)
    if metrics:
        parts["metrics"] = helpers.progress_metrics(conn, key, schema=schema)
    return parts


def _fields(w: Workflow, parts: dict[str, Any]) -> dict[str, object]:
    """Name what is to be said of a workflow, in the order of reading; what is empty is left out."""
    counts = {
        "completed": w.agents_completed,
        "failed": w.agents_failed,
        "cancelled": w.agents_cancelled,
        "open": w.agents_open,
        "not created yet": w.agents_total - w.agents_created,
    }
    frozen, stages, by_stages = parts.get("progress_frozen_at"), parts.get("stages"), parts.get("stage_progress")
    share = f"{by_stages.progress_percentage} %: " if by_stages and by_stages.progress_percentage is not None else ""
    forecast, metrics = parts.get("forecast"), parts.get("metrics")
    return {
        "workflow": f"{clean(w.name)}  ({clean(str(w.workflow_id))})".strip(),
        "about": w.description,
        "progress": tables.progress_of(w),
        "agents": ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none yet",
        "settled": f"{w.settled_percentage} %",
        "status": tables.coloured(w.status),
        "stage": w.current_stage,
        "type": ", ".join(filter(None, (w.type, f"priority {w.priority}" if w.priority else ""))),
        "trace": w.trace_id,
        "created": moment(w.created_at),
        "updated": moment(w.updated_at),
        "moved": moment(w.last_updated_at),
        "completed": moment(w.completed_at),
        "version": parts.get("version"),
        "frozen": f"{moment(frozen)}: its numbers stay as they were then" if frozen else None,
        "stages": f"{share}{stage_line(stages)}" if stages else None,
        "forecast": outlook(forecast) if forecast else None,
        "read in": _measured(metrics) if metrics else None,
    }


def _measured(metrics: ProgressMetrics) -> str:
    return f"{metrics.calculation_time_ms:.2f} ms, {'STALE' if metrics.stale_data else 'not stale'}"


def _print_tasks(tasks: list[Task]) -> None:
    tables.print_table(
        (
            tables.Column("TASK", leaves=2),
            tables.Column("KEY", least=10),
            tables.Column("AGENT", least=10),
            tables.Column("STAGE", least=8),
            "STATUS",
            tables.Column("RETRIES", right=True, leaves=1),
            tables.Column("COMPLETED", style="dim", leaves=3),
        ),
        [
            (
                t.id,
                t.external_id,
                t.agent_type,
                t.stage,
                tables.coloured(t.status),
                t.retry_count or None,
                moment(t.completed_at),
            )
            for t in tasks
        ],
    )
