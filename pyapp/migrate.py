"""Applying and rolling back the migrations: the only module that imports yoyo, which has its tables in the schema."""

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any, LiteralString

import psycopg
from psycopg import Connection, sql
from psycopg.rows import tuple_row

from pyapp import renew
from pyapp.db import connect, find_schema, quoted_name
from pyapp.errors import MigrationError
from pyapp.renew import OnStep, for_schema, resource

__all__ = ["MigrationError", "mark", "migrate", "pending", "rollback"]

_OLDEST = 15  # major version of PostgreSQL
_PATIENCE = 60.0
"""How long to wait for another run, or for the locks of tables that others use, in seconds."""
_ANSWER = 10.0  # seconds to wait for a pooler
# Far less than deadlock_timeout (1 s), so that in a deadlock with a writer the migration gives way. And short, since
# all other sessions queue behind a lock that is waited for.
_LOCK_TIMEOUT = "100ms"
_HELD = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
_ADVISORY_LOCK = int.from_bytes(b"agnt")  # with the hash of the schema's name, so that each schema has its own lock
_YOYO_TABLES = ("_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock")
_MARK = "_agent_progress_"  # in the names of these migrations: others may be in the same table
_COLUMNS = {
    "workflow": {"agents_completed", "agents_planned", "progress_frozen_at"},
    "agent_task": {"workflow_id", "external_id", "agent_type"},
    "workflow_stage": {"workflow_id", "position", "agent_id"},
    "workflow_event": {"workflow_id", "event_type", "occurred_at"},
}
_MORE_COLUMNS = {  # of tables that may be missing after a crash between the first two migrations
    "workflow_transition": {"from_status", "to_status"},
    "stage_definition": {"workflow_type", "position", "weight", "agents"},
    "installed_object": {"kind", "name", "shipped_md5", "installed_md5"},
}
_TYPES = ["workflow_status", "task_status", "stage_status", "priority_level"]


def migrate(dsn: str | None = None, *, schema: str | None = None, on_step: OnStep = lambda _: None) -> list[str]:
    """Apply the migrations that are not applied yet, and make functions, views and triggers anew that differ.

    Safe at any time: when all is done, twice at once, after a crash, while others write. Rows that the tables hold are
    counted. A schema that is not there is created. ``on_step`` is told each step in a line. Returns the names of the
    migrations applied, in their order. Raises MigrationError, and psycopg's errors.
    """
    schema = find_schema(schema)
    told = set[str]()

    def say(line: str) -> None:  # each line once
        if line not in told:
            told.add(line)
            on_step(line)

    with _alone(dsn, schema, say) as conn, _migrations(schema) as migrations:
        # Before anything is made: a refusal leaves nothing behind.
        _refuse_newer(conn, schema, migrations)
        if not _applied(conn, schema):
            _require_create(conn, schema)
            _refuse_foreign_tables(conn, schema)
        with renew.revoked(conn, schema, say), _yoyo(conn, schema) as backend:
            outstanding = list(backend.to_apply(migrations))
            for migration in outstanding:
                say(f"applying {migration.id}")
                if not _renews(migration):
                    with renew.revoked(conn, schema, say):
                        _patiently(partial(backend.apply_one, migration), migration.id, say)
            if missing := [f"table {name}" for name in _COLUMNS | _MORE_COLUMNS if not _exists(conn, schema, name)]:
                raise MigrationError(
                    f"the migrations are applied, but schema {schema} lacks {_some(missing)}: restore it, or take all"
                    " back with agent-progress rollback --all --drop-data"
                )
            renew.renew(conn, schema, partial(_in_transaction, conn, say), say)
            backend.mark_migrations([migration for migration in outstanding if _renews(migration)])
    return [migration.id for migration in outstanding]


