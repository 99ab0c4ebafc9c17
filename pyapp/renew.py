"""The repeatable objects: functions, views and triggers, which are made anew from sql/ where they differ from it.

The table ``installed_object`` records what was made: for each object the hash of the shipped statements, and the hash
of the definition that PostgreSQL prints for it. So ``differences`` can name what somebody changed since, and what a
newer version ships differently.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import md5
from pathlib import Path
from typing import Any, LiteralString, NamedTuple, TypeAlias

import psycopg
from psycopg import Connection, sql
from psycopg.rows import tuple_row

from pyapp.db import quoted_name

OnStep = Callable[[str], None]
Apply = Callable[[Callable[[], None], str], None]
"""Runs a function in a transaction, and again while others hold its locks; the name is for messages."""
Key: TypeAlias = tuple[str, str]

_HEAD = re.compile(r"^create or replace (function|view|trigger) (?:public\.)?(\w+)", re.MULTILINE)
_TABLE = re.compile(r"\son public\.(\w+)")
_FOLLOWS = re.compile(r"^(comment on|revoke) ", re.MULTILINE)
_ARGUMENTS = re.compile(r"^comment on function [\w.]+\((.*?)\) is", re.DOTALL | re.MULTILINE)
_CREATE_TABLE = re.compile(r"^create table public\.(\w+)", re.MULTILINE)
_COUNTING = "agent_task_progress_"
_INSTALLED: LiteralString = """
    select 'function', p.proname::text, p.oid::regprocedure::text, md5(pg_get_functiondef(p.oid)), 'O'
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
    where n.oid = to_regnamespace(%(schema)s) and p.prokind = 'f'
        -- With its arguments: somebody may have a function of the same name beside it.
        and (p.proname::text, oidvectortypes(p.proargtypes)) in (
            select f.name, replace(f.arguments, 'public.', quote_ident(n.nspname) || '.')
            from unnest(%(functions)s::text[], %(arguments)s::text[]) as f (name, arguments)
        )
    union all
    select 'view', c.relname, c.oid::regclass::text, md5(concat(pg_get_viewdef(c.oid), c.reloptions)), 'O'
    from pg_class as c
    where c.relnamespace = to_regnamespace(%(schema)s) and c.relkind = 'v' and c.relname = any (%(views)s)
    union all
    select 'trigger', t.tgname, t.tgrelid::regclass::text, md5(pg_get_triggerdef(t.oid)), t.tgenabled::text
    from pg_trigger as t
    join pg_class as c on c.oid = t.tgrelid
    where c.relnamespace = to_regnamespace(%(schema)s) and not t.tgisinternal and t.tgparentid = 0
        and (c.relname::text, t.tgname::text) in (select * from unnest(%(tables)s::text[], %(triggers)s::text[]))
"""
_UNCOUNTED: LiteralString = """
    select p.relid::regclass::text, n.name
    from pg_partition_tree(to_regclass(%(schema)s || '.agent_task')) as p
    cross join unnest(%(names)s::text[]) as n (name)
    where p.level > 0 and not exists (
        select from pg_trigger as t
        where t.tgrelid = p.relid and t.tgname = n.name
    )
    order by 1, 2
"""
_OWN_RIGHTS: LiteralString = """
    select
        format('revoke all on %%s %%s from %%s', o.what, o.name, coalesce(quote_ident(r.rolname), 'public')),
        r.rolname
    from (
        select c.oid, case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, c.relowner,
            c.relacl
        from pg_class as c
        left join pg_depend as d on d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i'
        left join pg_class as t on c.relkind = 'S' and t.oid = d.refobjid -- of an identity column
        where c.relnamespace = to_regnamespace(%(schema)s) and c.relkind in ('r', 'v', 'S', 'p')
            and coalesce(t.relname, c.relname)::text = any (%(relations)s)
        union all
        select p.oid, 'function', p.oid::regprocedure::text, p.proowner, p.proacl
        from pg_proc as p
        where p.pronamespace = to_regnamespace(%(schema)s) and p.proname::text = any (%(functions)s)
    ) as o (id, what, name, owner, acl)
    cross join lateral aclexplode(o.acl) as a
    left join pg_roles as r on r.oid = a.grantee
    where
        o.id::bigint <> all (%(known)s::bigint[])
        and a.grantee <> o.owner
        -- To execute is everybody's by PostgreSQL's own default; sql/ revokes it where it matters.
        and (o.what <> 'function' or a.grantee <> 0)
    group by 1, 2
