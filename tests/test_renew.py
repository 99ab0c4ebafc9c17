"""Functions, views and triggers are made anew where they differ: named, renewed beside writers, in any schema."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pyapp import installed, migrate, pending, rollback, shipped
from pyapp.db import quoted_name

from .commands import finished
from .helpers import as_replica, counters, in_background, new_tasks, new_workflow, progress, wait_for
from .test_migrate import query
from .test_schema import ALL, ROOT, SQL, dump, objects

Empty = Callable[[], str]
Session = Callable[[], psycopg.Connection]
# A schema's name as it comes, and worse.
SCHEMAS = ["100 % My Agents", 'it\'s "quote".d', "not public."]


def differences(dsn: str, schema: str = "public") -> list[str]:
    with psycopg.connect(dsn) as conn:
        return installed.differences(conn, schema)


def renewed(dsn: str, told: list[str] | None = None) -> list[str]:
    """Migrate; say which objects were made anew, by what the catalog says of their rows."""
    versions = (
        "select 'function ' || proname, xmin::text from pg_proc where pronamespace = 'public'::regnamespace"
        " union all select 'view ' || c.relname, r.xmin::text"
        " from pg_rewrite as r join pg_class as c on c.oid = ev_class"
        " where c.relnamespace = 'public'::regnamespace"
        " union all select 'trigger ' || tgname, xmin::text from pg_trigger where not tgisinternal"
    )
    before = dict(query(dsn, versions))
    migrate(dsn, on_step=[].append if told is None else told.append)
    return sorted(name for name, version in query(dsn, versions) if before.get(name) != version)


# --- Found and made anew ------------------------------------------------------------------------------------

CHANGED = {
    "function transition_workflow": "alter function transition_workflow set work_mem = '8MB'",
    "function repair_progress": "alter function repair_progress security invoker",
    "function progress_percentage": "create or replace function progress_percentage(completed bigint, total bigint)"
    " returns integer language sql immutable parallel safe return 100",
    "function record_event": "create or replace function record_event() returns trigger language plpgsql as"
    " 'begin return null; end'",
    "view workflow_progress": "alter view workflow_progress set (security_invoker = false)",
    "view workflow_burnup": "create or replace view workflow_burnup with (security_invoker = true) as"
    " select id as workflow_id, created_at as at, 1 as agents_completed, 1 as agents_total from workflow",
    "trigger workflow_events": "create or replace trigger workflow_events after update of status on workflow"
    " for each row execute function record_event()",
    "function advance_workflow": "drop function advance_workflow",
    "view workflow_timeline": "drop view workflow_timeline",
    "trigger workflow_stages": "drop trigger workflow_stages on workflow",
}


def named(key: str) -> str:
    """Name an object as differences() does: a trigger with its table."""
    return f"{key} on workflow" if key.startswith("trigger") else key


def test_objects_that_somebody_changed_or_dropped_are_named_and_made_anew_alone(
    dsn: str, conn: psycopg.Connection, bin_dir: Path
) -> None:
    whole, told = dump(dsn, bin_dir), []
    for key, change in CHANGED.items():
        conn.execute(change)
        told.append(f"{named(key)} {'is missing' if 'drop' in change else 'differs'}")
        assert sorted(differences(dsn)) == sorted(told)
    assert pending(dsn) == []
    steps: list[str] = []
    assert renewed(dsn, steps) == sorted(CHANGED)
    assert steps == ["making 10 functions, views and triggers"]
    assert differences(dsn) == []
    assert dump(dsn, bin_dir) == whole


def test_a_comment_or_a_right_of_the_users_is_no_difference_and_is_left_alone(
    dsn: str, conn: psycopg.Connection
) -> None:
    conn.execute(
        "comment on function repair_progress(uuid) is 'ours'; grant execute on function repair_progress to public"
    )
    assert differences(dsn) == []
    assert renewed(dsn) == []


def test_a_version_that_ships_another_text_renews_that_alone(
    dsn: str, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A newer release: one function, one view with a column more at its end, one trigger.
    changes = {
        "14_moving.sql": ("hint = 'Move it to running first.'", "hint = 'First move it to running.'"),
        "06_progress_views.sql": (
            "    w.parent_id\nfrom",
            "    w.parent_id,\n    w.parent_task_id\nfrom",
        ),
        "10_events.sql": ("after update of status, current_stage on", "after update of status, current_stage, name on"),
    }
    for file in SQL:
        old, new = changes.get(file.name, ("", ""))
        text = file.read_text("utf-8")
        assert old in text
        (tmp_path / file.name).write_text(text.replace(old, new) if old else text, "utf-8")
    resource = shipped.resource
    monkeypatch.setattr(shipped, "resource", lambda name: tmp_path if name == "sql" else resource(name))
    assert differences(dsn) == [
        "view workflow_progress differs",
        "trigger workflow_events on workflow differs",
        "function advance_workflow differs",
    ]
    told: list[str] = []
    assert renewed(dsn, told) == ["function advance_workflow", "trigger workflow_events", "view workflow_progress"]
    made = "making view workflow_progress, trigger workflow_events on workflow, function advance_workflow"
    assert told == [made]
    assert differences(dsn) == []
    conn.execute("select parent_task_id from workflow_progress")


def test_another_major_version_of_the_server_means_run_migrate(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("update installed_object set server_major = server_major - 1")
    found = differences(dsn)
    assert len(found) == len([item for item in shipped.shipped_items("public") if item.kind != "comments"])
    assert {line.rpartition(" ")[2] for line in found} == {"differs"}
    migrate(dsn)
    assert differences(dsn) == []


# --- Triggers: their state, and what came without them --------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "told"),
    [("disable", "is disabled"), ("enable replica", "is disabled"), ("enable always", None), ("enable", None)],
)
def test_the_state_of_a_trigger_is_kept_when_it_is_made_anew(
    dsn: str, conn: psycopg.Connection, state: str, told: str | None
) -> None:
    conn.execute(f"alter table workflow {state} trigger workflow_events")
    enabled = "select tgenabled from pg_trigger where tgname = 'workflow_events'"
    before = conn.execute(enabled).fetchone()
    assert differences(dsn) == ([f"trigger workflow_events on workflow {told}"] if told else [])
    conn.execute("update installed_object set shipped_md5 = 'older' where name = 'workflow_events'")
    assert renewed(dsn) == ["trigger workflow_events"]
    assert conn.execute(enabled).fetchone() == before
    assert differences(dsn) == ([f"trigger workflow_events on workflow {told}"] if told else [])


@pytest.mark.parametrize("missing", ["insert", "update", "delete", "truncate"])
def test_what_came_while_a_counting_trigger_was_missing_is_counted(
    dsn: str, conn: psycopg.Connection, missing: str
) -> None:
    workflow, right = new_workflow(conn), new_workflow(conn)
    tasks = new_tasks(conn, workflow, "running", "running", "failed")
    moved = conn.execute("select progress_updated_at from workflow where id = %s", [right]).fetchone()
    frozen = new_workflow(conn, progress_frozen_at="now", progress=77, agents_completed=9)
    conn.execute(f"drop trigger agent_task_progress_{missing} on agent_task")
    new_tasks(conn, workflow, "completed")
    conn.execute("update agent_task set status = 'completed' where id = %s", [tasks[0]])
    conn.execute("delete from agent_task where id = %s", [tasks[1]])
    if missing == "truncate":
        conn.execute("truncate agent_task")
    steps: list[str] = []
    migrate(dsn, on_step=steps.append)
    assert counters(conn, workflow) == ((0, 0, 0, 0) if missing == "truncate" else (3, 2, 1, 0))
    assert progress(conn, frozen) == (77, 9, 0)
    # What was right is not written.
    assert conn.execute("select progress_updated_at from workflow where id = %s", [right]).fetchone() == moved


# --- Beside writers -----------------------------------------------------------------------------------------


class Writers:
    """Applications that go on writing whatever happens to the schema; what fails, fails the test."""

    def __init__(self, dsn: str, workflows: list[Any], number: int) -> None:
        self.dsn = dsn
        self.workflows = workflows
        self.stop = threading.Event()
        self.added = dict.fromkeys(workflows, 0)
        self.statements = [0] * number
        self.errors: list[BaseException] = []
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.work, args=(place,)) for place in range(number)]

    def __enter__(self) -> "Writers":
        for thread in self.threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def go_on(self, statements: int = 5) -> None:
        """Wait until each has written something."""
        goal = [done + statements for done in self.statements]
        wait_for(lambda: self.errors or all(done >= to for done, to in zip(self.statements, goal, strict=True)))

    def work(self, place: int) -> None:
        try:
            with psycopg.connect(self.dsn, autocommit=True) as conn:
                while not self.stop.is_set():
                    workflow = self.workflows[(self.statements[place] + place) % len(self.workflows)]
                    first, second = new_tasks(conn, workflow, "pending", "completed")
                    (third,) = conn.execute("""select id from add_tasks(%s, '["a"]')""", [workflow]).fetchone()
                    conn.execute("select report_task(%s, %s, 'completed')", [workflow, third])
                    conn.execute("update agent_task set status = 'failed' where id = %s", [first])
                    conn.execute("delete from agent_task where id = %s", [second])
                    conn.execute(
                        "update workflow set current_stage = 'x', status = 'running' where id = %s", [workflow]
                    )
                    with self.lock:
                        self.added[workflow] += 2
                    self.statements[place] += 1
        except BaseException as error:
            self.errors.append(error)


@pytest.mark.parametrize("lost", ["nothing", "triggers"])
def test_writers_go_on_uncancelled_and_are_counted_exactly_while_all_is_made_anew(
    dsn: str, conn: psycopg.Connection, lost: str
) -> None:
    conn.execute("set lock_timeout = '100ms'")
    with Writers(dsn, [new_workflow(conn) for _ in range(4)], 6) as writers:
        for trigger in ("insert", "update", "delete"):
            if lost == "triggers":
                wait_for(lambda: dropped(conn, f"agent_task_progress_{trigger}"))  # noqa: B023 (called at once)
                writers.go_on()
            else:
                conn.execute("update installed_object set shipped_md5 = 'older'")
            migrate(dsn)
            assert differences(dsn) == []
            writers.go_on()
    assert writers.errors == []
    for workflow, added in writers.added.items():
        assert counters(conn, workflow) == (added, added // 2, added // 2, 0)


def dropped(conn: psycopg.Connection, trigger: str) -> bool:
    try:
        conn.execute(f"drop trigger {trigger} on agent_task")
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def test_migrate_waits_for_a_long_transaction_and_stands_in_nobodys_way(
    dsn: str, conn: psycopg.Connection, session: Session
) -> None:
    conn.execute("update installed_object set shipped_md5 = 'older'")
    workflow = new_workflow(conn)
    task, other, third = new_tasks(conn, workflow, "running", "running", "running")
    long, brief = session(), session()
    complete = "update agent_task set status = 'completed' where id = %s"
    long.execute(complete, [task])
    steps: list[str] = []
    migrating = in_background(lambda: migrate(dsn, on_step=steps.append))
    wait_for(lambda: any(step.startswith("waiting: other transactions hold the tables for trigger") for step in steps))
    # Others who queue behind migrate go on, since it steps back soon.
    for number in range(20):
        brief.execute("update agent_task set timeout_ms = %s where id = %s", [number, third])
        brief.commit()
    # Well below any deadlock: whatever the transaction still needs, migrate lets go of it.
    long.execute("update workflow set current_stage = 'late' where id = %s", [workflow])
    long.execute(complete, [other])
    new_workflow(long)
    assert not migrating.done()
    long.commit()
    assert migrating.result(60) == []
    assert differences(dsn) == []
    assert progress(conn, workflow) == (67, 2, 3)


def test_a_writer_that_waits_behind_the_recount_is_counted_once(
    dsn: str, conn: psycopg.Connection, session: Session
) -> None:
    workflow, another = new_workflow(conn), new_workflow(conn)
    task, _ = new_tasks(conn, workflow, "running", "running")
    conn.execute("drop trigger agent_task_progress_delete on agent_task")
    as_replica(conn, "update workflow set agents_completed = 5, agents_created = 9")
    orchestrator, agent = session(), session()
    orchestrator.execute("update workflow set current_stage = 'next' where id = %s", [max(workflow, another)])
    steps: list[str] = []
    migrating = in_background(lambda: migrate(dsn, on_step=steps.append))
    wait_for(lambda: "waiting: other transactions hold the tables for counting what is there" in steps)
    completing = in_background(agent.execute, "update agent_task set status = 'completed' where id = %s", [task])
    orchestrator.commit()
    completing.result(60)
    agent.commit()
    migrating.result(60)
    assert progress(conn, workflow) == (50, 1, 2)
    assert counters(conn, another) == (0, 0, 0, 0)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_what_is_committed_while_migrate_waits_is_counted_at_any_isolation_level(
    dsn: str, conn: psycopg.Connection, session: Session, level: str
) -> None:
    workflow = new_workflow(conn)
    conn.execute("drop trigger agent_task_progress_insert on agent_task")
    conn.execute(f"alter database {conn.info.dbname} set default_transaction_isolation = '{level}'")
    writer = session()
    new_tasks(writer, workflow, "completed")
    blocked = "select from pg_stat_activity where %s = any (pg_blocking_pids(pid))"
    migrating = in_background(migrate, dsn)
    wait_for(lambda: conn.execute(blocked, [writer.info.backend_pid]).fetchall())
    writer.commit()
    migrating.result(60)
    assert progress(conn, workflow) == (100, 1, 1)


# --- Any schema -----------------------------------------------------------------------------------------------


def work_in(dsn: str, schema: str) -> tuple[Any, ...]:
    """Create a workflow in a schema by its functions, complete one of its two tasks; return what its views tell."""
    name = quoted_name(schema)
    with psycopg.connect(dsn, autocommit=True) as conn:

        def call(statement: str, *values: Any) -> Any:
            return conn.execute(sql.SQL(statement).format(s=name), values).fetchone()  # type: ignore[arg-type]

        (workflow,) = call("select id from {s}.create_workflow('w', 'bugfix')")
        (task,) = call('select id from {s}.add_tasks(%s, \'["a", "b"]\') limit 1', workflow)
        call("select {s}.report_task(%s, %s, 'completed')", workflow, task)
        call("select {s}.advance_workflow(%s)", workflow)
        call("select {s}.transition_workflow(%s, 'paused')", workflow)
        with pytest.raises(psycopg.Error, match="cannot go"):
            call("select {s}.transition_workflow(%s, 'initiated')", workflow)
        assert call("select {s}.repair_progress()") is None
        with pytest.raises(psycopg.Error, match="cannot come below itself"):
            call("update {s}.workflow set parent_id = id returning 1")
        return call(
            "select p.progress, p.current_stage, (select count(*) from {s}.workflow_timeline),"
            " (select count(*) from {s}.workflow_progress_drift) from {s}.workflow_progress as p"
        )


@pytest.mark.parametrize("schema", SCHEMAS)
def test_migrate_installs_into_any_schema_and_rollback_leaves_nothing(empty: Empty, schema: str) -> None:
    dsn = empty()
    query(dsn, "create table public.workflow (note text)")  # Prisma's, or whoever's
    nothing = objects(dsn)
    assert migrate(dsn, schema=schema) == ALL
    assert (pending(dsn, schema=schema), differences(dsn, schema)) == ([], [])
    assert migrate(dsn, schema=schema) == []
    assert work_in(dsn, schema) == (50, "validation", 8, 0)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("alter function {}.advance_workflow set work_mem = '8MB'").format(sql.Identifier(schema)))
    assert differences(dsn, schema) == ["function advance_workflow differs"]
    migrate(dsn, schema=schema)
    assert differences(dsn, schema) == []
    # Nothing of it looks into public: it is as it was, and nothing needs it.
    assert set(nothing) <= set(objects(dsn))
    assert rollback(dsn, schema=schema, all=True, drop_data=True) == ALL[::-1]
    assert objects(dsn) == nothing


def test_two_installations_in_one_database_do_not_know_of_each_other(empty: Empty, bin_dir: Path) -> None:
    dsn = empty()
    nothing = objects(dsn)
    assert migrate(dsn) == ALL
    alone = objects(dsn)
    assert work_in(dsn, "public") == (50, "validation", 8, 0)
    assert migrate(dsn, schema="agents") == ALL
    assert work_in(dsn, "agents") == (50, "validation", 8, 0)
    query(dsn, "update agents.agent_task set status = 'completed'")
    both = "select progress from public.workflow union all select progress from agents.workflow"
    assert query(dsn, both) == [(50,), (100,)]
    # Neither waits for the other, nor sees its migrations.
    with psycopg.connect(dsn) as other:
        other.execute("lock table public.workflow, public.yoyo_lock in access exclusive mode")
        assert migrate(dsn, schema="agents") == []
        rollback(dsn, schema="agents")
        assert pending(dsn, schema="agents") == ALL[2:]
    assert pending(dsn) == []
    assert rollback(dsn, schema="agents", all=True, drop_data=True) == ALL[1::-1]
    assert objects(dsn) == alone
    assert work_in(dsn, "public")[0] == 50
    assert rollback(dsn, all=True, drop_data=True) == ALL[::-1]
    assert objects(dsn) == nothing


def test_a_schema_that_was_there_stays_when_all_is_taken_back(empty: Empty) -> None:
    dsn = empty()
    query(dsn, "create schema agents; create table agents.note (id integer)")
    before = objects(dsn)
    assert migrate(dsn, schema="agents") == ALL
    rollback(dsn, schema="agents", all=True)
    assert objects(dsn) == before


# --- Crashes ------------------------------------------------------------------------------------------------


COUNTED = """
import os, sys, psycopg
from pyapp import migrate
execute, place, sent = psycopg.Connection.execute, int(sys.argv[2]), 0
def counted(self, query, *args, **options):
    global sent
    sent += 1
    if sent == place:
        os.kill(os.getpid(), 9)
    return execute(self, query, *args, **options)
