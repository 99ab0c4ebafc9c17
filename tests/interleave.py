"""Every interleaving of two or three transactions, and the numbers after each of them.

Sessions take one step after the other: a statement, or the end of the transaction. A step that has to wait for another
session is left waiting, and that session's later steps come when it is released. Whether a step waits is asked of
``pg_blocking_pids``, never guessed from the time that passed. All orders that sessions can take in that way are run,
each once, from the same data. (Of two sessions that one step releases, PostgreSQL says which comes first.)

BEGIN is no step: at READ COMMITTED it does nothing that another session could see. At the other levels all sessions
take their snapshots before the first step. Nothing but a commit changes what a later snapshot sees, so what is left out
are transactions that begin after another ended, as they do at READ COMMITTED.

Table names are written without a schema: ``search_path`` says which pair of tables is under test.
"""

import re
import select
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from tests.helpers import PATIENCE, wrong_numbers

# Deadlocks are found soon, and autovacuum gives way as soon; a harness that is stuck says so.
OPTIONS = "-c deadlock_timeout=5ms -c lock_timeout=60s -c synchronous_commit=off -c jit=off"
RETRY = ("40001", "40P01")
# PostgreSQL's own fault while another transaction is rolled back; its SQLSTATE, XX000, stands for others as well.
MULTIXACT = "new multixact has more than one updating member"

NUMBERS = ["progress", "agents_completed", "agents_total", "agents_created", "agents_failed", "agents_cancelled"]
REPAIRED = ", ".join("stored_" + name.removeprefix("agents_") for name in NUMBERS)
# And what repair_progress() repairs: in the same statement, so with one snapshot, which shows it as it was before.
COMPARE = f"""
    {wrong_numbers()}
    union all
    select 'repaired' as what, workflow_id, {REPAIRED}
    from repair_progress()
"""
BLOCKED = "select pid, pg_blocking_pids(pid) from unnest(%s::integer[]) as pid"


class Shape(Enum):
    """The deadlocks that are admitted: by what one of those in it does."""

    WORKFLOW_FIRST = "a workflow, then its tasks"
    DELETION = "deletion of a workflow whose agents report"
    TWO_TASKS = "two tasks, one after the other"
    MIXED = "upsert, MERGE or writable CTE over several workflows"
    TRUNCATE = "TRUNCATE"
    TREE = "workflows that are put below others"
    ORDER = "statements on several tasks, locked in different orders"  # two of them


@dataclass(frozen=True)
class Transaction:
    """What a session does; names in braces stand for the rows that it does it to."""

    name: str
    steps: tuple[str, ...]
    end: str = "commit"
    copy: str = ""  # what a step that copies from stdin is given
    shape: Shape | None = None  # the deadlocks that it may be in
    raises: frozenset[str] = frozenset()  # other errors that it may end with
    removes: bool = False  # whether it takes away a workflow that others may insert into (23503)
    prepare: str = ""  # what the data need on top
    drifted: bool = False  # whether the data begin with wrong numbers, which this transaction repairs
    isolation: str | None = None  # its own level, whatever the others have

    def bind(self, rows: Mapping[str, str]) -> "Transaction":
        """Return it with names replaced by rows."""
        return replace(
            self,
            steps=tuple(step.format_map(rows) for step in self.steps),
            copy=self.copy.format_map({name: row.strip("'") for name, row in rows.items()}),
            prepare=self.prepare.format_map(rows),
        )