"""


@dataclass(frozen=True)
class Item:
    """A repeatable object, or the comments of a file on its tables, with its statements as written for a schema."""

    kind: str
    name: str
    table: str
    statements: tuple[str, ...]
    arguments: str = ""
    """Of a function: the types of its arguments, as written in the files."""

    @property
    def key(self) -> Key:
        """Kind and name, which together are unique."""
        return self.kind, self.name

    @property
    def shipped(self) -> str:
        """The hash of the statements."""
        return md5("\n".join(self.statements).encode(), usedforsecurity=False).hexdigest()

    def __str__(self) -> str:
        """Name it as ``check`` does."""
        return f"{self.kind} {self.name}" + (f" on {self.table}" if self.table else "")


def resource(name: str) -> Path:
    """Find the directory ``sql`` or ``migrations``: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def for_schema(text: str, schema: str) -> str:
    """Turn SQL as it stands in the files, where every name is written ``public.…``, into SQL for a schema."""
    if schema == "public":
        return text
    name = sql.Identifier(schema).as_string() + "."
    # In a literal such as 'public.workflow' a quote in the name has to be doubled.
    return text.replace("'public.", "'" + name.replace("'", "''")).replace("public.", name)


def shipped_items(schema: str) -> list[Item]:
    """Read the repeatable objects from sql/, in their order; comments and revokes belong to the object before them."""
    import sqlparse  # comes with yoyo; here, so that a program that only reads progress does not load it

    items: list[Item] = []
    for file in sorted(resource("sql").glob("[0-9]*.sql")):
        found: list[tuple[str, str, str, list[str]]] = [("comments", file.stem, "", [])]
        for statement in sqlparse.split(file.read_text("utf-8")):
            if head := _HEAD.search(statement):
                table = _TABLE.search(statement) if head[1] == "trigger" else None
                found.append((head[1], head[2], table[1] if table else "", [statement]))
            elif _FOLLOWS.search(statement):
                found[-1][3].append(statement)
        items += [
            Item(kind, name, table, tuple(for_schema(text, schema) for text in statements), _arguments(statements))
            for kind, name, table, statements in found
            if statements
        ]
    return items


def tables() -> list[str]:
    """Name the tables that a migrated schema has, with those of yoyo."""
    files = resource("sql").glob("[0-9]*.sql")
    names = [name for file in files for name in _CREATE_TABLE.findall(file.read_text("utf-8"))]
    return [*names, "_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock"]


def _arguments(statements: Sequence[str]) -> str:
    found = _ARGUMENTS.search("\n".join(statements))
    return " ".join(found[1].split()) if found else ""


def renew(conn: Connection[Any], schema: str, apply: Apply, on_step: OnStep) -> None:
    """Make functions, views and triggers anew where their text differs from the shipped one.

    Functions and views in one transaction, each trigger in one of its own, so that nobody who writes waits long.
    ``conn`` is in autocommit mode. Recounts where a counting trigger was missing.
    """
    stale = outdated(conn, schema)
    before = _installed(conn, schema, stale)
    rest = [item for item in stale if item.kind != "trigger"]

    def renew_rest() -> None:
        with revoked(conn, schema, on_step):
            _make(conn, schema, rest)

    if rest:
        apply(renew_rest, "functions and views")
    triggers = [item for item in stale if item.kind == "trigger"]
    # Counting triggers that were missing are recorded only once all is counted: after a crash the next run counts.
    known = before.keys() & _recorded(conn, schema).keys()
    counting = [item for item in triggers if item.name.startswith(_COUNTING) and item.key not in known]
    for trigger in triggers:
        apply(partial(_make, conn, schema, [trigger], recorded=trigger not in counting), str(trigger))

    uncounted = _uncounted(conn, schema, shipped_items(schema))
    if uncounted or any(item.name.startswith(_COUNTING) for item in triggers):
        apply(partial(_count_partitions, conn, schema), "triggers of partitions")

    def count() -> None:
        count_all(conn, schema)
        record(conn, schema, counting)

    if counting or uncounted:
        apply(count, "counting what is there")


