"""Granting agents, readers and operators the rights that sql/optional/grant_*.sql lists, and revoking them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection, Cursor, sql
from psycopg.rows import tuple_row

from pyapp.db import find_schema
from pyapp.errors import RoleNotFound
from pyapp.shipped import resource

KINDS = {"agent": ("agent",), "reader": ("reader",), "operator": ("reader", "operator")}
"""The kinds of role, and for each the files ``grant_….sql`` with its rights."""
_NOTHING_DONE = ("01006", "01007")  # warnings of PostgreSQL: no privileges could be revoked, or granted


def grants(kind: str, role: str, *, revoke: bool = False, schema: str | None = None) -> list[str]:
    """List the statements that give a role the rights of an agent, a reader or an operator, or take them back.

    Raises RoleNotFound for names that are reserved in PostgreSQL, even quoted.
    """
    if role in ("", "public", "none"):
        raise RoleNotFound(role)
    name, quoted_role = (sql.Identifier(each).as_string() for each in (find_schema(schema), role))
    statements = []
    for file in KINDS[kind]:
        text = (resource("sql") / "optional" / f"grant_{file}.sql").read_text("utf-8")
        for statement in text[text.index("\ngrant ") :].split(";")[:-1]:
            line = " ".join(statement.split()).replace("( ", "(").replace(" )", ")")
            what = line.removeprefix("grant ").removesuffix(' to :"role"')
            what = what.replace("public.", f"{name}.").replace("on schema public", f"on schema {name}")
            statements.append(f"revoke {what} from {quoted_role}" if revoke else f"grant {what} to {quoted_role}")
    return statements


def grant(
    conn: Connection[Any],
    *,
    agents: Iterable[str] = (),
    readers: Iterable[str] = (),
    operators: Iterable[str] = (),
    revoke: bool = False,
    schema: str | None = None,
) -> list[str]:
    """Give roles the rights of agents, readers or operators, or take them back: all of it or nothing.

    Safe to repeat. With ``revoke``, a right that a role has both as agent and as reader is revoked as well.
    Returns the statements that were run. Raises RoleNotFound, and ``psycopg.errors.InsufficientPrivilege`` for a role
    that may not give all of these rights.
    """
    wanted = {"agent": list(agents), "reader": list(readers), "operator": list(operators)}
    statements = [
        statement
        for kind, roles in wanted.items()
        for role in dict.fromkeys(roles)
        for statement in grants(kind, role, revoke=revoke, schema=schema)
    ]
    names = [role for roles in wanted.values() for role in roles]
    name = find_schema(schema)
    query = "select n from unnest(%s::text[]) as n where n not in (select rolname::text from pg_catalog.pg_roles)"
    with Cursor(conn, row_factory=tuple_row) as cursor:
        # Without autocommit this begins the caller's transaction, so that the block below is a savepoint in it and does
        # not commit.
        if unknown := cursor.execute(query, [names]).fetchone():
            raise RoleNotFound(unknown[0])
        with conn.transaction(), _aloud(cursor) as refused:
            for statement in statements:
                cursor.execute(statement.encode())
                if refused and not statement.startswith(("grant usage", "revoke usage")):
                    raise psycopg.errors.InsufficientPrivilege(f"{refused[0]}: only its owner can do that")
                refused.clear()
            # The schema may have another owner than its tables, and be open to all anyway.
            query = "select n from unnest(%s::text[]) as n where not has_schema_privilege(n, %s, 'usage')"
            if not revoke and (shut := cursor.execute(query, [names, name]).fetchone()):
                raise psycopg.errors.InsufficientPrivilege(
                    f'"{shut[0]}" may not use schema {name}: only its owner can grant that'
                )
    return statements


@contextmanager
def _aloud(cursor: Cursor[Any]) -> Iterator[list[str]]:
    """Collect the warnings of PostgreSQL that it granted or revoked nothing, which are no errors there."""
    refused: list[str] = []

    def hear(notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate in _NOTHING_DONE:
            refused.append(notice.message_primary or "")

    row = cursor.execute("select pg_catalog.current_setting('client_min_messages')").fetchone()
    cursor.execute("set local client_min_messages = warning")
    cursor.connection.add_notice_handler(hear)
    try:
        yield refused
    finally:
        cursor.connection.remove_notice_handler(hear)
    cursor.execute("select pg_catalog.set_config('client_min_messages', %s, true)", row)


def loopholes(conn: Connection[Any], roles: Iterable[str], *, schema: str | None = None) -> list[str]:
    """List what lets these roles do more than they were granted: owning the tables, or creating objects."""
    query = """
        select
            r.name,
            pg_catalog.pg_has_role(r.name, c.relowner, 'member') as owns,
            pg_catalog.has_schema_privilege(r.name, n.oid, 'create') as creates
        from unnest(%s::text[]) as r (name)
        cross join pg_catalog.pg_class as c
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where c.relname = 'workflow' and n.nspname = %s
    """
    found = []
    name = find_schema(schema)
    with Cursor(conn, row_factory=tuple_row) as cursor:
        for role, owns, creates in cursor.execute(query, [list(dict.fromkeys(roles)), name]):
            if owns:
                found.append(f"{role} is the owner of the tables, a member of it or a superuser: nothing holds it back")
            elif creates:
                found.append(
                    f"{role} may create objects in schema {name}, which sessions of others may come to run:"
                    f" revoke create on schema {name} from it, or from public"
                )
    return found
