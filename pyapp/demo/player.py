"""Play traces through the database: an orchestrator adds the tasks and agents report them, as in the recorded runs."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import psycopg
from psycopg import sql

import pyapp
from pyapp.db import find_schema, quoted_name
from pyapp.demo.trace import Trace, TraceTask

PATIENCE = 60.0  # seconds to go on connecting to a database that is away
_MOST_STAGES = 50  # more are no stages: each task may be of its own type


@dataclass
class _Run:
    """A trace that is being played: its workflow, the stages to be entered, the tasks to be added, and those added."""

    trace: Trace
    workflow_id: pyapp.Key
    stages: list[str]
    additions: Iterator[tuple[float, Iterator[TraceTask]]]
    row_ids: dict[str, pyapp.Key] = field(default_factory=dict)
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
        with pyapp.connect(self.dsn, autocommit=True) as self._conn:
            self._runs: list[_Run] = []
            for trace in self.traces:
                parent = next((run.workflow_id for run in self._runs if run.trace.name == trace.parent), None)
                self._runs.append(pyapp.retry(partial(_begin, self._conn, trace, parent, self.schema)))
        self.workflow_ids = [run.workflow_id for run in self._runs]

    def play(self) -> None:
        """Play to the end, or until it is stopped; raises why that cannot be."""
        try:
            with ExitStack() as stack:
                made = (pyapp.TaskReporter(self.dsn, patience=PATIENCE, schema=self.schema) for _ in range(self.agents))
                agents = [stack.enter_context(agent) for agent in made]
                began = time.monotonic()
                # The sort is stable: what happens at one time stays in the order of the trace.
                for at, run, task, statuses in sorted(self._moves(), key=lambda move: move[0]):
                    due = 0.0 if self.speed is None else began + at / self.speed - time.monotonic()
                    if self.stopped.wait(min(max(due, 0.0), threading.TIMEOUT_MAX)):
                        break
                    if task.key not in run.row_ids:
                        self._persist(_add_once, run, list(next(run.additions)[1]))
                    for status in statuses:
                        self._move(run, task, status, agents)
                    if at == task.attempts[-1].finished * run.trace.stretch:
                        self._end_task(run, agents)
        except BaseExceptionGroup as refused:  # the first report of those refused says why
            raise refused.exceptions[0] from None
        except RuntimeError as error:  # an agent has given up: its cause says why
            raise error.__cause__ or error from None
        finally:
            self.stopped.set()
            self._cancel_open()
            self._conn.close()

    def _moves(self) -> Iterator[tuple[float, _Run, TraceTask, list[pyapp.TaskStatus]]]:
        """Tell when each task moves, and to which statuses."""
        for run in self._runs:
            for task in run.trace.tasks:
                moves: dict[float, list[pyapp.TaskStatus]] = {}
                for number, attempt in enumerate(task.attempts):
                    moves.setdefault(attempt.submitted, []).extend(["pending"] if number else [])
                    if attempt.finished > attempt.started:
                        moves.setdefault(attempt.started, []).extend(("assigned", "running"))
                    moves.setdefault(attempt.finished, []).append(attempt.outcome)
                yield from ((at * run.trace.stretch, run, task, statuses) for at, statuses in moves.items())

    def _move(self, run: _Run, task: TraceTask, status: pyapp.TaskStatus, agents: list[pyapp.TaskReporter]) -> None:
        # On to the stage of a task that starts, never back: in real runs the stages overlap.
        if status == "running" and task.stage in run.stages:
            del run.stages[: run.stages.index(task.stage) + 1]
            self._persist(pyapp.transition, run.workflow_id, "running", stage=task.stage)
        agent = agents[hash(task.key) % len(agents)]  # always the same: it keeps its reports in order
        result = {"error": task.error} if status == "failed" and task.error else None
        agent.report(run.workflow_id, run.row_ids[task.key], status, result, reopen=status == "pending")

    def _end_task(self, run: _Run, agents: list[pyapp.TaskReporter]) -> None:
        run.ended += 1
        if run.ended == len(run.trace.tasks):
            for agent in agents:
                agent.flush()
            # A run that was interrupted has failed; one that went on after a task failed has ignored that.
            interrupted = any(task.attempts[-1].outcome == "cancelled" for task in run.trace.tasks)
            self._persist(pyapp.transition, run.workflow_id, "failed" if interrupted else "completed")

    def _persist(self, act: Callable[..., Any], *args: Any, **more: Any) -> Any:
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
                time.sleep(0.2)

    def _cancel_open(self) -> None:
        for run in self._runs:
            # The database may be away; the workflow may have ended, or be deleted.
            with suppress(psycopg.Error, pyapp.WorkflowNotFound, pyapp.TransitionNotAllowed):
                self._persist(pyapp.transition, run.workflow_id, "cancelled")


def _begin(conn: psycopg.Connection[Any], trace: Trace, parent: pyapp.Key | None, schema: str | None) -> _Run:
    """Create the workflow of a trace, with its stages in the order in which the trace comes to them, and start it."""
    stages = list(dict.fromkeys(task.stage for task in trace.tasks))
    stages = stages if 1 < len(stages) <= _MOST_STAGES else []
    plan = sql.SQL(
        "insert into {}.workflow_stage (workflow_id, name, position)"
        " select %s, s.name, s.place - 1 from unnest(%s::text[]) with ordinality as s (name, place)"
        " on conflict do nothing"
    ).format(quoted_name(find_schema(schema)))
    with conn.transaction():
        workflow = pyapp.create_workflow(
            conn,
            trace.name,
            trace.system,
            agents_planned=len(trace.tasks),
            created_by="demo",
            parent_id=parent,
            schema=schema,
        )
        conn.execute(plan, [workflow.workflow_id, stages])
        pyapp.transition(conn, workflow.workflow_id, "running", schema=schema)
    # Tasks that become ready together are added together.
    return _Run(trace, workflow.workflow_id, stages, groupby(trace.tasks, lambda task: task.attempts[0].submitted))


def _add_once(conn: psycopg.Connection[Any], run: _Run, tasks: list[TraceTask], schema: str | None) -> None:
    """Add tasks, or find those that were added when the connection was lost."""
    new = [pyapp.NewTask(task.agent_type, external_id=task.key, stage=task.stage) for task in tasks]
    try:
        added = pyapp.add_tasks(conn, run.workflow_id, new, schema=schema)
    except psycopg.errors.UniqueViolation:
        added = pyapp.list_tasks(conn, run.workflow_id, schema=schema)
    run.row_ids |= {str(task.external_id): task.id for task in added}
