"""What a schema has: an adoption lacks stages and events, and may have keys and priorities of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import Connection, sql

_INTEGERS = ("smallint", "integer", "bigint")
_RELATIONS = [
    "agent_task",
    "workflow",
    "workflow_stage",
    "workflow_event",
    "workflow_stage_progress",
    "workflow_stage_agents",
    "workflow_timeline",
    "workflow_burnup",
]
_EXISTING = """
    select name from unnest(%s::text[]) as name where to_regclass(format('%%I.%%I', %s::text, name)) is not null
"""
_COLUMN = """
    select
        pg_catalog.format_type(a.atttypid, null),
        array(select e.enumlabel::text from pg_enum as e where e.enumtypid = a.atttypid order by e.enumsortorder)
    from pg_attribute as a
    where
        a.attrelid = to_regclass(format('%%I.workflow_progress', %s::text))
        and a.attname in ('workflow_id', 'priority')
    order by a.attname desc
"""


class NotAValue(ValueError):
    """A value of a request that nothing in this schema can have."""


@dataclass(frozen=True)
class Shape:
    """What the service needs to know of a schema; ``priorities`` is empty where they are any text."""

    schema: str
    relations: frozenset[str]
    key_type: str
    priorities: tuple[str, ...]

    def name(self, relation: str) -> sql.SQL:
        """Write the name of a relation of this schema, for a query with parameters."""
        return sql.SQL(sql.Identifier(self.schema, relation).as_string().replace("%", "%%"))

    def has(self, relation: str) -> bool:
        """Tell whether the schema has a relation."""
        return relation in self.relations

    def key(self, given: str) -> str:
        """Write a key as the database does. Raises NotAValue."""
        try:
            if self.key_type == "uuid":
                return str(UUID(given))
            return str(int(given)) if self.key_type in _INTEGERS else given
        except ValueError:
            raise NotAValue(f"workflow_id: not of type {self.key_type}") from None

    def keys(self, conn: Connection[Any], given: Sequence[str]) -> list[str]:
        """Write keys as the database does, and see that it takes them. Raises NotAValue and DataError."""
        type_ = self.key_type.replace("%", "%%")
        query = sql.SQL("select (%s::text[]::{}[])::text[]").format(sql.SQL(type_))
        row = conn.execute(query, [[self.key(key) for key in given]]).fetchone()
        return list(row[0]) if row else []


def find_shape(conn: Connection[Any], schema: str) -> Shape:
    """Find out what a schema has. Raises ``psycopg.errors.UndefinedTable`` where it has no progress to read."""
    readable(conn, schema)
    existing = conn.execute(_EXISTING, [_RELATIONS, schema]).fetchall()
    (key_type, _), (_, priorities) = conn.execute(_COLUMN, [schema]).fetchall()
    return Shape(schema, frozenset(name for (name,) in existing), key_type, tuple(priorities))


def readable(conn: Connection[Any], schema: str) -> None:
    """See that what the service reads is there."""
    names = (sql.Identifier(schema, name) for name in ("workflow_progress", "workflow_forecast", "agent_task"))
    conn.execute(sql.SQL("select from {}, {}, {} limit 0").format(*names))
