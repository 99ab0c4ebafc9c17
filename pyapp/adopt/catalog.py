"""Reading the catalog: tables of the application's as they are now."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from psycopg import Connection, sql
from psycopg.errors import DependentObjectsStillExist, Error
from psycopg.rows import dict_row, tuple_row

from pyapp.adopt.adoption import AdoptError, Adoption, Table
from pyapp.adopt.render import Renderer, locate, name, read_template


@dataclass(frozen=True)
class Column:
    """A column; ``type`` is the one below a domain, ``declared`` is its own.

    ``generated`` is ``s`` where it is stored, ``v`` where it is virtual, and empty else; ``checks`` is what its check
    constraints say of it alone.
    """

    name: str
    declared: str
    type: str
    generated: str
    expression: str | None
    checks: str | None


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key: its columns here, those that it references, and what it says of deleting and the like."""

    here: Sequence[str]
    there: Sequence[str]
    rules: str


@dataclass(frozen=True)
class Found:
    """A table with its columns and keys; ``rows`` is what the planner takes for their number.

    ``row`` is what expressions call a row of it: task or workflow; ``partitions`` is null where it cannot have any.
    """

    row: str
    oid: int
    table: Table
    partitions: int | None
    rows: int
    columns: Mapping[str, Column]
    unique: Sequence[Sequence[str]]
    primary: Sequence[str]
    foreign_keys: Sequence[ForeignKey]

    @property
    def sql(self) -> str:
        """Return its qualified name, quoted."""
        return self.table.sql

    @property
    def options(self) -> str:
        """Return how the options begin that say what its rows mean."""
        return "--workflow-" if self.row == "workflow" else "--"

    def reference(self, column: Column) -> str:
        """Write a column of a row; a virtual one, which triggers cannot read, by its expression."""
        if column.generated == "v" and column.expression:
            return f"({column.expression})"
        return f"{self.row}.{name(column.name)}"

    def column(self, wanted: str, option: str) -> Column:
        """Get a column that an option names. Raises AdoptError."""
        if wanted not in self.columns:
            raise AdoptError(f"{option} {wanted}: {self.sql} has no such column; it has {', '.join(self.columns)}")
        return self.columns[wanted]

    def find(self, candidates: Sequence[str]) -> Column | None:
        """Find a column by the first of these names that there is, in small letters with underscores."""
        known = {snake(column): column for column in reversed(list(self.columns))}
        found = next((known[candidate] for candidate in candidates if candidate in known), None)
        return self.columns[found] if found else None


def ask(conn: Connection[Any], file: str, **values: object) -> list[dict[str, Any]]:
    """Ask a question of sql/adopt/ask/; return its rows."""
    query = read_template(f"ask/{file}").encode()
    return conn.cursor(row_factory=dict_row).execute(query, values).fetchall()


def find_table(conn: Connection[Any], given: str, option: str) -> int:
    """Find the oid of a table that an option names, as in SQL. Raises AdoptError if there is none."""
    try:
        row = conn.cursor(row_factory=tuple_row).execute("select to_regclass(%s)::oid::bigint", [given]).fetchone()
    except Error as error:
        raise AdoptError(f"{option} {given}: that is no name of a table: {first_line(error)}") from error
    if row is None or row[0] is None:
        raise AdoptError(
            f"{option} {given}: there is no such table; a name with capitals or blanks is written in double quotes,"
            f" as in {option} '\"{given.strip(chr(34))}\"', and a schema that is not in the search_path before it"
        )
    return int(row[0])


def read_table(conn: Connection[Any], oid: int, row: str, references: int | None = None) -> Found:
    """Read a table, with its foreign keys to another one. Raises AdoptError if it cannot be adopted."""
    [found] = ask(conn, "table.sql", table=oid, other=references)
    table, refusal = Table(found.pop("schema"), found.pop("name")), found.pop("refusal")
    if refusal:
        raise AdoptError(f"--{row}s {table.sql} {refusal}")
    columns = {column["name"]: Column(**column) for column in found.pop("columns") or ()}
    keys = [ForeignKey(**key) for key in found.pop("foreign_keys")]
    return Found(row=row, table=table, columns=columns, foreign_keys=keys, **found)


