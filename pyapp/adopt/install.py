"""Installing an adoption, renewing it and taking it back: short locks, tried again while others hold theirs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, sql
from psycopg.rows import tuple_row

from pyapp.adopt.adoption import AdoptError, Adoption, Table
from pyapp.adopt.catalog import ask, first_line, partitions, retyped
from pyapp.adopt.render import MARK, Renderer, Script
from pyapp.adopt.render import name as quoted
from pyapp.db import connect

OnStep = Callable[[str], None]
LOCK_TIMEOUT = "500ms"
"""Shorter than deadlock_timeout: whoever is in a deadlock with us does not notice."""
PATIENCE = 60.0
LONGEST_PAUSE = 1.0
_SHORTEST_PAUSE = 0.02
_OTHERS_FIRST = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.SerializationFailure,
)
FAULTS = (psycopg.ProgrammingError, psycopg.InternalError, psycopg.DataError)
"""What the SQL of an adoption can end with, for all that the connection and others do."""
T = TypeVar("T")
_CREATED = re.compile(
    r"^create (?:or replace )?(function|view|table)(?: if not exists)? \S+?\.(?!adoption\b)(\w+)", re.MULTILINE
)
_TRIGGERS_ON = re.compile(r"^create or replace trigger \"?(\w+)\"?\n.*?\bon (.*)$", re.MULTILINE)


def find_adoption(conn: Connection[Any], schema: str) -> Adoption | None:
    """Find what was adopted in a schema; None where it holds no adoption."""
    return next((found for found in list_adoptions(conn) if found.schema == schema), None)


def get_adoption(conn: Connection[Any], schema: str) -> Adoption:
    """Get what was adopted in a schema. Raises AdoptError."""
    if found := find_adoption(conn, schema):
        return found
    known = ", ".join(adoption.schema for adoption in list_adoptions(conn))
    raise AdoptError(f"nothing was adopted in schema {schema}" + (f"; there are: {known}" if known else ""))


def list_adoptions(conn: Connection[Any]) -> list[Adoption]:
    """List what was adopted in this database, by schema."""
    found = []
    for schema in (row["nspname"] for row in ask(conn, "adoptions.sql")):
        query = sql.SQL("select {}.adoption()").format(sql.Identifier(schema))
        [(record,)] = conn.cursor(row_factory=tuple_row).execute(query).fetchall()
        found.append(Adoption.from_json(record | {"schema": schema}))  # a dump can be restored under another name
    return found


def render(conn: Connection[Any], adoption: Adoption) -> Script:
    """Render the SQL that adopts, for the tables and partitions that there are now."""
    return Renderer(adoption, partitions(conn, adoption.tasks), partitions(conn, adoption.workflows)).script()


def install(conn: Connection[Any], adoption: Adoption, on_step: OnStep = lambda _: None) -> None:
    """Install an adoption, or renew it; ``conn`` must be in autocommit mode.

    In parts that each lock one table of the application's, all of which may be run again. Raises AdoptError.
    """
    script = render(conn, adoption)
    gone = _superfluous(conn, adoption, str(script))
    drops = [f"drop trigger if exists {quoted(name)} on {table.sql};" for name, table in gone]
    always = [
        f"alter table {table.sql} enable always trigger {quoted(name)};"
        for name, table, state in triggers(conn, adoption.schema)
        if state == "A" and (name, table) not in gone
    ]
    _run(conn, adoption.schema, [script.objects, script.tasks, *script.workflows, *drops, *always], on_step)


def triggers(conn: Connection[Any], schema: str) -> list[tuple[str, Table, str]]:
    """List the triggers of an adoption, wherever they are, and whether they are enabled (``O``)."""
    rows = ask(conn, "triggers.sql", schema=quoted(schema))
    return [(row["name"], Table(row["schema"], row["relation"]), row["state"]) for row in rows]


def _superfluous(conn: Connection[Any], adoption: Adoption, script: str) -> list[tuple[str, Table]]:
    """List the triggers that an adoption has no longer: of partitions that were detached, of publishing."""
    return [
        (name, table)
        for name, table, _ in triggers(conn, adoption.schema)
        if f"trigger {quoted(name)}" not in script
        or (f" on {table.sql}\n" not in script and name != f"zz_{adoption.schema}_guard")
    ]


def renew_adoptions(dsn: str, on_step: OnStep = lambda _: None) -> list[str]:
    """Install anew what this version would install in another way. Returns the schemas."""
    with connect(dsn, autocommit=True) as conn:
        renewed = []
        for found in list_adoptions(conn):
            try:
                adoption = retyped(conn, found)
                script = render(conn, adoption)
                lacks = outdated(conn, adoption, script) or new_partitions(conn, adoption)
                if adoption == found and not lacks and not _superfluous(conn, adoption, str(script)):
                    continue
                on_step(f"renewing the adoption in {adoption.schema}")
                install(conn, adoption, on_step)
                renewed.append(adoption.schema)
            except (*FAULTS, AdoptError) as error:
                on_step(f"the adoption in {found.schema} cannot be renewed: {first_line(error)}")
    return renewed


def new_partitions(conn: Connection[Any], adoption: Adoption) -> list[str]:
    """List the partitions without triggers: what is written through the whole table is counted nevertheless."""
    found = partitions(conn, adoption.tasks) + partitions(conn, adoption.workflows)
    known = {table for _, table, _ in triggers(conn, adoption.schema)}
    return [table.sql for table in found if table not in known]


def outdated(conn: Connection[Any], adoption: Adoption, script: Script) -> list[str]:
    """Tell what is missing of an adoption, disabled, or other than this version would make it. Only reads."""
    found = [] if script.hash == adoption.script else ["it was made by another version of agent-progress"]
    there = {
        (row["kind"], row["name"]): row["body"] for row in ask(conn, "objects.sql", schema=quoted(adoption.schema))
    }
    for kind, name in _CREATED.findall(script.objects):
        body = there.get((kind, name))
        if body is None:
            found.append(f"{kind} {name} is missing")
        elif body and f"{MARK}{body}{MARK}" not in script.objects:
            found.append(f"{kind} {name} differs")
    new = new_partitions(conn, adoption)
    enabled = {(name, table.sql): state for name, table, state in triggers(conn, adoption.schema)}
    for name, table in _TRIGGERS_ON.findall("\n".join((script.tasks, *script.workflows))):
        state = enabled.get((name, table))
        if table not in new and state not in ("O", "A"):
            found.append(f"trigger {name} on {table} is {'missing' if state is None else 'disabled'}")
    return found


def remove_script(conn: Connection[Any], adoption: Adoption) -> list[str]:
    """Render the SQL that takes an adoption back, in parts that each lock one table of the application's."""
    drops = [
        f"drop trigger if exists {quoted(name)} on {table.sql};\n" for name, table, _ in triggers(conn, adoption.schema)
    ]
    return [*drops, f"drop schema if exists {quoted(adoption.schema)} cascade;\n"]


