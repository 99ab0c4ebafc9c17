"""Partitioning agent_task by workflow_id, by a hash, while everybody goes on writing.

A partitioned copy is filled beside the table. A trigger notes the id of each task that is written meanwhile; nobody
but us writes the copy, so writers wait for nothing, and whatever isolation they have, they change nothing unnoted. What
was noted is brought up to date in one snapshot each time: the rows of the copy are removed, and those of the table
put in, so that the copy is what the table was then. When little is left, the two change places under a short lock.
Each step can be done again: a run that was broken off is taken up where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

from pyapp import partitions as triggers
from pyapp.locks import HELD, LOCK_TIMEOUT, PATIENCE, patiently
from pyapp.migrate import pending
from pyapp.scale.table import (
    NEW,
    OLD,
    Shape,
    carried_triggers,
    finish,
    refusal,
    rights,
    shape,
    take_rights,
    views,
)
from pyapp.schema import missing_objects

OnStep = Callable[[str], None]
OnBatch = Callable[[int], None]

_LOG, _STATE = "public.agent_task_change", "public.agent_task_partitioning"
_ADVISORY_LOCK = int.from_bytes(b"agent-pt", "big")
_BATCH_SECONDS = 0.5
_FIRST_BATCH, _LARGEST_BATCH = 200, 20_000  # blocks
_CHUNK = 10_000  # tasks brought up to date by one statement
_FEW = 1_000  # so many can be brought up to date while everybody waits
# Where many wait for each other, a moment is too short; still well below deadlock_timeout (1 s).
_SHORT_TRIES, _LONGER_TIMEOUT = 20, "400ms"
# A vacuum gives way to whoever waits longer than deadlock_timeout (1 s); writers do not hold such a lock.
_VACUUM_TIMEOUT = "1500ms"
_VACUUMED = f"select exists (select from pg_locks where relation = '{OLD}'::regclass and granted and mode = %s)"
_LOGGING = f"""
create table {_LOG} (id uuid not null);
comment on table {_LOG} is 'agent-progress: tasks written since agent-progress partition began; gone at its end.';

create table {_STATE} (
    shape text not null,
    heap bigint not null,
    position bigint not null default 0
);
comment on table {_STATE} is 'agent-progress: how far agent-progress partition is; gone at its end.';

create function public.log_task_change()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op <> 'INSERT' then
        insert into {_LOG} (id) values (old.id);
    end if;
    if tg_op = 'INSERT' or (tg_op = 'UPDATE' and new.id <> old.id) then
        insert into {_LOG} (id) values (new.id);
    end if;
    return null;
end
$$;
comment on function public.log_task_change() is
    'agent-progress: notes which tasks are written while agent-progress partition copies them.';
revoke execute on function public.log_task_change() from public;

-- For each row, and always: the apply of logical replication fires no other.
create trigger agent_task_change
    after insert or update or delete on {OLD}
    for each row
    execute function public.log_task_change();
comment on trigger agent_task_change on {OLD} is 'agent-progress: notes which tasks are written; gone in the end.';
alter table {OLD} enable always trigger agent_task_change;
"""
_DROP = f"""
drop trigger if exists agent_task_change on {OLD};
drop function if exists public.log_task_change();
drop table if exists {_LOG}, {_STATE}, {NEW};
"""


class PartitionError(Exception):
    """agent_task cannot be partitioned; the message says why, in one line."""


@dataclass(frozen=True)
class Outlook:
    """What partitioning would do; ``size`` is as PostgreSQL tells it."""

    shape: Shape
    tasks: int
    size: str
    views: Sequence[str]
    triggers: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Tell the numbers."""
        return {"partitions": self.shape.partitions, "tasks": self.tasks, "size": self.size}


class _Begin(Exception):
    """The table was truncated, or written anew by a command that fires no trigger: the copy is begun again."""


def require_ready(conn: Connection[Any], dsn: str) -> None:
    """Raise PartitionError unless the schema is there, whole and up to date."""
    if _one(conn, f"select to_regclass('{OLD}') is null"):
        raise PartitionError(
            "nothing changed: this database has no agent_task of ours (adopted tables stay as they are)"
        )
    if waiting := pending(dsn):
        raise PartitionError(f"nothing changed: run agent-progress migrate first ({waiting[0]} is pending)")
    if not triggers.is_partitioned(conn) and (missing := missing_objects(conn)):
        raise PartitionError(
            f"nothing changed: the schema is not whole, it lacks {missing[0]}: see agent-progress check"
        )


