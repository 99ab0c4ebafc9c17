"""An agent's way to the database: a connection that is made anew when it is lost, and writes that are done once."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.rows import tuple_row

from pyapp.db import connect
from pyapp.retry import retry

T = TypeVar("T")
PATIENCE = 60.0
"""How long to go on trying to connect, in seconds."""
_PAUSE = 0.2  # seconds between attempts to connect
_MOST_LOSSES = 100  # of the connection in one transaction: what the server ends each time will not succeed


class Agent:
    """Reads and writes on a connection of its own, and goes on when the server ended it, restarted or failed over."""

    def __init__(
        self,
        dsn: str | None,
        *,
        patience: float | None = None,
        gives_up: Callable[[], bool] = lambda: False,
        on_loss: Callable[[psycopg.Error | None], None] = lambda _: None,
    ) -> None:
        """Connect as ``connect`` does. ``patience`` is in seconds, PATIENCE by default.

        ``gives_up`` is asked before each further attempt to connect.
        ``on_loss`` is told why the database is away, and None when it is back.
        Raises ``psycopg.OperationalError`` where the database cannot be reached at first.
        """
        self._dsn = dsn
        self._patience = PATIENCE if patience is None else patience
        self._gives_up = gives_up
        self._on_loss = on_loss
        self._conn = connect(dsn, autocommit=True)

    def __enter__(self) -> "Agent":
        """Return the agent itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    @property
    def lost(self) -> bool:
        """Whether the connection is lost: after an error of ``persist``, that the patience was at its end."""
        return self._conn.closed

    def close(self) -> None:
        """Close the connection."""
        self._conn.close()

    def persist(self, act: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Do something that is one transaction, again where the server broke it off or the connection was lost.

        Whether a transaction was committed whose connection was lost nobody knows, so ``act`` must be able to find out,
        or be such that doing it twice is doing it once. Raises the last error when the patience is at its end.
        """
        give_up: float | None = None
        losses = 0
        while True:
            was_open = False
            try:
                if self._conn.closed:
                    self._conn = connect(self._dsn, autocommit=True)
                    if give_up is not None:
                        self._on_loss(None)
                        give_up = None
                was_open = True
                return retry(lambda: act(self._conn), tries=100)
            except psycopg.Error as error:
                if not self._conn.closed:
                    raise  # wrong data, a lock timeout, a full disk: not the connection
                if was_open:
                    losses += 1
                    if losses > _MOST_LOSSES:
                        raise
                elif give_up is None:
                    give_up = time.monotonic() + self._patience
                    self._on_loss(error)
                elif time.monotonic() > give_up:
                    raise
                if self._gives_up():
                    raise
                if losses != 1 or not was_open:  # one session that was ended is no outage
                    time.sleep(_PAUSE)


class Once:
    """A transaction that is committed once: it asks the server for the fate of an attempt whose answer was lost.

    A server that crashed and recovered, or another that took its place, cannot tell: it may have given the number of
    the attempt to another transaction since. There the transaction is done again.
    """

    # The statistics of a server begin anew when it recovers from a crash, and only then, unless somebody resets them.
    _BEGIN = "select pg_current_xact_id()::text, stats_reset from pg_stat_bgwriter"
    _FATE = """
        select case when stats_reset is not distinct from %s::timestamptz then pg_xact_status(%s::xid8) end
        from pg_stat_bgwriter
    """

    def __init__(self, act: Callable[[psycopg.Connection[Any]], T]) -> None:
        """Prepare; ``act`` is done in a transaction that is begun and committed here."""
        self._act = act
        self._attempt: tuple[str, Any] | None = None
        self._result: Any = None

    def __call__(self, conn: psycopg.Connection[Any]) -> Any:
        """Do it, unless an earlier attempt was committed; return what ``act`` returned."""
        if self._attempt is not None and self._committed(conn, *self._attempt):
            return self._result
        with conn.transaction():
            # Asked while nothing is locked yet: the commit follows at once.
            attempt = conn.cursor(row_factory=tuple_row).execute(self._BEGIN).fetchone()
            self._result = self._act(conn)
            self._attempt = attempt  # from here on it may be committed
        return self._result

    def _committed(self, conn: psycopg.Connection[Any], number: str, server: Any) -> bool:
        """Wait until the attempt has ended: its session may outlive our connection for a while."""
        while True:
            row = conn.cursor(row_factory=tuple_row).execute(self._FATE, [server, number]).fetchone()
            if row != ("in progress",):
                return row == ("committed",)
            time.sleep(_PAUSE)
