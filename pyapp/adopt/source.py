"""Reading an adopted pair as our own tables are read."""

from typing import Any

from psycopg import Connection

from pyapp.adopt.catalog import columns_of, snake
from pyapp.adopt.findings import WORDS
from pyapp.adopt.install import get_adoption
from pyapp.adopt.pair import Pair, literal, quote
from pyapp.adopt.render import drift_relation, progress_relation
from pyapp.source import Source

# Columns of the model Task, with their types and the names that others give them.
_TASK = {
    "external_id": ("text", ("external_id",)),
    "agent_type": ("text", ("agent_type", "type", "kind", "name", "title")),
    "stage": ("text", ("stage", "phase", "step")),
    "priority": ("text", ("priority",)),
    "trace_id": ("text", ("trace_id",)),
    "span_id": ("text", ("span_id",)),
    "parent_span_id": ("text", ("parent_span_id",)),
    "created_at": ("timestamptz", ("created_at", "created", "created_on", "inserted_at")),
    "assigned_at": ("timestamptz", ("assigned_at",)),
    "started_at": ("timestamptz", ("started_at", "started")),
    "completed_at": ("timestamptz", ("completed_at", "finished_at", "ended_at", "completed", "finished")),
    "retry_count": ("integer", ("retry_count", "retries", "attempts")),
    "max_retries": ("integer", ("max_retries", "max_attempts")),
    "timeout_ms": ("integer", ("timeout_ms",)),
}
_TIMES = ("timestamp with time zone", "timestamp without time zone", "date")


def find_source(conn: Connection[Any], name: str) -> Source:
    """Find out how to read what was adopted under a name. Raises AdoptError.

    Columns are looked up at each call: what the application's migrations took away reads as null.
    """
    pair = get_adoption(conn, name).pair
    existing = columns_of(conn, pair.workflows)
    return Source(
        name=pair.name,
        schema=pair.schema,
        key_type=pair.key_type,
        progress=_relation(progress_relation(pair, existing)),
        drift=_relation(drift_relation(pair, existing)),
        tasks=_relation(_tasks(conn, pair)),
        status_type="text",
        priority_type="text",
        by_creation=pair.shown.get("created_at") in existing,
        active=None,
        settled=frozenset(word for words in WORDS.values() for word in words),
    )


def _relation(text: str) -> str:
    """Make a subquery part of queries that have parameters."""
    return text.replace("%", "%%")


def _tasks(conn: Connection[Any], pair: Pair) -> str:
    """Write a subquery for tasks with the columns of the model Task."""
    rows = conn.execute(
        "select a.attname, format_type(a.atttypid, null),"
        " coalesce(a.attnum = any (i.indkey) and i.indnkeyatts = 1, false)"
        " from pg_attribute as a left join pg_index as i on i.indrelid = a.attrelid and i.indisprimary"
        " where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped order by a.attnum",
        [quote(*pair.tasks)],
    ).fetchall()
    types = {name: type_ for name, type_, _ in rows}
    known = {snake(name): name for name in reversed(types)}
    key = next((name for name, _, is_key in rows if is_key), None)

    def theirs(type_: str, candidates: tuple[str, ...]) -> str:
        column = next((known[name] for name in candidates if name in known), None)
        if column is None or (type_ == "timestamptz") != (types[column] in _TIMES):
            return f"null::{type_}"
        if types[column] == "timestamp without time zone":
            return f"(task.{quote(column)} at time zone 'UTC')"
        return (
            f"(to_jsonb(task.{quote(column)}) #>> '{{}}')::{type_}"
            if type_ == "text"
            else f"task.{quote(column)}::{type_}"
        )

    status = pair.task_status.column if pair.task_status and pair.task_status.column in types else None
    cases = "".join(
        f" when {test} then {literal(outcome)}"
        for outcome in ("completed", "failed", "cancelled")
        if (test := pair.outcome(outcome))
    )
    values = {
        "id": f"task.{quote(key)}" if key else "task.ctid::text",
        "workflow_id": f"task.{quote(pair.task_workflow)}",
        "status": f"task.{quote(status)}::text" if status else f"case{cases} else 'open' end",
        "payload": "null::jsonb",
        "result": "null::jsonb",
        **{ours: theirs(*found) for ours, found in _TASK.items()},
    }
    listed = ", ".join(f"{value} as {name}" for name, value in values.items())
    return f"(select {listed} from {quote(*pair.tasks)} as task)"
