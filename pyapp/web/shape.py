"""What a schema has: an adoption lacks stages and events, and may have keys and priorities of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, errors, sql

from pyapp import Vocabulary, aio
from pyapp.db import quoted_name
from pyapp.web.wire import fetch_values

_BITS = {"smallint": 15, "integer": 31, "bigint": 63}
_RELATIONS = [
    "agent_task",
    "workflow",
    "workflow_stage",
    "workflow_event",
    "workflow_stage_progress",
    "workflow_stage_agents",
    "workflow_timeline",
    "workflow_burnup",
    "workflow_tree_progress",
    "workflow_forecast",
    "vocabulary",
]
OURS = Vocabulary("workflow", "workflows", "agent", "agents")
"""What people read of our own tables; of adopted ones that say nothing they read of tasks."""
_THEIRS = Vocabulary("workflow", "workflows", "task", "tasks")
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
# The columns that an index finds by what is contained in them (name), or by the whole (external_id).
_INDEXED = """
    select a.attname
    from pg_index as i
    join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
    join pg_opclass as o on o.oid = i.indclass[0]
    where
        i.indisvalid
        and (
            (i.indrelid = to_regclass(format('%%I.workflow', %s::text)) and o.opcname = 'gin_trgm_ops')
            or (i.indrelid = to_regclass(format('%%I.agent_task', %s::text)) and a.attname = 'external_id')
        )
"""


LACKING = (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction)


def lacking(schema: str) -> str:
    """Say that a schema has not what the service reads, and what to do."""
    return f'schema "{schema}" has no agent-progress, or an old one: run agent-progress migrate, or adopt'


class NotAValue(ValueError):
    """A value of a request that nothing in this schema can have."""


@dataclass(frozen=True)
class Shape:
    """What the service needs to know of a schema; ``priorities`` is empty where they are any text.

    ``words`` are what workflows and tasks are called; ``indexed`` has ``name`` and ``external_id`` where an index
    finds them.
    """

    schema: str
    relations: frozenset[str]
    key_type: str
    priorities: tuple[str, ...]
    words: Vocabulary = OURS
    indexed: frozenset[str] = frozenset()

    def name(self, relation: str) -> sql.SQL:
        """Write the name of a relation of this schema, for a query with parameters."""
        return quoted_name(self.schema, relation)

    def has(self, relation: str) -> bool:
        """Tell whether the schema has a relation."""
        return relation in self.relations

    def key(self, given: str) -> str:
        """Write a key as the database does. Raises NotAValue."""
        try:
            if self.key_type == "uuid":
                return str(UUID(given))
            if bits := _BITS.get(self.key_type):
                if not -(1 << bits) <= int(given) < 1 << bits:
                    raise ValueError
                return str(int(given))
        except ValueError:
            raise NotAValue(
                f"workflow_id: should be a {'UUID' if self.key_type == 'uuid' else 'whole number'}"
            ) from None
        return given

    @property
    def knows_keys(self) -> bool:
        """Whether ``key`` passes on only what the database takes."""
        return self.key_type == "uuid" or self.key_type in _BITS

    async def written(self, conn: AsyncConnection[Any], keys: Sequence[str]) -> list[str]:
        """Write keys as the database does, by asking it. Raises ``psycopg.DataError``."""
        type_ = sql.SQL(self.key_type.replace("%", "%%"))
        query = sql.SQL("select (%s::text[]::{}[])::text[]").format(type_)
        [found] = await fetch_values(conn, query, [list(keys)])
        return list(found)


async def find_shape(conn: AsyncConnection[Any], schema: str) -> Shape:
    """Find out what a schema has. Raises ``psycopg.errors.UndefinedTable`` where it has no progress to read."""
    await readable(conn, schema)
    relations = frozenset(await fetch_values(conn, _EXISTING, [_RELATIONS, schema]))
    (key_type, _), (_, priorities) = await (await conn.execute(_COLUMN, [schema])).fetchall()
    words = OURS if "workflow" in relations else _THEIRS
    if "vocabulary" in relations:
        words = await aio.get_vocabulary(conn, schema=schema)
    indexed = frozenset(await fetch_values(conn, _INDEXED, [schema, schema]))
    return Shape(schema, relations, key_type, tuple(priorities), words, indexed)


async def readable(conn: AsyncConnection[Any], schema: str, *relations: str) -> None:
    """See that workflow_progress is there, and these relations too."""
    names = (sql.Identifier(schema, name) for name in ("workflow_progress", *relations))
    await conn.execute(sql.SQL("select from {} limit 0").format(sql.SQL(", ").join(names)))
