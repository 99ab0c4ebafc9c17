"""Applying and taking back the migrations: the only module that knows yoyo."""

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg
import yoyo
from yoyo.exceptions import LockTimeout

from pyapp import partitions
from pyapp.db import connect, connection_parameters
from pyapp.locks import HELD, LOCK_TIMEOUT, PATIENCE, patiently
from pyapp.schema import missing_objects, resource

# Ours among all advisory locks.
_ADVISORY_LOCK = int.from_bytes(b"agent-pr", "big")
# How long plain yoyo may keep its own lock, in seconds; after that it counts as left behind by a crash.
_YOYO_PATIENCE = 5.0
_OLDEST = 15  # major version of PostgreSQL
_YOYO_TABLES = ("_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock")
_OURS = "_agent_progress_"
_COLUMNS_OF_OURS = {
    "workflow": {"agents_completed", "agents_planned", "progress_frozen_at"},
    "agent_task": {"workflow_id", "external_id", "agent_type"},
    "workflow_stage": {"workflow_id", "position", "agent_id"},
    "workflow_event": {"workflow_id", "event_type", "occurred_at"},
}
_TYPES_OF_OURS = ["workflow_status", "task_status", "stage_status", "priority_level"]

OnStep = Callable[[str], None]


class MigrationError(Exception):
    """The migrations cannot be applied or taken back; the message says why, in one line."""


def migrate(dsn: str | None = None, *, on_step: OnStep = lambda _: None) -> list[str]:
    """Apply the migrations that are not applied yet.

    Safe at any time: when all are applied, twice at once, after a crash. Rows that the tables hold are counted.
    ``on_step`` is told each step in a line. Returns the names of the migrations applied, in their order. Raises
    MigrationError, and psycopg's errors.
    """
    with _alone(dsn) as conn:
        # Before yoyo makes its tables: a refusal leaves nothing behind.
        _refuse_newer(conn, _read_migrations())
        if not _applied(conn):
            _require_create(conn)
            _refuse_foreign_tables(conn)
        with _yoyo(conn, dsn) as (backend, migrations):
            outstanding = list(backend.to_apply(migrations))
            for migration in outstanding:
                on_step(f"applying {migration.id}")
                _patiently(partial(backend.apply_one, migration), migration.id, on_step)
        _patiently(lambda: partitions.renew(conn), "triggers of partitions", on_step)
        # A trigger that was disabled is somebody's intention; what is gone would be missed at the next statement.
        if lost := [name for name in missing_objects(conn) if not name.endswith(" disabled")]:
            raise MigrationError(
                f"all migrations are applied, but the schema lacks {_some(lost)}, dropped since: restore what is"
                f" missing from the files in {resource('sql')}"
            )
        return [migration.id for migration in outstanding]


def rollback(
    dsn: str | None = None,
    *,
    all: bool = False,
    drop_data: bool = False,
    on_step: OnStep = lambda _: None,
) -> list[str]:
    """Take back the last migration, or all of them; the last one to go leaves nothing behind.

    Returns the names of the migrations taken back, in that order. Raises MigrationError, with nothing changed, if rows
    would be lost and ``drop_data`` is not set, or if the tables are distributed.
    """
    with _alone(dsn) as conn:
        _refuse_newer(conn, _read_migrations())
        if not _one(conn, "select to_regclass('public._yoyo_migration') is not null"):
            return []
        if _one(conn, "select to_regproc('public.refuse_truncate') is not null"):
            raise MigrationError(
                "the tables are distributed, nothing is taken back from them: bring them back first"
                " (agent-progress distribute --reverse --print)"
            )
        with _yoyo(conn, dsn, drop_data=drop_data) as (backend, migrations):
            applied = list(backend.to_rollback(migrations))
            steps = applied if all else applied[:1]
            last = len(steps) == len(applied)
            if not drop_data:
                _refuse_to_lose_rows(conn, steps)
            for migration in steps:
                on_step(f"rolling back {migration.id}")
                _patiently(partial(backend.rollback_one, migration), migration.id, on_step)
        # An application of the user's may keep its own migrations in the same tables.
        if last and not _one(conn, "select exists (select from public._yoyo_migration)"):
            for table in _YOYO_TABLES:
                conn.execute(f"drop table if exists public.{table}")
        return [migration.id for migration in steps]


