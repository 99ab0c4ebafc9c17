"""Live changes: one source per process reads the database, whatever the number of clients.

A client subscribes first and is sent a snapshot after that, so that nothing is missed in between. For each client only
the latest state of each workflow is kept: a slow one skips states, and neither blocks others nor grows.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any
from uuid import UUID

import psycopg
from fastapi.sse import format_sse_event

from pyapp.web.queries import active_ids, read_workflows
from pyapp.web.types import Row
from pyapp.web.wire import encode

CHANNEL = "agent_progress"
HEARTBEAT = 15.0
_GATHER = 0.1  # seconds to gather notifications in, so that a busy database does not set the pace
_RESYNC = 10.0  # seconds after which all is read again although no notification came

log = logging.getLogger("agent_progress.stream")


def frame(event: str, value: Any) -> bytes:
    """Encode an event for the wire."""
    return format_sse_event(event=event, data_str=encode(value).decode())


class Subscriber:
    """A client's view of the source: which workflows it follows, and what it has not been sent yet."""

    def __init__(self, ids: frozenset[UUID] | None) -> None:
        """Follow the workflows given, or the active ones for None."""
        self.ids = ids
        self._pending: dict[UUID, bytes] = {}
        self._ready = asyncio.Event()
        self._closed = False

    def offer(self, changes: Iterable[tuple[UUID, bytes]], active: set[UUID]) -> None:
        """Take what concerns this client; called in the event loop."""
        wanted = active if self.ids is None else self.ids
        for workflow_id, news in changes:
            if workflow_id in wanted:
                self._pending.pop(workflow_id, None)
                self._pending[workflow_id] = news
        if self._pending:
            self._ready.set()

    def close(self) -> None:
        """End the stream; called in the event loop."""
        self._closed = True
        self._ready.set()

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield what there is to send, a comment from time to time where there is nothing, until closed."""
        while not self._closed:
            try:
                await asyncio.wait_for(self._ready.wait(), HEARTBEAT)
            except TimeoutError:
                yield b": alive\n\n"
                continue
            self._ready.clear()
            news, self._pending = self._pending, {}
            if news:
                yield b"".join(news.values())


class Source:
    """Reads the followed workflows at each tick and hands changes to the subscribers."""

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], interval: float) -> None:
        """Prepare a source that reads every ``interval`` seconds on a connection of its own."""
        self._connect = connect
        self._interval = interval
        self._subscribers: set[Subscriber] = set()
        self._wake = threading.Condition()
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._seen: dict[UUID, Row] = {}
        self._active: set[UUID] = set()
        self.queries = 0

    @property
    def clients(self) -> int:
        """The number of clients that follow."""
        return len(self._subscribers)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start reading; subscribers live in this event loop."""
        self._loop = loop
        self._thread.start()

    def close_streams(self) -> None:
        """End all streams; to be called in the event loop or from a signal handler of its thread."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        for subscriber in list(self._subscribers):
            subscriber.close()

    def stop(self) -> None:
        """End all streams and stop reading."""
        self.close_streams()
        if self._thread.ident is not None:
            self._thread.join(5)

    def subscribe(self, ids: Iterable[UUID] | None) -> Subscriber:
        """Begin to follow workflows, or the active ones for None."""
        subscriber = Subscriber(None if ids is None else frozenset(ids))
        if self._stopped:
            subscriber.close()
        with self._wake:
            self._subscribers.add(subscriber)
            self._wake.notify()
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Stop following."""
        self._subscribers.discard(subscriber)

    def _run(self) -> None:
        conn: psycopg.Connection[Any] | None = None
        while not self._stopped:
            with self._wake:
                self._wake.wait_for(lambda: self._subscribers or self._stopped)
            try:
                conn = conn or self._connect()
                self._follow(conn)
            except psycopg.Error as error:
                # The database is away: what changes meanwhile is seen when it is back.
                log.warning("stream: %s", type(error).__name__)
                if conn is not None:
                    conn.close()
                conn = None
                self._pause(1.0)
        if conn is not None:
            conn.close()

    def _follow(self, conn: psycopg.Connection[Any]) -> None:
        """Read while there are clients: at each tick, or where notifications are on, when there is news."""
        listens = self._listen(conn)
        while self._subscribers and not self._stopped:
            known = set(self._subscribers)
            self._tick(conn)
            if not listens:
                self._pause(self._interval)
                continue
            self._pause(min(self._interval, _GATHER))
            give_up = time.monotonic() + _RESYNC
            while not self._stopped and self._subscribers == known and time.monotonic() < give_up:
                if any(True for _ in conn.notifies(timeout=self._interval, stop_after=1)):
                    break

    def _pause(self, seconds: float) -> None:
        with self._wake:
            self._wake.wait_for(lambda: self._stopped, seconds)

    def _listen(self, conn: psycopg.Connection[Any]) -> bool:
        row = conn.execute(
            "select not pg_is_in_recovery() and exists (select from pg_catalog.pg_trigger"
            " where tgname = 'workflow_notify' and tgrelid = to_regclass('public.workflow')"
            " and tgenabled in ('O', 'A'))"
        ).fetchone()
        if not row or not row[0]:
            return False
        conn.execute(f"listen {CHANNEL}")
        return True

    def _tick(self, conn: psycopg.Connection[Any]) -> None:
        subscribers = list(self._subscribers)
        wanted = {one for subscriber in subscribers for one in subscriber.ids or ()}
        if any(subscriber.ids is None for subscriber in subscribers):
            # Those that have just ended stay for this tick: their end is worth telling.
            before, self._active = self._active, set(active_ids(conn))
            self.queries += 1
            followed = self._active | before
        else:
            self._active = followed = set()
        rows = read_workflows(conn, list(wanted | followed)) if wanted or followed else []
        self.queries += 1
        seen = {row["workflow_id"]: row for row in rows}
        changes = [
            (workflow_id, frame("workflow", row))
            for workflow_id, row in seen.items()
            if self._seen.get(workflow_id) != row
        ]
        changes += [
            (workflow_id, frame("deleted", {"workflow_id": workflow_id}))
            for workflow_id in self._seen
            if workflow_id in wanted | followed and workflow_id not in seen
        ]
        self._seen = seen
        if changes and self._loop is not None:
            self._loop.call_soon_threadsafe(_offer, subscribers, changes, followed)


def _offer(subscribers: list[Subscriber], changes: list[tuple[UUID, bytes]], active: set[UUID]) -> None:
    for subscriber in subscribers:
        subscriber.offer(changes, active)
