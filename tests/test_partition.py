"""agent-progress partition: nothing is lost while others write, whatever happens meanwhile, and all is carried over."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pyapp
from pyapp.migrate import rollback
from pyapp.scale import partition as module
from pyapp.scale.partition import PartitionError, look, partition
from pyapp.schema import missing_objects
from tests.adopt.application import cli, succeed
from tests.conftest import Role
from tests.helpers import (
    give_away,
    in_background,
    new_tasks,
    new_workflow,
    progress,
    set_status,
    wait_until_blocked_by,
)
from tests.ledger import Ledger, assert_exact

Session = Callable[[], psycopg.Connection]


def fill(conn: psycopg.Connection, workflows: int = 20, tasks: int = 100) -> None:
    """Make workflows with so many tasks each, of every status: some blocks of each."""
    conn.execute(f"insert into workflow (name, type) select 'w' || g, 'app' from generate_series(1, {workflows}) as g")
    conn.execute(
        "insert into agent_task (workflow_id, external_id, agent_type, status, payload)"
        " select w.id, 'task ' || g, 'a', (enum_range(null::task_status))[1 + g % 6], jsonb_build_object('n', g)"
        f" from generate_series(1, {tasks}) as g, workflow as w"
    )


def all_tasks(conn: psycopg.Connection) -> list[Any]:
    return conn.execute("select t::text from agent_task as t order by 1").fetchall()


def count(conn: psycopg.Connection, name: str = "agent_task") -> int:
    return int(conn.execute(f"select count(*) from {name}").fetchone()[0])


class BrokenOff(Exception):
    """A run ends in the middle."""


class Moments:
    """Acts at the moments of a run: at its first steps and batches, and at those that are named in a line."""

    def __init__(self, *at_batches: Callable[[], Any], **at_steps: Callable[[], Any]) -> None:
        self.at_batches, self.at_steps, self.steps = list(at_batches), at_steps, list[str]()

    def batch(self, _: int) -> None:
        if self.at_batches:
            self.at_batches.pop(0)()

    def step(self, text: str) -> None:
        self.steps.append(text)
        for word, act in list(self.at_steps.items()):
            if word in text:
                del self.at_steps[word]
                act()


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy ten blocks at a time."""
    monkeypatch.setattr(module, "_FIRST_BATCH", 10)
    monkeypatch.setattr(module, "_LARGEST_BATCH", 10)


def run(dsn: str, moments: Moments, partitions: int = 3) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        partition(conn, look(conn, partitions), moments.batch, moments.step)


# --- While others write -------------------------------------------------------------------------------------


def test_nothing_is_lost_or_counted_twice_while_writers_hammer(conn: psycopg.Connection, dsn: str) -> None:
    ledger = Ledger(conn, seed=7)
    ledger.fill(conn)
    with ledger.load(dsn):
        ledger.go_on(50)
        succeed(dsn, "partition", "--partitions", "3")
        ledger.go_on(50)
    ledger.assert_kept(conn)
    assert missing_objects(conn) == []


def writes(conn: psycopg.Connection, text: str, isolation: str = "read committed") -> Callable[[], None]:
    def act() -> None:
        with conn.transaction():
            conn.execute(f"set transaction isolation level {isolation}")
            conn.execute(text)

    return act


