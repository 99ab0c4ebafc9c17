"""Making functions, views and triggers anew from sql/, where they differ from it, and dropping them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, LiteralString

from psycopg import Connection, sql

from pyapp import yoyo_backend
from pyapp.db import rows
from pyapp.installed import compare, find_installed, record, uncounted
from pyapp.lock import OnStep, in_transaction
from pyapp.shipped import Item, for_schema, names, resource, shipped_items

_OBJECTS: LiteralString = """
    select oid::bigint from pg_class where relnamespace = to_regnamespace({name})
    union all
    select oid::bigint from pg_proc where pronamespace = to_regnamespace({name})
"""
# By name, since others may create objects of their own meanwhile; a sequence has that of its table and column.
_RIGHTS: LiteralString = """
    with own (what, id, name, owner, acl) as (
        select case relkind when 'S' then 'sequence' else 'table' end, oid, oid::regclass::text, relowner, relacl
        from pg_class
        where relnamespace = to_regnamespace({name}) and relkind in ('r', 'v', 'S', 'p')
            and regexp_replace(relname, '_[a-z]+_seq$', '') = any (%s)
        union all
        select 'function', oid, oid::regprocedure::text, proowner, proacl
        from pg_proc
        where pronamespace = to_regnamespace({name}) and proname = any (%s)
    )
    select distinct own.what, own.name, case a.grantee when 0 then 'public' else a.grantee::regrole::text end
    from own
    cross join lateral aclexplode(own.acl) as a
    where own.id::bigint <> all (%s::bigint[])
        and a.grantee <> own.owner
        -- To execute is everybody's by PostgreSQL's own default; sql/ revokes it where it matters.
        and (own.what <> 'function' or a.grantee <> 0)
"""


def renew(conn: Connection[Any], schema: str, on_step: OnStep) -> None:
    """Make functions, views and triggers anew where their text differs from the shipped one.

    Functions and views in one transaction, each trigger in one of its own, so that nobody who writes waits long.
    ``conn`` is in autocommit mode. Recounts, with the triggers in one transaction, where a counting one was missing.
    """
    stale = [(item, found) for item, found, up_to_date in compare(conn, schema) if not up_to_date]
    rest = [item for item, _ in stale if item.kind != "trigger"]
    missing = [item for item, found in stale if item.counts and not found]

    def make_rest() -> None:
        with revoked(conn, schema, on_step):
            _make(conn, schema, rest)

    def make_and_count() -> None:
        _make(conn, schema, missing)
        _make_on_partitions(conn, schema)
        count_all(conn, schema)

    if made := [str(item) for item, _ in stale if item.kind != "comments"]:
        on_step("making " + (", ".join(made) if len(made) < 6 else f"{len(made)} functions, views and triggers"))
    if rest:
        in_transaction(conn, make_rest, "functions and views", on_step)
    for item, _ in stale:
        if item.kind == "trigger" and item not in missing:
            in_transaction(conn, partial(_make, conn, schema, [item]), str(item), on_step)
    if missing or uncounted(conn, schema):
        in_transaction(conn, make_and_count, "counting what is there", on_step)
    elif any(item.counts for item, _ in stale):
        in_transaction(conn, partial(_make_on_partitions, conn, schema), "triggers of partitions", on_step)


def renew_at_once(conn: Connection[Any], schema: str = "public") -> None:
    """Do as ``renew``, in one transaction, for a plain ``yoyo apply``; it holds its locks until all is done."""
    with revoked(conn, schema, lambda _: None):
        _make(conn, schema, [item for item, _, up_to_date in compare(conn, schema) if not up_to_date])
    count_all(conn, schema)


def count_all(conn: Connection[Any], schema: str) -> None:
    """Repair all workflows, for what was written while triggers were missing."""
    query = sql.SQL("select {}.repair_progress(d.workflow_id) from {}.workflow_progress_drift as d")
    conn.execute(query.format(sql.Identifier(schema), sql.Identifier(schema)))


def drop(conn: Connection[Any], schema: str = "public") -> None:
    """Drop all repeatable objects, the last one first."""
    for item, found in reversed(find_installed(conn, schema, shipped_items(schema))):
        if found:
            what = f"trigger {item.name} on {found.name}" if item.kind == "trigger" else f"{item.kind} {found.name}"
            # With cascade, since optional scripts make objects that depend on it, such as the triggers of partitions.
            conn.execute(f"drop {what} cascade".encode())
    conn.execute(sql.SQL("truncate {}.installed_object").format(sql.Identifier(schema)))


@contextmanager
def revoked(conn: Connection[Any], schema: str, on_step: OnStep) -> Iterator[None]:
    """Revoke from everybody but the owner what default privileges grant on objects that the block creates."""
    before = [row[0] for row in rows(conn, schema, _OBJECTS)]
    yield
    own = [item.name for item in shipped_items(schema)]
    granted = rows(conn, schema, _RIGHTS, [*own, *names("table"), *yoyo_backend.TABLES], own, before)
    for what, name, role in granted:
        conn.execute(f"revoke all on {what} {name} from {role}".encode())
    if granted:
        roles = ", ".join(sorted({role for _, _, role in granted}))
        on_step(f"revoked what default privileges grant to {roles} (agent-progress grant gives rights)")


def _make(conn: Connection[Any], schema: str, items: Sequence[Item]) -> None:
    for item, found in find_installed(conn, schema, items):
        for statement in item.statements:
            conn.execute(statement.encode())
        if found and found.enabled != "O":
            # Replacing a trigger enables it: restore the state that somebody chose.
            state = {"D": "disable", "A": "enable always", "R": "enable replica"}[found.enabled]
            conn.execute(f"alter table {found.name} {state} trigger {item.name}".encode())
    record(conn, schema, items)


def _make_on_partitions(conn: Connection[Any], schema: str) -> None:
    """Give each partition its counting triggers, by the last statement of sql/optional/partition.sql."""
    script = (resource("sql") / "optional" / "partition.sql").read_text("utf-8")
    conn.execute(for_schema(script[script.rindex("\ndo $$") :], schema).encode())