@dataclass
class Figures:
    """How many interleavings ran and how they ended."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __iadd__(self, other: "Figures") -> "Figures":
        self.counts += other.counts
        self.failures += other.failures
        return self


class Session:
    """One connection, which is given a statement at a time and does not wait for its result."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True)
        self._pg = self.connection.pgconn
        self.pid = self.connection.info.backend_pid
        self.fd = self.connection.fileno()
        self.running = False
        self.steps: list[str] = []
        self.error: tuple[str, str] | None = None
        self._copy = b""

    def begin(self, transaction: Transaction, isolation: str) -> None:
        isolation = transaction.isolation or isolation
        begin = f"begin isolation level {isolation}; "
        if isolation == "read committed":
            self.steps = [begin + transaction.steps[0], *transaction.steps[1:], transaction.end]
        else:
            self.connection.execute(begin + "select 1")  # takes the snapshot
            self.steps = [*transaction.steps, transaction.end]
        self.error = None
        self._copy = transaction.copy.encode()

    @property
    def ready(self) -> bool:
        return bool(self.steps) and not self.running

    def step(self) -> None:
        self._pg.send_query(self.steps.pop(0).encode())
        self.running = True

    def read(self) -> None:
        """Take in what the server has sent; the session runs no more once all of it is there."""
        self._pg.consume_input()
        while not self._pg.is_busy():
            result = self._pg.get_result()
            if result is None:
                self.running = False
                if self.error:
                    self.steps.clear()
                    self.connection.execute("rollback")
                return
            if result.status == pq.ExecStatus.COPY_IN:
                self._pg.put_copy_data(self._copy)
                self._pg.put_copy_end()
            elif result.status == pq.ExecStatus.FATAL_ERROR:
                state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
                self.error = state, result.error_message.decode()


