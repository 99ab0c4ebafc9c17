"""Clients that change tasks in every way, each keeping a ledger of what the server acknowledged."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import psycopg

from pyapp import report_task, report_tasks, transition
from pyapp.db import interrupted

# What is known of a row: a task's workflow and status; of a workflow its own id and WORKFLOW. None: it is not there.
State = tuple[UUID, str]
Changes = dict[UUID, State | None]
Act = Callable[[psycopg.Connection], object]
WORKFLOW = "workflow"
OPEN = ("pending", "assigned", "running")
SETTLED = ("completed", "failed", "cancelled")
# Rows of one client; from there on it deletes some first, so that long runs are not about large tables.
MOST = 300


@dataclass
class Client:
    """One writer: its tasks are its own, the workflows are everybody's.

    It stops when its connection breaks. What it had sent by then and had no answer to is in doubt: it may be done or
    not, but never by half.
    """

    workflows: list[UUID]
    chance: random.Random
    known: dict[UUID, State] = field(default_factory=dict)
    doubt: Changes | None = None
    acknowledged: int = 0
    completed: int = 0
    retried: int = 0

    def work(self, dsn: str, stop: threading.Event, told: Callable[[], None]) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True, application_name="load") as conn:
                while not stop.is_set():
                    self.step(conn)
                    told()
        except psycopg.OperationalError:
            return

    def step(self, conn: psycopg.Connection) -> None:
        """Make one transaction, and enter it in the ledger once it is acknowledged."""
        kinds = KINDS if len(self.known) < MOST else [delete_some, drop_workflow]
        changes, act = self.chance.choice(kinds)(self)
        self.doubt = changes
        try:
            act(conn)
        except psycopg.Error as error:
            if not (interrupted(error) or isinstance(error, psycopg.errors.QueryCanceled)):
                raise
            self.doubt, self.retried = None, self.retried + 1
            return
        self.enter(changes)
        self.doubt, self.acknowledged = None, self.acknowledged + 1

    def enter(self, changes: Changes) -> None:
        for row, state in changes.items():
            if state is None:
                self.known.pop(row, None)
                continue
            before = self.known.get(row)
            self.completed += state[1] == "completed" and (before is None or before[1] != "completed")
            self.known[row] = state

    def settle(self, found: dict[UUID, State]) -> None:
        """Find out what became of the change in doubt: all of it is there, or none."""
        if self.doubt is None:
            return
        now = {row: found.get(row) for row in self.doubt}
        if now == self.doubt:
            self.enter(self.doubt)
        else:
            before = {row: self.known.get(row) for row in self.doubt}
            assert now == before, "a transaction was done by half, or an earlier one lost"
        self.doubt = None

    def pick(self, among: tuple[str, ...], at_most: int, workflow: UUID | None = None) -> list[UUID]:
        """Pick one or more tasks of mine with one of these statuses, if there are any."""
        mine = [t for t, (w, s) in self.known.items() if s in among and workflow in (None, w)]
        return self.chance.sample(mine, min(len(mine), self.chance.randint(1, at_most)))

    def new_tasks(self, number: int, among: tuple[str, ...]) -> tuple[Changes, list[Any]]:
        """Think of tasks to insert: what is known of them then, and the values for ADD."""
        new = {uuid4(): (self.chance.choice(self.workflows), self.chance.choice(among)) for _ in range(number)}
        return dict(new), [list(new), [w for w, _ in new.values()], [s for _, s in new.values()]]


# --- What they do: each says what it changes, and how ---------------------------------------------------------

ADD = (
    "insert into public.agent_task (id, workflow_id, agent_type, status)"
    " select t, w, 'agent', s from unnest(%s::uuid[], %s::uuid[], %s::public.task_status[]) as r (t, w, s)"
)
COMPLETE = "update public.agent_task set status = 'completed' where id = any (%s)"
DELETE = "delete from public.agent_task where id = any (%s)"
MOVE = "update public.agent_task set workflow_id = %s where id = any (%s)"


def insert_one(client: Client) -> tuple[Changes, Act]:
    changes, values = client.new_tasks(1, OPEN)
    return changes, lambda conn: conn.execute(ADD, values)


def insert_many(client: Client) -> tuple[Changes, Act]:
    changes, values = client.new_tasks(client.chance.randint(2, 20), (*OPEN, *OPEN, *SETTLED))
    return changes, lambda conn: conn.execute(ADD, values)


def report_one(client: Client) -> tuple[Changes, Act]:
    tasks = client.pick(OPEN, 1)
    if not tasks:
        return insert_many(client)
    workflow, _ = client.known[tasks[0]]
    return {tasks[0]: (workflow, "completed")}, lambda conn: report_task(
        conn, workflow, tasks[0], "completed", result={"lines": 7}
    )


def report_batch(client: Client) -> tuple[Changes, Act]:
    workflow = client.chance.choice(client.workflows)
    reports = [(task, client.chance.choice(SETTLED)) for task in client.pick(OPEN, 10, workflow)]
    if not reports:
        return insert_many(client)
    return {t: (workflow, s) for t, s in reports}, lambda conn: report_tasks(conn, workflow, reports)


def complete_anywhere(client: Client) -> tuple[Changes, Act]:
    tasks = client.pick(OPEN, 20)
    return {t: (client.known[t][0], "completed") for t in tasks}, lambda conn: conn.execute(COMPLETE, [tasks])


def reopen_one(client: Client) -> tuple[Changes, Act]:
    tasks = client.pick(SETTLED, 1)
    if not tasks:
        return insert_many(client)
    workflow, _ = client.known[tasks[0]]
    return {tasks[0]: (workflow, "running")}, lambda conn: report_task(conn, workflow, tasks[0], "running", reopen=True)


def delete_some(client: Client) -> tuple[Changes, Act]:
    tasks = client.pick((*OPEN, *SETTLED), 20)
    return dict.fromkeys(tasks), lambda conn: conn.execute(DELETE, [tasks])


def move_some(client: Client) -> tuple[Changes, Act]:
    tasks, workflow = client.pick((*OPEN, *SETTLED), 5), client.chance.choice(client.workflows)
    return {t: (workflow, client.known[t][1]) for t in tasks}, lambda conn: conn.execute(MOVE, [workflow, tasks])


def several_statements(client: Client) -> tuple[Changes, Act]:
    """Insert tasks, delete and take that back, and complete others, in one transaction."""
    changes, values = client.new_tasks(3, OPEN)
    done, kept = client.pick(OPEN, 3), client.pick((*OPEN, *SETTLED), 3)
    changes |= {t: (client.known[t][0], "completed") for t in done}

    def act(conn: psycopg.Connection) -> None:
        with conn.transaction():
            conn.execute(ADD, values)
            with conn.transaction(force_rollback=True):
                conn.execute(DELETE, [kept])
            conn.execute(COMPLETE, [done])

    return changes, act


def whole_workflow(client: Client) -> tuple[Changes, Act]:
    """Create a workflow, complete one of its tasks and cancel it with the other, in one transaction."""
    workflow, first, second = uuid4(), uuid4(), uuid4()

    def act(conn: psycopg.Connection) -> None:
        with conn.transaction():
            conn.execute(
                "insert into public.workflow (id, name, type, agents_planned) values (%s, 'w', 'bugfix', 5)",
                [workflow],
            )
            conn.execute(ADD, [[first, second], [workflow, workflow], ["running", "pending"]])
            transition(conn, workflow, "running")
            report_task(conn, workflow, first, "completed")
            transition(conn, workflow, "cancelled")

    return {workflow: (workflow, WORKFLOW), first: (workflow, "completed"), second: (workflow, "cancelled")}, act


def drop_workflow(client: Client) -> tuple[Changes, Act]:
    mine = [row for row, (_, what) in client.known.items() if what == WORKFLOW]
    if not mine:
        return whole_workflow(client)
    workflow = client.chance.choice(mine)
    gone = [row for row, (of, _) in client.known.items() if of == workflow]
    return dict.fromkeys(gone), lambda conn: conn.execute("delete from public.workflow where id = %s", [workflow])


KINDS: list[Callable[[Client], tuple[Changes, Act]]] = [
    *[insert_one, insert_many],
    *[report_one, report_one, report_one, report_batch, report_batch, complete_anywhere],
    *[reopen_one, delete_some, move_some, several_statements, whole_workflow, drop_workflow],
]
