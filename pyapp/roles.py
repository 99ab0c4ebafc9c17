"""Granting agents, readers and operators the rights that sql/optional/grant_*.sql lists, and revoking them."""

from collections.abc import Iterable
from typing import Any, LiteralString

import psycopg
from psycopg import Connection, sql

from pyapp.db import find_schema, rows
from pyapp.errors import RoleNotFound
from pyapp.shipped import names as shipped_names
from pyapp.shipped import resource, shipped_items

KINDS = {"agent": ("agent",), "reader": ("reader",), "operator": ("reader", "operator")}
"""The kinds of role, and for each the files ``grant_….sql`` with its rights."""
# PostgreSQL itself only warns that it granted nothing.
_OF_OTHERS: LiteralString = """
    select o.name
    from (
        select oid::regclass::text as name, relowner as owner
        from pg_class
        where relnamespace = to_regnamespace({name}) and relname = any (%s)
        union all
        select oid::regprocedure::text, proowner
        from pg_proc
        where pronamespace = to_regnamespace({name}) and proname = any (%s)
    ) as o
    where not pg_has_role(o.owner, 'usage')
    order by 1
    limit 1
"""


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
    schema = find_schema(schema)
    query: LiteralString = "select n from unnest(%s::text[]) as n where n not in (select rolname::text from pg_roles)"
    # Without autocommit this begins the caller's transaction, so that the block below is a savepoint in it and does not
    # commit.
    if unknown := rows(conn, schema, query, names):
        raise RoleNotFound(unknown[0][0])
    objects = [*shipped_names("table"), *(item.name for item in shipped_items(schema))]
    if others := rows(conn, schema, _OF_OTHERS, objects, objects):
        raise psycopg.errors.InsufficientPrivilege(f"{others[0][0]} is somebody else's: only its owner can do that")
    with conn.transaction():
        for statement in statements:
            conn.execute(statement.encode())
        # The schema may have another owner than its tables, and be open to all anyway.
        query = """
            select n from unnest(%s::text[]) as n
            where not has_schema_privilege(n, to_regnamespace({name})::oid, 'usage')
        """
        if not revoke and (shut := rows(conn, schema, query, names)):
            raise psycopg.errors.InsufficientPrivilege(
                f'"{shut[0][0]}" may not use schema {schema}: only its owner can grant that'
            )
    return statements


def loopholes(conn: Connection[Any], roles: Iterable[str], *, schema: str | None = None) -> list[str]:
    """List what lets these roles do more than they were granted: owning the tables, or creating objects."""
    query: LiteralString = """
        select
            r.name,
            pg_has_role(r.name, c.relowner, 'member') as owns,
            has_schema_privilege(r.name, c.relnamespace, 'create') as creates
        from unnest(%s::text[]) as r (name)
        cross join pg_class as c
        where c.oid = to_regclass({name} || '.workflow')
    """
    found = []
    schema = find_schema(schema)
    for role, owns, creates in rows(conn, schema, query, list(dict.fromkeys(roles))):
        if owns:
            found.append(f"{role} is the owner of the tables, a member of it or a superuser: nothing holds it back")
        elif creates:
            found.append(
                f"{role} may create objects in schema {schema}, which sessions of others may come to run:"
                f" revoke create on schema {schema} from it, or from public"
            )
    return found
