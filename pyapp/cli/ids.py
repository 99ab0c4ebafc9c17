"""Ids of workflows: wherever a command takes one, its beginning will do."""

from typing import Any, LiteralString
from uuid import UUID

import click
from psycopg import Connection, DataError, sql

from pyapp.db import find_schema, quoted_name
from pyapp.errors import WorkflowNotFound
from pyapp.models import Key

_SHOWN = 5  # candidates in an error
_UUID_DIGITS = frozenset("0123456789abcdef")
_TYPE_OF_IDS = """
    select pg_catalog.format_type(a.atttypid, null)
    from pg_catalog.pg_attribute as a
    where a.attrelid = pg_catalog.to_regclass(%s) and a.attname = 'workflow_id'
"""


def find_id(conn: Connection[Any], given: str, schema: str | None) -> Key:
    """Find the workflow whose id is this or begins so; numbers have no beginning.

    Ids of type uuid are found by a range of the primary key, texts by the index where it is of collation C. Raises
    WorkflowNotFound, or a ClickException where several begin so, which names some, and where it cannot be an id.
    """
    names = (find_schema(schema), "workflow_progress")
    [(kind,)] = conn.execute(_TYPE_OF_IDS, [sql.Identifier(*names).as_string()]).fetchall() or [("",)]
    view = quoted_name(*names)
    query = sql.SQL("select workflow_id, name from {} where {} order by workflow_id limit {}")

    def read(condition: LiteralString, *values: str) -> list[tuple[Key, str | None]]:
        rows = conn.execute(query.format(view, sql.SQL(condition), sql.Literal(_SHOWN + 1)), values).fetchall()
        return [(key, name) for key, name in rows]

    digits = given.replace("-", "").lower()
    try:
        if kind == "uuid" and 0 < len(digits) < 32 and _UUID_DIGITS.issuperset(digits):
            found = read("workflow_id between %s and %s", *(str(UUID(digits.ljust(32, filling))) for filling in "0f"))
        else:
            found = read("workflow_id = %s", given)
            if not found and kind in ("text", "character varying", "citext"):
                found = read("starts_with(workflow_id::text, %s)", given)
    except DataError:
        raise click.ClickException(f"{given!r} is no id: these are of type {kind}, see agent-progress list") from None
    if not found:
        raise WorkflowNotFound(given)
    if len(found) > 1:
        named = ", ".join(f"{key} ({name})" for key, name in found[:_SHOWN])
        more = " and others" if len(found) > _SHOWN else ""
        raise click.ClickException(f"{given!r} begins the id of several workflows: {named}{more}; give more of it")
    return found[0][0]