def look(conn: Connection[Any], count: int) -> Shape:
    """Read agent_task, to be partitioned into so many. Raises PartitionError if it cannot be."""
    with conn.transaction():
        _prepare(conn)
        if reason := refusal(conn):
            raise PartitionError(f"nothing changed: {reason}")
        found = shape(conn, count)
        begun = _one(conn, f"select to_regclass('{_STATE}') is not null")
        names = [NEW.split(".")[1], *(found.partition(number) for number in range(count))]
        query = "select relname from pg_class where relnamespace = 'public'::regnamespace and relname = any (%s)"
        if not begun and (taken := _one(conn, query, [names])):
            raise PartitionError(f"nothing changed: there is another table {taken}")
        return found


def outlook(conn: Connection[Any], found: Shape) -> Outlook:
    """Say what partitioning would do."""
    with conn.transaction():
        _prepare(conn)
        size = f"select pg_size_pretty(pg_total_relation_size('{OLD}'))"
        tasks = "select coalesce(sum(agents_created), 0) from public.workflow where progress_frozen_at is null"
        return Outlook(found, int(_one(conn, tasks)), _one(conn, size), views(conn), carried_triggers(conn))


def partition(
    conn: Connection[Any], wanted: Shape, on_batch: OnBatch = lambda _: None, on_step: OnStep = lambda _: None
) -> None:
    """Partition agent_task, or go on with it. ``conn`` must be in autocommit mode.

    ``on_batch`` is told the number of blocks of each batch, ``on_step`` each step in a line. Raises PartitionError.
    """
    waiting = False
    # Polled, as in migrate.
    while not _one(conn, "select pg_try_advisory_lock(%s)", [_ADVISORY_LOCK]):
        if not waiting:
            on_step("waiting for another agent-progress partition")
        waiting = True
        time.sleep(0.1)
    try:
        if triggers.is_partitioned(conn):
            return None
        run = _Run(conn, wanted, on_batch, on_step)
        while True:
            try:
                return run.all()
            except _Begin:
                on_step("agent_task was truncated or written anew meanwhile: copying again")
                run.begin_again()
    finally:
        if not conn.closed:
            conn.execute("select pg_advisory_unlock(%s)", [_ADVISORY_LOCK])


def abandon(conn: Connection[Any]) -> bool:
    """Drop what an unfinished run left; returns whether there was anything."""
    if _one(conn, f"select to_regclass('{_STATE}') is null"):
        return False
    _patiently(conn, lambda: _script(conn, _DROP), lambda _: None)
    return True


def blocks(conn: Connection[Any]) -> int:
    """Count the blocks of agent_task, for a progress bar."""
    size = f"select pg_relation_size('{OLD}') / current_setting('block_size')::integer"
    return int(_one(conn, size))


