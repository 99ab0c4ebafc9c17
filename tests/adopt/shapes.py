"""Tables as applications have them, of many shapes: what the adoption tests adopt, and how to count in them by hand."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

STATES = ("pending", "running", "completed", "failed", "cancelled")
_STATUSES = {state: f"'{state}'" for state in STATES}


@dataclass(frozen=True)
class Shape:
    """Tables, and what a test has to know of them. Keys are tuples of values, k1, k2, … in statements."""

    title: str
    ddl: str
    tasks: str
    options: tuple[str, ...]
    key: Callable[[int], tuple[Any, ...]]
    read: tuple[str, ...]  # the key as the row t of a task has it
    put: tuple[str, str]  # the columns of a task that hold its key, and their values
    status: str = "status"
    states: Mapping[str, str] = field(default_factory=lambda: _STATUSES)
    tests: Mapping[str, str] = field(default_factory=dict)  # when a task t is completed, …; else by status
    counts: str = "true"  # whether a task t counts
    more: tuple[str, str] = ("", "")  # further columns of a task, and their values
    workflows: str | None = None
    workflow_read: tuple[str, ...] = ()
    workflow_put: str = ""  # columns of a workflow that hold its key
    progress: str | None = None
    deletes: str = "cascade"  # what becomes of the tasks of a deleted workflow: cascade, stay, null, refuse
    rekeys: bool = True  # whether the key of a task can be written
    major: int = 15

    def test(self, outcome: str) -> str:
        return self.tests.get(outcome) or f"t.{self.status} = {self.states[outcome]}"

    def keyed(self, prefix: str = "k") -> str:
        """Write the condition that a task t has a key."""
        return " and ".join(f"{part} = %({prefix}{i + 1})s" for i, part in enumerate(self.read))

    def workflow_keyed(self) -> str:
        return " and ".join(f"{part} = %(k{i + 1})s" for i, part in enumerate(self.workflow_read))


AIRFLOW = Shape(
    "composite key",
    """
    create table dag_run (
        id serial primary key, dag_id varchar(250) not null, run_id varchar(250) not null,
        state varchar(50) default 'running', unique (dag_id, run_id)
    );
    create table task_instance (
        id uuid primary key default gen_random_uuid(), dag_id varchar(250) not null, run_id varchar(250) not null,
        n integer, state varchar(20),
        foreign key (dag_id, run_id) references dag_run (dag_id, run_id) on delete cascade on update cascade
    );
    create index on task_instance (dag_id, run_id);
    """,
    tasks="task_instance",
    workflows="dag_run",
    options=(
        *("--workflows", "dag_run", "--tasks", "task_instance", "--completed", "success", "--failed", "failed"),
        *("--cancelled", "cancelled", "--ignored", "skipped,removed"),
    ),
    key=lambda n: (f"dag/{n % 3}", f"run %{n}"),
    read=("t.dag_id", "t.run_id"),
    put=("dag_id, run_id", "%(k1)s, %(k2)s"),
    workflow_read=("dag_id", "run_id"),
    workflow_put="dag_id, run_id",
    status="state",
    states=_STATUSES | {"pending": "null", "running": "'skipped'", "completed": "'success'"},
    counts="t.state is distinct from 'skipped'",
)

JSON_JOBS = Shape(
    "no table of workflows, key in jsonb",
    """
    create table jobs (id bigserial primary key, n integer, state text not null, meta jsonb);
    create index on jobs ((meta ->> 'workflow_id'));
    """,
    tasks="jobs",
    options=(
        *("--tasks", "jobs", "--key-sql", "meta->>'workflow_id'", "--status", "state"),
        *("--column", "name=meta->>'workflow_name'", "--failed", "discarded"),
    ),
    key=lambda n: (f"wf-{n}",),
    read=("t.meta ->> 'workflow_id'",),
    put=("meta", "jsonb_build_object('workflow_id', %(k1)s::text, 'workflow_name', 'flow ' || %(k1)s::text)"),
    status="state",
    states=_STATUSES | {"failed": "'discarded'"},
)

ONE_TABLE = Shape(
    "one table in both roles",
    """
    create table run (
        id integer primary key, parent_id integer references run (id) on delete cascade, n integer,
        status text not null default 'running'
    );
    create index on run (parent_id);
    create sequence child_id start 100000;
    """,
    tasks="run",
    workflows="run",
    options=("--workflows", "run", "--tasks", "run"),
    key=lambda n: (n,),
    read=("t.parent_id",),
    put=("parent_id", "%(k1)s"),
    more=("id", "nextval('child_id')"),
    workflow_read=("id",),
    workflow_put="id",
)

UNIQUE_NULLABLE = Shape(
    "nullable unique key",
    """
    create table batch (id serial primary key, token uuid unique, title text, status text, progress integer);
    create table item (id serial primary key, batch_token uuid, n integer, status text);
    create index on item (batch_token) where batch_token is not null;
    insert into batch (title) values ('none'), ('none either');
    """,
    tasks="item",
    workflows="batch",
    options=("--workflows", "batch", "--tasks", "item", "--key", "batch_token", "--workflow-key", "token"),
    key=lambda n: (uuid.UUID(int=n + 1),),
    read=("t.batch_token",),
    put=("batch_token", "%(k1)s"),
    workflow_read=("token",),
    workflow_put="token",
    progress="progress",
    deletes="stay",
)

PARTITIONED = Shape(
    "partitioned by time",
    """
    create table flow (id uuid primary key, name text, status text);
    create table flow_task (
        id uuid default gen_random_uuid(), flow_id uuid, n integer, status text,
        created_at timestamptz not null default '2026-01-15', primary key (id, created_at)
    ) partition by range (created_at);
    create table flow_task_1 partition of flow_task for values from ('2026-01-01') to ('2026-02-01');
    create table flow_task_2 partition of flow_task for values from ('2026-02-01') to ('2026-03-01');
    create index on flow_task (flow_id);
    """,
    tasks="flow_task",
    workflows="flow",
    options=("--workflows", "flow", "--tasks", "flow_task", "--key", "flow_id"),
    key=lambda n: (uuid.UUID(int=n + 1),),
    read=("t.flow_id",),
    put=("flow_id", "%(k1)s"),
    workflow_read=("id",),
    workflow_put="id",
    deletes="stay",
)

STORED = Shape(
    "generated key, stored",
    """
    create table flow (
        doc jsonb, id integer generated always as ((doc ->> 'id')::integer) stored unique, progress smallint default 7
    );
    create table flow_task (
        doc jsonb, flow integer generated always as ((doc ->> 'flow')::integer) stored, n integer, status text
    );
    create index on flow_task (flow);
    """,
    tasks="flow_task",
    workflows="flow",
    options=("--workflows", "flow", "--tasks", "flow_task", "--key", "flow", "--workflow-key", "id"),
    key=lambda n: (n,),
    read=("t.flow",),
    put=("doc", "jsonb_build_object('flow', %(k1)s)"),
    workflow_read=("id",),
    workflow_put="doc",
    progress="progress",
    deletes="stay",
)

VIRTUAL = Shape(
    "generated key, virtual",
    """
    create table flow_task (
        id serial, doc jsonb, flow text generated always as (doc ->> 'flow') virtual, n integer, status text
    );
    """,
    tasks="flow_task",
    options=("--tasks", "flow_task", "--key", "flow"),
    key=lambda n: (f"f{n}",),
    read=("t.flow",),
    put=("doc", "jsonb_build_object('flow', %(k1)s::text)"),
    major=18,
)

GROUPS = Shape(
    "group id as text",
    "create table message (id bigserial, group_id text, n integer, status smallint not null default 0)",
    tasks="message",
    options=("--tasks", "message", "--key", "group_id", "--completed", "2", "--failed", "3", "--cancelled", "4"),
    key=lambda n: (f"g'{n}",),
    read=("t.group_id",),
    put=("group_id", "%(k1)s"),
    states={"pending": "0", "running": "1", "completed": "2", "failed": "3", "cancelled": "4"},
)

TIMES = Shape(
    "timestamps and an error column",
    """
    create table build (
        id integer primary key, ended timestamptz, ok boolean, percent numeric(5, 2) default 12.5,
        done integer, "all" bigint, created_at bigint default 1780000000000
    );
    create table build_job (
        id serial, build_id integer references build (id) on delete set null, n integer,
        finished_at timestamptz, error text
    );
    create index on build_job (build_id);
    """,
    tasks="build_job",
    workflows="build",
    options=(
        *("--workflows", "build", "--tasks", "build_job"),
        *("--completed-when", "finished_at is not null and error is null"),
        *("--failed-when", "finished_at is not null and task.error <> 'cancelled'"),
        *("--cancelled-when", "error = 'cancelled'", "--workflow-completed-when", "ended is not null and ok"),
        *("--publish", "progress=percent,completed=done,total=all"),
    ),
    key=lambda n: (n,),
    read=("t.build_id",),
    put=("build_id", "%(k1)s"),
    workflow_read=("id",),
    workflow_put="id",
    status="(finished_at, error)",
    states={
        "pending": "row(null, null)",
        "running": "row(null, '')",
        "completed": "row(now(), null)",
        "failed": "row(now(), 'out of memory')",
        "cancelled": "row(now(), 'cancelled')",
    },
    tests={
        "completed": "t.finished_at is not null and t.error is null",
        "failed": "t.finished_at is not null and t.error <> 'cancelled'",
        "cancelled": "t.error = 'cancelled'",
    },
    progress="percent",
    deletes="null",
)

SOFT = Shape(
    "soft-deleted and polymorphic rows",
    """
    create table flow (id bigint primary key, status text);
    create table job (
        id serial primary key, owner_type text default 'Flow', owner_id bigint, n integer, deleted_at timestamptz,
        status text
    );
    create index on job (owner_type, owner_id);
    """,
    tasks="job",
    workflows="flow",
    options=(
        *("--workflows", "flow", "--tasks", "job", "--key", "owner_id"),
        *("--where", "owner_type = 'Flow' and deleted_at is null"),
    ),
    key=lambda n: (n,),
    read=("t.owner_id",),
    put=("owner_id", "%(k1)s"),
    workflow_read=("id",),
    workflow_put="id",
    counts="t.owner_type = 'Flow' and t.deleted_at is null",
    deletes="stay",
)

NO_STATUS = Shape(
    "tasks without any status",
    "create table event (id serial primary key, trace text, n integer, kind text)",
    tasks="event",
    options=("--tasks", "event", "--key", "trace", "--completed-when", "false"),
    key=lambda n: (f"t{n}",),
    read=("t.trace",),
    put=("trace", "%(k1)s"),
    status="kind",
    tests={"completed": "false", "failed": "false", "cancelled": "false"},
)

BY_TRIGGER = Shape(
    "parents that a trigger makes",
    """
    create table flow (id text primary key, status text default 'running', progress integer not null default 0);
    create table job (id serial primary key, flow_id text, n integer, status text);
    create index on job (flow_id);
    create function make_flow() returns trigger language plpgsql as $$
    begin
        insert into flow (id) select distinct j.flow_id from made as j where j.flow_id is not null
        on conflict do nothing;
        return null;
    end $$;
    create trigger a_make_flow after insert on job referencing new table as made for each statement
        execute function make_flow();
    """,
    tasks="job",
    workflows="flow",
    options=("--workflows", "flow", "--tasks", "job", "--key", "flow_id"),
    key=lambda n: (f"f{n}",),
    read=("t.flow_id",),
    put=("flow_id", "%(k1)s"),
    workflow_read=("id",),
    workflow_put="id",
    progress="progress",
    deletes="stay",
)

PRISMA = Shape(
    "Prisma",
    """
    create type "TaskStatus" as enum ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED');
    create table "Workflow" (
        "id" text primary key, "name" text not null default 'w', "status" text not null default 'RUNNING',
        "progress" integer not null default 0, "createdAt" timestamp(3) not null default current_timestamp
    );
    create table "AgentTask" (
        "id" text primary key default gen_random_uuid()::text,
        "workflowId" text references "Workflow" ("id") on delete restrict on update cascade,
        n integer, "status" "TaskStatus" not null default 'PENDING'
    );
    create index on "AgentTask" ("workflowId");
    """,
    tasks='"AgentTask"',
    workflows='"Workflow"',
    options=("--workflows", '"Workflow"', "--tasks", '"AgentTask"'),
    key=lambda n: (f"clx{n:022d}",),
    read=('t."workflowId"',),
    put=('"workflowId"', "%(k1)s"),
    workflow_read=("id",),
    workflow_put="id",
    states={state: f"'{state.upper()}'::\"TaskStatus\"" for state in STATES},
    progress="progress",
    deletes="refuse",
)

DJANGO = Shape(
    "Django",
    """
    create table app_run (
        id bigint generated by default as identity primary key, name varchar(200) not null default 'w',
        status varchar(20) not null default 'running',
        progress smallint not null default 0 check (progress between 0 and 100)
    );
    create table app_step (
        id bigint generated by default as identity primary key,
        run_id bigint references app_run (id) deferrable initially deferred, n integer, status varchar(20)
    );
    create index on app_step (run_id);
    """,
    tasks="app_step",
    workflows="app_run",
    options=("--workflows", "app_run", "--tasks", "app_step"),
    key=lambda n: (1000 + n,),
    read=("t.run_id",),
    put=("run_id", "%(k1)s"),
    workflow_read=("id",),
    workflow_put="id",
    progress="progress",
    deletes="refuse",
)

RAILS = Shape(
    "Rails",
    """
    create table runs (
        id bigserial primary key, name varchar, state integer not null default 1, progress integer not null default 0,
        created_at timestamp(6) not null default now(), updated_at timestamp(6) not null default now()
    );
    create table steps (
        id bigserial primary key, owner_type varchar not null default 'Run', owner_id bigint, n integer,
        status integer not null default 0, created_at timestamp(6) not null default now()
    );
    create index on steps (owner_type, owner_id);
    """,
    tasks="steps",
    workflows="runs",
    options=(
        *("--workflows", "runs", "--tasks", "steps", "--key", "owner_id", "--where", "owner_type = 'Run'"),
        *("--completed", "2", "--failed", "3", "--cancelled", "4", "--workflow-completed", "2"),
    ),
    key=lambda n: (1000 + n,),
    read=("t.owner_id",),
    put=("owner_id", "%(k1)s"),
    states={"pending": "0", "running": "1", "completed": "2", "failed": "3", "cancelled": "4"},
    counts="t.owner_type = 'Run'",
    workflow_read=("id",),
    workflow_put="id",
    progress="progress",
    deletes="stay",
)

SHARDED = Shape(
    "partitioned workflows",
    """
    create table flow (
        id varchar(40) primary key, status text, progress double precision default 0
    ) partition by hash (id);
    create table flow_0 partition of flow for values with (modulus 2, remainder 0);
    create table flow_1 partition of flow for values with (modulus 2, remainder 1);
    create table step (id serial, flow varchar(40) references flow (id) on delete cascade on update cascade,
        n integer, status char(10));
    create index on step (flow);
    """,
    tasks="step",
    workflows="flow",
    options=("--workflows", "flow", "--tasks", "step"),
    key=lambda n: (f"flow-{n}",),
    read=("t.flow",),
    put=("flow", "%(k1)s"),
    workflow_read=("id",),
    workflow_put="id",
    progress="progress",
)

SHAPES = (
    *(AIRFLOW, JSON_JOBS, ONE_TABLE, UNIQUE_NULLABLE, PARTITIONED, STORED, VIRTUAL, GROUPS, TIMES, SOFT, NO_STATUS),
    *(BY_TRIGGER, PRISMA, DJANGO, RAILS, SHARDED),
)
