"""show: all that is known of one workflow."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import tzinfo
from typing import Any

import click
from psycopg import Connection, sql

import pyapp
from pyapp.both import Statement, complete, fetch
from pyapp.cli.common import Target, as_json, command, connection, print_json, relations, vocabulary
from pyapp.cli.ids import find_id
from pyapp.cli.options import workflow_id, zone_option
from pyapp.cli.tables import Cell, Column, id_column, print_fields, print_table, print_workflows
from pyapp.cli.text import bar, coloured, done_nouns, moment, outlook, percentage, stage_line, took, whole
from pyapp.db import find_schema, quoted_name
from pyapp.models import Key, Task, TimelineEntry, Vocabulary, Workflow
from pyapp.reading import ERROR_LINE

_AT = "%H:%M:%S"
_PRECISE = len("00:00:00.000")


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
        workflow = pyapp.get_workflow(conn, find_id(conn, id, target.schema), schema=target.schema)
        called = vocabulary(conn, target.schema)
        parts = _read(conn, target.schema, workflow.workflow_id, wanted)
        errors = read_errors(conn, target.schema, workflow.workflow_id) if wanted["tasks"] and not as_json else {}
    if as_json:
        print_json(asdict(workflow) | parts)
        return
    print_fields(_fields(workflow, called, zone, **parts))
    if "timeline" in parts:
        _print_timeline(parts["timeline"], zone)
    if "tree" in parts:
        print()
        print_workflows(((node.level - 1, node) for node in parts["tree"]), called.task_nouns)
    if "tasks" in parts:
        _print_tasks(parts["tasks"], errors, called, zone)


def _read(conn: Connection[Any], schema: str | None, key: Key, wanted: dict[str, bool]) -> dict[str, Any]:
    """Read what is known of a workflow; of adopted tables there are neither versions nor stages."""
    parts: dict[str, Any] = {}
    if "workflow" in relations(conn, schema):
        table = quoted_name(find_schema(schema), "workflow").as_string()
        query = f"select version, progress_frozen_at from {table} where id = %s"  # noqa: S608 (quoted)
        [found] = complete(fetch(conn, Statement(query, [key]))) or [(None, None)]
        parts["version"], parts["progress_frozen_at"] = found
        parts["stages"] = pyapp.list_stages(conn, key, schema=schema)
        parts["stage_progress"] = pyapp.stage_progress(conn, key, schema=schema)
    parts["forecast"] = pyapp.get_forecasts(conn, [key], schema=schema).get(key)
    parts["tree_progress"] = pyapp.tree_progress(conn, key, schema=schema)
    if wanted["tree"]:
        parts["tree"] = pyapp.get_tree(conn, key, schema=schema)
    if wanted["timeline"]:
        parts["timeline"] = pyapp.list_timeline(conn, key, limit=None, schema=schema)
    if wanted["tasks"]:
        parts["tasks"] = pyapp.list_tasks(conn, key, schema=schema)
    if wanted["metrics"]:
        parts["metrics"] = pyapp.progress_metrics(conn, key, schema=schema)
    return parts


def read_errors(conn: Connection[Any], schema: str | None, key: Key) -> dict[Key, str | None]:
    """Read why the tasks failed that did, a line each."""
    query = sql.SQL("select id, {} from {} as p where workflow_id = %s and status = 'failed'").format(
        sql.SQL(ERROR_LINE), quoted_name(find_schema(schema), "agent_task")
    )
    return dict(conn.execute(query, [str(key)]).fetchall())


def _print_timeline(entries: Sequence[TimelineEntry], zone: tzinfo | None) -> None:
    def at(entry: TimelineEntry) -> Callable[[int], str]:
        text = moment(entry.at, zone, f"{_AT}.%f")[:-3]
        return lambda width: text if width >= len(text) else text[-_PRECISE:][:width]

    columns = (
        Column("AT", least=len("00:00:00"), whole=True, style="dim"),
        Column("KIND", leaves=1),
        Column("NAME", least=8),
        Column("WHAT", least=20, last=True),
    )
    print()
    print_table(columns, [(at(entry), entry.kind, entry.name, entry.what) for entry in entries])


def _print_tasks(tasks: Sequence[Task], errors: dict[Key, str | None], called: Vocabulary, zone: tzinfo | None) -> None:
    columns = (
        id_column((task.id for task in tasks), leaves=6),
        Column("KEY", least=8, leaves=3),
        Column(called.task_noun.upper(), least=6, last=True),
        Column("STAGE", least=8, leaves=4),
        Column("STATUS"),
        Column("RETRIES", leaves=5),
        Column("TOOK", right=True, leaves=2),
        Column("COMPLETED", style="dim", leaves=7),
        Column("ERROR", least=15, style="red", leaves=1),
    )
    rows = [
        (
            task.id,
            task.external_id,
            task.agent_type,
            task.stage,
            coloured(task.status),
            task.retry_count or None,
            took(task),
            moment(task.completed_at, zone, _AT),
            errors.get(task.id),
        )
        for task in sorted(tasks, key=lambda task: task.status != "failed")
    ]
    print()
    print_table(columns, rows)


def _fields(w: Workflow, called: Vocabulary, zone: tzinfo | None, **parts: Any) -> dict[str, Cell]:
    """Name what is to be said of a workflow, in the order of reading; what is empty is left out."""
    nouns = called.task_nouns
    counts = {
        "completed": w.agents_completed,
        "failed": w.agents_failed,
        "cancelled": w.agents_cancelled,
        "open": w.agents_open,
        "not created yet": (w.agents_total or 0) - (w.agents_created or 0),
    }
    none = "not counted" if w.agents_total is None else "none yet"
    fields: dict[str, Cell] = {
        called.workflow_noun: f"{w.name or ''}  ({w.workflow_id})".strip(),
        "about": w.description,
        "progress": bar(w)(20).append(f" {percentage(w)}  ({done_nouns(w, nouns)})", style="default"),
        nouns: ", ".join(f"{count} {name}" for name, count in counts.items() if count) or none,
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
