"""What the clients of the soak do: one transaction each, on hot and on cold workflows.

Hot workflows are never deleted or cancelled, so that tasks of the ledger (stage 'ledger'), each changed by one client
only, have the status there that this client was told was committed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

from psycopg import Connection

import pyapp
from tests.interleave import Shape

HOT = [UUID(int=number) for number in range(1, 4)]
COLD = [UUID(int=number) for number in range(101, 141)]
OPEN = "status < 'completed' and stage is null"
TASK = "(select id from agent_task where workflow_id = %(w)s and {} order by random() limit 1)"


@dataclass
class Client:
    """A connection, and what its user knows for certain of the tasks that only it changes."""

    conn: Connection[Any]
    random: Random
    number: int
    # The status of each task of mine, and how often all tasks had been truncated when it was inserted.
    ledger: dict[UUID, tuple[str, int]] = field(default_factory=dict)
    # What the transaction under way would make true.
    claims: dict[UUID, tuple[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Action:
    """One transaction, and how often it comes among the others."""

    name: str
    weight: int
    run: Callable[[Client], None]
    shape: Shape | None = None  # the deadlocks that it may be in


def _sql(
    name: str,
    weight: int,
    *statements: str,
    on: Sequence[UUID] = (*HOT, *HOT, *COLD[::2], *COLD),
    shape: Shape | None = None,
) -> Action:
    # The server's log tells by the comment which transactions a deadlock was made of.
    texts = [f"/* {name} */ {statement}" for statement in statements]

    def run(client: Client) -> None:
        names = {
            "w": client.random.choice(on),
            "v": client.random.choice(on),
            "status": client.random.choice(["completed", "completed", "failed", "cancelled", "running"]),
            "n": client.random.randint(2, 12),
            "seconds": client.random.uniform(0.01, 0.2),
        }
        for text in texts:
            # Only what is named: the server asks for the type of each.
            client.conn.execute(text, {key: value for key, value in names.items() if f"%({key})s" in text})

    return Action(name, weight, run, shape)


def _report_batch(client: Client) -> None:
    workflow = client.random.choice(HOT + COLD)
    tasks = client.conn.execute(
        f"/* report a batch */ select id from agent_task where workflow_id = %s and {OPEN} order by random() limit %s",
        [workflow, client.random.randint(1, 20)],
    ).fetchall()
    try:
        pyapp.report_tasks(
            client.conn, workflow, [(task, client.random.choice(["completed", "failed"])) for (task,) in tasks]
        )
    except pyapp.TaskNotFound:
        client.conn.rollback()  # somebody moved or deleted one of them


def _stale_row(client: Client) -> None:
    workflow = client.random.choice(COLD)
    row = client.conn.execute(
        "/* write back a stale row */ select progress, agents_completed, agents_total, agents_created, agents_failed,"
        " status, version from workflow where id = %s",
        [workflow],
    ).fetchone()
    if row:
        client.conn.execute(
            "/* write back a stale row */ update workflow set progress = %s, agents_completed = %s, agents_total = %s,"
            " agents_created = %s, agents_failed = %s, status = %s, version = %s where id = %s",
            [*row, workflow],
        )


def _copy(client: Client) -> None:
    with (
        client.conn.cursor() as cursor,
        cursor.copy("/* copy */ copy agent_task (workflow_id, agent_type, status) from stdin") as copy,
    ):
        for _ in range(client.random.randint(1, 6)):
            copy.write_row((client.random.choice(HOT + COLD), "agent", "running"))


def _ledger_insert(client: Client) -> None:
    for (task,) in client.conn.execute(
        "/* ledger: insert */ insert into agent_task (workflow_id, agent_type, stage)"
        " select %s, 'agent', 'ledger' from generate_series(1, %s) returning id",
        [client.random.choice(HOT), client.random.choice([1, 1, 1, 5])],
    ).fetchall():
        client.claims[task] = ("pending", 0)
    # TRUNCATE waits for the end of this transaction: what was inserted above belongs to the epoch read here.
    row = client.conn.execute("select n from epoch").fetchone()
    assert row is not None
    client.claims.update({task: (status, row[0]) for task, (status, _) in client.claims.items()})


def _ledger_report(client: Client) -> None:
    mine = client.random.sample(sorted(client.ledger), min(len(client.ledger), client.random.choice([1, 1, 1, 4])))
    status = client.random.choice(["completed", "completed", "failed", "running"])
    for (task,) in client.conn.execute(
        "/* ledger: report */ update agent_task set status = %s where id = any(%s) returning id", [status, mine]
    ).fetchall():
        client.claims[task] = (status, client.ledger[task][1])


def _ledger_take_back(client: Client) -> None:
    if client.ledger:
        [task] = client.random.sample(sorted(client.ledger), 1)
        client.conn.execute("savepoint before")
        client.conn.execute(
            "/* ledger: to a savepoint */ update agent_task set status = 'completed' where id = %s", [task]
        )
        client.conn.execute("rollback to before")


INTO = "insert into agent_task (workflow_id, agent_type, external_id)"
UPSERT = " on conflict (workflow_id, external_id) where external_id is not null do update set status = 'completed'"
COMPLETE = f"update agent_task set status = 'completed' where id = {TASK.format(OPEN)}"
MANY = f"id in (select id from agent_task where workflow_id in (%(w)s, %(v)s) and {OPEN} order by random() limit %(n)s)"
GONE = "id in (select id from agent_task where workflow_id in (%(w)s, %(v)s) and stage is null limit 30)"

ACTIONS = [
    _sql("complete one", 20, COMPLETE),
    _sql("settle many", 8, f"update agent_task set status = %(status)s where {MANY}", shape=Shape.ORDER),
    Action("report a batch", 8, _report_batch, Shape.ORDER),
    _sql("insert one", 12, "insert into agent_task (workflow_id, agent_type) values (%(w)s, 'agent')"),
    _sql(
        "insert many",
        5,
        "insert into agent_task (workflow_id, agent_type, status) select w, 'agent', 'running'"
        " from unnest(array[%(w)s, %(v)s]::uuid[]) as w, generate_series(1, %(n)s)",
    ),
    Action("copy", 2, _copy),
    _sql("reopen", 4, f"update agent_task set status = 'running' where id = {TASK.format('stage is null')}"),
    _sql("start one", 6, f"update agent_task set status = 'running' where id = {TASK.format(OPEN)}"),
    _sql(
        "move one", 4, f"update agent_task set workflow_id = %(v)s, external_id = null where id = {TASK.format(OPEN)}"
    ),
    _sql("delete one", 3, f"delete from agent_task where id = {TASK.format('stage is null')}"),
    _sql("delete many", 3, f"delete from agent_task where {GONE}", shape=Shape.ORDER),
    _sql(
        "upsert",
        3,
        f"{INTO} select w, 'agent', 'x' || %(n)s from unnest(array[%(w)s, %(v)s]::uuid[]) as w group by w{UPSERT}",
        shape=Shape.MIXED,
    ),
    _sql(
        "merge",
        2,
        "merge into agent_task as a using (select id, workflow_id from agent_task where workflow_id in (%(w)s, %(v)s)"
        " and stage is null limit 5) as s on a.id = s.id when matched and a.status = 'completed' then delete"
        " when matched then update set status = 'completed' when not matched then do nothing",
        shape=Shape.MIXED,
    ),
    _sql(
        "writable CTE",
        2,
        f"with done as (update agent_task set status = 'completed' where id = {TASK.format(OPEN)} returning id)"
        " insert into agent_task (workflow_id, agent_type) select %(v)s, 'agent' from done",
        shape=Shape.MIXED,
    ),
    # Transactions of several statements
    _sql("two tasks", 3, COMPLETE, COMPLETE, shape=Shape.TWO_TASKS),
    _sql("a long transaction", 2, COMPLETE, "select pg_sleep(%(seconds)s)", COMPLETE, shape=Shape.TWO_TASKS),
    _sql(
        "workflow, then a task",
        2,
        "update workflow set current_stage = 'validation' where id = %(w)s",
        COMPLETE,
        shape=Shape.WORKFLOW_FIRST,
    ),
    _sql("to a savepoint", 4, "savepoint before", COMPLETE, "rollback to before", COMPLETE),
    _sql("take back", 3, COMPLETE, "rollback"),
    _sql(
        "short of patience",
        4,
        "set local lock_timeout = '2ms'",
        f"update agent_task set status = %(status)s where {MANY}",
        shape=Shape.ORDER,
    ),
    _sql(
        "short of time",
        4,
        "set local statement_timeout = '3ms'",
        f"update agent_task set status = %(status)s where {MANY}",
        shape=Shape.ORDER,
    ),
    # Orchestrators
    _sql(
        "write counters",
        3,
        "update workflow set progress = 90, agents_completed = 7, agents_total = 8 where id = %(w)s",
    ),
    _sql("plan", 3, "update workflow set agents_planned = 20 * %(n)s where id = %(w)s"),
    Action("write back a stale row", 3, _stale_row),
    _sql("freeze", 1, "update workflow set progress_frozen_at = now() where id = %(w)s", on=COLD),
    _sql(
        "thaw",
        2,
        "update workflow set progress_frozen_at = null where progress_frozen_at is not null and id = %(w)s",
        on=COLD,
    ),
    _sql("transition to running", 4, "select transition_workflow(%(w)s, 'running')", on=COLD),
    _sql("advance", 2, "select advance_workflow(%(w)s)", on=COLD),
    _sql("transition to cancelled", 2, "select transition_workflow(%(w)s, 'cancelled')", on=COLD, shape=Shape.ORDER),
    _sql("transition to completed", 1, "select transition_workflow(%(w)s, 'completed')", on=COLD),
    _sql("delete a workflow", 2, "delete from workflow where id = %(w)s", on=COLD, shape=Shape.DELETION),
    _sql(
        "delete tasks, then their workflow",
        1,
        "delete from agent_task where workflow_id = %(w)s",
        "delete from workflow where id = %(w)s",
        on=COLD,
        shape=Shape.DELETION,
    ),
    _sql(
        "create a workflow",
        6,
        "insert into workflow (id, name, type, progress, agents_total) values (%(w)s, 'cold', 'bugfix', 50, 9)"
        " on conflict do nothing",
        "insert into agent_task (workflow_id, agent_type) select %(w)s, 'agent' from generate_series(1, %(n)s)",
        on=COLD,
    ),
    # What is certain
    Action("ledger: insert", 5, _ledger_insert),
    Action("ledger: report", 12, _ledger_report, Shape.ORDER),
    Action("ledger: to a savepoint", 2, _ledger_take_back),
]
