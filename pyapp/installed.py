"""What is installed in a schema, compared with what ships, and the record of it.

The table ``installed_object`` holds for each object the hash of the shipped statements, the hash of the definition
that PostgreSQL prints, and the server's major version, since each prints in its own way. So a change of either is seen.
"""

from collections.abc import Sequence
from typing import Any, LiteralString, NamedTuple

import psycopg
from psycopg import Connection, sql

from pyapp.db import quoted_name, rows
from pyapp.shipped import Item, shipped_items

# With the arguments of functions: somebody may have one of the same name beside it.
_INSTALLED: LiteralString = """
    select 'function', p.proname, replace(oidvectortypes(p.proargtypes), quote_ident(nspname) || '.', 'public.'),
        p.oid::regprocedure::text, md5(pg_get_functiondef(p.oid)), 'O'
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where n.oid = to_regnamespace({name}) and p.prokind = 'f' and p.proname = any (%s)
    union all
    select 'view', c.relname, '', c.oid::regclass::text, md5(concat(pg_get_viewdef(c.oid), c.reloptions)), 'O'
    from pg_class as c
    where c.relnamespace = to_regnamespace({name}) and c.relkind = 'v' and c.relname = any (%s)
    union all
    select 'trigger', t.tgname, c.relname, c.oid::regclass::text, md5(pg_get_triggerdef(t.oid)), t.tgenabled::text
    from pg_trigger as t
    join pg_class as c on c.oid = t.tgrelid
    where c.relnamespace = to_regnamespace({name}) and not t.tgisinternal and t.tgparentid = 0 and t.tgname = any (%s)
"""
_UNCOUNTED: LiteralString = """
    select p.relid::regclass::text, n.name
    from pg_partition_tree(to_regclass({name} || '.agent_task')) as p
    cross join unnest(%s::text[]) as n (name)
    where p.level > 0 and not exists (select from pg_trigger as t where t.tgrelid = p.relid and t.tgname = n.name)
    order by 1, 2
"""


class Found(NamedTuple):
    """An installed object: its qualified name (of a trigger, that of its table), hash, and tgenabled of a trigger."""

    name: str
    md5: str
    enabled: str


class Compared(NamedTuple):
    """A shipped object, and what is there of it."""

    item: Item
    found: Found | None
    up_to_date: bool
    """Whether text, definition and version of the server are as recorded."""


def find_installed(conn: Connection[Any], schema: str, items: Sequence[Item]) -> list[tuple[Item, Found | None]]:
    """Find shipped objects: each with what is there of it."""
    wanted = [item.name for item in items]
    with conn.transaction():
        # Definitions are compared as text, which these settings change.
        conn.execute("set local search_path = pg_catalog")
        conn.execute("set local quote_all_identifiers = off")
        there = {tuple(row[:3]): Found(*row[3:]) for row in rows(conn, schema, _INSTALLED, wanted, wanted, wanted)}
    return [(item, there.get((item.kind, item.name, item.detail))) for item in items]


def compare(conn: Connection[Any], schema: str) -> list[Compared]:
    """Compare all shipped objects with what is there."""
    recorded = {}
    try:
        with conn.transaction():
            query: LiteralString = (
                "select kind, name, shipped_md5, installed_md5, server_major from {schema}.installed_object"
            )
            recorded = {(kind, name): tuple(rest) for kind, name, *rest in rows(conn, schema, query)}
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        pass  # nothing is there
    return [
        Compared(item, found, recorded.get((item.kind, item.name)) == _state(conn, item, found))
        for item, found in find_installed(conn, schema, shipped_items(schema))
    ]


def differences(conn: Connection[Any], schema: str = "public") -> list[str]:
    """List the objects that are missing, disabled, or not as this version ships them; empty where all is well."""
    lines = []
    for item, found, up_to_date in compare(conn, schema):
        if item.kind == "comments":
            continue
        if not found:
            lines.append(f"{item} is missing")
        elif item.kind == "trigger" and found.enabled not in ("O", "A"):
            lines.append(f"{item} is disabled")
        elif not up_to_date:
            lines.append(f"{item} differs")
    return lines + [f"trigger {name} on partition {table} is missing" for table, name in uncounted(conn, schema)]


def uncounted(conn: Connection[Any], schema: str) -> list[tuple[str, str]]:
    """List the partitions of the task table that lack a counting trigger, with its name: each needs its own."""
    return rows(conn, schema, _UNCOUNTED, [item.name for item in shipped_items(schema) if item.counts])


def record(conn: Connection[Any], schema: str, items: Sequence[Item] | None = None) -> None:
    """Record objects as they are now; by default all of them, for a schema that was installed with psql."""
    items = shipped_items(schema) if items is None else items
    query = sql.SQL(
        "insert into {}.installed_object (kind, name, shipped_md5, installed_md5, server_major)"
        " values (%s, %s, %s, %s, %s) on conflict (kind, name) do update set shipped_md5 = excluded.shipped_md5,"
        " installed_md5 = excluded.installed_md5, server_major = excluded.server_major"
    ).format(quoted_name(schema))
    states = [(item.kind, item.name, *_state(conn, item, there)) for item, there in find_installed(conn, schema, items)]
    conn.cursor().executemany(query, states)


def _state(conn: Connection[Any], item: Item, found: Found | None) -> tuple[str, str | None, int]:
    return item.shipped_md5, found.md5 if found else None, conn.info.server_version // 10000
