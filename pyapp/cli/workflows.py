"""list and show: reading progress."""

from dataclasses import asdict
from typing import Any, get_args

import click
from psycopg import Connection

from pyapp import helpers
from pyapp.both import Statement, complete, fetch
from pyapp.cli.common import (
    Target,
    as_json,
    command,
    complete_from,
    complete_ids,
    connection,
    print_json,
    relations,
    say,
    workflow_id,
)
from pyapp.cli.tables import Cell, Column, bar, coloured, indented, print_fields, print_table
from pyapp.cli.text import BAR_WIDTH, agents, moment, outlook, stage_line, whole
from pyapp.db import find_schema, quoted_name
from pyapp.models import WORKFLOW_STATUSES, Key, Priority, Task, TreeNode, TreeProgress, Workflow

_STATUSES, _PRIORITIES = WORKFLOW_STATUSES, get_args(Priority)
_LIMIT = click.IntRange(1, 2**31 - 1)


@command(reads=True)
@click.option(
    "--status", help=f"Only those with this: {', '.join(_STATUSES)}.", shell_complete=complete_from(_STATUSES)
)
@click.option("--type", help="Only those of this type.")
@click.option(
    "--priority", help=f"Only with this: {', '.join(_PRIORITIES)}.", shell_complete=complete_from(_PRIORITIES)
)
@click.option("--all", "below", is_flag=True, help="Those that others started as well, wherever in a tree they are.")
@click.option("--limit", type=_LIMIT, default=50, show_default=True, metavar="N", help="At most N of them.")
@click.option("--after", metavar="ID", help="The next page: those after this one.", shell_complete=complete_ids)
@as_json
def list_(target: Target, after: str | None, below: bool, as_json: bool, **chosen: Any) -> None:
    """List the workflows that no other started, newest first, each with how far it is with all below it.

    Example:
      agent-progress list --status running --limit 10
      agent-progress list --json | jq -r '.[] | "\\(.name) \\(.progress)"'
    """
    schema = target.schema
    with connection(target, reads=True) as conn:
        last = helpers.get_workflow(conn, after, schema=schema) if after else None
        workflows = helpers.list_workflows(conn, after=last, roots=not below, schema=schema, **chosen)
        trees: dict[Key, TreeProgress] = {}
        if "workflow_tree_progress" in relations(conn, schema):
            trees = helpers.list_tree_progress(conn, [w.workflow_id for w in workflows], schema=schema)
    if as_json:
        found = {key: asdict(tree) for key, tree in trees.items()}
        print_json([asdict(w) | {"tree": found.get(w.workflow_id)} for w in workflows])
    elif not workflows:
        print("no workflows")
    else:
        columns = (
            Column("ID"),
            Column("NAME", least=10, most=40),
            Column("PROGRESS", most=10, leaves=2),
            Column("", right=True, style="bold"),
            Column("AGENTS"),
            Column("FAILED", right=True, style="red", leaves=1),
            Column("STATUS"),
            Column("STAGE", least=8, most=24, style="dim", leaves=3),
            Column("CREATED", style="dim", leaves=4),
            Column("WITH ALL BELOW", leaves=2),
        )
        rows = [(*_row(w), whole(trees.get(w.workflow_id))) for w in workflows]
        print_table(columns if any(row[-1] for row in rows) else columns[:-1], rows)


def _row(w: Workflow) -> tuple[Cell, ...]:
    created = f"{w.created_at:%Y-%m-%d %H:%M}" if w.created_at else None
    done = f"{w.agents_completed} of {w.agents_total}"
    failed = w.agents_failed or None
    return w.workflow_id, w.name, bar(w), f"{w.progress} %", done, failed, coloured(w.status), w.current_stage, created


@command(reads=True)
@workflow_id
@click.option("--tasks", is_flag=True, help="List its tasks as well.")
@click.option("--tree", is_flag=True, help="List all that is below it: what it started, what that started, ...")
@click.option("--timeline", is_flag=True, help="List what happened to it: events, stages and tasks.")
@click.option("--metrics", is_flag=True, help="Say how long reading took, and whether it is stale.")
@as_json
def show(target: Target, id: str, as_json: bool, **wanted: bool) -> None:
    """Show one workflow: its progress, stages and forecast.

    Example:
      agent-progress show ID --tasks
      agent-progress show ID --tree
      agent-progress show ID --timeline --json
    """
    with connection(target, reads=True) as conn:
        workflow = helpers.get_workflow(conn, id, schema=target.schema)
        parts = _read(conn, target.schema, id, **wanted)
    if wanted["timeline"] and "timeline" not in parts:
        say("there is no timeline in this schema")
    if as_json:
        print_json(asdict(workflow) | parts)
        return
    print_fields(_fields(workflow, **parts))
    if "timeline" in parts:
        print()
        rows = [(f"{m.at:%Y-%m-%d %H:%M:%S.%f}"[:-3], m.kind, m.name, m.what) for m in parts["timeline"]]
        print_table((Column("AT", style="dim"), "KIND", Column("NAME", least=8), Column("WHAT", least=8)), rows)
    if "tree" in parts:
        print()
        columns = (
            Column("WORKFLOW", least=14),
            Column("PROGRESS", most=10, leaves=2),
            Column("", right=True, style="bold"),
            Column("AGENTS"),
            Column("FAILED", right=True, style="red", leaves=1),
            Column("STATUS"),
            Column("ID", style="dim", leaves=3),
        )
        print_table(columns, map(_node_row, parts["tree"]))
    if "tasks" in parts:
        print()
        columns = (
            Column("TASK", leaves=2),
            Column("KEY", least=10),
            Column("AGENT", least=10),
            Column("STAGE", least=8),
            Column("STATUS"),
            Column("RETRIES", leaves=1),
            Column("COMPLETED", style="dim", leaves=3),
        )
        print_table(columns, map(_task_row, parts["tasks"]))


