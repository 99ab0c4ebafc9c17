"""Tables as applications have them, of many shapes: what the adoption tests adopt.

In the SQL of a shape ``<name>`` stands for an identifier of it, ``<state>`` for the columns that tell the state of a
task and ``<=completed>`` for what they hold then. So the same statements run on every shape, with any names.
"""

import csv
import io
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from psycopg import sql

STATES = ("pending", "running", "completed", "failed", "cancelled")


def quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def literal(value: str) -> str:
    return sql.Literal(value).as_string(None).strip()


@dataclass(frozen=True)
class Shape:
    """Two tables, and what a test has to know of them."""

    title: str
    ddl: str
    key: Callable[[int], Any]
    names: Mapping[str, str]
    labels: Mapping[str, str]  # of each state, in the column t_status
    states: Mapping[str, str] = field(default_factory=dict)  # what the columns of <state> hold, where it is no label
    tests: Mapping[str, str] = field(default_factory=dict)  # when a task, t, is completed, failed or cancelled
    w_done: str | None = "completed"  # label of a completed workflow
    options: tuple[str, ...] = ()
    progress: bool = True
    cascades: bool = False  # deleting a workflow deletes its tasks
    rekeys: str | None = None  # "cascade", or "apart": workflow and tasks in two statements

    def render(self, text: str, *, parameters: bool = True) -> str:
        """Put in the names; for statements with parameters a percent sign is doubled."""

        def put(match: re.Match[str]) -> str:
            kind, name = match[1], match[2]
            if kind == "=":
                found = self.states.get(name) or self._label(name)
            elif name == "state":
                found = ", ".join(quoted(self.names[column]) for column in self._state_columns)
            elif name in ("workflows", "tasks"):
                found = f"{quoted(self.names['schema'])}.{quoted(self.names[name])}"
            elif kind == "'":
                found = literal(self.names[name])
            else:
                found = quoted(self.names[name])
            return found.replace("%", "%%") if parameters else found

        return re.sub(r"<([=']?)(\w+)>", put, text)

    def _label(self, state: str) -> str:
        label = self.labels[state]
        return label if re.fullmatch(r"\d+", label) else literal(label)

    @property
    def _state_columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name.startswith("t_state")) or ("t_status",)

    def test(self, outcome: str) -> str:
        """Say when a task, called t, is completed, failed or cancelled: written here, not taken from the product."""
        return self.tests.get(outcome) or f"t.<t_status> = <={outcome}>"

    def table(self, name: str) -> str:
        return self.render(f"<{name}>", parameters=False)

    def adopt_options(self) -> list[str]:
        """Say what adopt has to be told about it."""
        given = ["--workflows", self.table("workflows"), "--tasks", self.table("tasks")]
        given += [self.render(option, parameters=False) for option in self.options]
        if "t_status" in self.names:
            given += ["--status", self.names["t_status"]]
            given += [part for outcome in STATES[2:] for part in (f"--{outcome}", values(self.labels[outcome]))]
        if self.w_done is not None:
            given += ["--workflow-status", self.names["w_status"], "--workflow-completed", values(self.w_done)]
        if self.progress:
            given += ["--progress-column", self.names["progress"]]
        if self.rekeys == "none":
            given += ["--task-workflow", self.names["t_workflow"]]
        return given


