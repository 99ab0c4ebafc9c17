"""What clients know together of what was acknowledged, and whether a server, or a copy of it, knows the same."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from psycopg import Connection

from pyapp import create_workflow

from .clients import SETTLED, WORKFLOW, Client, State
from .helpers import wrong_numbers


def difference(conn: Connection) -> list[tuple[Any, ...]]:
    """Compare what is stored with what is counted, in one snapshot: workflows that are not frozen, and trees."""
    return conn.execute(wrong_numbers("public.").encode()).fetchall()


def everything(conn: Connection) -> dict[UUID, State]:
    """Read the state of all tasks and workflows."""
    rows = conn.execute(
        "select id, workflow_id, status::text from public.agent_task"
        " union all select id, id, 'workflow' from public.workflow"
    ).fetchall()
    return {row[0]: (row[1], row[2]) for row in rows}


class Ledger:
    """Several clients on a few workflows, and what they were told."""

    def __init__(self, conn: Connection, seed: int, clients: int = 6, workflows: int = 5) -> None:
        self.seed = seed
        self.workflows = [
            create_workflow(conn, f"w{n}", "app", agents_planned=[None, 10, 10000][n % 3]).workflow_id
            for n in range(workflows)
        ]
        self.clients = [Client(self.workflows, random.Random(f"{seed}.{n}")) for n in range(clients)]
        self._moved = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    @property
    def acknowledged(self) -> int:
        """Transactions that were acknowledged."""
        return sum(client.acknowledged for client in self.clients)

    @property
    def doubts(self) -> int:
        """Transactions without an answer."""
        return sum(client.doubt is not None for client in self.clients)

    def __str__(self) -> str:
        completed = sum(client.completed for client in self.clients)
        retried = sum(client.retried for client in self.clients)
        return f"{self.acknowledged} transactions acknowledged, {completed} completions among them, {retried} retried"

    def fill(self, conn: Connection, transactions: int = 40) -> None:
        """Let each client make so many transactions, one after the other: no two runs with one seed differ."""
        for client in self.clients:
            for _ in range(transactions):
                client.step(conn)

    @contextmanager
    def load(self, dsn: str) -> Iterator[None]:
        """Let all clients work while the block lasts, each until it loses its connection."""
        stop = threading.Event()
        self._failures = []
        self._threads = [threading.Thread(target=self._work, args=[client, dsn, stop]) for client in self.clients]
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            self.wait_until_all_stopped()
        self._raise()

    def go_on(self, transactions: int) -> None:
        """Wait until so many more transactions were acknowledged."""
        goal = self.acknowledged + transactions

        def reached() -> bool:
            return self.acknowledged >= goal or not all(thread.is_alive() for thread in self._threads)

        with self._moved:
            assert self._moved.wait_for(reached, timeout=60), "the load stands still"
        self._raise()
        assert self.acknowledged >= goal, "a client has lost its connection"

    def wait_until_all_stopped(self) -> None:
        """Wait until each client was stopped or has lost its connection."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs"

    def _work(self, client: Client, dsn: str, stop: threading.Event) -> None:
        try:
            client.work(dsn, stop, self._tell)
        except BaseException as error:
            self._failures.append(error)
        finally:
            self._tell()

    def _tell(self) -> None:
        with self._moved:
            self._moved.notify_all()

    def _raise(self) -> None:
        if self._failures:
            raise self._failures[0]

    def known(self) -> dict[UUID, State]:
        """Return what all rows should be by what was acknowledged until now."""
        known: dict[UUID, State] = {workflow: (workflow, WORKFLOW) for workflow in self.workflows}
        for client in self.clients:
            known |= client.known
        return known

    def assert_kept(self, conn: Connection) -> None:
        """Assert that all that was acknowledged is there, nothing else is, and each workflow counts just that."""
        found = everything(conn)
        for client in self.clients:
            client.settle(found)
        known = self.known()
        lost = {row: (state, found.get(row)) for row, state in known.items() if found.get(row) != state}
        assert lost == {}, f"acknowledged and lost (seed {self.seed})"
        assert found.keys() - known.keys() == set(), f"there, and never acknowledged (seed {self.seed})"
        counted = {workflow: dict.fromkeys(("created", *SETTLED), 0) for workflow, _ in known.values()}
        for workflow, status in known.values():
            if status != WORKFLOW:
                counted[workflow]["created"] += 1
                if status in SETTLED:
                    counted[workflow][status] += 1
        stored = conn.execute(
            "select workflow_id, agents_created, agents_completed, agents_failed, agents_cancelled"
            " from public.workflow_progress"
        ).fetchall()
        expected = {workflow: tuple(numbers.values()) for workflow, numbers in counted.items()}
        assert {row[0]: row[1:] for row in stored} == expected, f"miscounted (seed {self.seed})"
        assert_exact(conn)


def assert_exact(conn: Connection) -> None:
    """Assert that stored is counted, by the views, by the drift view, and by repair, which finds nothing to repair."""
    assert difference(conn) == []
    assert conn.execute("select * from public.workflow_progress_drift").fetchall() == []
    if conn.execute("select pg_is_in_recovery()").fetchone() == (False,):
        assert conn.execute("select * from public.repair_progress()").fetchall() == []