def _node_row(node: TreeNode) -> tuple[Cell, ...]:
    _, _, drawn, share, done, failed, status, *_ = _row(node)
    return indented(node, node.level - 1), drawn, share, done, failed, status, node.workflow_id


def _task_row(t: Task) -> tuple[Cell, ...]:
    times = t.retry_count or None, moment(t.completed_at)
    return t.id, t.external_id, t.agent_type, t.stage, coloured(t.status), *times


def _read(
    conn: Connection[Any], schema: str | None, key: str, *, tasks: bool, tree: bool, timeline: bool, metrics: bool
) -> dict[str, Any]:
    """Read what the schema has of a workflow: adopted tables have no stages and no history."""
    parts: dict[str, Any] = {}
    there = relations(conn, schema)
    if "workflow" in there:
        parts["version"] = helpers.get_state(conn, key, schema=schema).version
        table = quoted_name(find_schema(schema), "workflow").as_string()
        query = f"select progress_frozen_at from {table} where id = %s"  # noqa: S608 (a quoted name)
        parts["progress_frozen_at"] = next(iter(complete(fetch(conn, Statement(query, [key])))), (None,))[0]
    if "workflow_stage_agents" in there:
        parts["stages"] = helpers.list_stages(conn, key, schema=schema)
    if "workflow_stage_progress" in there:
        parts["stage_progress"] = helpers.stage_progress(conn, key, schema=schema)
    if "workflow_forecast" in there:
        parts["forecast"] = next(iter(helpers.get_forecasts(conn, [key], schema=schema).values()), None)
    if "workflow_tree_progress" in there:
        parts["tree_progress"] = helpers.tree_progress(conn, key, schema=schema)
    if tree:
        parts["tree"] = helpers.get_tree(conn, key, schema=schema)
    if timeline and "workflow_timeline" in there:
        parts["timeline"] = helpers.list_timeline(conn, key, limit=None, schema=schema)
    if tasks:
        parts["tasks"] = helpers.list_tasks(conn, key, schema=schema)
    if metrics:
        parts["metrics"] = helpers.progress_metrics(conn, key, schema=schema)
    return parts


def _fields(w: Workflow, **parts: Any) -> dict[str, Cell]:
    """Name what is to be said of a workflow, in the order of reading; what is empty is left out."""
    counts = {
        "completed": w.agents_completed,
        "failed": w.agents_failed,
        "cancelled": w.agents_cancelled,
        "open": w.agents_open,
        "not created yet": w.agents_total - w.agents_created,
    }
    fields: dict[str, Cell] = {
        "workflow": f"{w.name or ''}  ({w.workflow_id})".strip(),
        "about": w.description,
        "progress": bar(w)(BAR_WIDTH).append(f" {w.progress} %  ({agents(w)})", style="default"),
        "agents": ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none yet",
        "settled": f"{w.settled_percentage} %",
        "with below": whole(parts.get("tree_progress")),
        "parent": w.parent_id,
        "status": coloured(w.status),
        "stage": w.current_stage,
        "type": ", ".join(filter(None, (w.type, f"priority {w.priority}" if w.priority else ""))),
        "trace": w.trace_id,
        "created": moment(w.created_at),
        "updated": moment(w.updated_at),
        "moved": moment(w.last_updated_at),
        "completed": moment(w.completed_at),
        "version": parts.get("version"),
    }
    if frozen := parts.get("progress_frozen_at"):
        fields["frozen"] = f"{moment(frozen)}: its numbers stay as they were then"
    if stages := parts.get("stages"):
        by_stages = parts["stage_progress"].progress_percentage
        fields["stages"] = ("" if by_stages is None else f"{by_stages} %: ") + stage_line(stages)
    if forecast := parts.get("forecast"):
        fields["forecast"] = outlook(forecast)
    if metrics := parts.get("metrics"):
        fields["read in"] = f"{metrics.calculation_time_ms:.2f} ms, {'STALE' if metrics.stale_data else 'not stale'}"
    return fields
