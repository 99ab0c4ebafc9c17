"""show: all that is known of one workflow."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import asdict
from datetime import tzinfo
from typing import Any

import click
from psycopg import Connection, sql

from pyapp import helpers
from pyapp.cli.common import Target, as_json, command, connection, print_json, relations, say, vocabulary
from pyapp.cli.ids import find_id
from pyapp.cli.options import workflow_id, zone_option
from pyapp.cli.tables import (
    Cell,
    Column,
    bar,
    coloured,
    id_column,
    indented,
    print_fields,
    print_table,
    progress_cells,
    progress_columns,
)
from pyapp.cli.text import BAR_WIDTH, done_nouns, error_line, moment, outlook, percentage, stage_line, took, whole
from pyapp.db import find_schema, quoted_name
from pyapp.models import Key, Task, Workflow

_AT = "%H:%M:%S"


@command(reads=True)
@workflow_id
@click.option("--tasks", is_flag=True, help="List its tasks as well: the failed ones first, with why they failed.")
@click.option("--tree", is_flag=True, help="List all that is below it: what it started, what that started, ...")
@click.option("--timeline", is_flag=True, help="List what happened to it: events, stages and tasks.")
@click.option("--metrics", is_flag=True, help="Say how long reading took, and whether it is stale.")
@zone_option
@as_json
def show(target: Target, id: str, zone: tzinfo | None, as_json: bool, **wanted: bool) -> None:
    """Show one workflow: its progress, stages and forecast.

    Example:
      agent-progress show 3f2a --tasks    (the beginning of an id will do)
      agent-progress show ID --tree
      agent-progress show ID --timeline --json
    """
    with connection(target, reads=True) as conn:
        workflow = helpers.get_workflow(conn, find_id(conn, id, target.schema), schema=target.schema)
        there = relations(conn, target.schema)
        called = vocabulary(conn, target.schema, there)
        parts = _read(conn, target.schema, there, workflow.workflow_id, **wanted)
    if wanted["timeline"] and "timeline" not in parts:
        say("there is no timeline in this schema")
    if as_json:
        print_json(asdict(workflow) | parts)
        return
    print_fields(_fields(workflow, called.task_nouns, zone, **parts))
    if "timeline" in parts:
        rows = [(moment(e.at, zone, f"{_AT}.%f")[:-3], e.kind, e.name, e.what) for e in parts["timeline"]]
        _print_part((Column("AT", style="dim"), "KIND", Column("NAME", least=8), Column("WHAT", least=8)), rows)
    if "tree" in parts:
        nodes = parts["tree"]
        key = id_column("ID", [node.workflow_id for node in nodes], leaves=6)
        rows = [
            (indented(node, node.level - 1), *progress_cells(node, called.task_nouns), node.workflow_id)
            for node in nodes
        ]
        _print_part((Column("WORKFLOW", least=6, last=True), *progress_columns(called.task_nouns), key), rows)
    if "tasks" in parts:
        tasks = sorted(parts["tasks"], key=lambda task: task.status != "failed")
        columns = (
            id_column("ID", [task.id for task in tasks], leaves=5),
            Column("KEY", least=8, leaves=2),
            Column(called.task_noun.upper(), least=6, last=True),
            Column("STAGE", least=8, leaves=3),
            Column("STATUS"),
            Column("RETRIES", leaves=4),
            Column("TOOK", right=True),
            Column("COMPLETED", style="dim", leaves=6),
            Column("ERROR", least=8, style="red", leaves=1),
        )
        cells = [_task_row(task, zone) for task in tasks]
        # What no task has takes no room from the errors.
        shown = [
            n for n, column in enumerate(columns) if not cells or not column.leaves or any(row[n] for row in cells)
        ]
        _print_part([columns[n] for n in shown], [[row[n] for n in shown] for row in cells])


def _print_part(columns: Iterable[Column | str], rows: Iterable[Sequence[Cell]]) -> None:
    print()
    print_table(columns, rows)


def _task_row(t: Task, zone: tzinfo | None) -> tuple[Cell, ...]:
    times = t.retry_count or None, took(t), moment(t.completed_at, zone, _AT)
    return t.id, t.external_id, t.agent_type, t.stage, coloured(t.status), *times, error_line(t)


def _read(
    conn: Connection[Any],
    schema: str | None,
    there: Container[str],
    key: Key,
    *,
    tasks: bool,
    tree: bool,
    timeline: bool,
    metrics: bool,
) -> dict[str, Any]:
    """Read what the schema has of a workflow: adopted tables have no stages and no history."""
    parts: dict[str, Any] = {}
    if "workflow" in there:
        parts["version"] = helpers.get_state(conn, key, schema=schema).version
        table = quoted_name(find_schema(schema), "workflow")
        query = sql.SQL("select progress_frozen_at from {} where id = %s").format(table)
        parts["progress_frozen_at"] = (conn.execute(query, [key]).fetchone() or (None,))[0]
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


def _fields(w: Workflow, nouns: str, zone: tzinfo | None, **parts: Any) -> dict[str, Cell]:
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
        "progress": bar(w)(BAR_WIDTH).append(f" {percentage(w)}  ({done_nouns(w, nouns)})", style="default"),
        nouns: ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none yet",
        "settled": f"{w.settled_percentage} %" if w.agents_total else None,
        "with below": whole(parts.get("tree_progress")),
        "parent": w.parent_id,
        "status": coloured(w.status),
        "stage": w.current_stage,
        "type": ", ".join(filter(None, (w.type, f"priority {w.priority}" if w.priority else ""))),
        "trace": w.trace_id,
        "created": moment(w.created_at, zone),
        "updated": moment(w.updated_at, zone),
        "moved": moment(w.last_updated_at, zone),
        "completed": moment(w.completed_at, zone),
        "version": parts.get("version"),
    }
    if frozen := parts.get("progress_frozen_at"):
        fields["frozen"] = f"{moment(frozen, zone)}: its numbers stay as they were then"
    if stages := parts.get("stages"):
        by_stages = parts["stage_progress"].progress_percentage
        fields["stages"] = ("" if by_stages is None else f"{by_stages} %: ") + stage_line(stages)
    if forecast := parts.get("forecast"):
        fields["forecast"] = outlook(forecast, zone)
    if metrics := parts.get("metrics"):
        fields["read in"] = f"{metrics.calculation_time_ms:.2f} ms, {'STALE' if metrics.stale_data else 'not stale'}"
    return fields