class _Run:
    """One run of the command."""

    def __init__(self, conn: Connection[Any], wanted: Shape, on_batch: OnBatch, on_step: OnStep) -> None:
        self.conn, self.shape, self.on_batch, self.on_step = conn, wanted, on_batch, on_step
        self.columns = ", ".join(wanted.columns)
        self.fingerprint = hashlib.md5(json.dumps(asdict(wanted)).encode(), usedforsecurity=False).hexdigest()

    def all(self) -> None:
        """Do all that is left to do."""
        conn = self.conn
        if _one(conn, f"select to_regclass('{_STATE}') is not null") and self.state()[0] != self.fingerprint:
            self.on_step("agent_task has changed, or the number of partitions, since the last run: beginning anew")
            abandon(conn)
        if _one(conn, f"select to_regclass('{_STATE}') is null"):
            _patiently(conn, self.build, self.on_step)
        self.copy()
        self.catch_up()
        self.make_indexes()
        self.catch_up()
        self.make_foreign_keys()
        self.verify()
        while self.catch_up() > _FEW:
            pass
        _patiently(conn, self.switch, self.on_step)

    def state(self) -> tuple[str, int, int]:
        """Read how far it is: shape, heap and position."""
        row = self.conn.execute(f"select shape, heap, position from {_STATE}".encode()).fetchone()
        assert row is not None, "the table of the state is empty"
        return row[0], row[1], row[2]

    def build(self) -> None:
        """Make the copy, empty, and let each write of a task be noted from now on."""
        conn, copy = self.conn, self.shape
        _script(conn, copy.create)
        for number, name in enumerate(copy.all_partitions):
            values = f"with (modulus {copy.partitions}, remainder {number})"
            _script(conn, f"create table {name} partition of {NEW} for values {values}{copy.options}")
        for statement in copy.tuning:
            _script(conn, statement)
        # By id first: who writes a task by its id alone finds it by index in each partition.
        _script(conn, f"alter table {NEW} add constraint agent_task_partitioned_pkey primary key (id, workflow_id)")
        _script(conn, f"comment on table {NEW} is 'agent-progress: being filled by agent-progress partition.'")
        _script(conn, _LOGGING)
        for statement in take_rights(conn, [NEW, *copy.all_partitions, _LOG, _STATE]):
            _script(conn, statement)
        owner = _one(conn, f"select quote_ident(pg_get_userbyid(relowner)) from pg_class where oid = '{OLD}'::regclass")
        _script(conn, f"alter function public.log_task_change() owner to {owner}")
        conn.execute(f"insert into {_STATE} (shape, heap) values (%s, {_heap()})".encode(), [self.fingerprint])

    def begin_again(self) -> None:
        """Empty the copy."""

        def act() -> None:
            self.conn.execute(f"lock table {OLD} in access share mode".encode())
            _script(self.conn, f"truncate {NEW}")
            _script(self.conn, f"update {_STATE} set position = 0, heap = {_heap()}")

        _patiently(self.conn, act, self.on_step)

    def same_table(self) -> None:
        """See, and hold fast for this transaction, that the table was not emptied or written anew."""
        self.conn.execute(f"lock table {OLD} in access share mode".encode())
        if _one(self.conn, f"select heap <> {_heap()} from {_STATE}"):
            raise _Begin

    def copy(self) -> None:
        """Copy the tasks that there were when the copy was begun, block by block."""
        conn, size = self.conn, _FIRST_BATCH
        position, end = self.state()[2], blocks(conn)
        self.on_batch(min(position, end))
        while position < end:
            began = time.monotonic()
            upto = min(position + size, end)
            with conn.transaction():
                _prepare(conn)
                self.same_table()
                # A task that was written meanwhile is met twice, or not at all; it is noted.
                query = (
                    f"insert into {NEW} ({self.columns}) select {self.columns} from only {OLD}"
                    f" where ctid >= '({position},0)' and ctid < '({upto},0)' on conflict do nothing"
                )
                conn.execute(query.encode())
                conn.execute(f"update {_STATE} set position = {upto}".encode())
            self.on_batch(upto - position)
            position = upto
            size = max(10, min(_LARGEST_BATCH, int(size * _BATCH_SECONDS / max(time.monotonic() - began, 0.001))))

    def catch_up(self) -> int:
        """Make the copy what the table is in one snapshot; returns how many tasks had been written."""

        def act() -> int:
            self.same_table()
            return self.apply()

        # Workflows that are deleted at this moment take their tasks along: in the next snapshot.
        held = (*HELD, psycopg.errors.SerializationFailure, psycopg.errors.ForeignKeyViolation)
        return int(_patiently(self.conn, act, self.on_step, isolation="repeatable read", held=held))

    def apply(self) -> int:
        """Bring up to date what was noted. Removed first and put in then: no key is met twice on the way."""
        conn, done = self.conn, 0
        for ids in self.noted():
            conn.execute(f"delete from {NEW} where id = any (%s)".encode(), [ids])
        for ids in self.noted():
            query = f"insert into {NEW} ({self.columns}) select {self.columns} from only {OLD} where id = any (%s)"
            conn.execute(query.encode(), [ids])
            done += len(ids)
        conn.execute(f"delete from {_LOG}".encode())
        return done

    def noted(self) -> Iterator[list[Any]]:
        """Read the ids that were noted, some at a time."""
        with self.conn.cursor(name="noted", row_factory=tuple_row) as cursor:
            cursor.execute(f"select distinct id from {_LOG}".encode())
            while rows := cursor.fetchmany(_CHUNK):
                yield [row[0] for row in rows]

    def make_indexes(self) -> None:
        """Build the indexes; only now, which is quicker, and when the copy is of one moment: no key is there twice."""
        conn = self.conn
        missing = [i for i in self.shape.indexes if _one(conn, "select to_regclass(%s) is null", [f"public.{i[1]}"])]
        for name, _, statement in missing:
            self.on_step(f"building index {name}")
            with conn.transaction():
                _prepare(conn)
                _script(conn, statement)
        if missing:
            conn.execute(f"analyze {NEW}".encode())

    def make_foreign_keys(self) -> None:
        """Make the foreign keys of the partitions, checked while others write; that of the whole takes them over."""
        conn = self.conn
        for name, definition in self.shape.keys:
            query = "select count(*) from pg_constraint where conrelid = to_regclass(%s) and quote_ident(conname) = %s"
            bare = [table for table in self.shape.all_partitions if not _one(conn, query, [table, name])]
            unchecked = [f"alter table {table} add constraint {name} {definition} not valid" for table in bare]
            if unchecked:
                _patiently(conn, partial(_script, conn, *unchecked), self.on_step)
            self.catch_up()  # workflows that were deleted before take their tasks along from here
            self.on_step(f"checking foreign key {name}")
            for table in self.shape.all_partitions:
                check = f"alter table {table} validate constraint {name}"
                _patiently(conn, partial(_script, conn, check), self.on_step)

    def verify(self) -> None:
        """Compare the two in one snapshot, but for the tasks that were written since. Raises PartitionError."""
        self.on_step("comparing the copy with the table")
        query = (
            "select count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)"
            f" from (select {self.columns} from {{}} as a"
            f" where not exists (select from {_LOG} as l where l.id = a.id)) as t"
        )
        with self.conn.transaction():
            _prepare(self.conn, "repeatable read")
            self.same_table()
            found = [self.conn.execute(query.format(table).encode()).fetchone() for table in (f"only {OLD}", NEW)]
        if found[0] != found[1]:
            raise PartitionError(
                f"agent_task is as it was: the copy has other rows ({found[1]} for {found[0]}): were triggers disabled"
                " meanwhile? agent-progress partition --abandon, and begin anew"
            )

    def switch(self) -> None:
        """Let the copy take the place of the table."""
        conn, copy = self.conn, self.shape
        conn.execute(f"lock table {OLD}, public.workflow in access exclusive mode".encode())
        if _one(conn, f"select heap <> {_heap()} from {_STATE}"):
            raise _Begin
        if refusal_now := refusal(conn):
            raise PartitionError(f"agent_task is as it was: {refusal_now}; then run it again")
        if shape(conn, copy.partitions) != copy:
            raise PartitionError("agent_task was altered meanwhile, and is as it was: run it again")
        self.apply()
        granted, (at_once, afterwards) = rights(conn), finish(conn)
        _script(
            conn,
            *(f"alter table {NEW} add constraint {name} {definition}" for name, definition in copy.keys),
            f"drop trigger agent_task_change on {OLD}",
            f"alter table {OLD} rename to agent_task_unpartitioned",
            f"alter table {NEW} rename to agent_task",
            *granted,
            *at_once,
            # Nothing may depend on it by now: restrict is the proof.
            "drop table public.agent_task_unpartitioned restrict",
            f"drop table {_LOG}, {_STATE}",
            "drop function public.log_task_change()",
            f"alter table {OLD} rename constraint agent_task_partitioned_pkey to agent_task_pkey",
            *(f"alter index public.{meanwhile} rename to {name}" for name, meanwhile, _ in copy.indexes),
            *afterwards,
        )
        # Not before: a foreign key that cascades writes both tables, and would count twice.
        _script(conn, *triggers.script(conn))


