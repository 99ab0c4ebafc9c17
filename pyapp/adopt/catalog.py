"""Reading the catalog: tables of the application's as they are now."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.errors import Error
from psycopg.rows import class_row, dict_row, tuple_row

from pyapp.adopt.adoption import AdoptError, Adoption, Table
from pyapp.adopt.render import Partitions, Renderer, name

_TABLE = """
    select
        c.oid::bigint as oid,
        n.nspname as schema,
        c.relname as name,
        c.relkind = 'p' as partitioned,
        (
            select coalesce(sum(greatest(p.reltuples, 0)), 0)::bigint
            from pg_class as p
            where p.oid = c.oid or p.oid in (select t.relid from pg_partition_tree(c.oid) as t where t.isleaf)
        ) as rows,
        case
            when c.relkind not in ('r', 'p') then 'is a view, an index or a foreign table: only tables can be adopted'
            when c.relpersistence = 't' then 'is a temporary table'
            when c.relispartition then 'is a partition: adopt the partitioned table that it belongs to'
            when c.relkind = 'r' and exists (select from pg_inherits as i where i.inhparent = c.oid)
                then 'has heirs, whose writes could not be counted'
            when not pg_has_role(c.relowner, 'usage') then 'belongs to another role: only its owner can adopt it'
        end as refusal
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
    where c.oid = to_regclass(%s)
"""
_COLUMNS = """
    select
        a.attname as name,
        a.attnum as number,
        format_type(a.atttypid, a.atttypmod) as declared,
        case coalesce(b.oid, t.oid)
            when 'bpchar'::regtype then 'bpchar'
            when 'varchar'::regtype then 'text'
            else format_type(coalesce(b.oid, t.oid), null)
        end as type,
        coalesce(b.typtype, t.typtype) = 'e'
            or coalesce(b.typtype, t.typtype) = 'b'
            and coalesce(b.typnamespace, t.typnamespace) = 'pg_catalog'::regnamespace as as_key,
        a.attgenerated::text as generated,
        pg_get_expr(d.adbin, d.adrelid) as expression
    from pg_attribute as a
    join pg_type as t on t.oid = a.atttypid
    left join pg_type as b on b.oid = t.typbasetype
    left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum and a.attgenerated::text <> ''
    where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""
_FOREIGN_KEYS = """
    select
        (
            select array_agg(a.attname::text order by array_position(c.conkey, a.attnum))
            from pg_attribute as a
            where a.attrelid = c.conrelid and a.attnum = any (c.conkey)
        ),
        (
            select array_agg(a.attname::text order by array_position(c.confkey, a.attnum))
            from pg_attribute as a
            where a.attrelid = c.confrelid and a.attnum = any (c.confkey)
        ),
        -- Its rules stand behind the columns that it references, where it has any.
        coalesce(', ' || lower(substring(pg_get_constraintdef(c.oid) from '(?:ON DELETE|ON UPDATE|DEFERRABLE).*$')), '')
    from pg_constraint as c
    where c.contype = 'f' and c.conrelid = %s and c.confrelid = %s and c.conparentid = 0
    order by c.conname
"""
_UNIQUE = """
    select
        (
            select array_agg(a.attname::text order by array_position(i.indkey::int2[], a.attnum))
            from pg_attribute as a
            where a.attrelid = i.indrelid and a.attnum = any ((i.indkey::int2[])[0:i.indnkeyatts - 1])
        ),
        i.indisprimary
    from pg_index as i
    where i.indrelid = %s and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
    order by i.indisprimary desc, i.indexrelid
"""


@dataclass(frozen=True)
class Column:
    """A column; ``type`` is the one below a domain, ``declared`` is its own; ``as_key``: a key can be of this type.

    ``generated`` is ``s`` where it is stored, ``v`` where it is virtual, and empty else.
    """

    name: str
    number: int
    declared: str
    type: str
    as_key: bool
    generated: str
    expression: str | None


@dataclass(frozen=True)
class Found:
    """A table with its columns and unique keys; ``rows`` is what the planner takes for their number."""

    oid: int
    schema: str
    name: str
    partitioned: bool
    rows: int
    columns: Mapping[str, Column]
    unique: Sequence[Sequence[str]]
    primary: Sequence[str]

    @property
    def table(self) -> Table:
        """Return which table it is."""
        return Table(self.schema, self.name)

    def column(self, wanted: str, option: str) -> Column:
        """Get a column that an option names. Raises AdoptError."""
        if wanted not in self.columns:
            raise AdoptError(
                f"{option} {wanted}: {self.table.sql} has no such column; it has {', '.join(self.columns)}"
            )
        return self.columns[wanted]

    def find(self, candidates: Sequence[str]) -> Column | None:
        """Find a column by the first of these names that there is, in small letters with underscores."""
        known = {snake(column): column for column in reversed(list(self.columns))}
        found = next((known[candidate] for candidate in candidates if candidate in known), None)
        return self.columns[found] if found else None