def values(*labels: str) -> str:
    """Write labels as options take them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(labels)
    return text.getvalue()


_NAMES = {"schema": "public", "w_id": "id", "w_status": "status", "progress": "progress", "version": "version"}
_TASK_NAMES = {"t_id": "id", "t_workflow": "workflow_id", "t_status": "status", "n": "n", "touched": "updated_at"}
_LABELS = {state: state for state in STATES}

PRISMA = Shape(
    "prisma",
    """
    create type <t_type> as enum (<=pending>, <=running>, <=completed>, <=failed>, <=cancelled>);
    create type <w_type> as enum ('RUNNING', 'COMPLETED');
    create table <workflows> (
        <w_id> text not null,
        name text not null default 'w',
        <w_status> <w_type> not null default 'RUNNING',
        <progress> integer not null default 0,
        <version> integer not null default 1,
        "createdAt" timestamp(3) not null default current_timestamp,
        <touched> timestamp(3) not null default '2020-01-01',
        primary key (<w_id>)
    );
    create table <tasks> (
        <t_id> text not null default gen_random_uuid()::text,
        <t_workflow> text,
        <n> integer not null default 0,
        <t_status> <t_type> not null default <=pending>,
        "createdAt" timestamp(3) not null default current_timestamp,
        primary key (<t_id>),
        foreign key (<t_workflow>) references <workflows> (<w_id>) on delete restrict on update cascade
    );
    create index on <tasks> (<t_workflow>);
    """,
    key=lambda n: f"clx{n:022d}",
    names={
        **_NAMES,
        **_TASK_NAMES,
        "workflows": "Workflow",
        "tasks": "AgentTask",
        "t_workflow": "workflowId",
        "touched": "updatedAt",
        "t_type": "TaskStatus",
        "w_type": "WorkflowStatus",
    },
    labels={state: state.upper() for state in STATES},
    w_done="COMPLETED",
    rekeys="cascade",
)

DJANGO = Shape(
    "django",
    """
    create table <workflows> (
        <w_id> bigint generated by default as identity primary key,
        name varchar(200) not null default 'w',
        <w_status> varchar(20) not null default 'running',
        <progress> smallint not null default 0 check (<progress> between 0 and 100),
        <version> integer not null default 1,
        created timestamptz not null default now(),
        <touched> timestamptz not null default '2020-01-01'
    );
    create table <tasks> (
        <t_id> bigint generated by default as identity primary key,
        <t_workflow> bigint references <workflows> (<w_id>) deferrable initially deferred,
        <n> integer not null default 0,
        <t_status> varchar(20) not null default <=pending>,
        urgent boolean not null default false
    );
    create index on <tasks> (<t_workflow>);
    """,
    key=lambda n: 1000 + n,
    names={
        **_NAMES,
        **_TASK_NAMES,
        "workflows": "app_run",
        "tasks": "app_step",
        "t_workflow": "run_id",
        "touched": "updated",
    },
    labels=_LABELS,
    rekeys="apart",
)

CODES = Shape(
    "codes",
    """
    create schema if not exists <schema>;
    create table <workflows> (
        <w_id> integer primary key,
        <w_status> smallint not null default 0,
        <progress> numeric(5, 2),
        <version> bigint not null default 1,
        <touched> date not null default '2020-01-01'
    );
    create table <tasks> (
        <t_id> integer generated always as identity primary key,
        <t_workflow> integer references <workflows> (<w_id>) on delete cascade on update cascade,
        <n> integer not null default 0,
        <t_status> smallint not null default <=pending>
    );
    """,
    key=lambda n: n - 3,
    names={
        **_NAMES,
        **_TASK_NAMES,
        "schema": "warehouse",
        "workflows": "jobs",
        "tasks": "job_parts",
        "w_id": "job_no",
        "t_workflow": "job",
        "w_status": "state",
        "t_status": "code",
        "progress": "percent",
    },
    labels=dict(zip(STATES, "01234", strict=True)),
    w_done="2",
    cascades=True,
    rekeys="cascade",
)

PARTITIONED = Shape(
    "partitioned",
    """
    create table <workflows> (
        <w_id> uuid primary key,
        <w_status> text not null default 'running',
        <progress> integer not null default 0,
        <version> integer not null default 1,
        <touched> timestamptz not null default '2020-01-01'
    );
    create table <tasks> (
        <t_id> uuid not null default gen_random_uuid(),
        <t_workflow> uuid references <workflows> (<w_id>) on delete cascade,
        <n> integer not null default 0,
        <t_status> text not null default <=pending>,
        <region> text not null default 'eu'
    ) partition by list (<region>);
    create table <eu> partition of <tasks> for values in ('eu') partition by hash (<n>);
    create table <eu_even> partition of <eu> for values with (modulus 2, remainder 0);
    create table <eu_odd> partition of <eu> for values with (modulus 2, remainder 1);
    create table <us> partition of <tasks> for values in ('us');
    create index on <tasks> (<t_workflow>);
    """,
    key=lambda n: uuid.UUID(int=n),
    names={
        **_NAMES,
        **_TASK_NAMES,
        "workflows": "flow",
        "tasks": "flow_task",
        "region": "region",
        "eu": "flow_task_eu",
        "eu_even": "flow_task_eu_even",
        "eu_odd": "flow_task_eu_odd",
        "us": "flow_task_us",
    },
    labels=_LABELS,
    cascades=True,
)

TIMES = Shape(
    "times",
    """
    create table <workflows> (
        <w_id> bigserial primary key,
        title text,
        <version> integer not null default 1,
        <touched> timestamptz not null default '2020-01-01'
    );
    create table <tasks> (
        <t_id> bigserial primary key,
        <t_workflow> bigint references <workflows> (<w_id>) on delete cascade,
        <n> integer not null default 0,
        <t_state> timestamptz,
        <t_state_error> text
    );
    create index on <tasks> (<t_workflow>);
    """,
    key=lambda n: n,
    names={
        **{name: _NAMES[name] for name in ("schema", "w_id", "version")},
        **{name: _TASK_NAMES[name] for name in ("t_id", "t_workflow", "n", "touched")},
        "workflows": "build",
        "tasks": "build_job",
        "t_workflow": "build_id",
        "t_state": "finished_at",
        "t_state_error": "error",
    },
    labels={},
    states={
        "pending": "null, null",
        "running": "null, ''",
        "completed": "now(), null",
        "failed": "now(), 'out of memory'",
        "cancelled": "now(), 'cancelled'",
    },
    tests={
        "completed": "t.<t_state> is not null and t.<t_state_error> is null",
        "failed": "t.<t_state> is not null and t.<t_state_error> <> 'cancelled'",
        "cancelled": "t.<t_state_error> = 'cancelled'",
    },
    options=(
        *("--completed-when", "<t_state> is not null and <t_state_error> is null"),
        *("--failed-when", "<t_state> is not null and task.<t_state_error> <> 'cancelled'"),
        *("--cancelled-when", "<t_state_error> = 'cancelled'"),
    ),
    w_done=None,
    progress=False,
    cascades=True,
)

LOOSE = Shape(
    "loose",
    """
    create table <workflows> (
        <w_id> uuid primary key default gen_random_uuid(),
        <w_status> text,
        <progress> double precision,
        <version> integer not null default 1,
        <touched> timestamptz not null default '2020-01-01'
    );
    create table <tasks> (
        <t_workflow> uuid,
        <n> integer not null default 0,
        <t_status> char(10) default <=pending>
    );
    """,
    key=lambda n: uuid.UUID(int=n << 100),
    names={**_NAMES, **_TASK_NAMES, "workflows": "runs", "tasks": "steps", "t_workflow": "run"},
    labels=_LABELS,
    rekeys="none",
)

SHARDED = Shape(
    "sharded",
    """
    create table <workflows> (
        <w_id> varchar(40) primary key,
        <w_status> text not null default 'running',
        <progress> integer default 0,
        <version> integer not null default 1,
        <touched> timestamptz not null default '2020-01-01'
    ) partition by hash (<w_id>);
    create table <first> partition of <workflows> for values with (modulus 2, remainder 0);
    create table <second> partition of <workflows> for values with (modulus 2, remainder 1);
    create table <tasks> (
        <t_id> bigint generated always as identity primary key,
        <t_workflow> varchar(40) references <workflows> (<w_id>) on delete cascade,
        <n> integer not null default 0,
        <t_status> text not null default <=pending>
    );
    create index on <tasks> (<t_workflow>);
    """,
    key=lambda n: f"flow-{n}",
    names={
        **_NAMES,
        **_TASK_NAMES,
        "workflows": "sharded",
        "tasks": "sharded_task",
        "first": "sharded_0",
        "second": "sharded_1",
    },
    labels=_LABELS,
    cascades=True,
)

SHAPES = (PRISMA, DJANGO, CODES, PARTITIONED, TIMES, LOOSE, SHARDED)

# What other people's names can do to SQL that is made of them, and to variables of ours that are called the same.
_HOSTILE = (
    "new_workflow",
    "tg_op",
    "change",
    'say "when"',
    "o'hara; drop table x --",
    "$$",
    "$agent_progress$",
    "100% {} %s %(key)s",
    "back\\slash",
    "ümläut 工作流 🚀",
    "user",
    "found",
    "select",
    "task",
    "sign",
    "public.workflow as w",
    "their_key",
    "uuid",
    "where id =",
    "x" * 63,
    "line\nbreak\u2028and\ttab",
    ":name :'name' :\"name\"",
    "workflow",
    "several",
    "new",
    "old_status",
    "id",
    "status",
    "candidate",
    "counted",
    "u",
    "w",
    "s",
)
_HOSTILE_LABELS = ("it's", 'a "b"', "100%s {}", "b\\c, $$", "完了 \U0001f680")


def hostile(shape: Shape, turn: int) -> Shape:
    """Give everything in a shape a name that is hard to quote; ``turn`` shifts which gets which."""
    names = {
        name: 'my "own" schema\'s $$ %s'
        if name == "schema" and turn % 2
        else actual
        if name == "schema"
        else _HOSTILE[(turn * 5 + place) % len(_HOSTILE)]
        for place, (name, actual) in enumerate(shape.names.items())
    }
    numbers = any(label.isdigit() for label in shape.labels.values())
    short = "char(10)" in shape.ddl
    labels = shape.labels
    if labels and not numbers:
        labels = {state: label[: 10 if short else None] for state, label in zip(STATES, _HOSTILE_LABELS, strict=True)}
    return replace(
        shape,
        title=f"hostile {shape.title}",
        ddl=f"create schema if not exists <schema>;{shape.ddl}",
        names=names,
        labels=labels,
        options=tuple(re.sub(r"(?<!task\.)<(?=\w)", "task.<", option) for option in shape.options),
    )


HOSTILE_SHAPES = tuple(hostile(shape, turn) for turn, shape in enumerate(SHAPES))