def _heap() -> str:
    """Write what changes when the table is emptied, or written anew by VACUUM FULL or CLUSTER."""
    return f"pg_relation_filenode('{OLD}')::bigint"


def _prepare(conn: Connection[Any], isolation: str = "read committed") -> None:
    """Begin a transaction, whatever the defaults of the role are."""
    conn.execute(f"set transaction isolation level {isolation}, read write".encode())
    # What PostgreSQL writes is qualified; and no policy may hide a row from us.
    conn.execute("set local search_path = ''; set local row_security = off; set local statement_timeout = 0")
    conn.execute("set local client_min_messages = warning")


def _patiently(
    conn: Connection[Any],
    act: Callable[[], Any],
    on_step: OnStep,
    *,
    isolation: str = "read committed",
    held: tuple[type[Exception], ...] = HELD,
) -> Any:
    """Do a transaction, again and again while others hold the locks that it needs."""
    tries = 0

    def attempt() -> Any:
        nonlocal tries
        timeout = LOCK_TIMEOUT if tries < _SHORT_TRIES else _LONGER_TIMEOUT
        if tries and _one(conn, _VACUUMED, ["ShareUpdateExclusiveLock"]):
            timeout = _VACUUM_TIMEOUT
        tries += 1
        with conn.transaction():
            _prepare(conn, isolation)
            conn.execute(f"set local lock_timeout = '{timeout}'".encode())
            return act()

    try:
        return patiently(attempt, lambda: on_step("waiting for other transactions"), held=held)
    except HELD as error:
        raise PartitionError(
            f"agent_task is as it was: other transactions held it for {PATIENCE:.0f} s; run it again later, it goes on"
        ) from error


def _script(conn: Connection[Any], *statements: str) -> None:
    for statement in statements:
        conn.execute(statement.encode())


def _one(conn: Connection[Any], query: str, values: Any = None) -> Any:
    row = conn.cursor(row_factory=tuple_row).execute(query.encode(), values).fetchone()
    return row[0] if row else None
