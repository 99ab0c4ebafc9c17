"""Installing what an adoption consists of, and taking it back: short locks, all or nothing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import psycopg
from psycopg import Connection, sql
from psycopg.rows import tuple_row

from pyapp.adopt.catalog import partitions
from pyapp.adopt.findings import Findings
from pyapp.adopt.pair import SHADOW_COLUMN, AdoptError, Pair, literal, quote
from pyapp.adopt.render import Trigger, drop_trigger, removal, script, steps
from pyapp.db import connect
from pyapp.locks import HELD, LOCK_TIMEOUT, PATIENCE, patiently
from pyapp.schema import listed_objects

OnStep = Callable[[str], None]

# If others always hold one table and wait for the other, no moment comes in which both can be locked.
_PATIENCE_FOR_BOTH = 3.0
_MARK = "agent-progress: the pair of tables whose progress is kept here; one row."


@dataclass(frozen=True)
class Adoption:
    """A pair that was adopted: what the table ``adoption`` of its schema says."""

    pair: Pair
    script_hash: str
    counted: bool
    position: str | None


def list_adoptions(conn: Connection[Any]) -> list[Adoption]:
    """List what was adopted in this database, by name.

    Only schemas of a role are believed that owns the database or the tables, of a superuser, or of one whose rights the
    caller has anyway: their functions will be called.
    """
    cursor = conn.cursor(row_factory=tuple_row)
    schemas = cursor.execute(
        "select n.nspname from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
        " join pg_roles as r on r.oid = c.relowner"
        " where c.relname = 'adoption' and c.relkind = 'r' and obj_description(c.oid, 'pg_class') = %s"
        " and (r.rolsuper or pg_has_role(c.relowner, 'member')"
        "  or c.relowner = (select datdba from pg_database where datname = current_database()))"
        " and has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')"
        " order by n.nspname",
        [_MARK],
    ).fetchall()
    found = []
    for (schema,) in schemas:
        query = sql.SQL("select definition, script_hash, counted_at is not null, position from {}.adoption")
        for row in cursor.execute(query.format(sql.Identifier(schema))).fetchall():
            found.append(Adoption(Pair.from_json(row[0]), *row[1:]))
    return sorted(found, key=lambda adoption: adoption.pair.name)


def get_adoption(conn: Connection[Any], name: str) -> Adoption:
    """Get what was adopted under a name. Raises AdoptError."""
    adoptions = list_adoptions(conn)
    named = [adoption for adoption in adoptions if adoption.pair.name == name]
    if len(named) > 1:
        schemas = ", ".join(adoption.pair.schema for adoption in named)
        raise AdoptError(f"{name} was adopted more than once, in the schemas {schemas}")
    if not named:
        known = ", ".join(adoption.pair.name for adoption in adoptions)
        raise AdoptError(f"nothing was adopted as {name}" + (f"; there are: {known}" if known else " in this database"))
    return named[0]


def full_script(findings: Findings) -> str:
    """Render the SQL that adopts a pair, the record of it included."""
    return "\n".join(_with_record(findings))


def _with_record(findings: Findings) -> list[str]:
    pair = findings.pair
    first, *others = steps(pair, findings.partitions)
    record = f"""
insert into {quote(pair.schema)}.adoption (name, definition, script_hash)
values (
    {literal(pair.name)},
    {literal(pair.to_json())},
    {literal(_hash(script(pair, findings.partitions)))}
)
on conflict (name) do update
set
    definition = excluded.definition,
    script_hash = excluded.script_hash;