def read_table(conn: Connection[Any], given: str, option: str) -> Found:
    """Read a table that an option names, as in SQL. Raises AdoptError if there is none, or none that can be adopted."""
    with conn.cursor(row_factory=dict_row) as cursor:
        try:
            found = cursor.execute(_TABLE, [given]).fetchone()
        except Error as error:
            raise AdoptError(f"{option} {given}: that is no name of a table: {first_line(error)}") from error
    if found is None:
        raise AdoptError(
            f"{option} {given}: there is no such table; a name with capitals or blanks is written in double quotes,"
            f" as in {option} '\"{given.strip(chr(34))}\"', and a schema that is not in the search_path before it"
        )
    if refusal := found.pop("refusal"):
        raise AdoptError(f"{option} {given} {refusal}")
    with conn.cursor(row_factory=class_row(Column)) as cursor:
        columns = {column.name: column for column in cursor.execute(_COLUMNS, [found["oid"]])}
    keys = conn.cursor(row_factory=tuple_row).execute(_UNIQUE, [found["oid"]]).fetchall()
    primary: list[str] = next((key for key, is_primary in keys if is_primary), [])
    return Found(columns=columns, unique=[key for key, _ in keys], primary=primary, **found)


def foreign_keys(conn: Connection[Any], tasks: Found, workflows: Found) -> list[tuple[list[str], list[str], str]]:
    """List the foreign keys from tasks to workflows: columns there, columns here, rules."""
    return conn.cursor(row_factory=tuple_row).execute(_FOREIGN_KEYS, [tasks.oid, workflows.oid]).fetchall()


def partitions(conn: Connection[Any], adoption: Adoption) -> Partitions:
    """Find the partitions that the two tables have now, at every level."""

    def of(table: Table | None) -> list[Table]:
        rows = conn.cursor(row_factory=tuple_row).execute(
            "select n.nspname, c.relname from pg_partition_tree(to_regclass(%s)) as p"
            " join pg_class as c on c.oid = p.relid join pg_namespace as n on n.oid = c.relnamespace"
            " where p.level > 0 order by c.oid",
            [table.sql if table else None],
        )
        return [Table(*row) for row in rows.fetchall()]

    return Partitions(of(adoption.tasks), of(adoption.workflows))


def has_index(conn: Connection[Any], wanted: str) -> bool:
    """Ask the planner whether it could find these rows by an index, of whatever kind."""
    with conn.transaction(force_rollback=True):
        conn.execute("set local enable_seqscan = off")
        explained = conn.cursor(row_factory=tuple_row).execute(f"explain select from {wanted}".encode())
        return "Index Cond" in str(explained.fetchall())


def making_index(table: Table, parts: Sequence[Table]) -> str:
    """Begin the statement that makes an index, without waiting writers where that can be had."""
    return f"create index{'' if parts else ' concurrently'} on {table.sql}"


def unindexed_key(conn: Connection[Any], adoption: Adoption) -> str | None:
    """Tell which index is missing where one workflow is looked for by a key of several columns."""
    if adoption.workflows is None or len(adoption.keys) == 1:
        return None
    table, written = adoption.workflows.sql, Renderer(adoption).slots["workflow_id"]
    if has_index(conn, f"{table} as workflow where {written} = (select null::text offset 0)"):
        return None
    return (
        f"reading one workflow reads all of {table}; an index on the key as it is shown avoids that:"
        f" {making_index(adoption.workflows, partitions(conn, adoption).workflows)}"
        f" (({written.replace('workflow.', '')}))"
    )


def snake(given: str) -> str:
    """Write a name in capitals and small letters as one with underscores."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", given).lower()


def first_line(error: Exception) -> str:
    """Tell an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def reference(column: Column, row: str) -> str:
    """Write a column of a row; a virtual one, which triggers cannot read, by its expression."""
    if column.generated == "v" and column.expression:
        return f"({column.expression})"
    return f"{row}.{name(column.name)}"
