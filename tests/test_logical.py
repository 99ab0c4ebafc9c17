"""Logical replication to a migrated subscriber: what its triggers see of it, and what to do about the rest."""

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from pyapp import find_drift, repair
from pyapp.cli import main

from .crash import QUICK, CrashableServer, servers, wait_for
from .helpers import new_tasks, new_workflow, progress
from .ledger import Ledger, assert_exact, difference
from .test_copies import SEEDED, SEQUENCE, TABLES, assert_goes_on, rows

Pair = tuple[CrashableServer, CrashableServer]
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def pair(bin_dir: Path) -> Iterator[Pair]:
    with servers(bin_dir) as make:
        yield make("publisher", **QUICK, wal_level="logical").start(), make("subscriber", **QUICK).start()


class Replication:
    """A migrated database on each of two servers, and a subscription of the second to the first."""

    def __init__(self, pair: Pair, name: str) -> None:
        self.name = name
        self.publisher, self.subscriber = pair
        self.source, self.copy = (server.create_migrated(name) for server in pair)
        self.old = psycopg.connect(self.source, autocommit=True)
        self.new = psycopg.connect(self.copy, autocommit=True)

    def subscribe(self, *tables: str) -> None:
        """Publish tables, subscribe to them, and wait until their rows are copied and changes are applied."""
        self.old.execute(f"create publication p for table {', '.join(tables)}".encode())
        where = psycopg.sql.Literal(self.source).as_string(self.new)
        self.new.execute(f"create subscription {self.name} connection {where} publication p".encode())
        state = "select count(*) filter (where srsubstate = 'r'), count(*) from pg_subscription_rel"
        wait_for(lambda: self.new.execute(state).fetchone() == (len(tables), len(tables)))

    def catch_up(self) -> None:
        """Wait until all that was committed is applied."""
        lsn = self.old.execute("select pg_current_wal_lsn()").fetchone()
        query = f"select replay_lsn >= %s from pg_stat_replication where application_name = '{self.name}'"
        wait_for(lambda: self.old.execute(query.encode(), lsn).fetchone() == (True,))

    def unsubscribe(self) -> None:
        self.new.execute(f"drop subscription if exists {self.name}".encode())


@pytest.fixture
def replication(pair: Pair) -> Iterator[Replication]:
    made = Replication(pair, f"r{next(NUMBERS)}")
    with closing(made.old), closing(made.new):
        yield made
        made.unsubscribe()


def test_a_subscriber_of_all_tables_is_exact_in_every_snapshot_and_can_take_over(replication: Replication) -> None:
    old, new = replication.old, replication.new
    ledger = Ledger(old, seed=6)
    new.execute(SEEDED.encode())
    with ledger.load(replication.source):
        ledger.go_on(100)
        replication.subscribe(*TABLES)
        for _ in range(30):
            assert difference(new) == []
            ledger.go_on(5)
    replication.catch_up()
    ledger.assert_kept(new)
    assert rows(new) == rows(old)
    # The trigger for this fires on the publisher alone; its counts are replicated.
    old.execute("truncate agent_task")
    replication.catch_up()
    assert rows(new) == rows(old)
    assert_exact(new)
    # Replication moves no sequence.
    replication.unsubscribe()
    new.execute(SEQUENCE.encode())
    assert_goes_on(new)


def test_tasks_replicated_alone_are_not_counted_and_repair_counts_them(replication: Replication) -> None:
    old, new = replication.old, replication.new
    workflow = new_workflow(old)
    new_workflow(new, id=workflow)
    copied, *_ = new_tasks(old, workflow, "running", "completed")
    replication.subscribe("agent_task")
    # The first copy of the table fires no trigger either.
    assert (progress(new, workflow), len(find_drift(new))) == ((0, 0, 0), 1)
    assert [drift.calculated_completed for drift in repair(new)] == [1]
    assert progress(new, workflow) == (50, 1, 2)
    new_tasks(old, workflow, "running", "running")
    old.execute("update agent_task set status = 'completed' where id = %s", [copied])
    replication.catch_up()
    assert progress(new, workflow) == (50, 1, 2)
    assert main(["check", "--dsn", replication.copy]) == 1
    assert main(["repair", "--dsn", replication.copy]) == 0
    assert progress(new, workflow) == (50, 2, 4)
    # Writers of the subscriber's own are counted as anywhere.
    new.execute("update agent_task set status = 'completed' where status = 'running'")
    assert progress(new, workflow) == (100, 4, 4)
    assert_exact(new)


def test_triggers_enabled_always_count_the_first_copy_and_nothing_after_it(replication: Replication) -> None:
    old, new = replication.old, replication.new
    for kind in ("insert", "update", "delete", "truncate"):
        new.execute(f"alter table agent_task enable always trigger agent_task_progress_{kind}".encode())
    new.execute("alter table workflow enable always trigger zz_workflow_progress_guard")
    workflow = new_workflow(old)
    new_workflow(new, id=workflow)
    new_tasks(old, workflow, "running", "completed")
    replication.subscribe("agent_task")
    assert progress(new, workflow) == (50, 1, 2)
    old.execute("update agent_task set status = 'completed'")
    replication.catch_up()
    assert (progress(new, workflow), len(find_drift(new))) == ((50, 1, 2), 1)
    assert len(repair(new)) == 1
    assert progress(new, workflow) == (100, 2, 2)


def test_a_guard_enabled_always_puts_replicated_counters_back(replication: Replication) -> None:
    old, new = replication.old, replication.new
    new.execute(SEEDED.encode())
    new.execute("alter table workflow enable always trigger zz_workflow_progress_guard")
    workflow = new_workflow(old)
    replication.subscribe(*TABLES)
    new_tasks(old, workflow, "completed", "running")
    replication.catch_up()
    assert (progress(new, workflow), len(find_drift(new))) == ((0, 0, 0), 1)
    # As it was: replicated counters are taken as they come.
    new.execute("alter table workflow enable trigger zz_workflow_progress_guard")
    repair(new)
    old.execute("update agent_task set status = 'completed'")
    replication.catch_up()
    assert progress(new, workflow) == (100, 2, 2)
    assert_exact(new)
