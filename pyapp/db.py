"""Where the database is, and how to connect to it."""

import os
from typing import Any

import psycopg
from psycopg.rows import TupleRow

_LIBPQ_TARGET = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")


def find_dsn(dsn: str | None = None) -> str | None:
    """Find the connection string to use.

    Returns the argument, else ``DATABASE_URL``, else an empty string where libpq's own environment variables say which
    server is meant, else None: nobody said which.
    """
    if dsn:
        return dsn
    if url := os.environ.get("DATABASE_URL"):
        return url
    return "" if any(os.environ.get(name) for name in _LIBPQ_TARGET) else None


def connect(dsn: str | None = None, **options: Any) -> psycopg.Connection[TupleRow]:
    """Connect to the database.

    The server is the one that ``dsn`` names, else ``DATABASE_URL``, else libpq's environment and defaults. ``options``
    go to ``psycopg.connect``. Returns an open connection; the caller commits and closes it. Raises
    ``psycopg.OperationalError`` if the server cannot be reached.
    """
    options.setdefault("application_name", "agent-progress")
    return psycopg.connect(find_dsn(dsn) or "", **options)
