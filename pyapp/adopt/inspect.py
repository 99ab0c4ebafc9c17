"""Looking at tables before anything is done to them: how to adopt them, what their statuses mean, what cannot work."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from psycopg import Connection, sql
from psycopg.errors import Error
from psycopg.rows import tuple_row

from pyapp.adopt.adoption import AdoptError, Adoption, Key
from pyapp.adopt.catalog import (
    Column,
    Found,
    ask,
    find_table,
    first_line,
    has_index,
    making_index,
    read_table,
    type_of,
    unindexed_key,
)
from pyapp.adopt.install import list_adoptions
from pyapp.adopt.render import Renderer, locate, name, read_template
from pyapp.adopt.request import Request, read_preset
from pyapp.adopt.words import STATUS, TASK_COLUMNS, TASK_WORDS, WORKFLOW_COLUMNS, WORKFLOW_WORDS, fold, spellings

_INTEGERS = frozenset({"smallint", "integer", "bigint"})
_NUMBERS = _INTEGERS | {"numeric", "double precision", "real"}
_STRINGS = frozenset({"text", "bpchar", "name"})
_PLAIN = _INTEGERS | _STRINGS | {"uuid", "boolean", "numeric"}  # what a part of a path can be written from
_TIMES = ("created_at", "updated_at", "completed_at", "assigned_at", "started_at")
_COUNTS = ("agents_planned", "retry_count", "max_retries", "timeout_ms", "ordinal")


@dataclass(frozen=True)
class Value:
    """A value of the status, how many tasks have it, what it means, and whether somebody named it."""

    value: str | None
    rows: int
    meaning: str
    known: bool


@dataclass(frozen=True)
class Findings:
    """What was found: the adoption, and what the user should know, a line each.

    ``doubts`` are reasons to install nothing before the user says yes.
    """

    adoption: Adoption
    notes: Sequence[str]
    warnings: Sequence[str]
    values: Sequence[Value]
    doubts: Sequence[str] = field(default_factory=list)


def inspect(conn: Connection[Any], request: Request) -> Findings:
    """Look at tables and work out how to adopt them. Changes nothing. Raises AdoptError for what cannot work."""
    if request.preset:
        request = request.over(read_preset(request.preset))
    with conn.transaction(force_rollback=True):
        if "as_json(" in repr(request):
            conn.execute(sql.SQL(read_template("as_json.sql")).format(schema=sql.SQL("pg_temp")))
        inspection = _Inspection(conn, request)
        try:
            return inspection.findings()
        except Error as error:
            advice = "".join(f"; {warning}" for warning in inspection.warnings)
            raise AdoptError(f"the rows cannot be read as asked: {first_line(error)}{advice}") from error


class _Inspection:
    def __init__(self, conn: Connection[Any], request: Request) -> None:
        if request.tasks is None:
            raise AdoptError("which tables? Say at least --tasks and --key, or --workflows")
        self.conn, self.request = conn, request
        tasks = find_table(conn, request.tasks, "--tasks")
        workflows = find_table(conn, request.workflows, "--workflows") if request.workflows else None
        conn.execute("set local search_path = pg_catalog, pg_temp")  # as functions will read all that is written
        self.tasks = read_table(conn, tasks, "task", workflows)
        self.workflows = read_table(conn, workflows, "workflow") if workflows else None
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def findings(self) -> Findings:
        wanted, tasks, workflows = self.request, self.tasks, self.workflows
        keys, workflow_keys, link = self._keys()
        self._check(tasks, "--where", wanted.where, boolean=True)
        needed = "completed" not in wanted.conditions
        status, workflow_status = self._status(tasks, wanted.status, wanted.conditions, needed=needed), None
        if workflows:
            conditions, needed = wanted.workflow_conditions, bool(wanted.workflow_words)
            workflow_status = self._status(workflows, wanted.workflow_status, conditions, needed=needed)
        columns = self._shown(workflows or tasks, "--column", wanted.column, WORKFLOW_COLUMNS)
        adoption = Adoption(
            schema=self._schema(),
            tasks=tasks.table,
            keys=tuple(keys),
            workflows=workflows.table if workflows else None,
            workflow_keys=tuple(workflow_keys),
            task_id=self._task_id(),
            where=wanted.where,
            status=status,
            outcomes={outcome: sql for outcome, sql in wanted.conditions.items() if sql},
            words=_words(wanted.words, TASK_WORDS, "--") if status else {},
            workflow_status=workflow_status,
            workflow_outcomes=dict(wanted.workflow_conditions),
            workflow_words=_words(wanted.workflow_words, WORKFLOW_WORDS, "--workflow-") if workflow_status else {},
            keep_finished=bool(wanted.keep_finished),
            keep_failed=bool(wanted.keep_finished and wanted.keep_failed),
            publish=self._publish(),
            shadow=bool(wanted.shadow),
            columns=columns,
            task_columns=self._task_columns(),
            workflow_generated={
                f"workflow.{name(column.name)}": f"({column.expression})"
                for column in (workflows.columns.values() if workflows else ())
                if column.expression
            },
            preset=wanted.preset,
            workflow_noun=wanted.workflow_noun or "workflow",
            task_noun=wanted.task_noun or "task",
        )
        values = self._values(adoption)
        self._tell(adoption, link)
        adoption = replace(adoption, seen=self._seen(adoption, values))
        return Findings(
            adoption, list(dict.fromkeys(self.notes)), self.warnings, values, self._doubts(adoption, values)
        )

    def _schema(self) -> str:
        schema = self.request.schema
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,39}", schema) or schema.startswith("pg_"):
            raise AdoptError(f"--schema {schema!r}: small letters, digits and _ only, up to 40")
        [found] = ask(self.conn, "schema.sql", schema=schema)
        if found["other"] or schema in ("public", "information_schema"):
            there = f" ({found['other']})" if found["other"] else ""
            raise AdoptError(f"schema {schema} has other things in it{there}: give another one, --schema")
        if not found["may"]:
            role, grant = found["role"], f"grant create on database {name(found['database'])} to {name(found['role'])}"
            raise AdoptError(f"role {role} may not create schema {schema}: {grant}")
        return schema

    def _ask(self, query: str) -> list[tuple[Any, ...]]:
        """Execute a query with expressions of the user's."""
        return self.conn.cursor(row_factory=tuple_row).execute(locate(query, "pg_temp").encode()).fetchall()

    # Keys.

    def _keys(self) -> tuple[list[Key], list[Key], str]:
        """Find the key of tasks and that of workflows, and say how they belong together."""
        wanted, tasks, workflows = self.request, self.tasks, self.workflows
        ours, theirs, link = list(wanted.key), list(wanted.workflow_key), "without a foreign key"
        found = tasks.foreign_keys
        if ours or wanted.key_sql:
            found = [key for key in found if sorted(key.here) == sorted(ours) and not wanted.key_sql]
        elif not workflows:
            raise AdoptError(
                "without --workflows, say which workflow a task belongs to: --key COLUMN, or --key-sql SQL"
            )
        elif len(found) != 1:
            names, where = "; ".join(",".join(key.here) for key in found), workflows.sql
            raise AdoptError(
                f"{tasks.sql} has several foreign keys to {where} ({names}): say which, --key"
                if found
                else f"{tasks.sql} has no foreign key to {where}: say which columns hold the workflow, --key"
            )
        if found:
            link = f"references it{found[0].rules}"
            if not theirs:
                ours, theirs = list(found[0].here), list(found[0].there)
            ours = ours or list(found[0].here)
        keys = [self._column_key(tasks, column, "--key") for column in ours]
        for expression in wanted.key_sql:
            self._check(tasks, "--key-sql", expression)
            keys.append(self._key(tasks, f"({expression})", f"--key-sql {expression}"))
        if len(keys) > 4:
            raise AdoptError("a key has four parts at most")
        if len(keys) > 1 and (odd := [key for key in keys if key.type not in _PLAIN]):
            raise AdoptError(
                f"{odd[0].sql} is of type {odd[0].type}: a key of several parts takes text, numbers and uuid;"
                " write it as text, --key-sql"
            )
        return keys, self._workflow_keys(workflows, keys, ours, theirs) if workflows else [], link

    def _workflow_keys(self, workflows: Found, keys: list[Key], ours: list[str], theirs: list[str]) -> list[Key]:
        """See that columns of workflows are such a key; by default those of the same names, or the primary key."""
        unique = [sorted(columns) for columns in workflows.unique]
        if not theirs:
            theirs = ours if len(ours) > 1 and sorted(ours) in unique else list(workflows.primary)
        if len(theirs) != len(keys):
            raise AdoptError(
                f"the key has {len(keys)} parts, that of {workflows.sql} {len(theirs)}: say --workflow-key"
            )
        found = [self._column_key(workflows, column, "--workflow-key") for column in theirs]
        if sorted(theirs) not in unique:
            raise AdoptError(f"--workflow-key {','.join(theirs)}: no unique index of {workflows.sql} has these columns")
        for one, other in zip(keys, found, strict=True):
            kinds = {one.type, other.type}
            if len(kinds) > 1 and not kinds <= _NUMBERS and not kinds <= _STRINGS:
                raise AdoptError(f"{one.sql} is {one.type} and {other.sql} is {other.type}: they cannot be compared")
        return found

    def _column_key(self, table: Found, column: str, option: str) -> Key:
        return self._key(table, table.reference(table.column(column, option)), f"{option} {column}")

    def _key(self, table: Found, value: str, told: str) -> Key:
        kind, fits = type_of(self.conn, table.table, table.row, value)
        if not fits:
            raise AdoptError(
                f"{told}: {kind} cannot be a key: that is of an enum, or of a type that is built in and has an order,"
                " such as uuid, bigint or text"
            )
        return Key(value, kind)

    def _task_id(self) -> Key:
        tasks = self.tasks
        columns = [tasks.reference(tasks.columns[column]) for column in tasks.primary]
        if len(columns) == 1:
            kind, fits = type_of(self.conn, tasks.table, tasks.row, columns[0])
            if fits:
                return Key(columns[0], kind)
        return Key(" || '/' || ".join(f"({column})::text" for column in columns) or "task.ctid::text", "text")

    # Statuses and conditions.

    def _status(self, table: Found, given: str | None, conditions: Mapping[str, str], *, needed: bool) -> str | None:
        """Find what tells the state of a row, and see that conditions can be counted."""
        for outcome, condition in conditions.items():
            self._check(table, f"{table.options}{outcome}-when", condition, boolean=True)
        option = f"{table.options}status"
        if given is not None and given not in table.columns:
            self._check(table, option, given)
            return f"({given})"
        column = table.column(given, option) if given else table.find(STATUS)
        if column is None and needed:
            raise AdoptError(
                f"{table.sql} has no column status: say which one tells the state, {option},"
                f" or when a {table.row} is completed, {table.options}completed-when"
            )
        return table.reference(column) if column else None

    def _check(self, table: Found, option: str, given: str | None, *, boolean: bool = False) -> None:
        """See that an expression is about its own row alone, and moves with nothing else: as a check constraint."""
        if given is None:
            return
        check = f"({given})" if boolean else f"({given}) is not null"
        create = f"create temporary table {table.row} (like {table.sql}, check ({check}))"
        try:
            with self.conn.transaction(force_rollback=True):
                cursor = self.conn.cursor(row_factory=tuple_row)
                # By the extended protocol: one statement, so that a semicolon is refused.
                cursor.execute(locate(create, "pg_temp").encode(), prepare=True)
                flaws = ask(self.conn, "flaws.sql", checked=f"pg_temp.{table.row}", table=table.oid)
        except Error as error:
            told = first_line(error)
            if "subquery" in told:
                told = "it has to be about its own row alone: what a subquery finds moves without it"
            raise AdoptError(f"{option} {given}: {told}") from error
        for flaw in flaws:
            told = f"{option} {given}: {flaw['told']}"
            if flaw["refused"]:
                raise AdoptError(told)
            self.warnings.append(told)

    def _values(self, adoption: Adoption) -> list[Value]:
        """List each value of the status, with its rows and its meaning."""
        if adoption.status is None:
            return []
        render = Renderer(replace(adoption, schema="pg_temp"))
        slots = {"status": adoption.status, "where": adoption.where or "true"}
        query = locate(render.render("ask/values.sql", **slots), "pg_temp")
        known = {word for words in (*TASK_WORDS.values(), *adoption.words.values()) for word in words}
        return [
            Value(value, rows, meaning, value is None or bool(adoption.outcomes) or fold(value) in known)
            for value, rows, meaning in self._ask(query)
        ]

    def _seen(self, adoption: Adoption, values: Sequence[Value]) -> tuple[str, ...]:
        """Choose the statuses that are compared first: what there is, or may be expected."""
        if adoption.status is None or not adoption.words:
            return ()
        found = [value.value for value in values if value.value is not None]
        usual = ["completed", "pending", "running"]
        if found and found[0].isupper():
            usual = [word.upper() for word in usual]
        named = self.request.words.get("completed", ())
        return tuple(dict.fromkeys([*found[:4], *named[:2], *usual]))[:6]  # each costs a little, in each statement

    def _doubts(self, adoption: Adoption, values: Sequence[Value]) -> list[str]:
        """Doubt that nothing is completed, though some tasks look ended."""
        ended = [value for value in values if not value.known or value.meaning in ("failed", "cancelled")]
        if not ended or "completed" in (*adoption.outcomes, *(value.meaning for value in values)):
            return []
        unknown = [str(value.value) for value in ended if not value.known]
        told = ", ".join(unknown[:5]) or "failed and cancelled ones"
        return [f"no task is completed, though some look ended ({told}): say which status means so, --completed"]

    # Columns.

    def _shown(
        self, table: Found, option: str, given: Mapping[str, str], known: Mapping[str, Sequence[str]]
    ) -> dict[str, str]:
        """Find what is shown under our names: what the user says, or columns whose names say so."""
        guess = table.row == "workflow" or known is TASK_COLUMNS
        shown: dict[str, str] = {}
        for ours, (_, *candidates) in known.items():
            theirs = given.get(ours)
            if theirs is not None and theirs not in table.columns:
                self._check(table, f"{option} {ours}=", theirs)
                kind, _ = type_of(self.conn, table.table, table.row, f"({theirs})")
                shown[ours] = _converted(f"({theirs})", kind, ours) or f"({theirs})"
                continue
            column = table.columns[theirs] if theirs is not None else table.find(candidates) if guess else None
            if column is None:
                continue
            value = self._time_of_number(table, column) if ours in _TIMES and column.type in _NUMBERS else None
            value = value or _converted(table.reference(column), column.type, ours)
            if value is None and theirs is not None:
                raise AdoptError(f"{option} {ours}={theirs}: {column.declared} cannot be shown as {ours}")
            if value is not None:
                shown[ours] = value
        if odd := sorted(given.keys() - known.keys()):
            raise AdoptError(f"{option} {odd[0]}=: there is no column {odd[0]}; there are {', '.join(known)}")
        return shown

    def _time_of_number(self, table: Found, column: Column) -> str:
        """Read a number as a time: of seconds, milliseconds or microseconds, by its size."""
        where, value = f"{table.sql}.{name(column.name)}", table.reference(column)
        self.notes.append(f"{where} is read as a time in seconds, milliseconds or microseconds since 1970, by its size")
        unit = f"case when {value} < 1e11 then 1 when {value} < 1e14 then 1000 else 1000000 end"
        return f"to_timestamp({value}::double precision / {unit})"

    def _task_columns(self) -> dict[str, str]:
        shown = self._shown(self.tasks, "--task-column", self.request.task_column, TASK_COLUMNS)
        if "ordinal" not in shown:
            primary = [self.tasks.columns[column] for column in self.tasks.primary]
            if len(primary) == 1 and primary[0].type in _INTEGERS:
                shown["ordinal"] = self.tasks.reference(primary[0])
            elif "created_at" in shown:
                shown["ordinal"] = f"(extract(epoch from {shown['created_at']}) * 1000000)"
        return shown

    def _publish(self) -> dict[str, str]:
        wanted, workflows = self.request.publish, self.workflows
        if workflows is None:
            if wanted:
                raise AdoptError("--publish writes columns of a table of workflows: say --workflows")
            return {}
        if wanted is None:
            column = workflows.columns.get("progress")
            fits = column is not None and not column.generated and column.type in _NUMBERS
            wanted = {"progress": "progress"} if fits else {}
        for what, written in wanted.items():
            if what not in ("progress", "completed", "total"):
                raise AdoptError(f"--publish {what}=: it is progress, completed or total")
            if list(wanted.values()).count(written) > 1:
                raise AdoptError(f"--publish {what}={written}: a column can say one thing only")
            self._writable(workflows, workflows.column(written, f"--publish {what}="), percent=what == "progress")
        for other in list_adoptions(self.conn):
            both = sorted(set(other.publish.values()) & set(wanted.values()))
            if both and other.workflows == workflows.table and other.schema != self.request.schema:
                told = f"{workflows.sql}.{name(both[0])} is written by the adoption in schema {other.schema}"
                if self.request.publish is not None:
                    raise AdoptError(f"--publish {both[0]}: {told}")
                self.notes.append(f"{told}, and left to it")
                return {}
        return dict(wanted)

    def _writable(self, workflows: Found, column: Column, *, percent: bool) -> None:
        """See that a column takes what may be written there: nothing else than this would stop the writing of tasks."""
        where = f"{workflows.sql}.{name(column.name)}"
        if column.generated:
            raise AdoptError(f"{where} is a generated column: it cannot be written")
        if column.type not in _NUMBERS:
            raise AdoptError(f"{where} is of type {column.declared}: it needs a number")
        if any(column.name in unique for unique in workflows.unique):
            raise AdoptError(f"{where} is part of a unique key: it cannot be written")
        wanted, told = ([0, 1, 50, 99, 100], "0 to 100") if percent else ([0, 1, 2**31 - 1], f"0 to {2**31 - 1}")
        values = f"select cast(v as {column.declared}) as {name(column.name)} from unnest(array{wanted}) as v"
        allowed = f"bool_and({name(column.name)} is not null and {column.checks or 'true'})"
        try:
            with self.conn.transaction():
                [(fits,)] = self._ask(f"select {allowed} from ({values}) as t")
        except Error as error:
            raise AdoptError(f"{where} is of type {column.declared}, which cannot hold {told}") from error
        if not fits:
            raise AdoptError(f"{where} does not allow {told}: {column.checks}")

    # What the user is told.

    def _tell(self, adoption: Adoption, link: str) -> None:
        key = ", ".join(f"{key.sql.removeprefix('task.')} {key.type}" for key in adoption.keys)
        workflows = "as the tasks name them, without a table"
        if self.workflows:
            workflows = f"{self.workflows.sql}, {_about(self.workflows)}, {link}"
        tasks = f"{self.tasks.sql}, {_about(self.tasks)}, key {key}"
        self.notes[:0] = [f"workflows: {workflows}", f"tasks: {tasks}"]
        self.notes += [f"a task is {outcome} when {condition}" for outcome, condition in adoption.outcomes.items()]
        if adoption.where:
            self.notes.append(f"tasks count where {adoption.where}")
        if adoption.keep_finished:
            self.notes.append("finished work stays counted when its rows are deleted")
        left = "left alone for now (--live ends that)"
        told = left if adoption.shadow else "written when it moves, and by nobody else"
        self.notes += [f"{what}: {name(column)} is {told}" for what, column in adoption.publish.items()]
        there = self._ask(f"select to_regprocedure('{adoption.schema}.as_json(anyelement)')") != [(None,)]
        # An index can only be on the function as_json() that is there.
        render = Renderer(adoption if there else replace(adoption, schema="pg_temp"))
        columns = ", ".join(f"({key.sql.replace('task.', '')})" for key in adoption.keys)
        if not has_index(
            self.conn, render.fill("{tasks} as task where {and:(@sql)::@type = (select null::@type offset 0)}")
        ):
            self.warnings.append(
                f"no index of {adoption.tasks.sql} finds the tasks of a workflow: repairs and pages read all tasks;"
                f" this one would: {making_index(self.conn, adoption.tasks)} ({columns})"
            )
        if index := unindexed_key(self.conn, adoption):
            self.warnings.append(index)
        named = "select exists (select from {tasks} as task where {and:(@sql) is not null}) from {tasks} limit 1"
        if adoption.workflows != adoption.tasks and self._ask(render.fill(named)) == [(False,)]:
            told = ", ".join(key.sql.removeprefix("task.") for key in adoption.keys)
            self.warnings.append(f"none of the tasks names a workflow by {told}: until one does, nothing is counted")
        if adoption.publishes and self.workflows:
            self._tell_triggers(adoption, self.workflows)

    def _tell_triggers(self, adoption: Adoption, workflows: Found) -> None:
        """Warn of the application's row triggers before updates of a table that is published to."""
        ours = {"guard": f"zz_{adoption.schema}_guard", "schema": name(adoption.schema)}
        for row in ask(self.conn, "row_triggers.sql", table=workflows.oid, **ours):
            last = " it comes after ours and can change what is published;" if row["late"] else ""
            self.warnings.append(
                f"trigger {row['trigger']} runs before each update of {workflows.sql}:{last} what it sets"
                " (a time, a version) moves with progress, and an error of it stops the writing of tasks"
            )


