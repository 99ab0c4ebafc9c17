"""How far behind a standby is that the service reads."""

import time
from collections.abc import Callable
from typing import Any, LiteralString

from pyapp.web.answers import Standby
from pyapp.web.wire import Conn

_REPLAY: LiteralString = """
    select
        pg_is_in_recovery(),
        exists (select from pg_stat_wal_receiver),
        (pg_last_wal_receive_lsn() - '0/0')::bigint,
        (pg_last_wal_replay_lsn() - '0/0')::bigint,
        extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8
"""


class LagMeter:
    """Tells the lag of a standby from what it says again and again.

    The time of the last transaction replayed is not enough: it is old where the primary is idle, or at work on a long
    transaction. So the meter keeps in mind what had been received when, until that is replayed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without knowing anything."""
        self._clock = clock
        self._shown: float | None = None
        self._mark: tuple[float, int] | None = None

    async def measure(self, conn: Conn) -> Standby | None:
        """Ask a server; None where it is no standby."""
        return self.take(await (await conn.execute(_REPLAY)).fetchone())

    def take(self, row: Any) -> Standby | None:
        """Take what a server says; None where it is no standby."""
        in_recovery, following, received, replayed, since_transaction = row
        if not in_recovery:
            return None
        now = self._clock()
        if following and received is not None:
            if replayed >= received:
                self._shown, self._mark = now, None
            elif self._mark is None:
                self._mark = now, received
            elif replayed >= self._mark[1]:
                self._shown, self._mark = self._mark[0], (now, received)
        times = (self._shown, None if since_transaction is None else now - max(0.0, since_transaction))
        return Standby(min((now - at for at in times if at is not None), default=None), following)