def rollback(
    dsn: str | None = None,
    *,
    schema: str | None = None,
    all: bool = False,
    drop_data: bool = False,
    on_step: OnStep = lambda _: None,
) -> list[str]:
    """Roll back the last migration, or all of them; once the first one is rolled back, nothing is left.

    Returns the names of the migrations rolled back, in that order. Raises MigrationError, with nothing changed, if rows
    would be lost and ``drop_data`` is not set.
    """
    schema = find_schema(schema)
    with _alone(dsn, schema, on_step) as conn, _migrations(schema) as migrations:
        _refuse_newer(conn, schema, migrations)
        if not _exists(conn, schema, "_yoyo_migration"):
            return []
        if _rows(conn, schema, "select where to_regprocedure({name} || '.refuse_truncate()') is not null"):
            raise MigrationError(
                f"nothing changed: Citus has distributed the tables of schema {schema}, and there is no way back but a"
                " dump and a restore of the rows; drop them by hand where none are needed"
            )
        with _yoyo(conn, schema, drop_data=drop_data) as backend:
            applied = list(backend.to_rollback(migrations))
            steps = applied if all else applied[:1]
            if not drop_data:
                _refuse_to_lose_rows(conn, steps)
            for migration in steps:
                on_step(f"rolling back {migration.id}")
                if _renews(migration):
                    _in_transaction(conn, on_step, partial(renew.drop, conn, schema), migration.id)
                    backend.unmark_migrations([migration])
                else:
                    _patiently(partial(backend.rollback_one, migration), migration.id, on_step)
        # An application may keep its own migrations in the same tables.
        if len(steps) == len(applied) and not _rows(conn, schema, "select from {schema}._yoyo_migration limit 1"):
            _drop_yoyo_tables(conn, schema)
            query: LiteralString = (
                "select from pg_depend where refclassid = 'pg_namespace'::regclass and refobjid = {name}::regnamespace"
            )
            if schema != "public" and not _rows(conn, schema, query):
                conn.execute(sql.SQL("drop schema {}").format(sql.Identifier(schema)))
        return [migration.id for migration in steps]


def pending(dsn: str | None = None, *, schema: str | None = None) -> list[str]:
    """List the migrations that are not applied yet; changes nothing. Raises MigrationError."""
    schema = find_schema(schema)
    with connect(dsn, autocommit=True) as conn, _migrations(schema) as migrations:
        _refuse_newer(conn, schema, migrations)
        applied = _applied(conn, schema)
        return [migration.id for migration in migrations if migration.id not in applied]


def mark(dsn: str | None = None, *, schema: str | None = None) -> list[str]:
    """Record all migrations as applied without running them: for a schema that was installed with psql.

    Returns the names of the migrations recorded. Raises MigrationError if the schema is not there or not whole.
    """
    schema = find_schema(schema)
    with _alone(dsn, schema, lambda _: None) as conn, _migrations(schema) as migrations:
        _refuse_newer(conn, schema, migrations)
        tables = [f"table {name}" for name in _COLUMNS | _MORE_COLUMNS if not _exists(conn, schema, name)]
        missing = [line.removesuffix(" is missing") for line in renew.differences(conn, schema) if "missing" in line]
        if tables or missing:
            raise MigrationError(f"nothing recorded: the schema is not whole, it lacks {_some(tables + missing)}")
        with _yoyo(conn, schema) as backend:
            outstanding = list(backend.to_apply(migrations))
            renew.record(conn, schema)
            backend.mark_migrations(outstanding)
            return [migration.id for migration in outstanding]