def type_of(conn: Connection[Any], table: Table, row: str, value: str) -> tuple[str, bool]:
    """Tell of which type an expression on a row is, and whether a key can be."""
    slots = {"value": sql.SQL(locate(value, "pg_temp")), "table": sql.SQL(table.sql), "row": sql.SQL(row)}
    query = sql.SQL(read_template("ask/type.sql")).format(**slots)
    [found] = conn.cursor(row_factory=tuple_row).execute(query).fetchall()
    return found


def retyped(conn: Connection[Any], adoption: Adoption) -> Adoption:
    """Return an adoption with the types that its keys have by now. Raises AdoptError where what it reads is gone."""
    of, workflows = adoption, adoption.workflows or adoption.tasks

    def kind(table: Table, row: str, value: str) -> str:
        return type_of(conn, table, row, locate(value, of.schema))[0]

    shown = [of.workflow_status, *of.workflow_outcomes.values(), *of.columns.values()]
    shown += [f"workflow.{name(column)}" for column in of.publish.values()]
    read = [of.where, of.status, *of.outcomes.values(), *of.task_columns.values(), *([] if of.workflows else shown)]
    with reading(conn):
        conn.execute("set local search_path = pg_catalog, pg_temp")
        kind(of.tasks, "task", f"row({', '.join(filter(None, read))})")
        if of.workflows:
            kind(of.workflows, "workflow", f"row({', '.join(filter(None, shown))})")
        return replace(
            of,
            keys=tuple(replace(key, type=kind(of.tasks, "task", key.sql)) for key in of.keys),
            workflow_keys=tuple(replace(key, type=kind(workflows, "workflow", key.sql)) for key in of.workflow_keys),
            task_id=replace(of.task_id, type=kind(of.tasks, "task", of.task_id.sql)),
        )


@contextmanager
def reading(conn: Connection[Any]) -> Iterator[None]:
    """Read what was adopted. Raises AdoptError where it is gone, or hidden in part from who looks."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("set local row_security = off")
            yield
    except Error as error:
        raise AdoptError(
            f"the tables cannot be read as they were adopted: {first_line(error)}"
            " (adopt with --tasks and the like says how to read them now)"
        ) from error


def partitions(conn: Connection[Any], table: Table | None) -> list[Table]:
    """Find the partitions that a table has now, at every level."""
    rows = ask(conn, "partitions.sql", table=table.sql) if table else []
    return [Table(row["nspname"], row["relname"]) for row in rows if row["level"]]


def has_index(conn: Connection[Any], wanted: str) -> bool:
    """Ask the planner whether it could find these rows by an index, of whatever kind."""
    with conn.transaction(force_rollback=True):
        conn.execute("set local enable_seqscan = off")
        explained = conn.cursor(row_factory=tuple_row).execute(f"explain select from {wanted}".encode())
        return "Index Cond" in str(explained.fetchall())


def making_index(conn: Connection[Any], table: Table) -> str:
    """Begin the statement that makes an index, without waiting writers where that can be had."""
    partitioned = ask(conn, "partitions.sql", table=table.sql)
    return f"create index{'' if partitioned else ' concurrently'} on {table.sql}"


def unindexed_key(conn: Connection[Any], adoption: Adoption) -> str | None:
    """Tell which index is missing where one workflow is looked for by a key of several columns."""
    if adoption.workflows is None or len(adoption.keys) == 1:
        return None
    table, written = adoption.workflows.sql, Renderer(adoption).slots["workflow_id"]
    if has_index(conn, f"{table} as workflow where {written} = (select null::text offset 0)"):
        return None
    return (
        f"reading one workflow reads all of {table}; an index on the key as it is shown avoids that:"
        f" {making_index(conn, adoption.workflows)} (({written.replace('workflow.', '')}))"
    )


def snake(given: str) -> str:
    """Write a name in capitals and small letters as one with underscores."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", given).lower()


def first_line(error: Exception) -> str:
    """Tell an error in one line."""
    if isinstance(error, Error) and error.diag.message_primary:
        depends = error.diag.message_detail if isinstance(error, DependentObjectsStillExist) else None
        return "; ".join([error.diag.message_primary, *(depends or "").splitlines()])
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
