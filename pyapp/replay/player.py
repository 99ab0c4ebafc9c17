"""Play traces through the database, as an orchestrator and its agents would.

Every change of a task is an event with a time in the trace. Agents, each with a connection of its own, take the events
in the order of their times; doing one makes the next event of that task. So few agents can play a trace in which many
tasks run at once, at any speed, and tasks of several workflows are under way at the same time.
"""

import heapq
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg

from pyapp.agent import Agent, Once
from pyapp.models import Key, NewTask, Task, TransitionNotAllowed, WorkflowNotFound
from pyapp.progress import list_tasks
from pyapp.replay.trace import Trace, TraceTask
from pyapp.stages import transition
from pyapp.tasks import add_tasks, create_workflow, report_task

_LAST_PATIENCE = 5.0  # seconds to wait for a lost database when all that is left is to cancel


@dataclass
class _Run:
    """A trace that is being played: its workflow, and how many of its events are still to come."""

    trace: Trace
    workflow_id: Key
    stages: list[str]
    reached: int = -1
    open_tasks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(order=True)
class _Event:
    at: float
    place: int
    act: Callable[[Agent], None] = field(compare=False)


class Player:
    """Plays traces; each becomes a workflow."""

    def __init__(
        self,
        dsn: str,
        traces: Sequence[Trace],
        *,
        agents: int = 4,
        speed: float | None = None,
        upfront: bool = False,
    ) -> None:
        """Prepare to play.

        ``speed`` is the number of seconds in the trace that pass in one second, None for as fast as possible;
        ``upfront`` adds all tasks at the beginning instead of each when it becomes ready.
        """
        self._dsn = dsn
        self._traces = traces
        self._speed = speed
        self._upfront = upfront
        self._events: list[_Event] = []
        self._changed = threading.Condition()
        self._under_way = 0
        self._placed = 0
        self._stopped = False
        self._started = 0.0
        self._failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._work, name=f"agent-{n + 1}") for n in range(agents)]
        self.runs: list[_Run] = []

    @property
    def workflow_ids(self) -> list[Key]:
        """The workflows, in the order of their traces."""
        return [run.workflow_id for run in self.runs]

    def start(self) -> None:
        """Create the workflows and set the agents to work."""
        with Agent(self._dsn) as agent:
            for trace in self._traces:
                self.runs.append(agent.persist(Once(partial(_begin, trace))))
        for run in self.runs:
            self._schedule_additions(run)
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the end at most so long. Returns whether all is played. Raises what an agent failed with."""
        give_up = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, give_up - time.monotonic()))
        if self._failure is not None:
            self.stop()
            raise self._failure
        return not any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """Break off: let the agents finish what they are at, and cancel what is open, tasks first."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        unfinished = [run.workflow_id for run in self.runs if run.open_tasks]
        with suppress(psycopg.Error), Agent(self._dsn, patience=_LAST_PATIENCE) as agent:
            for workflow_id in unfinished:
                # Somebody else may have ended or deleted it meanwhile.
                with suppress(WorkflowNotFound, TransitionNotAllowed):
                    agent.persist(partial(transition, workflow_id=workflow_id, status="cancelled"))

    def _schedule_additions(self, run: _Run) -> None:
        """Let the orchestrator add the tasks: those that become ready together in one statement."""
        ready: dict[float, list[TraceTask]] = {}
        for task in run.trace.tasks:
            ready.setdefault(0.0 if self._upfront else task.attempts[0].submitted, []).append(task)
        for at, tasks in ready.items():
            self._schedule(at, partial(self._add, run, tasks))

    def _add(self, run: _Run, tasks: list[TraceTask], agent: Agent) -> None:
        new = [NewTask(task.agent_type, external_id=task.key, stage=task.stage) for task in tasks]
        added = agent.persist(partial(_add_once, workflow_id=run.workflow_id, tasks=new))
        for task, row in zip(tasks, added, strict=True):
            self._schedule_reports(run, task, row.id)

    def _schedule_reports(self, run: _Run, task: TraceTask, task_id: Key) -> None:
        reports: list[tuple[float, str]] = []
        for attempt in task.attempts:
            if attempt is not task.attempts[0]:
                reports.append((attempt.submitted, "pending"))
            if attempt.finished > attempt.started:
                reports += [(attempt.started, "assigned"), (attempt.started, "running")]
            reports.append((attempt.finished, attempt.status))

        def report_next(place: int) -> None:
            at, status = reports[place]

            def act(agent: Agent) -> None:
                if status == "running":
                    self._enter_stage(agent, run, task.stage)
                reopen = status == "pending"
                # The same report again changes nothing, should the answer to the first be lost.
                agent.persist(lambda conn: report_task(conn, run.workflow_id, task_id, status, reopen=reopen))
                if place + 1 < len(reports):
                    report_next(place + 1)
                else:
                    self._finish_task(agent, run)

            self._schedule(at, act)

        report_next(0)

    def _enter_stage(self, agent: Agent, run: _Run, stage: str | None) -> None:
        """Go on to the stage of a task that starts, never back: in real runs the stages overlap."""
        with run.lock:
            place = -1 if stage is None else run.stages.index(stage)
            if place <= run.reached:
                return
            run.reached = place
            # Under the lock, so that the stages come to the database in this order.
            agent.persist(lambda conn: transition(conn, run.workflow_id, "running", stage=stage))

    def _finish_task(self, agent: Agent, run: _Run) -> None:
        with run.lock:
            run.open_tasks -= 1
            if run.open_tasks:
                return
        # A run that was broken off has failed; one that went on after a task failed had that failure ignored.
        aborted = any(task.attempts[-1].status == "cancelled" for task in run.trace.tasks)
        agent.persist(lambda conn: transition(conn, run.workflow_id, "failed" if aborted else "completed"))

    def _schedule(self, at: float, act: Callable[[Agent], None]) -> None:
        with self._changed:
            self._placed += 1
            heapq.heappush(self._events, _Event(at, self._placed, act))
            self._changed.notify()

    def _work(self) -> None:
        """Be an agent: do one event after the other until there are none."""
        try:
            with Agent(self._dsn, gives_up=lambda: self._stopped) as agent:
                while (event := self._take()) is not None:
                    event.act(agent)
                    with self._changed:
                        self._under_way -= 1
                        self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._failure = self._failure or error
                self._stopped = True
                self._changed.notify_all()

    def _take(self) -> _Event | None:
        """Wait for the next event that is due. Returns None when all is played or broken off."""
        with self._changed:
            while not self._stopped:
                if self._events:
                    wait = self._seconds_until(self._events[0].at)
                    if wait <= 0:
                        self._under_way += 1
                        return heapq.heappop(self._events)
                    self._changed.wait(wait)
                elif self._under_way:
                    self._changed.wait()  # what is being done makes the next events
                else:
                    break
            self._changed.notify_all()
            return None

    def _seconds_until(self, at: float) -> float:
        return 0.0 if self._speed is None else self._started + at / self._speed - time.monotonic()


