"""Reading from a standby what one has just written to its primary: queries, as in ``pyapp.queries``."""

import time

from pyapp.drive import Ask, Pause, Query, Statement
from pyapp.errors import StandbyBehind

# A commit that did not wait for the disk may lie beyond what is written so far, but not beyond what is inserted. Where
# the next record would begin a page, that is told behind the page's header, where nobody gets before there is one.
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
"""Whether nothing of this transaction is left to commit, and the position in the log at which all is that was."""
REPLAYED = "select not pg_is_in_recovery() or pg_last_wal_replay_lsn() >= %s::pg_lsn"
"""Whether a server shows all that was committed at a position."""
_SEES_ONE_MOMENT = "select current_setting('transaction_isolation') in ('repeatable read', 'serializable')"
_SHORTEST, _LONGEST = 0.001, 0.05  # seconds between two looks


def wal_position() -> Query[str]:
    """Tell the position in the server's log at which all is that was committed by now.

    To be called after the commit. Returns text such as ``0/16B3748``, for wait_for_position and for the
    ``after_position`` of the HTTP API. On a standby it is what that has replayed, so that another one can be read next
    without going back in time. Raises ValueError where the transaction of the connection has written and is not
    committed yet.
    """
    [(committed, position)] = yield Statement(POSITION)
    if not committed:
        raise ValueError("the transaction is still open: commit it, then ask for the position")
    return str(position)


def wait_for_position(position: str, timeout: float = 5.0) -> Query[None]:
    """Wait until a standby shows all that was committed when wal_position told this position.

    The next statement on the connection sees it. Returns at once on a primary, and so on a standby that was promoted:
    what was lost with the old primary is lost. ``timeout`` is in seconds. Raises StandbyBehind when it is over, and
    ValueError within a transaction whose statements all see what its first one saw.
    """
    is_open = yield Ask.IN_TRANSACTION
    if is_open and (yield Statement(_SEES_ONE_MOMENT)) == [(True,)]:
        raise ValueError("this transaction will not see it: wait before it begins")
    give_up = time.monotonic() + timeout
    pause = _SHORTEST
    while True:
        replayed = yield Statement(REPLAYED, [position])
        if not is_open:
            yield Ask.ROLLBACK  # of the transaction that asking began: the next one sees what is replayed
        if replayed == [(True,)]:
            return
        left = give_up - time.monotonic()
        if left <= 0:
            raise StandbyBehind(position)
        yield Pause(min(pause, left))
        pause = min(2 * pause, _LONGEST)
