"""What a schema has: an adoption lacks stages and events, and may have keys and priorities of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import LiteralString
from uuid import UUID

from fastapi import HTTPException
from psycopg import errors, sql

from pyapp import Vocabulary, aio
from pyapp.db import quoted_name
from pyapp.web.wire import Conn

_BITS = {"smallint": 15, "integer": 31, "bigint": 63}
OURS = Vocabulary("workflow", "workflows", "agent", "agents")
"""What people read of our own tables; of adopted ones that say nothing they read of tasks."""
_THEIRS = Vocabulary("workflow", "workflows", "task", "tasks")
# Relations, the type of keys, the priorities where these are an enum, and the columns that an index finds: name by what
# is contained in it, external_id by the whole.
_SHAPE = """
    select
        array(
            select c.relname::text from pg_class as c
            where c.relnamespace = to_regnamespace(%(schema)s) and c.relkind in ('r', 'p', 'v', 'm', 'f')
        ),
        (
            select format_type(a.atttypid, null) from pg_attribute as a
            where a.attrelid = to_regclass(%(schema)s || '.workflow_progress') and a.attname = 'workflow_id'
        ),
        array(
            select e.enumlabel::text from pg_attribute as a join pg_enum as e on e.enumtypid = a.atttypid
            where a.attrelid = to_regclass(%(schema)s || '.workflow_progress') and a.attname = 'priority'
            order by e.enumsortorder
        ),
        array(
            select a.attname::text
            from pg_index as i
            join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
            join pg_opclass as o on o.oid = i.indclass[0]
            where
                i.indisvalid
                and (
                    (i.indrelid = to_regclass(%(schema)s || '.workflow') and o.opcname = 'gin_trgm_ops')
                    or (i.indrelid = to_regclass(%(schema)s || '.agent_task') and a.attname = 'external_id')
                )
        )
"""


LACKING = (errors.UndefinedTable, errors.UndefinedColumn, errors.UndefinedFunction)


def lacking(schema: str) -> str:
    """Say that a schema has not what the service reads, and what to do."""
    return f'schema "{schema}" has no agent-progress, or an old one: run agent-progress migrate, or adopt'


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
    indexed: frozenset[str]
    words: Vocabulary

    def has(self, relation: str) -> bool:
        """Tell whether the schema has a relation."""
        return relation in self.relations

    def query(self, text: LiteralString, **parts: sql.Composable) -> sql.Composed:
        """Write a query or a part of one: what is in braces is one of the ``parts``, or a relation of this schema."""
        names = {name for _, name, _, _ in Formatter().parse(text) if name and name not in parts}
        return sql.SQL(text).format(**parts, **{name: quoted_name(self.schema, name) for name in names})

    def key(self, given: str) -> str:
        """Write a key as the database does. Raises HTTPException where no key can be that."""
        try:
            if self.key_type == "uuid":
                return str(UUID(given))
            if bits := _BITS.get(self.key_type):
                if not -(1 << bits) <= int(given) < 1 << bits:
                    raise ValueError
                return str(int(given))
        except ValueError:
            what = "UUID" if self.key_type == "uuid" else "whole number"
            raise HTTPException(422, f"workflow_id: should be a {what}") from None
        return given

    @property
    def knows_keys(self) -> bool:
        """Whether ``key`` passes on only what the database takes."""
        return self.key_type == "uuid" or self.key_type in _BITS

    @property
    def keys(self) -> sql.SQL:
        """The type of an array of keys."""
        return sql.SQL(self.key_type.replace("%", "%%") + "[]")

    async def written(self, conn: Conn, keys: Sequence[str]) -> list[str]:
        """Write keys as the database does, by asking it. Raises ``psycopg.DataError``."""
        query = self.query("select (%s::text[]::{keys})::text[]", keys=self.keys)
        [(found,)] = await (await conn.execute(query, [list(keys)])).fetchall()
        return list(found)


async def find_shape(conn: Conn, schema: str) -> Shape:
    """Find out what a schema has. Raises ``psycopg.errors.UndefinedTable`` where it has no progress to read."""
    await readable(conn, schema)
    quoted = {"schema": sql.Identifier(schema).as_string(conn)}
    [(relations, key_type, priorities, indexed)] = await (await conn.execute(_SHAPE, quoted)).fetchall()
    words = OURS if "workflow" in relations else _THEIRS
    if "vocabulary" in relations:
        words = await aio.get_vocabulary(conn, schema=schema)
    return Shape(schema, frozenset(relations), key_type, tuple(priorities), frozenset(indexed), words)


async def readable(conn: Conn, schema: str, *relations: str) -> None:
    """See that workflow_progress is there, and these relations too."""
    names = (sql.Identifier(schema, name) for name in ("workflow_progress", *relations))
    await conn.execute(sql.SQL("select from {} limit 0").format(sql.SQL(", ").join(names)))
