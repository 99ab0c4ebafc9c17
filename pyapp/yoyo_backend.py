"""yoyo, which applies and records the migrations, with its tables in the schema: the only module that imports it."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from psycopg import Connection, sql

from pyapp.db import exists, quoted_name, rows
from pyapp.errors import MigrationError
from pyapp.lock import OnStep, set_limits, wait_until
from pyapp.shipped import for_schema, resource

TABLES = ("_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock")


@contextmanager
def read_migrations(schema: str) -> Iterator[Any]:
    """Read the migrations, as written for a schema."""
    import yoyo  # here, so that a program that only reads progress does not load it

    source = resource("migrations")
    with tempfile.TemporaryDirectory(prefix="agent-progress-") as directory:
        for file in source.iterdir() if source.is_dir() else ():
            if file.suffix in (".sql", ".py"):
                Path(directory, file.name).write_text(for_schema(file.read_text("utf-8"), schema), "utf-8")
        migrations = yoyo.read_migrations(directory)
        if not migrations:
            raise MigrationError(f"no migrations in {source}")
        yield migrations


@contextmanager
def opened(conn: Connection[Any], schema: str, on_step: OnStep, *, drop_data: bool = False) -> Iterator[Any]:
    """Open yoyo's backend, locked against plain ``yoyo apply`` by a row that says who we are."""
    # yoyo records who migrates, and fails for users without a passwd entry.
    os.environ.setdefault("LOGNAME", str(os.getuid()) if hasattr(os, "getuid") else "unknown")
    if not rows(conn, schema, "select where to_regclass({name} || '._yoyo_version') is null") and not rows(
        conn, schema, "select from {schema}._yoyo_version union all select from {schema}._yoyo_migration"
    ):
        drop_tables(conn, schema)  # empty, as after a schema-only restore, yoyo would fail on them
    backend = _backend(conn, schema, drop_data)
    backend.create_lock_table()
    lock = quoted_name(schema, backend.lock_table)
    # yoyo writes its PID, we the negative. Such a row is left over from a crash: lock.alone() lets one run in.
    conn.execute(sql.SQL("delete from {} where pid < %s").format(lock), [0])
    query = sql.SQL("insert into {} (locked, ctime, pid) values (1, now(), %s) on conflict do nothing").format(lock)

    def why() -> str:
        holders = rows(conn, schema, "select pid from {schema}.yoyo_lock")
        told = f"another program migrates with yoyo (process {holders[0][0] if holders else 'unknown'})"
        return f"{told}; if that process is gone, run yoyo break-lock"

    wait_until(lambda: conn.execute(query, [-os.getpid()]).rowcount, why, on_step)
    backend._is_locked = True  # yoyo itself would take the lock from its holder after a time
    try:
        with warnings.catch_warnings():
            # yoyo warns of this where the connection is lost; the error that follows says it better.
            warnings.filterwarnings("ignore", "Nested transaction requested")
            yield backend
    finally:
        if not conn.closed and exists(conn, schema, backend.lock_table):
            conn.execute(sql.SQL("delete from {} where pid = %s").format(lock), [-os.getpid()])


def drop_tables(conn: Connection[Any], schema: str) -> None:
    """Drop yoyo's tables."""
    for table in TABLES:
        conn.execute(sql.SQL("drop table if exists {}").format(sql.Identifier(schema, table)))


def _backend(conn: Connection[Any], schema: str, drop_data: bool) -> Any:
    """Make yoyo's backend on a given connection, with its tables named with their schema.

    A search_path, set or given as a startup parameter, would reach other sessions behind a pooler.
    """
    from yoyo.backends.core.postgresql import PostgresqlPsycopgBackend

    class Backend(PostgresqlPsycopgBackend):  # type: ignore[misc]
        def connect(self, _: str) -> Connection[Any]:
            return conn

        def copy(self) -> Any:
            return nullcontext(self)

        def quote_identifier(self, name: str) -> str:
            return quoted_name(*((schema, name) if name in TABLES else (name,))).as_string()

        def execute(self, statement: str, params: Any = None) -> Any:
            return super().execute(statement, params or {})  # always with values, since quoted names have %% for %

        def list_tables(self, **_: Any) -> list[str]:
            return [name for name in TABLES if exists(conn, schema, name)]

        def create_lock_table(self) -> None:
            if not exists(conn, schema, self.lock_table):
                self.execute(self.format_sql(self.create_lock_table_sql))

        def begin(self) -> None:
            super().begin()
            set_limits(conn)
            if drop_data:
                conn.execute("set local agent_progress.drop_data = on")

    return Backend("", "_yoyo_migration")
