"""Databases for tests, as cheap as they come: templates that pytest-postgresql creates, copied file by file for each
test, and dropped when nobody waits for it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pytest_postgresql.janitor import DatabaseJanitor

from .helpers import wait_for


class Databases:
    """What one worker of a run makes on a server."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._admin = psycopg.connect(self._dsn("postgres"), autocommit=True)
        self._prefix = f"ap_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_"
        self._made = 0
        self._kept: list[str] = []
        self._filled: dict[Callable[[str], object], str] = {}
        # Those of a run that was killed, on a server that outlived it.
        rows = self._admin.execute("select datname from pg_database where starts_with(datname, %s)", [self._prefix])
        self._left = [name for (name,) in rows]

    def close(self) -> None:
        """Drop all that was made."""
        self._drop(self._left + self._kept)
        self._admin.close()

    def empty(self) -> str:
        """Create an empty database, which is there to the end of the run, and return its DSN."""
        name = self._create("template0")
        self._kept.append(name)
        return self._dsn(name)

    @contextmanager
    def copy(self, original: str | Callable[[str], object]) -> Iterator[str]:
        """Copy a database by its name, or one that a function filled, which is called once with its DSN.

        Yields the DSN of the copy, which is of no use after the block.
        """
        if not isinstance(original, str) and original not in self._filled:
            self._filled[original] = self._template(original)
        name = self._create(original if isinstance(original, str) else self._filled[original])
        try:
            yield self._dsn(name)
        finally:
            self._left.append(name)

    def _template(self, fill: Callable[[str], object]) -> str:
        name = f"{self._prefix}template_{len(self._filled)}"
        given = conninfo_to_dict(self._server)
        where = {key: given.get(key) or "" for key in ("host", "port", "user", "password")}
        janitor = DatabaseJanitor(dbname=name, **where)
        janitor.drop()  # that of a run that was killed
        janitor.init()
        self._kept.append(name)
        fill(self._dsn(name))
        return name

    def _dsn(self, name: str) -> str:
        return make_conninfo(self._server, dbname=name)

    def _create(self, template: str) -> str:
        # Not at once: sessions take a moment to end, and DROP DATABASE looks for them but every 100 ms.
        self._drop(self._left[:-1])
        del self._left[:-1]
        self._made += 1
        name = f"{self._prefix}{self._made}"
        # By default it would go page by page through the write-ahead log, for more than twice the price.
        self._execute("create database {} template {} strategy file_copy", name, template)
        return name

    def _drop(self, names: list[str]) -> None:
        for name in names:
            self._execute("drop database if exists {} with (force)", name)

    def _execute(self, statement: str, *names: str) -> None:
        def done() -> bool:
            try:
                self._admin.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
            except psycopg.errors.ObjectInUse:  # sessions end in their own time, for which PostgreSQL waits 5 s
                return False
            return True

        wait_for(done)
