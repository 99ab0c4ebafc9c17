"""What a schema has: an adoption may lack stages and events, and have keys of another type and statuses of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import Connection, sql

from pyapp.web.looks import ENDED, WORDS, look

_INTEGERS = ("smallint", "integer", "bigint")
_COLUMNS = """
    select
        found.name,
        a.attname::text,
        pg_catalog.format_type(a.atttypid, null),
        array(select e.enumlabel::text from pg_enum as e where e.enumtypid = a.atttypid order by e.enumsortorder)
    from unnest(%s::text[]) as found (name)
    join pg_attribute as a on a.attrelid = to_regclass(format('%%I.%%I', %s::text, found.name))
    where a.attnum > 0 and not a.attisdropped
"""
_PROGRESS = "workflow_progress"
_OTHERS = (
    "agent_task",
    "workflow_event",
    "workflow_timeline",
    "workflow_burnup",
    "workflow_stage_agents",
    "workflow_stage_progress",
)


class NotAValue(ValueError):
    """A value of a request that nothing in this schema can have."""


@dataclass(frozen=True)
class Shape:
    """What the service needs to know of a schema."""

    schema: str
    relations: frozenset[str]
    key_type: str
    labels: Mapping[str, tuple[str, ...]]
    """The values of enumerated columns; what is not in it may be any text."""

    def name(self, relation: str) -> sql.SQL:
        """Write the name of a relation of this schema."""
        return verbatim(sql.Identifier(self.schema, relation))

    def has(self, relation: str) -> bool:
        """Tell whether the schema has a relation."""
        return relation in self.relations

    def values(self, column: str) -> tuple[str, ...]:
        """List what a column of workflow_progress may hold; nothing where that is any text."""
        return self.labels.get(f"{_PROGRESS}.{column}", ())

    def key(self, given: str) -> str:
        """Write a key as the database does. Raises NotAValue."""
        try:
            if self.key_type == "uuid":
                return str(UUID(given))
            return str(int(given)) if self.key_type in _INTEGERS else given
        except ValueError:
            raise NotAValue(f"workflow_id: not of type {self.key_type}") from None

    def check(self, column: str, *given: str) -> None:
        """Check that a column of workflow_progress may hold these values. Raises NotAValue."""
        known = self.values(column)
        if known and not set(given) <= set(known):
            raise NotAValue(f"{column}: should be {', '.join(known[:-1])} or {known[-1]}")

    def having(self, relation: str, *looks: str) -> list[sql.Composed]:
        """Write the conditions for a status that looks like one of these: one for each value of an enumerated column.

        So an index that begins with the status is of use. Without any looks, the workflow or task has not ended.
        """
        column = sql.Identifier("p", "status")
        wanted = looks or ENDED
        if labels := self.labels.get(f"{relation}.status"):
            chosen = [label for label in labels if (look(label) in wanted) == bool(looks)]
            return [sql.SQL("{} = {}").format(column, verbatim(sql.Literal(label))) for label in chosen]
        words = [word for one in wanted for word in (one, *WORDS[one])]
        listed = sql.SQL(", ").join(map(sql.Literal, words))
        operator = sql.SQL("in" if looks else "not in")
        return [sql.SQL("coalesce(lower({}), '') {} ({})").format(column, operator, listed)]


def find_shape(conn: Connection[Any], schema: str) -> Shape:
    """Find out what a schema has. Raises ``psycopg.errors.UndefinedTable`` where it has no progress to read."""
    readable(conn, schema)
    rows = conn.execute(_COLUMNS, [[_PROGRESS, *_OTHERS], schema]).fetchall()
    return Shape(
        schema=schema,
        relations=frozenset(relation for relation, *_ in rows),
        key_type=next(type_ for relation, name, type_, _ in rows if (relation, name) == (_PROGRESS, "workflow_id")),
        labels={f"{relation}.{name}": tuple(labels) for relation, name, _, labels in rows if labels},
    )


def readable(conn: Connection[Any], schema: str) -> None:
    """See that what the service reads is there."""
    conn.execute(
        sql.SQL("select from {}, {}, {} limit 0").format(
            *(verbatim(sql.Identifier(schema, name)) for name in (_PROGRESS, "workflow_forecast", "agent_task"))
        ),
        [],
    )


def either(conditions: Sequence[sql.Composable]) -> sql.Composed:
    """Join conditions of which one must hold."""
    return sql.SQL("({})").format(sql.SQL(" or ").join(conditions or [sql.SQL("false")]))


def verbatim(part: sql.Composable) -> sql.SQL:
    """Write SQL as it has to stand in a query with parameters: with percent signs doubled."""
    return sql.SQL(part.as_string().replace("%", "%%"))