FIRST = "(select id from agent_task order by ctid limit 5)"
LAST = "(select id from agent_task order by ctid desc limit 5)"
OF_ANY = "from workflow order by id limit 1"
STATEMENTS = {
    "insert": f"insert into agent_task (workflow_id, agent_type) select id, 'new' {OF_ANY}",
    "update what was copied": f"update agent_task set status = 'failed', result = '1' where id in {FIRST}",
    "update what was not": f"update agent_task set status = 'completed' where id in {LAST}",
    "delete what was copied": f"delete from agent_task where id in {FIRST}",
    "delete what was not": f"delete from agent_task where id in {LAST}",
    "move": f"update agent_task set workflow_id = (select id {OF_ANY}), external_id = null where id in {FIRST}",
    "change ids": f"update agent_task set id = gen_random_uuid() where id in {FIRST}",
    "take an external id over": "with gone as (delete from agent_task where external_id = 'task 1' returning *)"
    " select from gone; insert into agent_task (workflow_id, external_id, agent_type) select id, 'task 1', 'other'"
    " from workflow",
    "swap external ids": "update agent_task set external_id = 'x' where external_id = 'task 1';"
    " update agent_task set external_id = 'task 1' where external_id = 'task 2';"
    " update agent_task set external_id = 'task 2' where external_id = 'x'",
    "delete a workflow": f"delete from workflow where id = (select id {OF_ANY})",
}


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_what_is_written_at_any_moment_is_there_in_the_end(
    conn: psycopg.Connection, dsn: str, small_batches: None, isolation: str
) -> None:
    fill(conn)
    acts = [writes(conn, statement, isolation) for statement in STATEMENTS.values()]

    def act() -> list[Any]:
        for one in acts:
            one()
        return all_tasks(conn)

    expected: list[Any] = []
    moments = Moments(act, act, building=act, checking=act, comparing=lambda: expected.extend(act()))
    run(dsn, moments)
    assert moments.at_steps == {}
    assert moments.at_batches == []
    assert all_tasks(conn) == expected
    assert len(expected) > 1000
    assert_exact(conn)