"""
    # The record before the triggers: locks of the application's tables come last.
    return [f"{first}{record}", *_dropped(findings.leftovers), *others]


def _dropped(triggers: Sequence[Trigger]) -> list[str]:
    """Render what drops these triggers, one text for each table."""
    tables = groupby(triggers, key=lambda trigger: trigger[1])
    return ["".join(f"{drop_trigger(trigger)}\n" for trigger in found) for _, found in tables]


def install(conn: Connection[Any], findings: Findings, on_step: OnStep = lambda _: None) -> None:
    """Install what adopts a pair, or what of it is missing or old. Raises AdoptError.

    In one transaction, or, where busy writers leave no moment to lock both tables, in three.
    """
    _patiently(conn, _with_record(findings), on_step)


def is_current(conn: Connection[Any], adoption: Adoption) -> bool:
    """Tell whether what was installed is what this version would install for the tables as they are."""
    text = script(adoption.pair, partitions(conn, adoption.pair))
    return adoption.script_hash == _hash(text) and not leftovers(conn, adoption.pair, text)


def triggers(conn: Connection[Any], pair: Pair) -> list[Trigger]:
    """List the triggers of an adoption, wherever they are: on partitions that were detached, too. Tasks come first."""
    rows = conn.execute(
        "select t.tgname, n.nspname, c.relname from pg_trigger as t join pg_proc as p on p.oid = t.tgfoid"
        " join pg_namespace as f on f.oid = p.pronamespace join pg_class as c on c.oid = t.tgrelid"
        " join pg_namespace as n on n.oid = c.relnamespace"
        " where f.nspname = %s and n.nspname <> f.nspname and t.tgparentid = 0"
        " order by t.tgname not like 'agent_task%%', c.oid, t.tgname",
        [pair.schema],
    ).fetchall()
    return [(row[0], (row[1], row[2])) for row in rows]


def leftovers(conn: Connection[Any], pair: Pair, text: str) -> list[Trigger]:
    """List the triggers of an adoption that its script does not make: of a partition that was detached, for one."""
    made = {(name, relation) for kind, name, relation in listed_objects(text) if kind == "trigger"}
    return [trigger for trigger in triggers(conn, pair) if (trigger[0], quote(*trigger[1])) not in made]


def refuse_other_things(conn: Connection[Any], schema: str) -> bool:
    """See that a schema is free for us. Returns whether things of ours are there. Raises AdoptError."""
    rows = conn.execute(
        "select relname, 'workflow|adoption' from pg_class where relnamespace = to_regnamespace(%(schema)s)"
        " and relkind not in ('i', 'c') union all"
        " select proname, 'progress|workflow|count_tasks' from pg_proc"
        " where pronamespace = to_regnamespace(%(schema)s)",
        {"schema": quote(schema)},
    ).fetchall()
    if others := sorted(name for name, ours in rows if not re.search(ours, name)):
        raise AdoptError(f"schema {schema} has other things in it ({others[0]}): give another one, --schema")
    return bool(rows)


def renew_adoptions(dsn: str, on_step: OnStep = lambda _: None) -> list[str]:
    """Install anew what this version would install in another way. Returns the names of those pairs."""
    with connect(dsn, autocommit=True) as conn:
        old = [adoption.pair for adoption in list_adoptions(conn) if not is_current(conn, adoption)]
        for pair in old:
            on_step(f"renewing the adoption {pair.name}")
            install(conn, Findings(pair, partitions(conn, pair), [], []), on_step)
    return [pair.name for pair in old]


def remove_script(conn: Connection[Any], pair: Pair, *, drop_columns: bool) -> str:
    """Render the SQL that takes an adoption back."""
    return "".join(_removal(conn, pair, drop_columns=drop_columns))


def _removal(conn: Connection[Any], pair: Pair, *, drop_columns: bool) -> list[str]:
    there = conn.execute("select to_regclass(%s) is not null", [quote(*pair.workflows)]).fetchone() == (True,)
    others = removal(pair, drop_columns=drop_columns, table=there)
    return [*_dropped(triggers(conn, pair)), "\n".join([*others, ""])]


def remove(conn: Connection[Any], pair: Pair, *, drop_columns: bool, on_step: OnStep = lambda _: None) -> None:
    """Take an adoption back, in one transaction if that can be; a table may be gone by now. Raises AdoptError."""
    try:
        _patiently(conn, _removal(conn, pair, drop_columns=drop_columns), on_step)
    except psycopg.errors.DependentObjectsStillExist as error:
        raise AdoptError(f"nothing changed: {error.diag.message_primary}: {error.diag.message_detail}") from error


def drop_shadow(conn: Connection[Any], pair: Pair, on_step: OnStep = lambda _: None) -> None:
    """Drop the column that kept the percentage until a pair went live."""
    _patiently(conn, [f"alter table {quote(*pair.workflows)} drop column if exists {quote(SHADOW_COLUMN)};"], on_step)


def _hash(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _patiently(conn: Connection[Any], parts: Sequence[str], on_step: OnStep) -> None:
    """Run a script in one transaction, again and again while others hold the locks that it needs; else part by part."""
    if _repeatedly(conn, "\n".join(parts), _PATIENCE_FOR_BOTH, on_step):
        return
    on_step("still waiting: from now on for one table at a time")
    for number, part in enumerate(parts):
        if not _repeatedly(conn, part, PATIENCE, on_step):
            done = "not finished" if number else "nothing changed"
            raise AdoptError(f"{done}: other transactions held a table for {PATIENCE:.0f} s; run it again later")


def _repeatedly(conn: Connection[Any], text: str, patience: float, on_step: OnStep) -> bool:
    """Run a script in a transaction until it gets its locks; return whether it did."""

    def attempt() -> None:
        with conn.transaction():
            conn.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
            conn.execute("set local client_min_messages = warning")
            # Two at once would meet each other's half-made objects.
            conn.execute("select pg_advisory_xact_lock(hashtext('agent-progress adopt'))")
            conn.execute(text.encode())

    try:
        patiently(attempt, lambda: on_step("waiting for other transactions"), patience=patience)
    except HELD:
        return False
    return True