def remove(conn: Connection[Any], adoption: Adoption, on_step: OnStep = lambda _: None) -> None:
    """Take an adoption back; the application's rows, and what was published, stay. Raises AdoptError."""
    schema = adoption.schema
    if others := [row["pg_describe_object"] for row in ask(conn, "dependents.sql", schema=quoted(schema))]:
        raise AdoptError(f"nothing changed: other objects depend on schema {schema}: {', '.join(others)}")
    _run(conn, schema, remove_script(conn, adoption), on_step)


def _run(conn: Connection[Any], schema: str, parts: Sequence[str], on_step: OnStep) -> None:
    """Run each part in a transaction of its own, again and again while others hold the locks that it needs."""

    def run(part: str) -> None:
        conn.execute("set local client_min_messages = warning")
        # Two at once would meet each other's half-made objects.
        conn.execute("select pg_advisory_xact_lock(hashtext('agent-progress adopt ' || %s))", [schema])
        conn.execute(part.encode())

    for number, part in enumerate(parts):
        done = "not finished" if number else "nothing changed"
        try:
            in_turn(conn, partial(run, part), lambda: on_step("waiting for other transactions"), PATIENCE)
        except _OTHERS_FIRST as error:
            message = f"{done}: other transactions held a table for {PATIENCE:.0f} s; run it again later"
            raise AdoptError(message) from error
        except FAULTS as error:
            raise AdoptError(f"{done}: {first_line(error)}") from error


def in_turn(
    conn: Connection[Any], act: Callable[[], T], on_wait: Callable[[], None] = lambda: None, patience: float = inf
) -> T:
    """Act in a transaction that waits for nobody for long, again where others had to go first, for so many seconds."""
    end, pause = time.monotonic() + patience, _SHORTEST_PAUSE
    while True:
        try:
            with conn.transaction():
                conn.execute("set transaction isolation level read committed")
                conn.execute(sql.SQL("set local lock_timeout = {}").format(LOCK_TIMEOUT))
                return act()
        except _OTHERS_FIRST:
            if time.monotonic() > end:
                raise
            if pause == _SHORTEST_PAUSE:
                on_wait()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
