"""Play traces through the database: an orchestrator adds the tasks and agents report them, as in the recorded runs."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import Connection, sql

import pyapp
from pyapp.db import find_schema
from pyapp.demo.trace import Trace, TraceTask
from pyapp.models import Key

T = TypeVar("T")
PATIENCE = 60.0
"""How long to go on connecting to a database that is away, in seconds."""
_PAUSE = 0.2  # seconds between two attempts
_MOST_STAGES = 50  # more are no stages: each task may be of its own type


@dataclass
class _Run:
    """A trace that is being played: its workflow, the stages still to be entered, and the tasks added so far."""

    trace: Trace
    workflow_id: Key
    stages: list[str]
    row_ids: dict[str, Key] = field(default_factory=dict)
    ended: int = 0


@dataclass
class Player:
    """Plays traces; each becomes a workflow.

    Each of the ``agents`` has a connection of its own. ``speed`` is the seconds of a trace that pass in one second,
    None for as fast as can be. Set ``stopped`` to end early: what is open is cancelled then.
    """

    dsn: str | None
    traces: Sequence[Trace]
    agents: int = 4
    speed: float | None = None
    schema: str | None = None
    stopped: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        """Create the workflows."""
        self._conn = pyapp.connect(self.dsn, autocommit=True)
        self._runs = [pyapp.retry(partial(_begin, self._conn, trace, self.schema)) for trace in self.traces]
        self.workflow_ids = [run.workflow_id for run in self._runs]

    def play(self) -> None:
        """Play to the end, or until it is stopped; raises why that cannot be."""
        try:
            with ExitStack() as stack:
                made = (pyapp.TaskReporter(self.dsn, schema=self.schema) for _ in range(self.agents))
                agents = [stack.enter_context(agent) for agent in made]
                began = time.monotonic()
                # The sort is stable: what happens at one time stays in the order of the trace.
                for at, run, task, statuses in sorted(self._moves(), key=lambda move: move[0]):
                    due = 0.0 if self.speed is None else began + at / self.speed - time.monotonic()
                    if self.stopped.wait(min(max(due, 0.0), threading.TIMEOUT_MAX)):
                        break
                    for status in statuses:
                        self._move(run, task, status, agents)
                    if at == task.attempts[-1].finished * run.trace.stretch:
                        self._end_task(run, agents)
        except BaseExceptionGroup as refused:  # reports, of which the first error says why
            raise refused.exceptions[0] from None
        finally:
            self.stopped.set()
            self._cancel_open()
            self._conn.close()

    def _moves(self) -> Iterator[tuple[float, _Run, TraceTask, list[str]]]:
        """Tell when each task moves, and to which statuses."""
        for run in self._runs:
            for task in run.trace.tasks:
                moves: dict[float, list[str]] = {}
                for attempt in task.attempts:
                    moves.setdefault(attempt.submitted, []).append("pending")
                    if attempt.finished > attempt.started:
                        moves.setdefault(attempt.started, []).extend(("assigned", "running"))
                    moves.setdefault(attempt.finished, []).append(attempt.outcome)
                yield from ((at * run.trace.stretch, run, task, statuses) for at, statuses in moves.items())

    def _move(self, run: _Run, task: TraceTask, status: str, agents: list[pyapp.TaskReporter]) -> None:
        if task.key not in run.row_ids:
            run.row_ids[task.key] = self._persist(_add_once, run, task)
            return
        # On to the stage of a task that starts, never back: in real runs the stages overlap.
        if status == "running" and task.stage in run.stages:
            del run.stages[: run.stages.index(task.stage) + 1]
            self._persist(pyapp.transition, run.workflow_id, "running", stage=task.stage)
        agent = agents[hash(task.key) % len(agents)]  # always the same: it keeps its reports in order
        agent.report(run.workflow_id, run.row_ids[task.key], status, reopen=status == "pending")

    def _end_task(self, run: _Run, agents: list[pyapp.TaskReporter]) -> None:
        run.ended += 1
        if run.ended == len(run.trace.tasks):
            for agent in agents:
                agent.flush()
            # A run that was interrupted has failed; one that went on after a task failed has ignored that.
            interrupted = any(task.attempts[-1].outcome == "cancelled" for task in run.trace.tasks)
            self._persist(pyapp.transition, run.workflow_id, "failed" if interrupted else "completed")

    def _persist(self, act: Callable[..., T], *args: Any, **more: Any) -> T:
        """Do what, done twice, is done once: again where the connection was lost meanwhile."""
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                if self._conn.closed:
                    self._conn = pyapp.connect(self.dsn, autocommit=True)
                return pyapp.retry(lambda: act(self._conn, *args, schema=self.schema, **more), tries=100)
            except psycopg.Error:
                # Wrong data or a full disk is no loss of the connection.
                if not self._conn.closed or self.stopped.is_set() or time.monotonic() > give_up:
                    raise
                time.sleep(_PAUSE)

    def _cancel_open(self) -> None:
        for run in self._runs:
            # The database may be away; somebody else may have ended or deleted the workflow.
            with suppress(psycopg.Error, pyapp.WorkflowNotFound, pyapp.TransitionNotAllowed):
                if run.ended < len(run.trace.tasks):
                    self._persist(pyapp.transition, run.workflow_id, "cancelled")


def _begin(conn: Connection[Any], trace: Trace, schema: str | None) -> _Run:
    """Create the workflow of a trace, with its stages in the order in which the trace comes to them, and start it."""
    stages = list(dict.fromkeys(task.stage for task in trace.tasks))
    stages = stages if 1 < len(stages) <= _MOST_STAGES else []
    plan = sql.SQL(
        "insert into {}.workflow_stage (workflow_id, name, position)"
        " select %s, s.name, s.place - 1 from unnest(%s::text[]) with ordinality as s (name, place)"
        " on conflict do nothing"
    ).format(sql.Identifier(find_schema(schema)))
    with conn.transaction():
        workflow = pyapp.create_workflow(
            conn,
            trace.name,
            trace.system,
            agents_planned=len(trace.tasks),
            created_by="demo",
            schema=schema,
        )
        conn.execute(plan, [workflow.workflow_id, stages])
        pyapp.transition(conn, workflow.workflow_id, "running", schema=schema)
    return _Run(trace, workflow.workflow_id, stages)


def _add_once(conn: Connection[Any], run: _Run, task: TraceTask, schema: str | None) -> Key:
    """Add a task, or find the one that was added when the connection was lost."""
    try:
        new = pyapp.NewTask(task.agent_type, external_id=task.key, stage=task.stage)
        return pyapp.add_tasks(conn, run.workflow_id, [new], schema=schema)[0].id
    except psycopg.errors.UniqueViolation:
        tasks = pyapp.list_tasks(conn, run.workflow_id, schema=schema)
        return next(row.id for row in tasks if row.external_id == task.key)