def renew_at_once(conn: Connection[Any], schema: str = "public") -> None:
    """Do as ``renew``, in one transaction, for a plain ``yoyo apply``; it holds its locks until all is done."""
    with revoked(conn, schema, lambda _: None):
        _make(conn, schema, outdated(conn, schema))
    count_all(conn, schema)


def count_all(conn: Connection[Any], schema: str) -> None:
    """Repair all workflows, for what was written while triggers were missing."""
    query = sql.SQL("select {}.repair_progress(d.workflow_id) from {}.workflow_progress_drift as d")
    conn.execute(query.format(sql.Identifier(schema), sql.Identifier(schema)))


def outdated(conn: Connection[Any], schema: str) -> list[Item]:
    """List the objects to be made anew: all whose text, definition or server version is not what is recorded."""
    items = shipped_items(schema)
    recorded, installed = _recorded(conn, schema), _installed(conn, schema, items)
    return [item for item in items if recorded.get(item.key) != _state(conn, item, installed)]


def differences(conn: Connection[Any], schema: str = "public") -> list[str]:
    """List the objects that are missing, disabled, or not as this version ships them; empty where all is well."""
    items = shipped_items(schema)
    recorded, installed = _recorded(conn, schema), _installed(conn, schema, items)
    found = []
    for item in items:
        if item.kind != "comments" and item.key not in installed:
            found.append(f"{item} is missing")
        elif item.kind == "trigger" and installed[item.key].enabled not in ("O", "A"):
            found.append(f"{item} is disabled")
        elif item.kind != "comments" and recorded.get(item.key) != _state(conn, item, installed):
            found.append(f"{item} differs")
    lacking = [f"trigger {name} on partition {table} is missing" for table, name in _uncounted(conn, schema, items)]
    return found + lacking


def installed_names(conn: Connection[Any], schema: str) -> list[str]:
    """Name the functions and views in a schema that have the name of a shipped one."""
    return [" ".join(key) for key in _installed(conn, schema, shipped_items(schema))]


def record(conn: Connection[Any], schema: str, items: Sequence[Item] | None = None) -> None:
    """Record objects as they are now; by default all of them, for a schema that was installed with psql."""
    items = shipped_items(schema) if items is None else items
    installed = _installed(conn, schema, items)
    query = sql.SQL(
        "insert into {}.installed_object (kind, name, shipped_md5, installed_md5, server_major)"
        " values (%s, %s, %s, %s, %s) on conflict (kind, name) do update set shipped_md5 = excluded.shipped_md5,"
        " installed_md5 = excluded.installed_md5, server_major = excluded.server_major"
    ).format(quoted_name(schema))
    conn.cursor().executemany(query, [(*item.key, *_state(conn, item, installed)) for item in items])


def drop(conn: Connection[Any], schema: str = "public") -> None:
    """Drop all repeatable objects, the last one first."""
    items = shipped_items(schema)
    installed = _installed(conn, schema, items)
    for item in reversed(items):
        if found := installed.get(item.key):
            what = f"trigger {item.name} on {found.name}" if item.kind == "trigger" else f"{item.kind} {found.name}"
            # With cascade, since optional scripts make objects that depend on it, such as the triggers of partitions.
            conn.execute(f"drop {what} cascade".encode())
    conn.execute(sql.SQL("truncate {}.installed_object").format(sql.Identifier(schema)))