def _words(
    given: Mapping[str, Sequence[str]], usual: Mapping[str, Sequence[str]], prefix: str
) -> dict[str, tuple[str, ...]]:
    """Merge what the user named with the usual words of what he did not name."""
    named = {
        meaning: tuple(dict.fromkeys(way for word in words for way in spellings(word)))
        for meaning, words in given.items()
    }
    every = [word for words in named.values() for word in words]
    if twice := sorted({word for word in every if every.count(word) > 1}):
        raise AdoptError(f"{', '.join(twice)}: a value can have one meaning only ({prefix}completed, {prefix}failed …)")
    rest = {
        meaning: tuple(word for word in words if word not in every)
        for meaning, words in usual.items()
        if meaning not in named and meaning != "pending"
    }
    return {meaning: words for meaning, words in (named | rest).items() if words}


def _converted(value: str, kind: str, ours: str) -> str | None:
    """Write a value as the view shows it; None where its type cannot be."""
    if ours in _TIMES:
        if kind == "timestamp without time zone":
            return f"({value} at time zone 'UTC')"
        return value if kind in ("timestamp with time zone", "date") else None
    if ours in _COUNTS:
        return value if kind in _NUMBERS else None
    if kind in ("json", "jsonb") and ours not in ("payload", "result"):
        return f"({value} #>> '{{}}')"
    if kind.startswith("timestamp") and ours not in ("payload", "result"):
        return None
    return value


def _about(table: Found) -> str:
    size = f"about {table.rows} rows" if table.rows else "few rows"
    return size if table.partitions is None else f"{size} in {table.partitions} partitions"
