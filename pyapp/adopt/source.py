"""Reading an adopted pair as our own tables are read."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from psycopg import Connection, ProgrammingError

from pyapp.adopt.catalog import columns_of, snake
from pyapp.adopt.findings import WORDS
from pyapp.adopt.install import get_adoption
from pyapp.adopt.pair import Labels, Pair, literal, quote
from pyapp.adopt.tokens import drift_relation, progress_relation
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
_INTEGERS = ("smallint", "integer", "bigint")
_TIMES = ("timestamp with time zone", "timestamp without time zone", "date")


def find_source(conn: Connection[Any], name: str) -> Source:
    """Find out how to read what was adopted under a name. Raises AdoptError.

    Columns are looked up at each call: what the application's migrations took away reads as null.
    """
    pair = get_adoption(conn, name).pair
    existing = columns_of(conn, pair.workflows)
    progress, drift = _relations(pair.to_json(), existing)
    return Source(
        name=pair.name,
        schema=pair.schema,
        key_type=pair.key_type,
        progress=progress,
        drift=drift,
        tasks=_relation(_tasks(conn, pair)),
        status_type="text",
        priority_type="text",
        by_creation=pair.shown.get("created_at") in existing,
        active=None,
        outcomes=_outcomes(pair.workflow_status),
        task_outcomes=_outcomes(pair.task_status),
    )


@lru_cache(maxsize=16)  # a service asks at each request
def _relations(definition: str, existing: frozenset[str]) -> tuple[str, str]:
    """Write the subqueries for progress and drift."""
    pair = Pair.from_json(json.loads(definition))
    return _relation(progress_relation(pair, existing)), _relation(drift_relation(pair, existing))


def _outcomes(labels: Labels | None) -> dict[str, str]:
    """Map statuses to what they mean: the usual words, and what the adoption says."""
    known = {word: outcome for outcome, words in WORDS.items() for word in words}
    said = {} if labels is None else {word.lower(): outcome for outcome in WORDS for word in getattr(labels, outcome)}
    return known | said


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
        fits = {"timestamptz": _TIMES, "integer": _INTEGERS}.get(type_)
        if column is None or (types[column] not in fits if fits else types[column] in _TIMES):
            return f"null::{type_}"
        if types[column] == "timestamp without time zone":
            return f"(task.{quote(column)} at time zone 'UTC')"
        return (
            f"(to_jsonb(task.{quote(column)}) #>> '{{}}')::{type_}"
            if type_ == "text"
            else f"task.{quote(column)}::{type_}"
        )

    link = quote(pair.task_workflow)
    values = {
        "id": f"task.{quote(key)}" if key else "task.ctid::text",
        "workflow_id": f"task.{link}" if pair.task_workflow in types else f"null::{pair.key_type}",
        "status": _status(conn, pair, types),
        "payload": "null::jsonb",
        "result": "null::jsonb",
        **{ours: theirs(*found) for ours, found in _TASK.items()},
    }
    listed = ", ".join(f"{value} as {name}" for name, value in values.items())
    return f"(select {listed} from {quote(*pair.tasks)} as task)"


def _status(conn: Connection[Any], pair: Pair, types: Mapping[str, str]) -> str:
    """Write the status of a task: what the application says, or the outcome where it is known by a condition."""
    if pair.task_status is not None:
        there = pair.task_status.column in types
        return f"task.{quote(pair.task_status.column)}::text" if there else "null::text"
    cases = "".join(f" when {test} then {literal(o)}" for o in WORDS if (test := pair.outcome(o)))
    status = f"case{cases} else 'open' end"
    try:
        # Nobody but the server knows which columns a condition names.
        with conn.transaction():
            conn.execute(f"select {status} from {quote(*pair.tasks)} as task limit 0".encode())
    except ProgrammingError:
        return "null::text"
    return status