def require_version(server_version: int) -> None:
    """Raise MigrationError for a server that is too old; the number is as libpq gives it, 150004 for 15.4."""
    if server_version < _OLDEST * 10_000:
        # Before version 10 the first two numbers made the major version.
        major, minor = divmod(server_version // 100, 100)
        told = str(major) if major >= 10 else f"{major}.{minor}"
        raise MigrationError(f"nothing changed: agent-progress needs PostgreSQL {_OLDEST} or newer, this is {told}")


def _backend(conn: Connection[Any], schema: str, drop_data: bool) -> Any:
    """Make yoyo's backend on a given connection, with its tables named with their schema.

    A search_path, set or given as a startup parameter, would reach other sessions behind a pooler.
    """
    # Here, so that a program that only reads progress does not load it.
    from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend

    class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
        def connect(self, _: str) -> Connection[Any]:
            return conn

        def copy(self) -> Any:
            return nullcontext(self)

        def quote_identifier(self, name: str) -> str:
            return quoted_name(*((schema, name) if name in _YOYO_TABLES else (name,))).as_string()

        def execute(self, statement: str, params: Any = None) -> Any:
            return super().execute(statement, params or {})  # always with values, since quoted names have %% for %

        def list_tables(self, **_: Any) -> list[str]:
            return [name for name in _YOYO_TABLES if _exists(conn, schema, name)]

        def create_lock_table(self) -> None:
            if not _exists(conn, schema, self.lock_table):
                self.execute(self.format_sql(self.create_lock_table_sql))

        def begin(self) -> None:
            super().begin()
            _set_limits(conn)
            if drop_data:
                conn.execute("set local agent_progress.drop_data = on")

    return Backend("", "_yoyo_migration")


@contextmanager
def _yoyo(conn: Connection[Any], schema: str, *, drop_data: bool = False) -> Iterator[Any]:
    """Open yoyo's backend, locked against plain ``yoyo apply`` by a row that says who we are."""
    # yoyo records who migrates, and fails for users without a passwd entry.
    os.environ.setdefault("LOGNAME", str(os.getuid()) if hasattr(os, "getuid") else "unknown")
    _drop_empty_yoyo_tables(conn, schema)
    backend = _backend(conn, schema, drop_data)
    backend.create_lock_table()
    lock = quoted_name(schema, backend.lock_table)
    # yoyo writes its PID, this module the negative. Such a row is left over from a crash: _alone lets one run in.
    conn.execute(sql.SQL("delete from {} where pid < %s").format(lock), [0])
    give_up = time.monotonic() + _PATIENCE
    query = sql.SQL("insert into {} (locked, ctime, pid) values (1, now(), %s) on conflict do nothing").format(lock)
    while conn.execute(query, [-os.getpid()]).rowcount == 0:
        if time.monotonic() > give_up:
            row = conn.execute(sql.SQL("select pid from {}").format(lock), []).fetchone()
            raise MigrationError(
                f"another program migrates with yoyo (process {row[0] if row else 'unknown'}): run it again later;"
                " if that process is gone, run yoyo break-lock"
            )
        time.sleep(0.1)
    backend._is_locked = True  # yoyo itself would take the lock from its holder after a time
    try:
        with warnings.catch_warnings():
            # yoyo warns of this where the connection is lost; the error that follows says it better.
            warnings.filterwarnings("ignore", "Nested transaction requested")
            yield backend
    finally:
        if not conn.closed and _exists(conn, schema, backend.lock_table):
            conn.execute(sql.SQL("delete from {} where pid = %s").format(lock), [-os.getpid()])


@contextmanager
def _alone(dsn: str | None, schema: str, on_step: OnStep) -> Iterator[Connection[Any]]:
    """Keep other runs out, by a lock in an open transaction: it works behind a pooler, and a crash releases it."""
    with connect(dsn, autocommit=True) as guard, connect(dsn, autocommit=True) as conn:
        require_version(conn.info.server_version)
        if _rows(conn, schema, "select where current_setting('transaction_read_only')::boolean"):
            raise MigrationError(
                "nothing changed: this is a hot standby, or a session that may only read"
                " (default_transaction_read_only): name the primary"
            )
        give_up = time.monotonic() + _PATIENCE
        waiting = False
        # Polled, since a session that waits for the lock would hold a snapshot, and a pooler's connection.
        while not _lock(guard, schema):
            if not waiting or time.monotonic() > give_up:
                told = f"another run, {_holder(guard, schema)}, migrates schema {schema}"
                if waiting:
                    raise MigrationError(f"nothing changed: {told}")
                on_step(f"waiting: {told}")
                waiting = True
            time.sleep(0.1)
        _require_answer(conn)
        yield conn
        guard.execute("commit")


def _lock(guard: Connection[Any], schema: str) -> bool:
    """Begin the transaction that holds the lock, or none where another run has it."""
    # A higher isolation level would keep a snapshot, for which a CREATE INDEX CONCURRENTLY waits.
    guard.execute("begin isolation level read committed")
    guard.execute("set local idle_in_transaction_session_timeout = 0")
    if guard.info.server_version >= 170_000:
        guard.execute("set local transaction_timeout = 0")
    if _rows(guard, schema, "select where pg_try_advisory_xact_lock(%s, hashtext({name}))", _ADVISORY_LOCK):
        return True
    guard.execute("rollback")
    return False


def _require_answer(conn: Connection[Any]) -> None:
    """Raise MigrationError where a pooler has no second server connection, beside the one that holds the lock."""
    with DefaultSelector() as selector:
        selector.register(conn.pgconn.socket, EVENT_READ)
        conn.pgconn.send_query(b"select")
        if not selector.select(_ANSWER):
            conn.close()
            raise MigrationError(
                f"nothing changed: the pooler had no second server connection for {_ANSWER:.0f} s; migrating takes two:"
                " connect to the server itself, or give its pool two"
            )
    while conn.pgconn.get_result():
        pass


def _holder(guard: Connection[Any], schema: str) -> str:
    query: LiteralString = """
        select format('%%s (session %%s of %%s)', coalesce(nullif(a.application_name, ''), 'unnamed'), a.pid, a.usename)
        from pg_locks as l
        join pg_stat_activity as a on a.pid = l.pid
        where l.locktype = 'advisory' and l.granted and l.classid = %s
            and l.objid = hashtext({name})::bigint & 4294967295
    """
    rows = _rows(guard, schema, query, _ADVISORY_LOCK)
    return str(rows[0][0]) if rows else "just ended"


@contextmanager
def _migrations(schema: str) -> Iterator[Any]:
    """Read the migrations, as written for a schema."""
    import yoyo

    source = resource("migrations")
    with tempfile.TemporaryDirectory(prefix="agent-progress-") as directory:
        for file in source.iterdir() if source.is_dir() else ():
            if file.suffix in (".sql", ".py"):
                Path(directory, file.name).write_text(for_schema(file.read_text("utf-8"), schema), "utf-8")
        migrations = yoyo.read_migrations(directory)
        if not migrations:
            raise MigrationError(f"no migrations in {source}")
        yield migrations


def _renews(migration: Any) -> bool:
    return str(migration.id).endswith("_renew")


def _patiently(step: Callable[[], object], name: str, on_step: OnStep) -> None:
    """Do one step, and retry it while others hold the locks that it needs."""
    give_up = time.monotonic() + _PATIENCE
    waiting = False
    while True:
        try:
            step()
            return
        except _HELD as error:
            if time.monotonic() > give_up:
                raise MigrationError(
                    f"{name}: other transactions held its tables for {_PATIENCE:.0f} s; run it again later"
                ) from error
            if not waiting:
                on_step(f"waiting for other transactions: {name}")
                waiting = True
            time.sleep(0.1)


def _in_transaction(conn: Connection[Any], on_step: OnStep, act: Callable[[], object], name: str) -> None:
    def step() -> None:
        with conn.transaction():
            _set_limits(conn)
            act()

    _patiently(step, name, on_step)


def _set_limits(conn: Connection[Any]) -> None:
    """Wait for locks only a moment; lift the statement_timeout that the role may have."""
    conn.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT}'".encode())
    conn.execute("set local statement_timeout = 0")


