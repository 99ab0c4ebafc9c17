"""Live changes: one feed per process reads the database, whatever the number of clients.

A client gets its snapshot from the same reading that the changes after it come from, so that nothing is missed in
between and its coming costs no query of its own. For each client only the latest state of each workflow is kept: a slow
one skips states, and neither blocks others nor grows. All of it lives in the event loop.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import cache

import psycopg

from pyapp import StandbyBehind, aio
from pyapp.db import interrupted
from pyapp.watch import listen
from pyapp.web.database import AWAY, Database, reason
from pyapp.web.reads import active_ids, read_workflows
from pyapp.web.shape import Shape
from pyapp.web.subscriber import About, Subscriber
from pyapp.web.trees import members
from pyapp.web.wire import Conn, as_array, event

_GATHER = 0.1  # seconds to gather news and newcomers in, so that they do not set the pace
_REST = 10  # times as long as looking for active workflows took, before it is done again
_RETRY = 1.0  # seconds between attempts to connect
RESYNC = 10.0
"""Seconds after which all is looked at again, although no notification came."""

log = logging.getLogger("agent_progress.stream")


class Feed:
    """Reads the followed workflows at each tick and hands changes to the subscribers."""

    def __init__(self, database: Database, interval: float, count_query: Callable[[], None]) -> None:
        """Prepare a feed that reads every ``interval`` seconds; ``count_query`` is called for each query."""
        self._database, self._interval, self._count_query = database, interval, count_query
        self._subscribers: set[Subscriber] = set()
        self._wake = asyncio.Event()
        self._stopped = self._away = False
        self._seen: dict[str, bytes] = {}
        self._active: set[str] = set()
        self._trees: dict[str, set[str]] = {}
        self._look_again = self._looked = 0.0
        self._listens = False  # whether it is told of changes: not where the primary is away or does not notify
        self._told: str | None = None
        """Where the primary's log was at the last news: nothing older may be read as what they tell of."""

    @property
    def clients(self) -> int:
        """The number of clients that follow."""
        return len(self._subscribers)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read while the block lasts, then end all streams."""
        reading = asyncio.create_task(self._run())
        yield
        self.close_streams()
        reading.cancel()
        await asyncio.wait([reading], timeout=0.5)

    def close_streams(self) -> None:
        """End all streams, and those that come from now on."""
        self._stopped = True
        for subscriber in self._subscribers:
            subscriber.close()

    def subscribe(self, ids: Iterable[str], active: bool, trees: Iterable[str] = ()) -> Subscriber:
        """Begin to follow workflows, the active ones where these are wanted, and ``trees`` by what is at their top."""
        subscriber = Subscriber(ids, active, trees, self._is_fresh)
        if self._stopped:
            subscriber.close()
        self._subscribers.add(subscriber)
        self._wake.set()
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop following."""
        self._subscribers.discard(subscriber)
        subscriber.close()

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._looked < max(RESYNC, self._interval) + 2

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._subscribers:
                continue
            try:
                async with await self._database.connect() as conn:
                    await self._follow(conn)
                continue
            except AWAY as error:
                self._lost(error)
            except Exception as error:
                # An internal fault must not end the streams for good.
                log.exception("stream: %s", type(error).__name__)
            await asyncio.sleep(_RETRY)
            self._wake.set()

    def _lost(self, error: Exception) -> None:
        """Tell the clients that what they see may be old; what changes meanwhile is seen when the database is back."""
        if isinstance(error, psycopg.ProgrammingError):
            self._database.forget()
        if not self._away:
            log.warning("stream: the database is away: %s", reason(error))
        for subscriber in self._subscribers:
            subscriber.wants_snapshot = True
            if not self._away:
                subscriber.offer([(None, event("away", {}))])
            subscriber.fail(error)
        self._away = True

    async def _follow(self, conn: Conn) -> None:
        """Read while there are clients, and listen meanwhile."""
        self._seen, self._active, self._trees, self._look_again = {}, set(), {}, 0.0
        self._listens, self._told = False, None
        shape = await self._database.shape(conn)
        listening = asyncio.create_task(self._listen())
        try:
            await self._read(conn, shape)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def _read(self, conn: Conn, shape: Shape) -> None:
        """Read at each tick, or where notifications are on, when there is news."""
        on_standby = True  # until it denies that: a primary never becomes one while we are connected
        while self._subscribers:
            looked = time.monotonic()
            self._wake.clear()
            standby, current = None, True
            try:
                if on_standby:
                    self._count_query()
                    standby = await self._database.meter.measure(conn)
                    on_standby = standby is not None
                    # Asked before the tick, which sees what is replayed by then.
                    current = standby is None or await self._replayed(conn)
                await self._tick(conn, shape)
                self._looked = time.monotonic()
                for subscriber in self._subscribers:
                    if not subscriber.wants_snapshot:
                        subscriber.offer_standby(standby)
            except psycopg.Error as error:
                if conn.closed or not interrupted(error):  # in favour of what a standby replays
                    raise
                current = False
            if self._away:
                log.warning("stream: the database is back")
                self._away = False
            gather = min(self._interval, _GATHER)
            await asyncio.sleep(gather)
            if current:
                rest = looked + RESYNC - time.monotonic() if self._listens else self._interval - gather
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), max(0.0, rest))

    async def _replayed(self, conn: Conn) -> bool:
        """Tell whether a standby shows what the last notification told of, if there was one."""
        if self._told is None:
            return True
        self._count_query()
        with suppress(StandbyBehind):
            await aio.wait_for_position(conn, self._told, timeout=0)
            return True
        return False

    async def _listen(self) -> None:
        """Hear of changes until cancelled: on the primary, since a standby cannot listen."""
        while True:
            with suppress(psycopg.Error):  # it looks by itself meanwhile
                async with await self._database.connect(to_primary=True) as conn:
                    await self._hear(conn)
            if self._listens:
                self._listens = False
                self._wake.set()
            await asyncio.sleep(_RETRY)

    async def _hear(self, conn: Conn) -> None:
        while True:
            self._count_query()
            listens = await listen(conn, self._database.schema)
            if listens != self._listens:
                self._listens = listens
                self._wake.set()  # what changed before is not told
            look_again = time.monotonic() + RESYNC
            while (left := look_again - time.monotonic()) > 0:
                notices = [notice async for notice in conn.notifies(timeout=left, stop_after=1)]
                if not notices:
                    continue
                self._count_query()
                self._told = await aio.wal_position(conn)
                self._wake.set()
                if any(notice.payload in ("on", "off") for notice in notices):
                    break
                await asyncio.sleep(_GATHER)

    async def _tick(self, conn: Conn, shape: Shape) -> None:
        subscribers = list(self._subscribers)  # who comes while we read has its turn at the next tick
        for_active = [subscriber for subscriber in subscribers if subscriber.active]
        now_active = self._active if for_active else set()
        began = time.monotonic()
        if for_active and (began >= self._look_again or any(subscriber.wants_snapshot for subscriber in for_active)):
            self._count_query()
            now_active = await active_ids(conn, shape)
            # Adopted tables may lack the index that makes this quick: then it is rarer.
            self._look_again = time.monotonic() + _REST * (time.monotonic() - began)
        now_below: dict[str, set[str]] = {top: set() for one in subscribers for top in one.trees}
        if now_below:
            self._count_query()
            now_below |= await members(conn, shape, now_below)
        # What has just ended, or was in a tree a moment ago, stays for this tick: that is worth telling.
        active = now_active | self._active
        trees = {top: keys | self._trees.get(top, set()) for top, keys in now_below.items()}
        chosen = active.union(*(subscriber.ids for subscriber in subscribers))
        wanted = chosen.union(*trees.values())
        self._count_query()
        rows = await read_workflows(conn, shape, wanted, chosen, sent=True)
        news: list[tuple[About, bytes]] = [
            (key, event("workflow", row)) for key, row in rows.items() if self._seen.get(key) != row
        ]
        gone = [key for key in self._seen if key in wanted and key not in rows]
        news += [(key, event("deleted", {"workflow_id": key})) for key in gone]
        self._seen, self._active, self._trees = rows, now_active, now_below

        @cache
        def snapshot(followed: frozenset[str]) -> tuple[bytes, int]:
            found = [row for key, row in rows.items() if key in followed]
            return event("snapshot", as_array(found)), len(found)

        def followed_by(subscriber: Subscriber, active: set[str]) -> frozenset[str]:
            below = (trees[top] for top in subscriber.trees if top in trees)
            return subscriber.ids.union(*below, active if subscriber.active else ())

        for subscriber in subscribers:
            if subscriber.wants_snapshot:
                subscriber.offer_snapshot(*snapshot(followed_by(subscriber, now_active)))
            else:
                followed = followed_by(subscriber, active)
                subscriber.offer(one for one in news if one[0] in followed)
