"""Where the database is, and how to connect to it."""

import os
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

_LIBPQ_TARGET = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE")
# A server that takes connections and says nothing, and a network that swallows packets, are noticed. In seconds, the
# last in milliseconds; what the DSN says of these goes first.
_NETWORK = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}


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


def find_read_dsn(read_dsn: str | None = None, dsn: str | None = None) -> str | None:
    """Find the connection string of a server to read from, beside the one that find_dsn finds.

    Returns the argument, else ``AGENT_PROGRESS_READ_DSN``, which stands beside ``DATABASE_URL`` and means nothing where
    a ``dsn`` was given; else None: one server for all.
    """
    return read_dsn or (os.environ.get("AGENT_PROGRESS_READ_DSN") if not dsn else None) or None


def connect(dsn: str | None = None, **options: Any) -> psycopg.Connection[TupleRow]:
    """Connect to the database.

    The server is the one that ``dsn`` names, else ``DATABASE_URL``, else libpq's environment and defaults. ``options``
    go to ``psycopg.connect``. Returns an open connection; the caller commits and closes it. Raises
    ``psycopg.OperationalError`` if the server cannot be reached, also where it does not answer within 10 seconds
    (``connect_timeout`` in the DSN, or ``PGCONNECT_TIMEOUT``, says otherwise).
    """
    conn = psycopg.connect(**(connection_parameters(dsn) | options))
    # psycopg cannot read times in another style, which a role or a database may have as its default.
    if not (conn.info.parameter_status("DateStyle") or "ISO").startswith("ISO"):
        conn.execute("set datestyle = 'ISO'")
        if not conn.autocommit:
            conn.commit()
    return conn


def connection_parameters(dsn: str | None = None) -> dict[str, Any]:
    """Say how to connect: what the DSN says, and where it says nothing, what suits us.

    Raises ``psycopg.ProgrammingError`` where the DSN cannot be read.
    """
    given = conninfo_to_dict(find_dsn(dsn) or "")
    network: dict[str, Any] = dict(_NETWORK)
    if os.environ.get("PGCONNECT_TIMEOUT"):
        del network["connect_timeout"]
    # Text is Unicode in Python, whatever the environment, the role or the database prefers.
    return {**network, "application_name": "agent-progress", **given, "client_encoding": "utf8"}