def _begin(trace: Trace, conn: psycopg.Connection[Any]) -> _Run:
    """Create the workflow of a trace, and set it to work."""
    workflow = create_workflow(
        conn,
        trace.name,
        trace.system,
        description=trace.description,
        agents_planned=len(trace.tasks),
        created_by="replay",
    )
    stages = list(dict.fromkeys(task.stage for task in trace.tasks if task.stage is not None))
    # The plan of the stages is the order in which the trace comes to them.
    conn.execute(
        "insert into public.workflow_stage (workflow_id, name, position)"
        " select %s, s.name, s.place - 1 from unnest(%s::text[]) with ordinality as s (name, place)"
        " on conflict do nothing",
        [workflow.workflow_id, stages],
    )
    transition(conn, workflow.workflow_id, "running")
    return _Run(trace, workflow.workflow_id, stages, open_tasks=len(trace.tasks))


def _add_once(conn: psycopg.Connection[Any], workflow_id: Key, tasks: list[NewTask]) -> list[Task]:
    """Add tasks, or find those that were added when the connection was lost: one statement adds all or none."""
    try:
        return add_tasks(conn, workflow_id, tasks)
    except psycopg.errors.UniqueViolation:
        there = {task.external_id: task for task in list_tasks(conn, workflow_id)}
        return [there[task.external_id] for task in tasks]
