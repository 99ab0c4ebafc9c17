"""Looking at two tables before anything is done to them: how to adopt them, and what cannot work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import Connection, sql
from psycopg.errors import Error

from pyapp.adopt.catalog import Table, first_line, partitions, read_table, snake
from pyapp.adopt.pair import COUNTERS, SHOWN, AdoptError, Labels, Pair, quote
from pyapp.adopt.render import Partitions, Trigger

WORDS = {
    "completed": ("completed", "complete", "done", "succeeded", "success", "successful", "finished"),
    "failed": ("failed", "failure", "error", "errored", "timed_out", "timeout"),
    "cancelled": ("cancelled", "canceled", "aborted", "skipped"),
}
_STATUS_NAMES = ("status", "state")
_KNOWN_AS = {
    "name": ("name", "title", "label"),
    "description": ("description",),
    "type": ("type", "workflow_type", "kind"),
    "current_stage": ("current_stage", "stage"),
    "priority": ("priority",),
    "trace_id": ("trace_id",),
    "created_at": ("created_at", "created", "created_on", "inserted_at"),
    "updated_at": ("updated_at", "updated", "updated_on", "modified_at"),
    "completed_at": ("completed_at", "finished_at", "ended_at", "completed"),
}
# What functions of ours call things, in whose bodies a condition of the user's will stand.
_VARIABLES = frozenset(
    ("old_workflow", "new_workflow", "old_status", "new_status", "several", "sign", "changes", "change", "candidate")
) | {"stale", "workflow", "found", "new", "old", "tg_op", "tg_name", "sqlstate", "sqlerrm", "meaning"}
_MOVING = (
    r"\b((?:now|random|(?:clock|statement|transaction)_timestamp)(?=\s*\()|current_(?:date|time|timestamp)"
    r"|local(?:time|timestamp))\b"
)
_INTEGERS = frozenset({"smallint", "integer", "bigint"})
_STRINGS = frozenset({"text", "character varying", "character"})


_FOREIGN_KEYS = """
    select
        (
            select array_agg(a.attname::text order by k.place)
            from unnest(c.conkey) with ordinality as k (attnum, place)
            join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = k.attnum
        ),
        (
            select array_agg(a.attname::text order by k.place)
            from unnest(c.confkey) with ordinality as k (attnum, place)
            join pg_attribute as a on a.attrelid = c.confrelid and a.attnum = k.attnum
        ),
        case c.confdeltype
            when 'c' then 'on delete cascade'
            when 'n' then 'on delete set null'
            when 'd' then 'on delete set default'
            else 'on delete restrict'
        end
        || case c.confupdtype when 'c' then ', on update cascade' else '' end
        || case when c.condeferrable then ', deferrable' else '' end
    from pg_constraint as c
    where c.contype = 'f' and c.conrelid = %s and c.confrelid = %s and c.conparentid = 0
