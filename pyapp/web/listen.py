"""Hearing of changes, where notifications are on: on the primary, since a standby cannot listen."""

import asyncio
import time
from collections.abc import Callable

import psycopg

from pyapp import aio
from pyapp.watch import listen
from pyapp.web.database import Database
from pyapp.web.wire import Conn

RESYNC = 10.0
"""Seconds after which all is looked at again, although no notification came."""
_GATHER = 0.1  # seconds to gather notifications in
_RETRY = 1.0  # seconds between attempts to connect


class Listener:
    """Wakes whoever waits for news; where the primary is away or does not notify, it says that it does not listen."""

    def __init__(self, database: Database, wake: Callable[[], None], count_query: Callable[[], None]) -> None:
        """Prepare to listen on a connection of its own."""
        self._database = database
        self._wake = wake
        self._count_query = count_query
        self.listens = False
        self.position: str | None = None
        """Where the log of the primary was at the last news: nothing older may be read as what they tell of."""

    async def run(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                async with await self._database.connect(to_primary=True) as conn:
                    await self._hear(conn)
            except psycopg.Error:
                pass  # its readers look for themselves meanwhile
            if self.listens:
                self.listens = False
                self._wake()
            await asyncio.sleep(_RETRY)

    async def _hear(self, conn: Conn) -> None:
        while True:
            self._count_query()
            listens = await listen(conn, self._database.schema)
            if listens != self.listens:
                self.listens = listens
                self._wake()  # what changed before is not told
            look_again = time.monotonic() + RESYNC
            while (left := look_again - time.monotonic()) > 0:
                notices = [notice async for notice in conn.notifies(timeout=left, stop_after=1)]
                if not notices:
                    continue
                self._count_query()
                self.position = await aio.wal_position(conn)
                self._wake()
                if any(notice.payload in ("on", "off") for notice in notices):
                    break
                await asyncio.sleep(_GATHER)