def _require_create(conn: Connection[Any], schema: str) -> None:
    """Create the schema if it is not there. Raises MigrationError if this role may not create tables in it."""
    if not _rows(conn, schema, "select where to_regnamespace({name}) is not null"):
        if schema == "public":
            raise MigrationError("nothing changed: the database has no schema public: create it first, or name another")
        with renew.revoked(conn, schema, lambda _: None):
            conn.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    if not _rows(conn, schema, "select where has_schema_privilege(to_regnamespace({name}), 'create')"):
        raise MigrationError(
            f"nothing changed: role {conn.info.user} may not create tables: migrate as the owner of the database, or"
            f" grant it create on schema {schema}"
        )


def _exists(conn: Connection[Any], schema: str, table: str) -> bool:
    return bool(_rows(conn, schema, "select where to_regclass({name} || '.' || quote_ident(%s)) is not null", table))


def _drop_yoyo_tables(conn: Connection[Any], schema: str) -> None:
    for table in _YOYO_TABLES:
        conn.execute(sql.SQL("drop table if exists {}").format(sql.Identifier(schema, table)))


def _drop_empty_yoyo_tables(conn: Connection[Any], schema: str) -> None:
    """Drop yoyo's tables where they are empty, as after a schema-only restore, on which yoyo would fail."""
    if _exists(conn, schema, "_yoyo_version") and not _rows(
        conn, schema, "select from {schema}._yoyo_version union all select from {schema}._yoyo_migration"
    ):
        _drop_yoyo_tables(conn, schema)


