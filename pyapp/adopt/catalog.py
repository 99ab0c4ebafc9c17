"""Reading the catalog: a table of the application's as it is now."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.errors import Error
from psycopg.rows import class_row, dict_row

from pyapp.adopt.pair import AdoptError, Pair, quote
from pyapp.adopt.render import Partitions

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
        a.atttypid::bigint as type_oid,
        format_type(a.atttypid, a.atttypmod) as declared,
        format_type(coalesce(b.oid, t.oid), null) as type,
        coalesce(b.typtype, t.typtype)::text as kind,
        coalesce(b.typnamespace, t.typnamespace) = 'pg_catalog'::regnamespace as built_in,
        a.attgenerated::text <> '' as generated,
        case when a.attcollation <> t.typcollation then a.attcollation::regcollation::text end as collation
    from pg_attribute as a
    join pg_type as t on t.oid = a.atttypid
    left join pg_type as b on b.oid = t.typbasetype
    where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""


@dataclass(frozen=True)
class Column:
    """A column; ``type`` and ``kind`` (``b`` base, ``e`` enum) are those below a domain, ``declared`` is its own."""

    name: str
    number: int
    type_oid: int
    declared: str
    type: str
    kind: str
    built_in: bool
    generated: bool
    collation: str | None


@dataclass(frozen=True)
class Table:
    """A table with its columns; ``rows`` is what the planner takes for their number."""

    oid: int
    schema: str
    name: str
    partitioned: bool
    rows: int
    columns: Mapping[str, Column]

    @property
    def quoted(self) -> str:
        """Return its qualified name, quoted."""
        return quote(self.schema, self.name)

    def column(self, name: str, option: str) -> Column:
        """Get a column that an option names. Raises AdoptError."""
        if name not in self.columns:
            raise AdoptError(f"{option} {name}: {self.quoted} has no such column; it has {', '.join(self.columns)}")
        return self.columns[name]


def read_table(conn: Connection[Any], given: str, role: str) -> Table:
    """Read a table that an option names, as in SQL. Raises AdoptError if there is none, or none that can be adopted."""
    with conn.cursor(row_factory=dict_row) as cursor:
        try:
            found = cursor.execute(_TABLE, [given]).fetchone()
        except Error as error:
            raise AdoptError(f"--{role} {given}: that is no name of a table: {first_line(error)}") from error
    if found is None:
        raise AdoptError(
            f"--{role} {given}: there is no such table; a name with capitals or blanks is written in double quotes,"
            f" as in --{role} '\"{given.strip(chr(34))}\"', and a schema that is not in the search_path before it"
        )
    if refusal := found.pop("refusal"):
        raise AdoptError(f"--{role} {given} {refusal}")
    with conn.cursor(row_factory=class_row(Column)) as cursor:
        columns = cursor.execute(_COLUMNS, [found["oid"]]).fetchall()
    return Table(columns={column.name: column for column in columns}, **found)


def partitions(conn: Connection[Any], pair: Pair) -> Partitions:
    """Find the partitions that the two tables have now, at every level."""

    def of(table: tuple[str, str]) -> list[tuple[str, str]]:
        rows = conn.execute(
            "select n.nspname, c.relname from pg_partition_tree(to_regclass(%s)) as p"
            " join pg_class as c on c.oid = p.relid join pg_namespace as n on n.oid = c.relnamespace"
            " where p.level > 0 order by c.oid",
            [quote(*table)],
        ).fetchall()
        return [(row[0], row[1]) for row in rows]

    return Partitions(of(pair.workflows), of(pair.tasks))


def columns_of(conn: Connection[Any], table: tuple[str, str]) -> frozenset[str]:
    """List the columns that a table has now."""
    rows = conn.execute(
        "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped",
        [quote(*table)],
    ).fetchall()
    return frozenset(row[0] for row in rows)


def snake(name: str) -> str:
    """Write a name in capitals and small letters as one with underscores."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def first_line(error: Exception) -> str:
    """Tell an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