@contextmanager
def revoked(conn: Connection[Any], schema: str, on_step: OnStep) -> Iterator[None]:
    """Revoke from everybody but the owner what default privileges grant on objects that the block creates."""
    cursor = conn.cursor(row_factory=tuple_row)
    known = cursor.execute(
        "select oid::bigint from pg_class where relnamespace = to_regnamespace(%(schema)s)"
        " union all select oid::bigint from pg_proc where pronamespace = to_regnamespace(%(schema)s)",
        {"schema": sql.Identifier(schema).as_string()},
    ).fetchall()
    yield
    items = shipped_items(schema)
    values = {
        "schema": sql.Identifier(schema).as_string(),
        "known": [row[0] for row in known],
        "functions": [item.name for item in items if item.kind == "function"],
        # By name, since others may create objects of their own meanwhile.
        "relations": [item.name for item in items if item.kind == "view"] + tables(),
    }
    statements = cursor.execute(_OWN_RIGHTS, values).fetchall()
    for statement, _ in statements:
        cursor.execute(statement.encode())
    if roles := sorted({role or "public" for _, role in statements}):
        on_step(f"revoked what default privileges grant to {', '.join(roles)} (agent-progress grant gives rights)")


def _uncounted(conn: Connection[Any], schema: str, items: Sequence[Item]) -> list[tuple[str, str]]:
    """List the partitions of the task table that lack a counting trigger, with its name: each needs its own."""
    names = [item.name for item in items if item.kind == "trigger" and item.name.startswith(_COUNTING)]
    values = {"schema": sql.Identifier(schema).as_string(), "names": names}
    return conn.cursor(row_factory=tuple_row).execute(_UNCOUNTED, values).fetchall()


def _count_partitions(conn: Connection[Any], schema: str) -> None:
    """Give each partition its counting triggers, by the last statement of sql/optional/partition.sql."""
    script = (resource("sql") / "optional" / "partition.sql").read_text("utf-8")
    conn.execute(for_schema(script[script.rindex("\ndo $$") :], schema).encode())


class _Found(NamedTuple):
    """An installed object: its qualified name (of a trigger, that of its table), hash, and tgenabled of a trigger."""

    name: str
    hash: str
    enabled: str


def _make(conn: Connection[Any], schema: str, items: Sequence[Item], *, recorded: bool = True) -> None:
    before = _installed(conn, schema, items)
    for item in items:
        for statement in item.statements:
            conn.execute(statement.encode())
        if item.kind == "trigger" and (found := before.get(item.key)) and found.enabled != "O":
            # Replacing a trigger enables it: restore the state that somebody chose.
            state = {"D": "disable", "A": "enable always", "R": "enable replica"}[found.enabled]
            conn.execute(f"alter table {found.name} {state} trigger {item.name}".encode())
    if recorded:
        record(conn, schema, items)
    else:
        query = sql.SQL("delete from {}.installed_object where (kind, name) = (%s, %s)").format(quoted_name(schema))
        conn.cursor().executemany(query, [item.key for item in items])


def _state(conn: Connection[Any], item: Item, installed: Mapping[Key, _Found]) -> tuple[str, str | None, int]:
    """Return what ``installed_object`` records of an object: two hashes and the version of the server."""
    found = installed.get(item.key)
    return item.shipped, found.hash if found else None, conn.info.server_version // 10000


def _recorded(conn: Connection[Any], schema: str) -> dict[Key, tuple[str, str | None, int]]:
    query = sql.SQL("select kind, name, shipped_md5, installed_md5, server_major from {}.installed_object")
    try:
        with conn.transaction():
            rows = conn.cursor(row_factory=tuple_row).execute(query.format(sql.Identifier(schema))).fetchall()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return {}
    return {(kind, name): (shipped, installed, major) for kind, name, shipped, installed, major in rows}


def _installed(conn: Connection[Any], schema: str, items: Sequence[Item]) -> dict[Key, _Found]:
    triggers = [item for item in items if item.kind == "trigger"]
    functions = [item for item in items if item.kind == "function"]
    values = {
        "schema": sql.Identifier(schema).as_string(),
        "functions": [item.name for item in functions],
        "arguments": [item.arguments for item in functions],
        "views": [item.name for item in items if item.kind == "view"],
        "tables": [item.table for item in triggers],
        "triggers": [item.name for item in triggers],
    }
    with conn.transaction():
        # Definitions are compared as text, which these settings change.
        conn.execute("set local search_path = pg_catalog")
        conn.execute("set local quote_all_identifiers = off")
        rows = conn.cursor(row_factory=tuple_row).execute(_INSTALLED, values).fetchall()
    return {(kind, name): _Found(*rest) for kind, name, *rest in rows}