class Harness:
    """Open sessions on a database, for any number of scenarios."""

    def __init__(self, dsn: str, data: str, sessions: int = 3) -> None:
        dsn = make_conninfo(dsn, options=OPTIONS)
        self.control = psycopg.connect(dsn, autocommit=True)
        self.control.execute("set client_min_messages = error")
        self.control.execute(f"create function pg_temp.reset() returns void language plpgsql as $$ begin {data} end $$")
        self.sessions = [Session(dsn) for _ in range(sessions)]

    def close(self) -> None:
        for connection in (self.control, *(session.connection for session in self.sessions)):
            connection.close()

    def explore(self, transactions: Sequence[Transaction], isolation: str) -> Figures:
        """Run every interleaving of the transactions; returns how they ended."""
        figures = Figures()
        scenario = f"{isolation}: " + " | ".join(transaction.name for transaction in transactions)
        self.control.execute("vacuum (truncate false) workflow, agent_task", prepare=False)
        path: list[int] | None = []
        while path is not None:
            trace = self.run(transactions, isolation, path)
            order = "".join(str(chosen + 1) for chosen, _ in trace)
            ending = self._judge(transactions, isolation)
            figures.counts.update(["interleavings", *ending.counts])
            figures.failures += [f"{scenario}, order {order}: {failure}" for failure in ending.failures]
            path = _next(trace)
        return figures

    def run(
        self, transactions: Sequence[Transaction], isolation: str, path: Sequence[int]
    ) -> list[tuple[int, list[int]]]:
        """Run one interleaving: as ``path`` says, then the first session that can go on.

        Returns for each step which session took it, and which could have.
        """
        self.control.execute("select pg_temp.reset()", prepare=True)
        if prepare := "".join(transaction.prepare for transaction in transactions):
            self.control.execute(prepare, prepare=False)
        sessions = self.sessions[: len(transactions)]
        for session, transaction in zip(sessions, transactions, strict=True):
            session.begin(transaction, isolation)
        trace: list[tuple[int, list[int]]] = []
        while ready := [number for number, session in enumerate(sessions) if session.ready]:
            wanted = path[len(trace)] if len(trace) < len(path) else 0
            # Of two that were released at once, either may have come first: then the one that is wanted may wait.
            chosen = next((number for number in ready if number >= wanted), ready[-1])
            trace.append((chosen, ready))
            sessions[chosen].step()
            self._settle(sessions)
        return trace

    def _settle(self, sessions: Sequence[Session]) -> None:
        """Return when each session is through with its step, or waits for one that is between two steps."""
        give_up = time.monotonic() + PATIENCE
        while running := {session.pid: session for session in sessions if session.running}:
            by_fd = {session.fd: session for session in running.values()}
            readable, _, _ = select.select(list(by_fd), [], [], 0.0005)
            for fd in readable:
                by_fd[fd].read()
            if readable:
                continue
            blockers = dict(self.control.execute(BLOCKED, [list(running)], prepare=True).fetchall())
            idle = {session.pid for session in sessions if not session.running}
            if all(idle & _reachable(pid, blockers) for pid in running):
                return
            assert time.monotonic() < give_up, f"stuck: blocked by {blockers}, idle {idle}"

    def _judge(self, transactions: Sequence[Transaction], isolation: str) -> Figures:
        """Say how an interleaving ended, and compare what is stored with what is counted."""
        endings, failures = Figures(), []
        errors = [session.error for session in self.sessions[: len(transactions)]]
        retry = [
            t
            for t, error in zip(transactions, errors, strict=True)
            if error and (error[0] in RETRY or MULTIXACT in error[1])
        ]
        for transaction, error in zip(transactions, errors, strict=True):
            if error is None:
                continue
            state, message = error
            others = [other for other in transactions if other is not transaction]
            if state == "40P01":
                parties = self._parties(transactions, message)
                shape = admitted(party.shape for party in parties)
                endings.counts[f"deadlock: {shape.value if shape else 'unexplained'}"] += 1
                if not shape:
                    failures.append(f"deadlock of {[party.name for party in parties]}: {message}")
            elif state == "40001" and (transaction.isolation or isolation) != "read committed":
                endings.counts["serialization error"] += 1
            elif MULTIXACT in message:
                endings.counts["multixact"] += 1
            elif state in transaction.raises or (state == "23503" and any(other.removes for other in others)):
                endings.counts["refused"] += 1
            else:
                failures.append(f"{transaction.name}: {state} {message}")
        if not endings.counts and not failures:
            endings.counts["fine"] += 1
        if not any(transaction.drifted for transaction in retry):
            failures += self._wrong("")
        for transaction in retry:
            failures += self._alone(transaction, isolation)
        if retry:
            failures += self._wrong(" after the retry")
        if any("progress_frozen_at" in step for t in transactions for step in (*t.steps, t.prepare)):
            self.control.execute("update workflow set progress_frozen_at = null where progress_frozen_at is not null")
            failures += self._wrong(" once thawed")
        if any(failure.startswith("wrong") for failure in failures):
            endings.counts["wrong numbers"] += 1
        endings.failures = failures
        return endings

    def _parties(self, transactions: Sequence[Transaction], message: str) -> list[Transaction]:
        """Say which transactions a deadlock was made of, as the server tells it."""
        pids = {int(pid) for pid in re.findall(r"Process (\d+) waits", message)}
        return [t for t, session in zip(transactions, self.sessions, strict=False) if session.pid in pids]

    def _alone(self, transaction: Transaction, isolation: str) -> Iterator[str]:
        """Do again, with nobody beside it, a transaction that was interrupted."""
        session = self.sessions[0]
        session.begin(transaction, isolation)
        while session.ready:
            session.step()
            self._settle([session])
        if session.error and session.error[0] not in transaction.raises | {"23503"}:
            yield f"retry of {transaction.name}: {session.error}"

    def _wrong(self, when: str) -> Iterator[str]:
        wrong: list[Any] = self.control.execute(COMPARE, prepare=True).fetchall()
        if wrong:
            yield f"wrong numbers{when}: {wrong}"


def admitted(parties: Iterable[Shape | None]) -> Shape | None:
    """Say why a deadlock of these is admitted; None if it is not."""
    shapes = Counter(parties)
    alone = [shape for shape in Shape if shapes[shape] and shape is not Shape.ORDER]
    # Others may stand between two statements on several tasks, in the queue for one of these.
    return alone[0] if alone else Shape.ORDER if shapes[Shape.ORDER] > 1 else None


def _reachable(pid: int, blockers: Mapping[int, Sequence[int]]) -> set[int]:
    """Return whom a session waits for, directly or through others."""
    found: set[int] = set()
    ahead = list(blockers.get(pid, ()))
    while ahead:
        holder = ahead.pop()
        if holder not in found:
            found.add(holder)
            ahead += blockers.get(holder, ())
    return found


def _next(trace: list[tuple[int, list[int]]]) -> list[int] | None:
    """Return the path to the next interleaving in depth-first order; None after the last."""
    while trace:
        chosen, ready = trace.pop()
        if later := [number for number in ready if number > chosen]:
            return [number for number, _ in trace] + [later[0]]
    return None