def _applied(conn: Connection[Any], schema: str) -> set[str]:
    if not _exists(conn, schema, "_yoyo_migration"):
        return set()
    rows = _rows(conn, schema, "select migration_id from {schema}._yoyo_migration")
    return {row[0] for row in rows if _MARK in row[0]}


def _refuse_newer(conn: Connection[Any], schema: str, migrations: Any) -> None:
    if newer := sorted(_applied(conn, schema) - {migration.id for migration in migrations}):
        raise MigrationError(f"this database was migrated by a newer agent-progress ({_some(newer)}): upgrade first")


def _refuse_foreign_tables(conn: Connection[Any], schema: str) -> None:
    """Refuse a schema that has some of these tables and types, or others of these names.

    One that has all of them passes: it was installed with psql, or a crash kept it from being recorded.
    """
    tables = {
        name: set(columns)
        for name, columns in _rows(
            conn,
            schema,
            "select c.relname, array_agg(a.attname) from pg_class as c join pg_attribute as a on a.attrelid = c.oid"
            " where c.relnamespace = to_regnamespace({name}) and c.relname = any (%s) group by c.relname",
            [*_COLUMNS, *_MORE_COLUMNS],
        )
    }
    query: LiteralString = (
        "select typname from pg_type where typnamespace = to_regnamespace({name}) and typname = any (%s)"
    )
    types = [row[0] for row in _rows(conn, schema, query, _TYPES)]
    expected = _COLUMNS | _MORE_COLUMNS
    foreign = [f"table {name}" for name, columns in tables.items() if not columns >= expected[name]]
    first = len(_COLUMNS.keys() & tables.keys()) + len(types)
    if not foreign and 0 < first < len(_COLUMNS) + len(_TYPES):
        foreign = [f"table {name}" for name in tables] + [f"type {name}" for name in types]
    elif not foreign and first == 0:
        # A function or view with the name and arguments of a shipped one would be replaced.
        foreign = [f"table {name}" for name in tables] + renew.installed_names(conn, schema)
    if foreign:
        raise MigrationError(
            f"nothing changed: schema {schema} has {_some(sorted(foreign))} already, which agent-progress did not make;"
            " migrate --schema NAME installs into another one"
        )


def _refuse_to_lose_rows(conn: Connection[Any], migrations: list[Any]) -> None:
    """Run the statement at the beginning of each rollback that refuses to lose rows, before any rollback is run."""
    for migration in migrations:
        file = Path(migration.path).with_suffix(".rollback.sql")
        script = file.read_text("utf-8") if file.exists() else ""
        if "restrict_violation" not in script:
            continue
        try:
            with conn.transaction(force_rollback=True):
                conn.execute(script[: script.index("$$;") + 3].encode())
        except psycopg.errors.RestrictViolation as error:
            message = error.diag.message_primary
            raise MigrationError(f"nothing changed: {message}; --drop-data drops them") from error


def _rows(conn: Connection[Any], schema: str, query: LiteralString, *values: Any) -> list[Any]:
    """Read rows; in the query, {schema} stands for the schema, and {name} for its name as text."""
    literal = sql.SQL(sql.Literal(sql.Identifier(schema).as_string()).as_string().replace("%", "%%"))
    composed = sql.SQL(query).format(schema=quoted_name(schema), name=literal)
    return conn.cursor(row_factory=tuple_row).execute(composed, values).fetchall()


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
