"""What a client of a live stream follows, and what it has not been sent yet."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime

from psycopg_pool import PoolTimeout

from pyapp.web.answers import Standby
from pyapp.web.wire import event

HEARTBEAT = 5.0  # seconds; a page that hears nothing for 12 takes its numbers for old
# What a frame is about: a workflow, all that is followed, or the standby that is read.
About = str | tuple[str] | None
_STANDBY = ("standby",)


class Subscriber:
    """A client's view of the feed: which workflows it follows, and what it has not been sent yet."""

    def __init__(self, ids: Iterable[str], active: bool, trees: Iterable[str], is_fresh: Callable[[], bool]) -> None:
        """Follow the workflows given, the active ones, and ``trees`` by the workflow at their top.

        ``is_fresh`` tells whether the feed has looked lately.
        """
        self.active, self.trees = active, frozenset(trees)
        self.ids = self.trees.union(ids)
        self._is_fresh = is_fresh
        self.wants_snapshot = True
        self.found: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The number of workflows in the first snapshot, or why there is none."""
        self._standby: tuple[int | None, bool] | None = None
        self._pending: dict[About, bytes] = {}
        self._ready = asyncio.Event()
        self._closed = False

    def offer(self, news: Iterable[tuple[About, bytes]]) -> None:
        """Take news; the last of what it is about counts."""
        for about, frame in news:
            self._pending.pop(about, None)
            self._pending[about] = frame
        if self._pending:
            self._ready.set()

    def offer_snapshot(self, frame: bytes, workflows: int) -> None:
        """Take the state of all that is followed, which makes obsolete what was not sent yet."""
        self.wants_snapshot = False
        self._pending = {about: old for about, old in self._pending.items() if about == _STANDBY}
        self.offer([(None, frame)])
        if not self.found.done():
            self.found.set_result(workflows)

    def offer_standby(self, standby: Standby | None) -> None:
        """Take what is known of the standby that is read, None for a primary."""
        mark = None if standby is None else standby.mark
        if mark != self._standby:
            self._standby = mark
            self.offer([(_STANDBY, event("standby", standby))])

    def fail(self, error: Exception) -> None:
        """Say why there is no first snapshot, if there was none yet."""
        if not self.found.done():
            self.found.set_exception(error)
            self.found.exception()  # nobody may be left to ask

    def close(self) -> None:
        """End the stream."""
        self._closed = True
        self._ready.set()
        self.fail(PoolTimeout("the service ends"))

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield what there is to send until closed; where there is nothing, say so from time to time.

        A ping is the word that nothing has changed: where the database was not looked at, a comment keeps the
        connection and says nothing.
        """
        yield b"retry: 2000\n\n"
        while not self._closed:
            try:
                await asyncio.wait_for(self._ready.wait(), HEARTBEAT)
            except TimeoutError:
                yield event("ping", {"at": datetime.now(UTC)}) if self._is_fresh() else b": waiting\n\n"
                continue
            self._ready.clear()
            news, self._pending = self._pending, {}
            if news:
                yield b"".join(news.values())