def pending(dsn: str | None = None) -> list[str]:
    """List the migrations that are not applied yet; changes nothing. Raises MigrationError."""
    with connect(dsn, autocommit=True) as conn:
        migrations = _read_migrations()
        _refuse_newer(conn, migrations)
        applied = _applied(conn)
        return [migration.id for migration in migrations if migration.id not in applied]


def mark(dsn: str | None = None) -> list[str]:
    """Record all migrations as applied without running them: for a schema that was installed with psql.

    Returns the names of the migrations recorded. Raises MigrationError if the schema is not there or not whole.
    """
    with _alone(dsn) as conn:
        # Before yoyo makes its tables: a refusal leaves nothing behind.
        _refuse_newer(conn, _read_migrations())
        if missing := missing_objects(conn):
            raise MigrationError(f"nothing recorded: the schema is not whole, it lacks {_some(missing)}")
        with _yoyo(conn, dsn) as (backend, migrations):
            outstanding = backend.to_apply(migrations)
            backend.mark_migrations(outstanding)
            return [migration.id for migration in outstanding]


@contextmanager
def _alone(dsn: str | None) -> Iterator[psycopg.Connection[Any]]:
    """Keep other runs of ours out, on a connection of its own; a crash releases the lock."""
    with connect(dsn, autocommit=True) as conn:
        require_version(conn.info.server_version)
        if _one(conn, "select current_setting('transaction_read_only')::boolean"):
            raise MigrationError(
                "nothing changed: this is a hot standby, or a session that may only read"
                " (default_transaction_read_only): name the primary"
            )
        # Polled: a session that waits inside pg_advisory_lock holds a snapshot, which others' DDL may wait for.
        while not _one(conn, "select pg_try_advisory_lock(%s)", [_ADVISORY_LOCK]):
            time.sleep(0.1)
        yield conn


@contextmanager
def _yoyo(conn: psycopg.Connection[Any], dsn: str | None, *, drop_data: bool = False) -> Iterator[tuple[Any, Any]]:
    """Open yoyo's backend, locked against plain ``yoyo apply``, and read the migrations."""
    migrations = _read_migrations()
    _drop_empty_yoyo_tables(conn)
    parameters = connection_parameters(dsn)
    # A role's limit for its statements is not meant for this; one in the DSN is.
    given = str(parameters.get("options") or os.environ.get("PGOPTIONS") or "")
    options = ["-c statement_timeout=0", given, f"-c lock_timeout={LOCK_TIMEOUT}"]
    if drop_data:
        options.append("-c agent_progress.drop_data=on")
    parameters |= {
        "options": " ".join(filter(None, options)),
        "schema": "public",
    }
    # yoyo records who migrates, and fails for users without a passwd entry.
    os.environ.setdefault("LOGNAME", str(os.getuid()) if hasattr(os, "getuid") else "unknown")
    with ExitStack() as stack:
        # What yoyo has to say where the connection is lost; the error says it better.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Nested transaction requested")
        backend = stack.enter_context(yoyo.get_backend("postgresql+psycopg:///?" + urlencode(parameters)))
        try:
            stack.enter_context(backend.lock(timeout=_YOYO_PATIENCE))
        except LockTimeout:
            # Its lock is a row, which outlives a crash. No run of ours is under way: see _alone.
            backend.break_lock()
            try:
                stack.enter_context(backend.lock(timeout=_YOYO_PATIENCE))
            except LockTimeout:
                raise MigrationError("another program migrates with yoyo at this time: run it again later") from None
        yield backend, migrations


