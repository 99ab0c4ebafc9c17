"""An application with tables of some shape, which knows nothing of us; and an independent count of what it does."""

import io
from collections import Counter, defaultdict
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import psycopg

from pyapp.cli import main

from .shape import Shape, quoted

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
        try:
            code = main(["--dsn", dsn, *args])
        except SystemExit as stop:  # argparse
            code = int(str(stop.code))
    return Ran(code, out.getvalue(), err.getvalue())


def succeed(dsn: str, *args: str) -> Ran:
    """Run a command line that has to succeed."""
    ran = cli(dsn, *args)
    assert ran.code == 0, ran
    return ran


def percent(completed: int, total: int) -> int:
    """Write the formula once more, in another way."""
    if completed == 0 or total == 0:
        return 0
    if completed >= total:
        return 100
    rounded = int((Decimal(100) * completed / total).quantize(Decimal(1), ROUND_HALF_UP))
    return min(99, max(1, rounded))


@dataclass
class App:
    """Writes as an application does. The test says which workflows are ``frozen``, and what their ``plans`` are."""

    conn: psycopg.Connection[Any]
    shape: Shape
    columns: bool = False
    schema: str = "agent_progress"
    frozen: dict[Any, int] = field(default_factory=dict)
    plans: dict[Any, int] = field(default_factory=dict)

    @property
    def dsn(self) -> str:
        return self.conn.info.dsn

    def run(self, text: str, **values: Any) -> psycopg.Cursor[Any]:
        """Run a statement of the application's."""
        return self.conn.execute(self.shape.render(text).encode(), values)

    def create(self) -> None:
        """Make the tables."""
        self.conn.execute(self.shape.render(self.shape.ddl, parameters=False).encode())

    def key(self, n: int) -> Any:
        return self.shape.key(n)

    def workflow(self, n: int, *states: str, **columns: Any) -> Any:
        """Insert a workflow and a task in each state, one statement for each state; return its key."""
        key = self.key(n)
        names = ", ".join(["<w_id>", *(f"<{name}>" for name in columns)])
        places = ", ".join(["%(w_id)s", *(f"%({name})s" for name in columns)])
        self.run(f"insert into <workflows> ({names}) values ({places})", w_id=key, **columns)
        for state, many in Counter(states).items():
            self.tasks(key, state, many)
        return key

    def tasks(self, key: Any, state: str, many: int = 1) -> None:
        """Insert tasks; ``n`` counts them by state."""
        self.run(
            f"insert into <tasks> (<t_workflow>, <n>, <state>) select %(w)s, i, <={state}>"
            " from generate_series(1, %(many)s) as i",
            w=key,
            many=many,
        )

    def move(self, key: Any, state: str, many: int | None = None) -> int:
        """Bring tasks of a workflow into a state: all of them, or the first ones of each state that there was."""
        return self.run(
            f"update <tasks> set (<state>) = row(<={state}>)"
            " where <t_workflow> = %(w)s and (<n> <= %(many)s or %(many)s::integer is null)",
            w=key,
            many=many,
        ).rowcount

    def finish(self, key: Any) -> None:
        """Bring a workflow to its end."""
        self.run("update <workflows> set <w_status> = %(done)s where <w_id> = %(w)s", done=self.shape.w_done, w=key)

    def fill(self) -> None:
        """Write what there is when we come: workflows with tasks in all states, and progress that is wrong."""
        some = {"progress": 45} if self.shape.progress else {}
        self.workflow(0)
        self.workflow(1, *["pending"] * 5, **some)
        self.workflow(2, "completed", "completed", "failed", "cancelled", "running")
        self.workflow(3, *["completed"] * 3, **some)
        self.workflow(4, "completed", *["pending"] * 199)
        self.workflow(5, "running", *["completed"] * 199)
        if self.shape.w_done:
            done = {"w_status": self.shape.w_done}
            self.workflow(6, "completed", "failed", **done, **({"progress": 100} if some else {}))
            self.workflow(7, *["pending"] * 3, **done)
            if some:
                self.frozen[self.workflow(8, *["pending"] * 4, progress=100, **done)] = 100
        self.run("insert into <tasks> (<t_workflow>, <state>) values (null, <=completed>)")

    def adopt_arguments(self, *more: str) -> list[str]:
        return ["adopt", *self.shape.adopt_options(), *(["--columns"] if self.columns else []), *more]

    def adopt(self, *more: str) -> Ran:
        """Adopt it, as a user would."""
        return succeed(self.dsn, *self.adopt_arguments(*more))

    def counted(self) -> dict[Any, tuple[int, ...]]:
        """Count, independently: what NUMBERS should be, by workflow."""
        tests = ", ".join(f"({self.shape.test(outcome)}) is true" for outcome in ("completed", "failed", "cancelled"))
        seen: dict[Any, Counter[str]] = defaultdict(Counter)
        for key, completed, failed, cancelled in self.run(f"select <t_workflow>::text, {tests} from <tasks> as t"):
            seen[key].update(created=1, completed=completed, failed=failed, cancelled=cancelled)
        done = f"coalesce(<w_status>::text = '{self.shape.w_done}', false)" if self.shape.w_done else "false"
        numbers = {}
        for key, finished in self.run(f"select <w_id>::text, {done} from <workflows>"):
            of = seen[key]
            total = of["created"] if finished else max(of["created"], self.plans.get(key, 0))
            numbers[key] = (
                percent(of["completed"], total),
                *(of["completed"], total, of["created"], of["failed"], of["cancelled"]),
            )
        return numbers

    def stored(self) -> dict[Any, tuple[int, ...]]:
        """Read what our view says."""
        view = f"{quoted(self.schema)}.workflow_progress"
        return {row[0]: row[1:] for row in self.run(f"select workflow_id::text, {NUMBERS} from {view}")}

    def said(self) -> dict[Any, float]:
        """Read the application's own column of progress; that of ours, where it has none."""
        progress = "<progress>" if self.shape.progress else "progress"
        return dict(self.run(f"select <w_id>::text, {progress} from <workflows>").fetchall())

    def drift(self) -> list[Any]:
        return self.run(f"select * from {quoted(self.schema)}.workflow_progress_drift").fetchall()

    def assert_exact(self, *, said: bool = True) -> None:
        """See that every number is what an independent count gives; ``said``: the application's own column, too."""
        frozen = {str(key): number for key, number in self.frozen.items()}
        passed = frozen.keys()
        counted, stored = self.counted(), self.stored()
        assert stored.keys() == counted.keys()
        assert {k: v for k, v in stored.items() if k not in passed} == {
            k: v for k, v in counted.items() if k not in passed
        }
        assert {k: v[0] for k, v in stored.items() if k in frozen} == {k: v for k, v in frozen.items() if k in stored}
        if said and (self.shape.progress or self.columns):
            assert self.said() == {key: numbers[0] for key, numbers in stored.items()}
        assert self.drift() == []

    def check_nothing_there(self) -> None:
        """See that nothing of ours is there."""
        assert self.run("select to_regnamespace('agent_progress')").fetchall() == [(None,)]

    def check(self) -> None:
        """See that check finds nothing wrong."""
        assert cli(self.dsn, "check", "--name", "default").code == 0
