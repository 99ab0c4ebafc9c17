"""One run at a time, and no writer in its way: the lock of a schema, and waiting for locks that others hold.

The lock works behind a pooler in transaction mode: it is held by a transaction, on a connection of its own.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from selectors import EVENT_READ, DefaultSelector
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg import Connection

from pyapp.db import connect, rows
from pyapp.errors import MigrationError

OnStep: TypeAlias = Callable[[str], None]
"""Is told each step, in a line."""

PATIENCE = 60.0
"""How long to wait for another run, or for the locks of tables that others use, in seconds."""
ANSWER = 10.0
"""How long to wait for a pooler to find a second connection to the server, in seconds."""
# Far less than deadlock_timeout (1 s), so that in a deadlock with a writer the migration gives way. And short, since
# all other sessions queue behind a lock that is waited for.
_LOCK_TIMEOUT = "100ms"
_HELD = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
_ADVISORY_LOCK = int.from_bytes(b"agnt")  # with the hash of the schema's name, so that each schema has its own lock


@contextmanager
def alone(dsn: str | None, schema: str, on_step: OnStep) -> Iterator[Connection[Any]]:
    """Keep other runs out while the block lasts; yields a connection to work on. A crash releases the lock."""
    with connect(dsn, autocommit=True) as guard, connect(dsn, autocommit=True) as conn:
        # Polled, since a session that waits for the lock would hold a snapshot, and a pooler's connection.
        wait_until(lambda: _lock(guard, schema), lambda: _holder(guard, schema), on_step)
        _require_answer(conn)
        yield conn
        guard.execute("commit")


def wait_until(done: Callable[[], object], why: Callable[[], str], on_step: OnStep) -> None:
    """Try until something is done; say what it waits for, and raise MigrationError after a minute."""
    give_up = time.monotonic() + PATIENCE
    waiting = False
    while not done():
        if time.monotonic() > give_up:
            raise MigrationError(f"waited {PATIENCE:.0f} s: {why()}; run it again later")
        if not waiting:
            on_step(f"waiting: {why()}")
            waiting = True
        time.sleep(0.1)


def patiently(step: Callable[[], object], name: str, on_step: OnStep) -> None:
    """Do one step, and retry it while others hold the locks that it needs."""

    def done() -> bool:
        try:
            step()
        except _HELD:
            return False
        return True

    wait_until(done, lambda: f"other transactions hold the tables for {name}", on_step)


def in_transaction(conn: Connection[Any], act: Callable[[], object], name: str, on_step: OnStep) -> None:
    """Do one step patiently, in a transaction of its own."""

    def step() -> None:
        with conn.transaction():
            set_limits(conn)
            act()

    patiently(step, name, on_step)


def set_limits(conn: Connection[Any]) -> None:
    """In this transaction, wait for locks only a moment; lift the statement_timeout that the role may have.

    What is counted has to be seen by each statement as of then, also where a lock was waited for.
    """
    conn.execute("set transaction isolation level read committed")
    conn.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'".encode())
    conn.execute("set local statement_timeout = 0")


def _lock(guard: Connection[Any], schema: str) -> bool:
    """Begin the transaction that holds the lock, or none where another run has it."""
    # A higher isolation level would keep a snapshot, for which a CREATE INDEX CONCURRENTLY waits.
    guard.execute("begin isolation level read committed")
    guard.execute("set local idle_in_transaction_session_timeout = 0")
    if guard.info.server_version >= 170_000:
        guard.execute("set local transaction_timeout = 0")
    if rows(guard, schema, "select where pg_try_advisory_xact_lock(%s, hashtext({name}))", _ADVISORY_LOCK):
        return True
    guard.execute("rollback")
    return False


def _holder(guard: Connection[Any], schema: str) -> str:
    query: LiteralString = """
        select format('%%s (session %%s of %%s)', coalesce(nullif(a.application_name, ''), 'unnamed'), a.pid, a.usename)
        from pg_locks as l
        join pg_stat_activity as a on a.pid = l.pid
        where l.locktype = 'advisory' and l.granted and l.classid = %s
            and l.objid = hashtext({name})::bigint & 4294967295
    """
    found = rows(guard, schema, query, _ADVISORY_LOCK)
    return f"another run, {found[0][0] if found else 'just ended'}, migrates schema {schema}"


def _require_answer(conn: Connection[Any]) -> None:
    """Raise MigrationError where a pooler has no second server connection, beside the one that holds the lock."""
    with DefaultSelector() as selector:
        selector.register(conn.pgconn.socket, EVENT_READ)
        conn.pgconn.send_query(b"select")
        if not selector.select(ANSWER):
            conn.close()
            raise MigrationError(
                f"nothing changed: the pooler had no second server connection for {ANSWER:.0f} s; migrating takes two:"
                " connect to the server itself, or give its pool two"
            )
    while conn.pgconn.get_result():
        pass
