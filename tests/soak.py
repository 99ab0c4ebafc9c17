"""Many clients that do as they please for a while, under attack, and readers who find every snapshot exact.

Clients report, insert, move and delete tasks of hot and cold workflows, in short and long transactions, at all
isolation levels; some move, cancel and delete workflows meanwhile. Statements are cancelled, backends terminated, tasks
truncated. Beside them readers compare what is stored with what is counted, each time in one snapshot, and repairs find
nothing to mend. In the end each client's ledger of what the server acknowledged agrees with the tables.
"""

import argparse
import re
import shutil
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, randrange
from typing import Any

import psycopg
from psycopg import IsolationLevel, errors
from psycopg.pq import TransactionStatus

from pyapp import embedded, migrate
from tests.interleave import EQUAL, Shape, admitted
from tests.soak_actions import ACTIONS, COLD, HOT, Client

SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "deadlock_timeout": "20ms"}
LEVELS = [None] * 8 + [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]
# How a transaction may end otherwise than by a commit: what the client sees, by SQLSTATE.
FAULTS = {
    "40001": "serialization error",
    "40P01": "deadlock",
    "55P03": "lock timeout",
    "57014": "statement cancelled",
    "57P01": "backend terminated",
    "23503": "refused: the workflow was deleted",
    "23505": "refused: duplicate key",  # MERGE, and keys that move along
    "WP001": "refused: the workflow moved on",
    "WP002": "refused: transition not allowed",
    "P0002": "refused: no such workflow",
    "55000": "refused: no plan",
}
RETRY = ("40001", "40P01", "XX000")
# PostgreSQL itself (18.4; heapam.c): a row version that others hold for their foreign keys, and whose last update was
# just rolled back, may be updated before that rollback is through. It then breaks the second update off with XX000.
MULTIXACT = "new multixact has more than one updating member"
# Statements without a comment that names their transaction, and those that are no client's.
OTHERS = {"with report as (": Shape.ORDER, "/* truncate */": Shape.TRUNCATE}