def test_tasks_that_a_foreign_key_takes_along_are_counted_once(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute(
        "create table agent (name text primary key); insert into agent values ('a'), ('b');"
        " alter table agent_task add constraint agent_task_agent_type_fkey foreign key (agent_type) references agent"
        " on update cascade on delete cascade"
    )
    fill(conn, 3)
    conn.execute("update agent_task set agent_type = 'b' where external_id < 'task 5'")
    acts = (
        "update agent set name = 'c' where name = 'a'",
        "delete from agent where name = 'b'",
        "delete from workflow where name = 'w1'",
    )
    run(dsn, Moments(comparing=lambda: [conn.execute(act) for act in acts]))
    assert_exact(conn)
    assert conn.execute("select distinct agent_type from agent_task").fetchall() == [("c",)]


@pytest.mark.parametrize("moment", ["copying", "building", "checking", "comparing"])
def test_tasks_that_are_truncated_do_not_come_back(
    conn: psycopg.Connection, dsn: str, small_batches: None, moment: str
) -> None:
    fill(conn, 10)
    act = writes(
        conn, "truncate agent_task; insert into agent_task (workflow_id, agent_type) select id, 'new' from workflow"
    )
    run(dsn, Moments(lambda: None, act) if moment == "copying" else Moments(**{moment: act}))
    assert count(conn) == 10
    assert_exact(conn)


def test_a_snapshot_from_before_the_copy_writes_what_is_not_lost(
    conn: psycopg.Connection, dsn: str, session: Session, small_batches: None
) -> None:
    fill(conn)
    old = session()
    old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    old.execute("select from workflow limit 1")

    def act() -> None:
        old.execute("delete from agent_task where external_id = 'task 1'")
        old.execute("update agent_task set status = 'failed' where external_id = 'task 2'")
        old.commit()

    run(dsn, Moments(lambda: None, lambda: None, act))
    assert count(conn) == 1980
    assert conn.execute("select distinct status from agent_task where external_id = 'task 2'").fetchall() == [
        ("failed",)
    ]


def test_it_waits_for_a_long_transaction_and_stands_in_nobodys_way(
    conn: psycopg.Connection, dsn: str, session: Session
) -> None:
    workflow, other = new_workflow(conn), new_workflow(conn)
    one, three = new_tasks(conn, workflow, "running", "running")
    [two] = new_tasks(conn, other, "running")
    long = session()
    set_status(long, one, "completed")
    moments = Moments()
    running = in_background(lambda: run(dsn, moments))
    waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    while not conn.execute(waiting).fetchall():
        assert not running.done()
    conn.execute("set lock_timeout = '5s'")
    set_status(conn, two, "completed")  # queues behind it, until it steps back
    set_status(long, three, "completed")
    assert not running.done()
    long.commit()
    running.result(30)
    assert "waiting for other transactions" in moments.steps
    assert progress(conn, workflow) == (100, 2, 2)


def test_what_is_committed_at_the_last_moment_is_there(conn: psycopg.Connection, dsn: str, session: Session) -> None:
    fill(conn, 3)
    long = session()
    task = "workflow_id = (select id from workflow limit 1) and external_id ="
    acts = [
        f"delete from agent_task where {task} 'task 1'",
        f"update agent_task set result = '1' where {task} 'task 2'",
    ]
    # It holds the table until the switch has begun to wait for it.
    run(dsn, Moments(comparing=lambda: [long.execute(act) for act in acts], waiting=long.commit))
    assert count(conn) == 299
    assert conn.execute("select count(*) from agent_task where result = '1'").fetchone() == (1,)
    assert_exact(conn)


def test_open_sessions_go_on_with_their_plans(conn: psycopg.Connection, dsn: str, session: Session) -> None:
    workflow = new_workflow(conn)
    tasks = iter(new_tasks(conn, workflow, *["running"] * 40))
    conn.execute(
        "create function finish(task uuid) returns void language plpgsql as"
        " $$ begin update agent_task set status = 'completed' where id = task; end $$"
    )
    reader, writer = session(), session()
    reader.autocommit = writer.autocommit = True

    def work() -> None:
        for _ in range(6):
            reader.execute("select progress from workflow_progress_calculated", prepare=True).fetchall()
            writer.execute("select finish(%s)", [next(tasks)], prepare=True)
            writer.execute("update agent_task set status = 'completed' where id = %s", [next(tasks)], prepare=True)
            pyapp.report_task(writer, workflow, next(tasks), "completed")

    work()
    run(dsn, Moments())
    work()
    assert progress(conn, workflow) == (90, 36, 40)
    assert reader.execute("select agents_completed from workflow_progress_calculated").fetchone() == (36,)


# --- Broken off ---------------------------------------------------------------------------------------------


def test_killed_amid_the_copy_it_goes_on_where_it_was(
    conn: psycopg.Connection, dsn: str, session: Session, small_batches: None
) -> None:
    fill(conn)

    def stop() -> None:
        raise BrokenOff

    with pytest.raises(BrokenOff):
        run(dsn, Moments(lambda: None, lambda: None, stop), 16)
    conn.execute("update agent_task set status = 'failed' where external_id = 'task 3'")
    position = "select position from agent_task_partitioning"
    [copied] = conn.execute(position).fetchone()
    assert copied > 0
    holder = session()
    holder.execute("lock table agent_task_p00 in access exclusive mode")
    command = [sys.executable, "-m", "pyapp", "--dsn", dsn, "partition"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        blocked = f"select pid from pg_stat_activity where {holder.info.backend_pid} = any (pg_blocking_pids(pid))"
        while (row := conn.execute(blocked).fetchone()) is None:
            assert process.poll() is None
        wait_until_blocked_by(conn, row[0], holder.info.backend_pid)
        process.send_signal(signal.SIGKILL)
    conn.execute("delete from agent_task where external_id = 'task 4'")
    holder.rollback()
    expected = all_tasks(conn)
    moments = Moments()
    run(dsn, moments, 16)
    assert not [step for step in moments.steps if "again" in step or "anew" in step]
    assert all_tasks(conn) == expected
    assert_exact(conn)


@pytest.mark.parametrize("moment", ["building", "checking", "comparing"])
def test_broken_off_at_any_step_it_is_finished_by_the_next_run(conn: psycopg.Connection, dsn: str, moment: str) -> None:
    fill(conn, 5)

    def stop() -> None:
        raise BrokenOff

    with pytest.raises(BrokenOff):
        run(dsn, Moments(**{moment: stop}))
    conn.execute("update agent_task set status = 'failed' where external_id = 'task 3'")
    conn.execute("delete from workflow where name = 'w1'")
    expected = all_tasks(conn)
    run(dsn, Moments())
    assert all_tasks(conn) == expected
    assert missing_objects(conn) == []
    keys = "select count(*) from pg_constraint where contype = 'f' and conrelid::regclass::text like 'agent_task%'"
    assert conn.execute(keys).fetchone() == (4,)  # not one more for each run


def test_a_table_that_changed_since_the_last_run_is_copied_anew(conn: psycopg.Connection, dsn: str) -> None:
    fill(conn, 5)

    def stop() -> None:
        raise BrokenOff

    with pytest.raises(BrokenOff):
        run(dsn, Moments(comparing=stop))
    conn.execute("alter table agent_task add column cost numeric default 7")
    moments = Moments()
    run(dsn, moments)
    assert "beginning anew" in moments.steps[0]
    assert conn.execute("select sum(cost) from agent_task").fetchone() == (3500,)
    assert_exact(conn)


@pytest.mark.parametrize("moment", ["checking", "comparing"])
def test_a_table_that_is_altered_meanwhile_stays_as_it_is(conn: psycopg.Connection, dsn: str, moment: str) -> None:
    fill(conn, 5)
    before = all_tasks(conn)
    alter = writes(conn, "create index late on agent_task (agent_type)")
    with pytest.raises(PartitionError, match="altered meanwhile"):
        run(dsn, Moments(**{moment: alter}))
    assert all_tasks(conn) == before
    run(dsn, Moments())
    assert all_tasks(conn) == before


def test_a_table_that_is_written_anew_amid_the_copy_is_copied_again(
    conn: psycopg.Connection, dsn: str, small_batches: None
) -> None:
    fill(conn)
    conn.execute("delete from agent_task where external_id < 'task 5'")
    before = all_tasks(conn)
    moments = Moments(lambda: None, lambda: conn.execute("vacuum full agent_task"))
    run(dsn, moments)
    assert "copying again" in moments.steps[0]
    assert all_tasks(conn) == before


def test_rows_that_were_changed_with_triggers_disabled_are_told_and_the_table_stays(
    conn: psycopg.Connection, dsn: str
) -> None:
    fill(conn, 5)

    def act() -> None:
        conn.execute("alter table agent_task disable trigger agent_task_change")
        conn.execute("update agent_task set payload = '{}' where external_id = 'task 1'")
        conn.execute("alter table agent_task enable always trigger agent_task_change")

    with pytest.raises(PartitionError, match="other rows"):
        run(dsn, Moments(comparing=act))
    assert conn.execute("select relkind::text from pg_class where relname = 'agent_task'").fetchone() == ("r",)
    told = cli(dsn, "partition", "--partitions", "3")
    assert (told.code, told.out) == (2, "")
    assert len([line for line in told.err.splitlines() if line.startswith("agent-progress: ")]) == 1
    assert succeed(dsn, "partition", "--abandon").out == "dropped\n"
    run(dsn, Moments())
    assert_exact(conn)


def test_what_a_run_left_is_dropped_with_abandon_or_rollback(conn: psycopg.Connection, dsn: str) -> None:
    def stop() -> None:
        raise BrokenOff

    objects = "select relname from pg_class where relnamespace = 'public'::regnamespace order by 1"
    before = conn.execute(objects).fetchall()
    fill(conn, 2)
    for step in ("building", "comparing"):
        with pytest.raises(BrokenOff):
            run(dsn, Moments(**{step: stop}))
        assert conn.execute(objects).fetchall() != before
        succeed(dsn, "partition", "--abandon")
        assert conn.execute(objects).fetchall() == before
        assert missing_objects(conn) == []
    assert succeed(dsn, "partition", "--abandon").out.startswith("nothing to drop")
    with pytest.raises(BrokenOff):
        run(dsn, Moments(comparing=stop))
    rollback(dsn, all=True, drop_data=True)
    assert conn.execute(objects).fetchall() == []
    functions = "select proname from pg_proc where pronamespace = 'public'::regnamespace"
    assert conn.execute(functions).fetchall() == []


def test_two_at_once_both_succeed(conn: psycopg.Connection, dsn: str, small_batches: None) -> None:
    fill(conn)
    before = all_tasks(conn)
    running = [in_background(run, dsn, Moments()) for _ in range(2)]
    for one in running:
        one.result(60)
    assert all_tasks(conn) == before
    assert missing_objects(conn) == []


# --- What is carried over, and what is refused --------------------------------------------------------------

CUSTOM = """
    create table agent (name text primary key);
    insert into agent values ('a');
    alter table agent_task
        add column cost numeric(8, 2) not null default 0.5,
        add column doubled numeric generated always as (cost * 2) stored,
        add column place bigserial,
        add constraint agent_task_cost_check check (cost >= 0),
        add constraint agent_task_agent_type_fkey foreign key (agent_type) references agent on update cascade,
        add constraint agent_task_workflow_id_place_key unique (workflow_id, place);
    alter table agent_task alter column payload set storage external;
    alter table agent_task alter column agent_type set statistics 250;
    alter table agent_task alter column agent_type set (n_distinct = 7);
    alter table agent_task set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
    alter table agent_task replica identity full;
    comment on column agent_task.cost is 'What it cost.';
    create index "Odd index using %" on agent_task (lower(agent_type), created_at desc) include (cost)
        where cost > 0;
    comment on index "Odd index using %" is 'Odd.';
    create table noted (task uuid, what text);
    create function note() returns trigger language plpgsql as
        $$ begin insert into noted values (new.id, tg_op); return null; end $$;
    create trigger noting after update of cost on agent_task for each row
        when (new.cost is distinct from old.cost) execute function note();
    create trigger resting after insert on agent_task for each row execute function note();
    alter table agent_task disable trigger resting;
    comment on trigger noting on agent_task is 'Notes.';
    create view cheap as select a.id, a.workflow_id, w.name from agent_task as a join workflow as w
        on w.id = a.workflow_id where a.cost < 1;
    create view cheaper as select id from cheap;
    create policy own on agent_task as permissive for select to public using (
        exists (select from workflow as w where w.id = agent_task.workflow_id)
    );
    create policy anyone on agent_task for insert with check (true);
    create policy dear on agent_task as restrictive for update using (cost < 100) with check (cost < 200);
    alter table agent_task enable row level security;
"""
KEPT = {
    "columns": "select attname::text, format_type(atttypid, atttypmod), attnotnull, attstorage::text,"
    " pg_get_expr(d.adbin, d.adrelid), attgenerated::text, col_description(attrelid, attnum),"
    " nullif(attstattarget, -1), array(select o from unnest(attoptions) as o where o like 'n_distinct%')"
    " from pg_attribute left join pg_attrdef as d on d.adrelid = attrelid and d.adnum = attnum"
    " where attrelid = 'agent_task'::regclass and attnum > 0 and not attisdropped order by attnum",
    "constraints": "select conname::text, pg_get_constraintdef(oid) from pg_constraint"
    " where conrelid = 'agent_task'::regclass and contype not in ('p', 'n') order by 1",
    "indexes": "select replace(replace(pg_get_indexdef(indexrelid), 'ON ONLY', 'ON'), '(id)', '(id, workflow_id)'),"
    " obj_description(indexrelid, 'pg_class') from pg_index where indrelid = 'agent_task'::regclass order by 1",
    "triggers": "select pg_get_triggerdef(oid), tgenabled::text, obj_description(oid, 'pg_trigger') from pg_trigger"
    " where tgrelid = 'agent_task'::regclass and not tgisinternal and tgname <> 'agent_task_progress_merge' order by 1",
    "views": "select relname::text, pg_get_viewdef(oid), reloptions, relowner from pg_class where relkind = 'v'"
    " and relnamespace = 'public'::regnamespace order by 1",
    "policies": "select policyname::text, permissive, roles::text, cmd, qual, with_check from pg_policies"
    " where tablename = 'agent_task' order by 1",
    "table": "select relrowsecurity, relforcerowsecurity, relreplident::text, obj_description(oid, 'pg_class'),"
    " pg_get_userbyid(relowner)::text from pg_class where oid = 'agent_task'::regclass",
    "rights": "select a.grantee::regrole::text, a.privilege_type, a.is_grantable from pg_class as c"
    " cross join aclexplode(c.relacl) as a where c.oid = 'agent_task'::regclass and a.grantee <> c.relowner"
    " order by 1, 2",
    "rights on columns": "select t.attname::text, a.grantee::regrole::text, a.privilege_type from pg_attribute as t"
    " cross join aclexplode(t.attacl) as a where t.attrelid = 'agent_task'::regclass order by 1, 2, 3",
    "sequence": "select pg_get_serial_sequence('agent_task', 'place')",
}


def test_all_that_agent_task_has_is_carried_over_by_an_owner_who_is_no_superuser(
    conn: psycopg.Connection, new_role: Callable[..., Role]
) -> None:
    owner, agent, reader = new_role(), new_role(), new_role()
    give_away(conn, owner.name)
    admin = owner.connect()
    admin.execute(CUSTOM)
    pyapp.grant(admin, agents=[agent.name], readers=[reader.name])
    admin.execute(f"grant select on agent_task to {reader.name} with grant option")
    admin.execute(f"alter default privileges grant select on tables to {agent.name}")
    admin.execute(f"grant usage on sequence agent_task_place_seq to {agent.name}")
    fill(admin, 4)
    tasks = all_tasks(conn)
    before = {what: conn.execute(query).fetchall() for what, query in KEPT.items()}
    conn.execute("grant select on all tables in schema public to " + owner.name)  # yoyo's
    succeed(owner.dsn, "partition", "--partitions", "3")
    assert {what: conn.execute(query).fetchall() for what, query in KEPT.items()} == before
    assert all_tasks(conn) == tasks
    assert missing_objects(conn) == []
    parts = "select reloptions, relreplident::text, relacl is null or relacl::text not like %s from pg_class"
    part = [f"%{agent.name}%"]
    assert set(
        map(str, conn.execute(f"{parts} where relname like 'agent\\_task\\_p__'".replace("p__", "p_"), part))
    ) == {"(['fillfactor=70', 'autovacuum_vacuum_scale_factor=0.05'], 'f', True)"}
    # And all of it works.
    session = agent.connect()
    workflow = new_workflow(admin)
    session.execute("insert into agent_task (workflow_id, agent_type) values (%s, 'a')", [workflow])
    assert count(conn, "noted") == 0
    admin.execute("update agent_task set cost = 3")
    assert count(conn, "noted") == count(conn)
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        session.execute("insert into agent_task (workflow_id, agent_type) values (%s, 'unknown')", [workflow])
    admin.execute("delete from workflow")
    assert count(conn) == count(conn, "cheaper") == 0


REFUSED = {
    "another's foreign key": ("create table note (task uuid references agent_task (id))", "foreign key note_task_fkey"),
    "unique key": (
        "create unique index one_trace on agent_task (trace_id)",
        "index public.one_trace is unique without",
    ),
    "other primary key": (
        "alter table agent_task drop constraint agent_task_pkey, add primary key (workflow_id, id)",
        "the primary key of agent_task is not",
    ),
    "materialized view": ("create materialized view m as select id from agent_task", "depends on agent_task"),
    "function": (
        "create function f() returns bigint language sql begin atomic select count(*) from public.agent_task; end",
        "function public.f() depends on agent_task",
    ),
    "row type": ("create function f(t agent_task) returns int language sql return 1", "depends on agent_task"),
    "view by primary key": (
        "create view v as select id, agent_type from agent_task group by id",
        "depends on agent_task",
    ),
    "rule": ("create rule r as on delete to agent_task do also select 1", "depends on agent_task"),
    "policy elsewhere": (
        "create policy p on workflow using (exists (select from agent_task as a where a.workflow_id = workflow.id))",
        "policy p on table public.workflow depends on agent_task",
    ),
    "heirs": ("create table part () inherits (agent_task)", "heirs"),
    "publication": ("create publication p for table agent_task", "publication p publishes agent_task"),
    "publication of all": ("create publication p for all tables", "publication p publishes agent_task"),
    "publication of the schema": ("create publication p for tables in schema public", "publication p publishes"),
    "identity": ("alter table agent_task add column n int generated always as identity", "column n is an identity"),
    "unchecked": (
        "alter table agent_task add constraint c check (retry_count < 9) not valid",
        "constraint c is not validated",
    ),
    "row trigger with transition table": (
        "create function f() returns trigger language plpgsql as 'begin return null; end';"
        " create trigger t after update on agent_task referencing new table as n for each row execute function f()",
        "trigger t names transition tables",
    ),
    "replica identity": (
        "create unique index i on agent_task (workflow_id, id); alter table agent_task replica identity using index i",
        "replica identity",
    ),
    "disabled trigger": ("alter table agent_task disable trigger agent_task_progress_insert", "not whole"),
    "name": ("create table agent_task_p03 ()", "there is another table agent_task_p03"),
}


@pytest.mark.parametrize(("statement", "reason"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_carried_over_is_refused_in_one_line(
    conn: psycopg.Connection, dsn: str, statement: str, reason: str
) -> None:
    conn.execute(statement)
    for command in (["partition", "--dry-run"], ["partition"]):
        told = cli(dsn, *command)
        assert (told.code, told.out) == (2, "")
        assert told.err.startswith("agent-progress: nothing changed: ")
        assert reason in told.err
        assert len(told.err.splitlines()) == 1
    left = "select from pg_class where relname in ('agent_task_change', 'agent_task_partitioned')"
    assert conn.execute(left).fetchall() == []


def test_another_role_is_told_that_the_owner_has_to_do_it(
    conn: psycopg.Connection, new_role: Callable[..., Role]
) -> None:
    role = new_role()
    pyapp.grant(conn, operators=[role.name])
    told = cli(role.dsn, "partition")
    assert told.code == 2
    assert len(told.err.splitlines()) == 1


def test_a_database_without_our_schema_or_with_an_old_one_is_refused(dsn: str, empty: Callable[[], str]) -> None:
    told = cli(empty(), "partition")
    assert (told.code, "no agent_task of ours" in told.err) == (2, True)
    rollback(dsn)
    assert "run agent-progress migrate first" in cli(dsn, "partition").err


@pytest.mark.parametrize("number", ["0", "1", "1025", "-4", "x", "2.5", ""])
def test_a_number_of_partitions_that_makes_no_sense_is_refused(dsn: str, number: str) -> None:
    told = cli(dsn, "partition", f"--partitions={number}")
    assert (told.code, told.out) == (2, "")
    assert "is not a number of partitions (2 to 1024)" in told.err


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(conn: psycopg.Connection, dsn: str) -> None:
    fill(conn, 2)
    out = succeed(dsn, "partition", "--dry-run").out
    assert out.startswith(
        "agent_task, about 200 tasks, would be copied into 16 partitions, agent_task_p00 to agent_task_p15\n"
    )
    assert "view that reads it: public.workflow_timeline\n" in out
    assert out.endswith("nothing was changed\n")
    assert conn.execute("select relkind::text from pg_class where relname = 'agent_task'").fetchone() == ("r",)


@pytest.mark.parametrize("script", [Path("sql/optional/tenants.sql")], ids=str)
def test_tenants_see_their_own_afterwards(
    conn: psycopg.Connection, dsn: str, new_role: Callable[..., Role], script: Path
) -> None:
    conn.execute((Path(__file__).parent.parent / script).read_text().encode())
    one, other = new_role(), new_role()
    pyapp.grant(conn, operators=[one.name, other.name])
    mine = pyapp.create_workflow(one.connect(), "mine", "app").workflow_id
    pyapp.add_tasks(one.connect(), mine, ["a", "b"])
    run(dsn, Moments())
    session = one.connect()
    task = pyapp.list_tasks(session, mine)[0]
    pyapp.report_task(session, mine, task.id, "completed")
    assert progress(conn, mine) == (50, 1, 2)
    assert other.connect().execute("select from agent_task").fetchall() == []
