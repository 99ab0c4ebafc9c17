"""Installing, upgrading and removing the schema: tables by numbered migrations, all else made anew from sql/."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import Connection, sql

from pyapp import installed, renew, yoyo_backend
from pyapp.db import connect, exists, find_schema, rows
from pyapp.errors import MigrationError
from pyapp.lock import OnStep, alone, in_transaction, patiently
from pyapp.shipped import names, shipped_items

__all__ = ["MigrationError", "mark", "migrate", "pending", "rollback"]

_OLDEST = 15  # major version of PostgreSQL
_OURS = "_agent_progress_"  # in the names of these migrations: others may be in the same table


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

    with _run(dsn, schema, say) as (conn, migrations):
        # Before anything is made: a refusal leaves nothing behind.
        if not _applied(conn, schema):
            _require_create(conn, schema)
            _refuse_foreign_objects(conn, schema)
        with renew.revoked(conn, schema, say), yoyo_backend.opened(conn, schema, say) as backend:
            outstanding = list(backend.to_apply(migrations))
            for migration in outstanding:
                say(f"applying {migration.id}")
                if not _renews(migration):
                    # Each by itself: after a crash the next run would take what is there for older objects.
                    with renew.revoked(conn, schema, say):
                        patiently(partial(backend.apply_one, migration), migration.id, say)
            if missing := [f"table {name}" for name in names("table") if not exists(conn, schema, name)]:
                raise MigrationError(
                    f"the migrations are applied, but schema {schema} lacks {_some(missing)}: restore it, or take all"
                    " back with agent-progress rollback --all --drop-data"
                )
            renew.renew(conn, schema, say)
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
    with _run(dsn, schema, on_step) as (conn, migrations):
        if not exists(conn, schema, "_yoyo_migration"):
            return []
        if rows(conn, schema, "select where to_regprocedure({name} || '.refuse_truncate()') is not null"):
            raise MigrationError(
                f"nothing changed: Citus has distributed the tables of schema {schema}, and there is no way back but a"
                " dump and a restore of the rows; drop them by hand where none are needed"
            )
        with yoyo_backend.opened(conn, schema, on_step, drop_data=drop_data) as backend:
            applied = list(backend.to_rollback(migrations))
            steps = applied if all else applied[:1]
            if not drop_data:
                _refuse_to_lose_rows(conn, steps)
            for migration in steps:
                on_step(f"rolling back {migration.id}")
                if _renews(migration):
                    in_transaction(conn, partial(renew.drop, conn, schema), migration.id, on_step)
                    backend.unmark_migrations([migration])
                else:
                    patiently(partial(backend.rollback_one, migration), migration.id, on_step)
        # An application may keep its own migrations in the same tables.
        if len(steps) == len(applied) and not rows(conn, schema, "select from {schema}._yoyo_migration limit 1"):
            yoyo_backend.drop_tables(conn, schema)
            query: LiteralString = (
                "select from pg_depend where refclassid = 'pg_namespace'::regclass and refobjid = {name}::regnamespace"
            )
            if schema != "public" and not rows(conn, schema, query):
                conn.execute(sql.SQL("drop schema {}").format(sql.Identifier(schema)))
        return [migration.id for migration in steps]


def pending(dsn: str | None = None, *, schema: str | None = None) -> list[str]:
    """List the migrations that are not applied yet; changes nothing. Raises MigrationError."""
    schema = find_schema(schema)
    with connect(dsn, autocommit=True) as conn, yoyo_backend.read_migrations(schema) as migrations:
        _refuse_newer(conn, schema, migrations)
        applied = _applied(conn, schema)
        return [migration.id for migration in migrations if migration.id not in applied]


def mark(dsn: str | None = None, *, schema: str | None = None) -> list[str]:
    """Record all migrations as applied without running them: for a schema that was installed with psql.

    Returns the names of the migrations recorded. Raises MigrationError if the schema is not there or not whole.
    """
    schema = find_schema(schema)
    with _run(dsn, schema, lambda _: None) as (conn, migrations):
        lacking = [f"table {name}" for name in names("table") if not exists(conn, schema, name)]
        lacking += [line for line in installed.differences(conn, schema) if line.endswith(" is missing")]
        if lacking:
            told = _some([line.removesuffix(" is missing") for line in lacking])
            raise MigrationError(f"nothing recorded: the schema is not whole, it lacks {told}")
        with yoyo_backend.opened(conn, schema, lambda _: None) as backend:
            outstanding = list(backend.to_apply(migrations))
            installed.record(conn, schema)
            backend.mark_migrations(outstanding)
            return [migration.id for migration in outstanding]


def require_version(server_version: int) -> None:
    """Raise MigrationError for a server that is too old; the number is as libpq gives it, 150004 for 15.4."""
    if server_version < _OLDEST * 10_000:
        # Before version 10 the first two numbers made the major version.
        major, minor = divmod(server_version // 100, 100)
        told = str(major) if major >= 10 else f"{major}.{minor}"
        raise MigrationError(f"nothing changed: agent-progress needs PostgreSQL {_OLDEST} or newer, this is {told}")


@contextmanager
def _run(dsn: str | None, schema: str, on_step: OnStep) -> Iterator[tuple[Connection[Any], Any]]:
    """Yield a connection of the only run in a schema, and the migrations."""
    with alone(dsn, schema, on_step) as conn, yoyo_backend.read_migrations(schema) as migrations:
        require_version(conn.info.server_version)
        if rows(conn, schema, "select where current_setting('transaction_read_only')::boolean"):
            raise MigrationError(
                "nothing changed: this is a hot standby, or a session that may only read"
                " (default_transaction_read_only): name the primary"
            )
        query: LiteralString = (
            "select relowner::regrole::text from pg_class where oid = to_regclass({name} || '._yoyo_migration')"
            " and not pg_has_role(relowner, 'usage')"
        )
        for (owner,) in rows(conn, schema, query):
            raise MigrationError(f"nothing changed: schema {schema} was migrated by role {owner}: migrate as {owner}")
        _refuse_newer(conn, schema, migrations)
        yield conn, migrations


def _renews(migration: Any) -> bool:
    return str(migration.id).endswith("_renew")


def _applied(conn: Connection[Any], schema: str) -> set[str]:
    if not exists(conn, schema, "_yoyo_migration"):
        return set()
    recorded = rows(conn, schema, "select migration_id from {schema}._yoyo_migration")
    return {row[0] for row in recorded if _OURS in row[0]}


def _require_create(conn: Connection[Any], schema: str) -> None:
    """Create the schema if it is not there. Raises MigrationError if this role may not create tables in it."""
    if not rows(conn, schema, "select where to_regnamespace({name}) is not null"):
        if schema == "public":
            raise MigrationError("nothing changed: the database has no schema public: create it first, or name another")
        conn.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    if not rows(conn, schema, "select where has_schema_privilege(to_regnamespace({name}), 'create')"):
        raise MigrationError(
            f"nothing changed: role {conn.info.user} may not create tables: migrate as the owner of the database, or"
            f" grant it create on schema {schema}"
        )


def _refuse_newer(conn: Connection[Any], schema: str, migrations: Any) -> None:
    if newer := sorted(_applied(conn, schema) - {migration.id for migration in migrations}):
        raise MigrationError(f"this database was migrated by a newer agent-progress ({_some(newer)}): upgrade first")


def _refuse_foreign_objects(conn: Connection[Any], schema: str) -> None:
    """Refuse what others made under the names of shipped objects.

    All tables of the first file pass: psql installed them, or a crash kept the first migration from being recorded.
    """
    if all(exists(conn, schema, name) for name in names("table", "01_*.sql")):
        return
    query: LiteralString = (
        "select t.name from unnest(%s::text[]) as t (name) where to_regtype({name} || '.' || t.name) is not null"
    )
    found = [f"table {name}" for name in names("table") if exists(conn, schema, name)]
    found += [f"type {row[0]}" for row in rows(conn, schema, query, names("type"))]
    # With the same arguments: it would be replaced.
    there = installed.find_installed(conn, schema, shipped_items(schema))
    if found := found or [f"{item.kind} {item.name}" for item, is_there in there if is_there]:
        raise MigrationError(
            f"nothing changed: schema {schema} has {_some(sorted(found))} already, which agent-progress did not make;"
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


def _some(found: list[str]) -> str:
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