@dataclass
class Soak:
    """One run: what is to be done, and what came of it."""

    dsn: str
    seconds: float
    connections: int = 32
    seed: int = field(default_factory=lambda: randrange(10**6))
    log: Path | None = None  # of the server: tells the statements of deadlocks
    counts: Counter[str] = field(default_factory=Counter)
    deadlocks: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._pids: dict[int, int] = {}

    def run(self) -> "Soak":
        """Run it all, then compare the ledgers."""
        begin = self.log.stat().st_size if self.log else 0
        with self._connect() as conn:
            conn.execute("create table epoch (n integer not null)")
            conn.execute("insert into epoch values (0)")
            for workflows, tasks in ((HOT, 40), (COLD, 10)):
                conn.execute(
                    "insert into workflow (id, name, type) select unnest(%s::uuid[]), 'w', 'bugfix'", [workflows]
                )
                conn.execute(
                    "insert into agent_task (workflow_id, agent_type)"
                    " select w, 'agent' from unnest(%s::uuid[]) as w, generate_series(1, %s)",
                    [workflows, tasks],
                )
        clients = [self._client(number) for number in range(self.connections)]
        tasks: list[Callable[[], None]] = [
            *(lambda client=client: self._work(client) for client in clients),  # type: ignore[misc]
            self._read,
            self._read,
            self._repair,
            self._attack,
            self._truncate,
        ]
        threads = [threading.Thread(target=self._guarded, args=[task]) for task in tasks]
        for thread in threads:
            thread.start()
        self._stop.wait(self.seconds)  # less if something fails
        self._stop.set()
        for thread in threads:
            thread.join()
        for client in clients:
            client.conn.close()
        self._settle(clients)
        if self.log:
            self._causes(self.log.read_bytes()[begin:].decode(errors="replace"))
        return self

    def _connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, application_name="soak", **{"autocommit": True, **options})

    def _client(self, number: int) -> Client:
        client = Client(self._connect(autocommit=False), Random(f"{self.seed} {number}"), number)
        self._pids[number] = client.conn.info.backend_pid
        return client

    def _guarded(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception:
            self.failures.append(traceback.format_exc())
            self._stop.set()

    def _count(self, *what: str) -> None:
        with self._lock:
            self.counts.update(what)

    # The clients

    def _work(self, client: Client) -> None:
        weights = [action.weight for action in ACTIONS]
        while not self._stop.is_set():
            [action] = client.random.choices(ACTIONS, weights)
            level = client.random.choice(LEVELS)
            while not self._stop.is_set():
                try:
                    client.claims.clear()
                    client.conn.isolation_level = level
                    action.run(client)
                    client.conn.commit()
                except psycopg.Error as error:
                    self._fault(client, error)
                    if error.sqlstate not in RETRY:
                        break
                    self._count("retries")
                else:
                    client.ledger.update(client.claims)
                    self._count("transactions")
                    break

    def _fault(self, client: Client, error: psycopg.Error) -> None:
        state = error.sqlstate or ""
        kind = FAULTS.get(state)
        if "statement timeout" in str(error):
            kind = "statement timeout"
        if MULTIXACT in str(error):
            kind = "internal error of PostgreSQL: " + MULTIXACT
        while not client.conn.closed and client.conn.info.transaction_status != TransactionStatus.IDLE:
            with suppress(psycopg.OperationalError):  # a rollback may be cancelled, too
                client.conn.rollback()
        if client.conn.closed:
            kind = kind or ("backend terminated" if isinstance(error, psycopg.OperationalError) else None)
            for task in client.claims:
                client.ledger.pop(task, None)  # in doubt: it may have been committed before the connection was lost
            client.conn = self._connect(autocommit=False)
            self._pids[client.number] = client.conn.info.backend_pid
        if kind is None:
            raise error
        self._count("faults", f"fault: {kind}")

    # Those beside them

    def _read(self) -> None:
        with self._connect(autocommit=False) as conn:
            conn.isolation_level = IsolationLevel.REPEATABLE_READ
            conn.read_only = True
            while not self._stop.is_set():
                # Before the snapshot: an older one would show the task table empty once TRUNCATE is committed, beside
                # workflows as they were.
                conn.execute("lock table agent_task in access share mode")
                wrong = conn.execute(EQUAL).fetchall()
                conn.commit()
                self._count("snapshots compared")
                if wrong:
                    self._count("wrong numbers")
                    self.failures.append(f"wrong numbers in a snapshot: {wrong[:4]}")
                    self._stop.set()

    def _repair(self) -> None:
        with self._connect() as conn:
            while not self._stop.wait(0.02):
                mended = conn.execute("/* repair */ select * from repair_progress()").fetchall()
                self._count("repairs")
                if mended:
                    self._count("wrong numbers")
                    self.failures.append(f"repair found something to mend: {mended[:4]}")
                    self._stop.set()

    def _attack(self) -> None:
        random = Random(f"{self.seed} attack")
        with self._connect() as conn:
            while not self._stop.wait(random.uniform(0.005, 0.06)):
                victim = self._pids[random.randrange(self.connections)]
                act = random.choices(["cancel", "terminate"], [4, 1])[0]
                conn.execute(f"select pg_{act}_backend(%s)", [victim])

    def _truncate(self) -> None:
        with self._connect(autocommit=False) as conn:
            while not self._stop.wait(min(10, self.seconds / 3)):
                truncated = False
                while not truncated and not self._stop.is_set():
                    try:
                        conn.execute("/* truncate */ truncate agent_task")
                        conn.execute("update epoch set n = n + 1")
                        conn.commit()
                        truncated = True
                        self._count("truncations")
                    except errors.DeadlockDetected:
                        conn.rollback()
                        self._count("faults", "fault: deadlock", "retries")

    # What came of it

    def _settle(self, clients: list[Client]) -> None:
        with self._connect() as conn:
            conn.execute("update workflow set progress_frozen_at = null where progress_frozen_at is not null")
            if wrong := conn.execute(EQUAL).fetchall():
                self._count("wrong numbers")
                self.failures.append(f"wrong numbers in the end: {wrong[:4]}")
            row = conn.execute("select n from epoch").fetchone()
            statuses = dict(conn.execute("select id, status::text from agent_task where stage = 'ledger'").fetchall())
        assert row is not None
        for client in clients:
            for task, (status, epoch) in client.ledger.items():
                if epoch != row[0]:
                    continue
                self._count("ledger: tasks")
                if statuses.get(task) != status:
                    self._count("wrong numbers")
                    self.failures.append(f"task {task} is {statuses.get(task)}; {status} was acknowledged")

    def _causes(self, log: str) -> None:
        """Find in the server's log which transactions each deadlock was made of."""
        names = {f"/* {action.name} */": action for action in ACTIONS}
        for detail in re.findall(r"deadlock detected\n.*?DETAIL: (.*?)\n\S", log, re.DOTALL):
            parties = re.findall(r"\tProcess \d+: \s*(/\* .*? \*/|\w.{0,20})", detail)
            if not parties:
                continue
            shapes = [names[party].shape if party in names else OTHERS.get(party) for party in parties]
            cause = admitted(shapes)
            self.counts[f"deadlock: {cause.value if cause else 'unexplained'}"] += 1
            what = " | ".join(sorted(party.strip("/* ") for party in parties))
            self.deadlocks[what if cause else f"unexplained: {what}"] += 1

    def report(self) -> dict[str, int]:
        """Return all figures by name."""
        return {"transactions": 0, "faults": 0, "retries": 0, "wrong numbers": 0} | dict(self.counts)


@contextmanager
def private_server(bin_dir: Path | None = None) -> Iterator[tuple[str, Path]]:
    """Run a server with a migrated database of its own; yield its DSN and its log."""
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    directory.chmod(0o755)  # PostgreSQL runs under another account where we are root
    try:
        with embedded.server(directory / "data", bin_dir=bin_dir, settings=SETTINGS) as server:
            migrate(server.dsn)
            yield server.dsn, server.data_dir / "server.log"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    """Run a soak on a private server, print its figures; 1 if any number was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, metavar="N", help="how long (default 60)")
    parser.add_argument("--connections", type=int, default=32, metavar="N", help="number of clients (default 32)")
    parser.add_argument(
        "--seed", type=int, metavar="N", help="what the clients choose by (default: chosen, and printed)"
    )
    arguments = parser.parse_args()
    seed = randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", file=sys.stderr)
    with private_server() as (dsn, log):
        soak = Soak(dsn, arguments.seconds, arguments.connections, seed, log).run()
    for what, count in sorted(soak.report().items()):
        print(f"{what}: {count:,}")
    for parties, count in soak.deadlocks.most_common(20):
        print(f"deadlock of {parties}: {count:,}")
    for failure in soak.failures[:20]:
        print(failure, file=sys.stderr)
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
