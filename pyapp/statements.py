"""Statements for rows of the models, in any schema, and what parameters look like in them."""

from collections.abc import Iterable
from dataclasses import fields
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from psycopg.types.json import Jsonb

from pyapp.both import Conn, Statement, fetch
from pyapp.db import find_schema, quoted_name
from pyapp.errors import WorkflowNotFound, translate

R = TypeVar("R")


def statement(schema: str | None, model: Any, query: str, *values: Any) -> Statement:
    """Write a statement. In the query, {columns} stands for those of the model, and {schema} for the schema."""
    return Statement(_text(find_schema(schema), model, query), values, model)


@lru_cache
def _text(schema: str, model: Any, query: str) -> str:
    return query.format(
        columns=", ".join(field.name for field in fields(model)),
        schema=quoted_name(schema).as_string(),
    )


async def fetch_rows(
    conn: Conn, schema: str | None, model: type[R], query: str, *values: Any, about: Any = None
) -> list[R]:
    """Fetch rows of a model.

    Errors of the database become those of this package, with the id of the workflow that the statement is ``about``.
    """
    try:
        rows: list[R] = await fetch(conn, statement(schema, model, query, *values))
    except psycopg.Error as error:
        if meant := translate(error, about):
            raise meant from error
        raise
    return rows


async def fetch_row(conn: Conn, schema: str | None, model: type[R], query: str, *values: Any, about: Any) -> R:
    """Fetch the first row as ``fetch_rows`` does. Raises WorkflowNotFound where there is none."""
    rows = await fetch_rows(conn, schema, model, query, *values, about=about)
    if not rows:
        raise WorkflowNotFound(about)
    return rows[0]


def array(items: Iterable[object]) -> str:
    """Write an array as text without a type, which PostgreSQL infers from what it is compared with."""
    if isinstance(items, str):
        raise TypeError(f"a list is needed, also where there is one: [{items!r}]")
    quoted = (str(item).replace("\\", "\\\\").replace('"', '\\"') for item in items)
    return "{" + ",".join(f'"{item}"' for item in quoted) + "}"


def json(value: Any) -> Jsonb | None:
    """Write a value as JSON; None is null."""
    return None if value is None else Jsonb(value)