def require_version(server_version: int) -> None:
    """Raise MigrationError for a server that is too old; the number is as libpq gives it, 150004 for 15.4."""
    if server_version < _OLDEST * 10_000:
        # Before version 10 the first two numbers made the major version.
        major, minor = divmod(server_version // 100, 100)
        told = str(major) if major >= 10 else f"{major}.{minor}"
        raise MigrationError(f"nothing changed: agent-progress needs PostgreSQL {_OLDEST} or newer, this is {told}")


def _require_create(conn: psycopg.Connection[Any]) -> None:
    """Refuse before yoyo does, which takes a table that it may not create for one that is there."""
    if _one(conn, "select to_regnamespace('public') is null"):
        raise MigrationError("nothing changed: the database has no schema public: create it first")
    if not _one(conn, "select has_schema_privilege('public', 'create')"):
        raise MigrationError(
            f"nothing changed: role {conn.info.user} may not create tables: migrate as the owner of the database, or"
            " grant it create on schema public"
        )


def _drop_empty_yoyo_tables(conn: psycopg.Connection[Any]) -> None:
    """Let yoyo begin anew where its tables are there without a row, as after a schema-only restore: it would fail."""
    if _one(conn, "select to_regclass('public._yoyo_version') is null"):
        return
    if _one(conn, "select exists (select from public._yoyo_version) or exists (select from public._yoyo_migration)"):
        return
    for table in _YOYO_TABLES:
        conn.execute(f"drop table if exists public.{table}")


@cache
def _read_migrations() -> Any:
    # Once, since yoyo parses all of them whenever it puts them in order: that takes longer than to ask what is applied.
    directory = resource("migrations")
    migrations = yoyo.read_migrations(str(directory))
    if not migrations:
        raise MigrationError(f"no migrations in {directory}")
    return migrations


def _patiently(step: Callable[[], object], name: str, on_step: OnStep) -> None:
    """Do one step, again and again while others hold the locks that it needs."""
    try:
        patiently(step, lambda: on_step(f"waiting for other transactions: {name}"))
    except HELD as error:
        raise MigrationError(
            f"{name}: other transactions held its tables for {PATIENCE:.0f} s; run it again later"
        ) from error


def _applied(conn: psycopg.Connection[Any]) -> set[str]:
    if not _one(conn, "select to_regclass('public._yoyo_migration') is not null"):
        return set()
    rows = conn.execute("select migration_id from public._yoyo_migration").fetchall()
    return {row[0] for row in rows if _OURS in row[0]}


def _refuse_newer(conn: psycopg.Connection[Any], migrations: Any) -> None:
    if newer := sorted(_applied(conn) - {migration.id for migration in migrations}):
        raise MigrationError(f"this database was migrated by a newer agent-progress ({_some(newer)}): upgrade first")


def _refuse_foreign_tables(conn: psycopg.Connection[Any]) -> None:
    """Let pass a database that has nothing of ours, or all of it (installed with psql, or not recorded in a crash)."""
    rows = conn.execute(
        "select c.relname, array_agg(a.attname) from pg_catalog.pg_class as c"
        " join pg_catalog.pg_attribute as a on a.attrelid = c.oid"
        " where c.relnamespace = 'public'::regnamespace and c.relname = any (%s) group by c.relname",
        [list(_COLUMNS_OF_OURS)],
    ).fetchall()
    tables = {name: set(columns) for name, columns in rows}
    types = conn.execute(
        "select typname from pg_catalog.pg_type where typnamespace = 'public'::regnamespace and typname = any (%s)",
        [_TYPES_OF_OURS],
    ).fetchall()
    foreign = [f"table {name}" for name, columns in tables.items() if not columns >= _COLUMNS_OF_OURS[name]]
    if not foreign and 0 < len(tables) + len(types) < len(_COLUMNS_OF_OURS) + len(_TYPES_OF_OURS):
        foreign = [f"table {name}" for name in tables] + [f"type {row[0]}" for row in types]
    if foreign:
        raise MigrationError(
            f"nothing changed: schema public has {_some(sorted(foreign))} already, which agent-progress did not make"
        )


def _refuse_to_lose_rows(conn: psycopg.Connection[Any], migrations: list[Any]) -> None:
    """Ask the guards of all the rollbacks, a statement at the beginning of their files, before any is carried out."""
    for migration in migrations:
        script = Path(migration.path).with_suffix(".rollback.sql").read_text("utf-8")
        if "restrict_violation" not in script:
            continue
        try:
            with conn.transaction(force_rollback=True):
                conn.execute(script[: script.index("$$;") + 3].encode())
        except psycopg.errors.RestrictViolation as error:
            message = error.diag.message_primary
            raise MigrationError(f"nothing changed: {message}; --drop-data drops them") from error


def _one(conn: psycopg.Connection[Any], query: str, values: Any = None) -> Any:
    row = conn.execute(query.encode(), values).fetchone()
    return row[0] if row else None


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
