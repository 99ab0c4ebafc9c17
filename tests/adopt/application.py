"""An application with tables of some shape, which knows nothing of adoptions; and a count of its own."""

import io
from collections import Counter, defaultdict
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import psycopg

from pyapp.cli.main import main

from .shapes import Shape

NUMBERS = "progress, agents_completed, agents_total, agents_created, agents_failed, agents_cancelled"


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


def cli(dsn: str, *args: str) -> Ran:
    """Run a command line."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["--dsn", dsn, *args])
    return Ran(code, out.getvalue(), err.getvalue())


def succeed(dsn: str, *args: str) -> Ran:
    """Run a command line that has to succeed."""
    ran = cli(dsn, *args)
    assert ran.code == 0, ran
    return ran


def refuse(dsn: str, *args: str) -> str:
    """Run a command line that has to be refused; return what it says."""
    ran = cli(dsn, *args)
    assert ran.code == 2, ran
    assert len(ran.err.splitlines()) >= 1
    return ran.err


def percent(completed: int, total: int) -> int:
    """Write the formula once more, in another way."""
    if completed == 0 or total == 0:
        return 0
    if completed >= total:
        return 100
    rounded = int((Decimal(100) * completed / total).quantize(Decimal(1), ROUND_HALF_UP))
    return min(99, max(1, rounded))


def workflow_id(key: tuple[Any, ...]) -> str:
    """Write a key as views show it."""
    if len(key) == 1:
        return str(key[0])
    return "/".join(str(part).replace("%", "%25").replace("/", "%2F") for part in key)


@dataclass
class App:
    """Writes as an application does."""

    conn: psycopg.Connection[Any]
    shape: Shape
    schema: str = "agent_progress"

    @property
    def dsn(self) -> str:
        return self.conn.info.dsn

    def run(self, text: str, **values: Any) -> psycopg.Cursor[Any]:
        return self.conn.execute(text.encode(), values or None)

    def create(self) -> None:
        self.conn.execute(self.shape.ddl.encode())

    def key(self, n: int) -> tuple[Any, ...]:
        return self.shape.key(n)

    def bind(self, n: int, prefix: str = "k") -> dict[str, Any]:
        return {f"{prefix}{i + 1}": part for i, part in enumerate(self.key(n))}

    def workflow(self, n: int, *states: str, again: str = "") -> None:
        """Insert a workflow, where there is a table of them, and a task in each state, one statement for each state."""
        shape = self.shape
        if shape.workflows:
            values = ", ".join(f"%(k{i + 1})s" for i in range(len(shape.workflow_read)))
            if shape.workflow_put == "doc":
                values = "jsonb_build_object('id', %(k1)s)"
            self.run(f"insert into {shape.workflows} ({shape.workflow_put}) values ({values}) {again}", **self.bind(n))
        for state, many in Counter(states).items():
            self.tasks(n, state, many)

    def tasks(self, n: int, state: str, many: int = 1) -> None:
        """Insert tasks; the column n counts them."""
        shape = self.shape
        columns, values = shape.put
        status, value = shape.status, shape.states[state]
        if status.startswith("("):
            status, value = status.strip("()"), value.removeprefix("row(").removesuffix(")")
        more, more_values = (f", {part}" if part else "" for part in shape.more)
        self.run(
            f"insert into {shape.tasks} ({columns}, n, {status}{more})"
            f" select {values}, i, {value}{more_values} from generate_series(1, %(many)s) as i",
            many=many,
            **self.bind(n),
        )

    def move(self, n: int, state: str, below: int = 1000) -> int:
        """Bring the tasks of a workflow with a small n into a state, in one statement."""
        shape = self.shape
        return self.run(
            f"update {shape.tasks} as t set {shape.status} = {shape.states[state]}"
            f" where {shape.keyed()} and t.n <= %(below)s",
            below=below,
            **self.bind(n),
        ).rowcount

    def remove(self, n: int, below: int = 1000) -> int:
        """Delete tasks."""
        text = f"delete from {self.shape.tasks} as t where {self.shape.keyed()} and t.n <= %(below)s"
        return self.run(text, below=below, **self.bind(n)).rowcount

    def rekey(self, n: int, m: int, below: int = 1000) -> int:
        """Let tasks go over to another workflow."""
        columns, values = self.shape.put
        for i in range(len(self.shape.read)):
            values = values.replace(f"%(k{i + 1})s", f"%(m{i + 1})s")
        return self.run(
            f"update {self.shape.tasks} as t set ({columns}) = row({values})"
            f" where {self.shape.keyed()} and t.n <= %(below)s",
            below=below,
            **self.bind(n),
            **self.bind(m, "m"),
        ).rowcount

    def drop(self, n: int) -> None:
        """Delete a workflow, and its tasks before it where the key refuses that."""
        if self.shape.deletes == "refuse":
            self.remove(n)
        self.run(f"delete from {self.shape.workflows} where {self.shape.workflow_keyed()}", **self.bind(n))

    def fill(self) -> None:
        """Write what there is before: workflows with tasks in all states."""
        self.workflow(0)
        self.workflow(1, *["pending"] * 5)
        self.workflow(2, "completed", "completed", "failed", "cancelled", "running")
        self.workflow(3, *["completed"] * 3)
        self.workflow(4, "completed", *["pending"] * 199)
        self.workflow(5, "running", *["completed"] * 199)
        columns = self.shape.put[0]
        if columns != "doc":
            null = ", ".join("null" for _ in columns.split(","))
            more, more_values = (f", {part}" if part else "" for part in self.shape.more)
            self._without_key(columns, null, more, more_values)

    def _without_key(self, columns: str, null: str, more: str, more_values: str) -> None:
        with suppress(psycopg.errors.NotNullViolation):
            self.run(f"insert into {self.shape.tasks} ({columns}, n{more}) select {null}, 1{more_values}")

    def adopt(self, *more: str) -> Ran:
        """Adopt it, as a user would."""
        return succeed(self.dsn, "adopt", *self.shape.options, "--yes", *more)

    def counted(self) -> dict[str, tuple[int, ...]]:
        """Count, independently: what NUMBERS should be, by workflow."""
        shape = self.shape
        tests = ", ".join(f"({shape.test(outcome)}) is true" for outcome in ("completed", "failed", "cancelled"))
        seen: dict[str, Counter[str]] = defaultdict(Counter)
        keys = ", ".join(shape.read)
        for row in self.run(f"select {keys}, {tests} from {shape.tasks} as t where {shape.counts}"):
            key, (completed, failed, cancelled) = row[: len(shape.read)], row[len(shape.read) :]
            if None not in key:
                seen[workflow_id(key)].update(created=1, completed=completed, failed=failed, cancelled=cancelled)
        ids = list(seen)
        if shape.workflows:
            rows = self.run(f"select {', '.join(shape.workflow_read)} from {shape.workflows}").fetchall()
            ids = [workflow_id(row) for row in rows if None not in row]
        if shape.workflows == shape.tasks:  # children are tasks, unless they have children
            children = {
                workflow_id(row)
                for row in self.run(
                    f"select {', '.join(shape.workflow_read)} from {shape.tasks} as t where {shape.read[0]} is not null"
                )
            }
            ids = [id for id in ids if id in seen or id not in children]
        numbers: dict[str, tuple[int, ...]] = {}
        for id in ids:
            of = seen[id]
            numbers[id] = (
                percent(of["completed"], of["created"]),
                *(of["completed"], of["created"], of["created"], of["failed"], of["cancelled"]),
            )
        return numbers

    def stored(self) -> dict[str, tuple[int, ...]]:
        """Read what the view says."""
        rows = self.run(f"select workflow_id::text, {NUMBERS} from {self.schema}.workflow_progress")
        return {row[0]: row[1:] for row in rows}

    def said(self) -> dict[str, float]:
        """Read the application's own column of progress."""
        keys, shape = ", ".join(self.shape.workflow_read), self.shape
        rows = self.run(f"select {shape.progress}, {keys} from {shape.workflows}").fetchall()
        return {workflow_id(row[1:]): row[0] for row in rows if None not in row[1:]}

    def drift(self) -> list[Any]:
        return self.run(f"select * from {self.schema}.workflow_progress_drift").fetchall()

    def assert_exact(self) -> None:
        """See that every number is what an independent count gives, in the application's own column, too."""
        counted, stored = self.counted(), self.stored()
        assert stored == counted
        if self.shape.progress:
            assert self.said() == {key: numbers[0] for key, numbers in stored.items()}
        assert self.drift() == []
        calculated = self.run(f"select workflow_id::text, {NUMBERS} from {self.schema}.workflow_progress_calculated")
        assert {row[0]: row[1:] for row in calculated} == counted

    def check(self) -> Ran:
        return cli(self.dsn, "check", "--schema", self.schema)