"""


@dataclass(frozen=True)
class Wanted:
    """What the user asked for; None is for us to find out."""

    workflows: str
    tasks: str
    name: str
    schema: str
    task_workflow: str | None = None
    status: str | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    conditions: Mapping[str, str] = field(default_factory=dict)
    workflow_status: str | None = None
    workflow_completed: tuple[str, ...] = ()
    progress_column: str | None = None
    publish: bool = True
    columns: bool = False
    live: bool = True
    shown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Findings:
    """What was found: the pair, its partitions, and what the user should know, a line each."""

    pair: Pair
    partitions: Partitions
    notes: Sequence[str]
    warnings: Sequence[str]
    leftovers: Sequence[Trigger] = ()


def look(conn: Connection[Any], wanted: Wanted) -> Findings:
    """Look at two tables and work out how to adopt them. Changes nothing. Raises AdoptError for what cannot work."""
    workflows, tasks = read_table(conn, wanted.workflows, "workflows"), read_table(conn, wanted.tasks, "tasks")
    if workflows.oid == tasks.oid:
        raise AdoptError("workflows and tasks are the same table")
    _refuse_others(conn, workflows, tasks, wanted)
    key, task_workflow, link = _keys(conn, workflows, tasks, wanted)
    key_type = _key_type(workflows, key, tasks, task_workflow)
    task_status, conditions = _task_status(conn, tasks, wanted)
    workflow_status = _workflow_status(conn, workflows, wanted)
    progress = _progress(conn, workflows, wanted)
    pair = Pair(
        name=wanted.name,
        schema=wanted.schema,
        workflows=(workflows.schema, workflows.name),
        tasks=(tasks.schema, tasks.name),
        key=key,
        key_type=key_type,
        task_workflow=task_workflow,
        task_status=task_status,
        task_conditions=conditions,
        workflow_status=workflow_status,
        progress=progress,
        planned="agents_planned" if "agents_planned" in workflows.columns and not wanted.columns else None,
        columns=wanted.columns,
        live=wanted.live,
        recount=wanted.columns and "progress_frozen_at" in workflows.columns,
        shown=_shown(workflows, wanted, workflow_status),
        utc=tuple(name for name, c in workflows.columns.items() if c.type == "timestamp without time zone"),
    )
    if wanted.columns:
        _refuse_odd_counters(workflows)
    found = partitions(conn, pair)
    notes = [
        f"workflows: {workflows.quoted}, {_about(workflows, len(found.workflows))}, key {quote(key)} {key_type}",
        f"tasks: {tasks.quoted}, {_about(tasks, len(found.tasks))}, {quote(task_workflow)} {link}",
        *_status_notes(pair),
        _progress_note(pair),
    ]
    warnings = [*_foreign_triggers(conn, pair, workflows), *_index_warning(conn, tasks, task_workflow)]
    return Findings(pair, found, notes, warnings)


def _keys(conn: Connection[Any], workflows: Table, tasks: Table, wanted: Wanted) -> tuple[str, str, str]:
    """Find the key of the workflows, the column of the tasks that holds it, and what ties them."""
    keys = conn.execute(_FOREIGN_KEYS, [tasks.oid, workflows.oid]).fetchall()
    if wanted.task_workflow is not None:
        tasks.column(wanted.task_workflow, "--task-workflow")
        keys = [found for found in keys if found[0] == [wanted.task_workflow]]
    if any(len(found[0]) > 1 for found in keys):
        raise AdoptError(f"the foreign key from {tasks.quoted} has several columns: composite keys cannot be adopted")
    if len(keys) > 1:
        names = ", ".join(sorted(found[0][0] for found in keys))
        raise AdoptError(
            f"{tasks.quoted} refers to {workflows.quoted} by several columns ({names}): say --task-workflow"
        )
    if keys:
        [[task_workflow], [key], rules] = keys[0]
        return key, task_workflow, f"references it, {rules}"
    if wanted.task_workflow is None:
        raise AdoptError(
            f"{tasks.quoted} has no foreign key to {workflows.quoted}:"
            " say which of its columns holds the workflow, --task-workflow"
        )
    primary = conn.execute(
        "select array_agg(a.attname::text) from pg_index as i join pg_attribute as a"
        " on a.attrelid = i.indrelid and a.attnum = any (i.indkey) where i.indrelid = %s and i.indisprimary",
        [workflows.oid],
    ).fetchone()
    if primary is None or primary[0] is None:
        raise AdoptError(f"{workflows.quoted} has no primary key")
    if len(primary[0]) > 1:
        raise AdoptError(f"the primary key of {workflows.quoted} has several columns: composite keys cannot be adopted")
    return primary[0][0], wanted.task_workflow, "holds its key, without a foreign key"


def _key_type(workflows: Table, key: str, tasks: Table, task_workflow: str) -> str:
    one, other = workflows.columns[key], tasks.columns[task_workflow]
    for table, name, column in ((workflows, key, one), (tasks, task_workflow, other)):
        if not column.built_in or column.kind != "b":
            raise AdoptError(
                f"{table.quoted}.{quote(name)} is of type {column.declared}:"
                " a key has to be of a type that is built in, such as uuid, bigint or text"
            )
        if column.collation:
            raise AdoptError(
                f"{table.quoted}.{quote(name)} has a collation of its own ({column.collation}): not supported"
            )
    kinds = {one.type, other.type}
    if len(kinds) > 1 and not kinds <= _INTEGERS and not kinds <= _STRINGS:
        raise AdoptError(
            f"{workflows.quoted}.{quote(key)} is {one.declared}"
            f" and {tasks.quoted}.{quote(task_workflow)} is {other.declared}: they cannot be compared"
        )
    if kinds <= _STRINGS:
        return "text" if "character" not in kinds else one.declared if len(kinds) == 1 else "text"
    return "bigint" if len(kinds) > 1 else str(one.type)


def _task_status(conn: Connection[Any], tasks: Table, wanted: Wanted) -> tuple[Labels | None, dict[str, str]]:
    conditions = dict(wanted.conditions)
    for outcome, condition in conditions.items():
        _try_condition(conn, tasks, f"--{outcome}-when", condition)
    if "completed" in conditions and wanted.status is None and not wanted.labels:
        return None, conditions
    column = wanted.status or next((name for name in _STATUS_NAMES if name in tasks.columns), None)
    if column is None:
        raise AdoptError(
            f"{tasks.quoted} has no column status: say which one tells the state, --status,"
            " or when a task is completed, --completed-when"
        )
    labels = _labels(conn, tasks, column, "--status", wanted.labels, "completed")
    return labels, conditions


def _workflow_status(conn: Connection[Any], workflows: Table, wanted: Wanted) -> Labels | None:
    column = wanted.workflow_status or next((name for name in _STATUS_NAMES if name in workflows.columns), None)
    if column is None:
        return None
    given: Mapping[str, tuple[str, ...]] = {"completed": wanted.workflow_completed} if wanted.workflow_completed else {}
    try:
        return _labels(conn, workflows, column, "--workflow-status", given, "workflow-completed")
    except AdoptError:
        if wanted.workflow_status or given:
            raise
        return Labels(column)


def _labels(
    conn: Connection[Any], table: Table, column: str, option: str, given: Mapping[str, tuple[str, ...]], needed: str
) -> Labels:
    kind = table.column(column, option)
    known: list[str] | None = None
    if kind.kind == "e":
        known = [
            row[0]
            for row in conn.execute(
                "select enumlabel from pg_enum join pg_type as t on t.oid = %s"
                " where enumtypid = coalesce(nullif(t.typbasetype, 0), t.oid) order by enumsortorder",
                [kind.type_oid],
            )
        ]
    elif kind.type == "boolean":
        known = ["true", "false"]
    where = f"{table.quoted}.{quote(column)}"
    if given:
        for outcome, meant in given.items():
            for value in meant:
                if known is not None and value not in known:
                    raise AdoptError(f"{where} never is {value!r} ({outcome}): it can be {', '.join(known)}")
                if kind.type in _INTEGERS and not re.fullmatch(r"-?\d+", value):
                    raise AdoptError(f"{where} is {kind.declared}: {value!r} ({outcome}) is no number")
        twice = [value for values in given.values() for value in values]
        if doubled := {value for value in twice if twice.count(value) > 1}:
            raise AdoptError(f"{', '.join(sorted(doubled))}: a value of {where} can have one meaning only")
        labels = Labels(column, *(tuple(given.get(outcome, ())) for outcome in WORDS))
    elif known is not None:
        labels = Labels(column, *(tuple(v for v in known if v.lower() in words) for words in WORDS.values()))
    elif kind.type in _STRINGS:
        labels = Labels(column, *WORDS.values())
    else:
        labels = Labels(column)
    if not labels.completed:
        values = f" (it can be {', '.join(known)})" if known else ""
        raise AdoptError(f"which values of {where} mean completed?{values} Say --{needed} VALUE,…")
    return labels


def _progress(conn: Connection[Any], workflows: Table, wanted: Wanted) -> str | None:
    name = wanted.progress_column or ("progress" if "progress" in workflows.columns else None)
    if name is None or not wanted.publish:
        return None
    column = workflows.column(name, "--progress-column")
    where = f"{workflows.quoted}.{quote(name)}"
    if column.generated:
        raise AdoptError(f"{where} is a generated column: it cannot be written")
    if column.type not in _INTEGERS | {"numeric", "double precision", "real"}:
        raise AdoptError(f"{where} is of type {column.declared}: a percentage, 0 to 100, needs a number")
    probe = sql.SQL("select cast(v as {type}) from unnest(array[0, 1, 50, 99, 100]) as v").format(
        type=sql.SQL(column.declared)
    )
    checks = conn.execute(
        "select conname, pg_get_expr(conbin, conrelid) from pg_constraint"
        " where conrelid = %s and contype = 'c' and conkey = array[%s]::smallint[]",
        [workflows.oid, column.number],
    ).fetchall()
    with conn.transaction(force_rollback=True):
        try:
            conn.execute(probe)
        except Error as error:
            raise AdoptError(f"{where} is of type {column.declared}, which cannot hold 0 to 100") from error
    for constraint, expression in checks:
        query = sql.SQL("select bool_and(coalesce(({check}), true)) from ({probe}) as t ({name})").format(
            check=sql.SQL(expression), probe=probe, name=sql.Identifier(name)
        )
        if conn.execute(query).fetchone() == (False,):
            raise AdoptError(f"the constraint {constraint} of {workflows.quoted} does not allow 0 to 100: {expression}")
    return name


def _refuse_others(conn: Connection[Any], workflows: Table, tasks: Table, wanted: Wanted) -> None:
    """Refuse tables that are counted already: there, our triggers would take the place of the others."""
    row = conn.execute(
        "select c.oid::bigint, n.nspname from pg_trigger as t join pg_class as c on c.oid = t.tgrelid"
        " join pg_proc as p on p.oid = t.tgfoid join pg_namespace as n on n.oid = p.pronamespace"
        " where t.tgrelid in (%s, %s) and n.nspname <> %s and t.tgname in ('agent_task_progress_insert',"
        " 'agent_task_progress_update', 'workflow_progress_follow_insert', 'zz_workflow_progress_guard')"
        " order by c.oid limit 1",
        [workflows.oid, tasks.oid, wanted.schema],
    ).fetchone()
    if row is not None:
        table = workflows if row[0] == workflows.oid else tasks
        raise AdoptError(f"{table.quoted} is adopted already, by schema {row[1]}: unadopt that one first")


def _refuse_odd_counters(workflows: Table) -> None:
    for name in COUNTERS:
        column = workflows.columns.get(name)
        wanted = "timestamp with time zone" if name.endswith("_at") else "integer"
        if column is not None and column.type != wanted and not (wanted == "integer" and column.type == "bigint"):
            raise AdoptError(
                f"{workflows.quoted}.{name} is there already, as {column.declared}: --columns needs {wanted}"
            )


def _shown(workflows: Table, wanted: Wanted, status: Labels | None) -> dict[str, str]:
    by_snake = {snake(name): name for name in reversed(list(workflows.columns))}
    shown = {
        ours: next((by_snake[candidate] for candidate in candidates if candidate in by_snake), None)
        for ours, candidates in _KNOWN_AS.items()
    }
    if status is not None:
        shown["status"] = status.column
    for ours, theirs in wanted.shown.items():
        if ours not in SHOWN:
            raise AdoptError(f"--column {ours}={theirs}: there is no column {ours}; there are {', '.join(SHOWN)}")
        workflows.column(theirs, f"--column {ours}=")
        shown[ours] = theirs
    times = {"timestamp with time zone", "timestamp without time zone", "date"}
    return {
        ours: theirs
        for ours, theirs in shown.items()
        if theirs is not None and (SHOWN[ours] != "timestamptz" or workflows.columns[theirs].type in times)
    }


def _try_condition(conn: Connection[Any], tasks: Table, option: str, condition: str) -> None:
    text = re.sub(r"'(?:[^']|'')*'", "''", condition.lower())
    names = re.findall(r"(?<![\w.\"])(\"?)([a-z_]\w*)\1", text)
    if clash := sorted({name for _, name in names if name in tasks.columns} & _VARIABLES):
        raise AdoptError(f"{option}: write task.{clash[0]} for the column {clash[0]}, which could mean something else")
    if moving := re.search(_MOVING, text):
        raise AdoptError(
            f"{option} {condition}: what changes by time alone ({moving[1]}) cannot be counted by triggers"
        )
    table = sql.Identifier(tasks.schema, tasks.name)
    query = sql.SQL("select 1 from {} as task where ({}) is true limit 1").format(table, sql.SQL(condition))
    # Of its own row alone: a check constraint allows no subquery.
    check = sql.SQL("create temporary table task (like {}, check ({}))").format(table, sql.SQL(condition))
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("set local search_path = pg_catalog, pg_temp")
            conn.execute("set local statement_timeout = '30s'")
            # One statement, by way of the extended protocol: a condition with a semicolon is refused.
            conn.execute(query, prepare=True)
            conn.execute(check, prepare=True)
    except Error as error:
        raise AdoptError(f"{option} {condition}: {first_line(error)}") from error


def _foreign_triggers(conn: Connection[Any], pair: Pair, workflows: Table) -> list[str]:
    rows = conn.execute(
        "select t.tgname, p.oid::regproc::text, t.tgname > 'zz_workflow_progress_guard' from pg_trigger as t"
        " join pg_proc as p on p.oid = t.tgfoid join pg_namespace as n on n.oid = p.pronamespace"
        " where t.tgrelid = %s and not t.tgisinternal and t.tgtype & 2 = 2 and t.tgtype & 1 = 1 and n.nspname <> %s"
        " order by t.tgname",
        [workflows.oid, pair.schema],
    ).fetchall()
    if pair.progress_column is None:
        return []
    return [
        f"trigger {quote(name)} ({function}) runs before each update of {workflows.quoted}, ours of progress included:"
        + (" it comes after our guard and can change progress" if late else "")
        + (" what it sets (a time, a version) moves with progress, and an error of it stops the writing of tasks")
        for name, function, late in rows
    ]


def _index_warning(conn: Connection[Any], tasks: Table, column: str) -> list[str]:
    row = conn.execute(
        "select exists (select from pg_index"
        " where indrelid = %s and indisvalid and indpred is null and indkey[0] = %s)",
        [tasks.oid, tasks.columns[column].number],
    ).fetchone()
    if row == (True,):
        return []
    return [
        f"no index of {tasks.quoted} begins with {quote(column)}: counting what is there, and each repair, reads all"
        f" tasks; better first: create index concurrently on {tasks.quoted} ({quote(column)})"
    ]


def _about(table: Table, parts: int) -> str:
    size = f"about {table.rows} rows" if table.rows else "few rows"
    return f"{size} in {parts} partitions" if table.partitioned else size


def _status_notes(pair: Pair) -> list[str]:
    def meaning(labels: Labels) -> str:
        told = (("completed", labels.completed), ("failed", labels.failed), ("cancelled", labels.cancelled))
        return ", ".join(f"{outcome}: {' or '.join(values)}" for outcome, values in told if values)

    notes = [f"a task is {outcome} when {condition}" for outcome, condition in pair.task_conditions.items()]
    if pair.task_status:
        notes.append(
            f"a task is, by {quote(pair.task_status.column)}, {meaning(pair.task_status)}; open: anything else"
        )
    if pair.workflow_status and pair.workflow_status.completed:
        values = " or ".join(pair.workflow_status.completed)
        notes.append(f"a workflow is completed when {quote(pair.workflow_status.column)} is {values}")
    return notes


def _progress_note(pair: Pair) -> str:
    where = "in columns of the table itself" if pair.columns else f"in {quote(pair.schema, 'workflow_counter')}"
    if not pair.live:
        return f"counters: {where}; progress of the application's is left alone until adopt --live"
    if pair.progress_column is None:
        return f"counters: {where}; the application has no column for progress"
    return f"counters: {where}; {quote(pair.progress_column)} is written when the percentage moves, and by nobody else"