psycopg.Connection.execute = counted
migrate(sys.argv[1])
print(sent)
"""


def renew_until(dsn: str, place: int) -> str:
    """Begin to make all anew and to count, in a process that is killed at its n-th statement; 0: it tells how many."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("alter table workflow disable trigger workflow_events")
        workflow = new_workflow(conn)
        new_tasks(conn, workflow, "completed", "running")
        conn.execute("drop trigger agent_task_progress_insert on agent_task")
        new_tasks(conn, workflow, "completed", "running")
        conn.execute("update installed_object set shipped_md5 = 'older'")
    done = finished(sys.executable, "-c", COUNTED, dsn, place, cwd=ROOT)
    assert done.returncode == (-9 if place else 0), done.stderr
    return done.stdout


def test_a_renewal_killed_at_any_statement_is_finished_by_the_next(dsn: str, databases: Any) -> None:
    sent = int(renew_until(dsn, 0))
    assert sent > 100
    for place in range(sent // 8, sent, sent // 4):
        with databases.copy(migrate) as copy:
            renew_until(copy, place)
            migrate(copy)
            assert differences(copy) == ["trigger workflow_events on workflow is disabled"], place
            assert query(copy, "select * from workflow_progress_drift") == [], place
            assert query(copy, "select progress from workflow") == [(50,)], place
