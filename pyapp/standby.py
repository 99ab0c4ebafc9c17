"""Reading from a standby what was just written to its primary."""

import time

from pyapp.both import Conn, Statement, fetch, maybe_await, pause
from pyapp.db import in_transaction
from pyapp.errors import StandbyBehind

# A commit that did not wait for the disk may be after the position written so far, but not after the one inserted. At
# the beginning of a page PostgreSQL gives the insert position behind the header of the page (24 or 40 bytes), which
# replay does not reach before a record follows: then the beginning of the page is meant.
POSITION = """
    select
        pg_current_xact_id_if_assigned() is null,
        case
            when pg_is_in_recovery() then pg_last_wal_replay_lsn()
            when current_setting('synchronous_commit') <> 'off' then pg_current_wal_lsn()
            else inserted - case when in_page <= 40 then in_page else 0 end
        end::text
    from (select case when not pg_is_in_recovery() then pg_current_wal_insert_lsn() end as inserted) as i,
        lateral (select mod(inserted - '0/0', current_setting('wal_block_size')::numeric) as in_page) as p
"""
"""Whether the transaction has written nothing yet, and the position in the log up to which all commits are."""
REPLAYED = "select not pg_is_in_recovery() or pg_last_wal_replay_lsn() >= %s::pg_lsn"
"""Whether a server shows all that was committed up to a position."""
_SEES_ONE_MOMENT = "select current_setting('transaction_isolation') in ('repeatable read', 'serializable')"
_SHORTEST, _LONGEST = 0.001, 0.05  # seconds between two looks


async def wal_position(conn: Conn) -> str:
    """Return the position in the server's log (WAL) that follows all commits until now.

    Call it after the commit. Returns text such as ``0/16B3748``, for wait_for_position and for the ``after_position``
    of the HTTP API. On a standby it is the position that was replayed: wait for it on another standby, so that this
    does not show an earlier state. Raises ValueError where the transaction of the connection has written and is not
    committed yet.
    """
    [(committed, position)] = await fetch(conn, Statement(POSITION))
    if not committed:
        raise ValueError("the transaction is still open: commit it, then ask for the position")
    return str(position)


async def wait_for_position(conn: Conn, position: str, timeout: float = 5.0) -> None:
    """Wait until a standby shows all that was committed when wal_position returned this position.

    The next statement on the connection sees it. Returns at once on a primary, and so on a standby that was promoted,
    even where the old primary lost the commit. ``timeout`` is in seconds. Raises StandbyBehind when it is over, and
    ValueError in a REPEATABLE READ or SERIALIZABLE transaction, which keeps its snapshot.
    """
    was_open = in_transaction(conn)
    if was_open and await fetch(conn, Statement(_SEES_ONE_MOMENT)) == [(True,)]:
        raise ValueError("this transaction will not see it: wait before it begins")
    give_up = time.monotonic() + timeout
    seconds = _SHORTEST
    while True:
        replayed = await fetch(conn, Statement(REPLAYED, [position]))
        if not was_open:
            await maybe_await(
                conn.rollback()
            )  # what the question began, so that the next transaction has a new snapshot
        if replayed == [(True,)]:
            return
        left = give_up - time.monotonic()
        if left <= 0:
            raise StandbyBehind(position)
        await pause(type(conn), min(seconds, left))
        seconds = min(2 * seconds, _LONGEST)
