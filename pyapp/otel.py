"""Live progress of agents that OpenTelemetry instruments: a span processor that writes runs down as they go.

``provider.add_span_processor(ProgressProcessor(dsn))`` is all. What a span becomes has an id derived from those of the
trace and the span: writing it again changes nothing, in whatever order and by whichever process.
"""

import logging
import os
import sys
import time
import weakref
from asyncio import CancelledError
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any, TypeAlias
from uuid import NAMESPACE_OID, UUID, uuid5

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, set_value
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import Span, StatusCode
from psycopg import sql
from psycopg.types.json import Jsonb

from pyapp.db import connect, connection_parameters, find_schema
from pyapp.drive import Statement, act, drive, gone
from pyapp.models import Task, TaskReport, TaskStatus
from pyapp.reporter import Batches, Connect, Steps, Waiting

_log = logging.getLogger(__name__)

MODEL_CALLS = ("chat", "generate_content", "text_completion", "embeddings")

_AGENTS = ("invoke_workflow", "invoke_agent")
_KINDS = {"AGENT": "invoke_agent", "TOOL": "execute_tool", "LLM": "chat"}  # of OpenInference
_NAMES = ("gen_ai.agent.name", "gen_ai.workflow.name", "agent.name")
_TOOL_NAMES = ("gen_ai.tool.name", "tool.name")
_CAPTURED = {
    "error": (),
    "input": ("gen_ai.tool.call.arguments", "gen_ai.input.messages", "input.value"),
    "output": ("gen_ai.tool.call.result", "gen_ai.output.messages", "output.value"),
}
_CANCELS = (CancelledError, KeyboardInterrupt, SystemExit)
_CANCELS_CALLED = ("Cancelled", *(kind.__name__ for kind in _CANCELS))  # also those of trio and of futures
_NO_ERRORS = (GeneratorExit, StopIteration, StopAsyncIteration)  # how generators end
_KEPT = 2_000  # spans that ended: others may still name them as their parent
_SHUTDOWN = 30.0  # seconds that it may take
_QUIET = 60.0  # seconds between two warnings

# run and task are what a span comes below; where another process wrote them, only the task is known, by its id.
_STARTED = """
from jsonb_to_recordset(%s) as r (id uuid, agent boolean, name text, run uuid, task uuid, trace_id text, span_id text,
    parent_span_id text, started bigint)
left join {0}.agent_task as p on p.id = r.task and r.run is null
cross join lateral (select clock_timestamp() - (%s - r.started) / 1e9 * interval '1 second' as at) as s"""
_RUNS = f"""
insert into {{0}}.workflow as w (id, name, type, status, trace_id, created_by, created_at, parent_id, parent_task_id)
select r.id, r.name, 'agent', 'running', r.trace_id, 'opentelemetry', s.at, coalesce(r.run, p.workflow_id),
    case when r.run is not null then r.task else p.id end
{_STARTED}
where r.agent
order by r.started
on conflict (id) do update set parent_id = excluded.parent_id, parent_task_id = excluded.parent_task_id
where w.parent_id is null and excluded.parent_id is not null"""
_TASKS = f"""
insert into {{0}}.agent_task
    (id, workflow_id, agent_type, status, trace_id, span_id, parent_span_id, created_at, started_at)
select r.id, w.id, r.name, 'running', r.trace_id, r.span_id, r.parent_span_id, s.at, s.at
{_STARTED}
join {{0}}.workflow as w on w.id = case when r.agent then r.id else coalesce(r.run, p.workflow_id) end
order by r.started
on conflict do nothing"""
_ENDS = """
update {0}.agent_task as a
set status = e.status, result = e.result,
    completed_at = clock_timestamp() - (%s - e.at) / 1e9 * interval '1 second'
from jsonb_to_recordset(%s) as e (id uuid, status {0}.task_status, result jsonb, at bigint)
where a.id = e.id and a.status < 'completed'"""
_OUTCOMES = """
update {0}.workflow as w
set status = e.status
from jsonb_to_recordset(%s) as e (id uuid, agent boolean, status {0}.workflow_status)
where e.agent and w.id = e.id and w.status in ('initiated', 'running', 'paused')"""


@dataclass(slots=True, eq=False)
class _Span:
    """A span that is a task; that of an agent is a workflow as well, of the same id."""

    key: int
    row: dict[str, Any]
    run: UUID | None
    """The workflow that the task is in; None where another process wrote it."""
    above: "_Span | None"
    handled: int
    """Which exception was being handled when it started: no outcome of this span."""
    made: bool = False

    def to_be_made(self) -> "Iterator[_Span]":
        """Itself and those above it, as far as they are not known to be in the database."""
        span: _Span | None = self
        while span and not span.made:
            yield span
            span = span.above


_Place: TypeAlias = "_Span | UUID | None"
"""The task that a span is or comes below, or the id that this has if another process wrote it."""


@dataclass(frozen=True, slots=True)
class _Event(Waiting[Future[Task]]):
    """A span that started or ended."""

    span: _Span = field(kw_only=True)
    at: int = field(kw_only=True)


class _Events(Batches[Future[Task]]):
    """The batches of a TaskReporter, of spans: again where interrupted, and what the database refuses alone."""

    def _statements(self, batch: Sequence[Any]) -> list[Statement]:
        now = time.time_ns()
        rows = {span.key: span.row for event in batch for span in event.span.to_be_made()}
        ends = [
            {**event.span.row, "status": event.report.status, "result": event.report.result, "at": event.at}
            for event in batch
            if event.report.status != "running"
        ]
        started, ended = Jsonb(list(rows.values())), Jsonb(ends)
        schema = sql.Identifier(find_schema(self._schema)).as_string().replace("%", "%%")
        statements = super()._statements([])  # what tells after a lost connection whether this was committed
        for text, values in (
            (_RUNS, [started, now]),
            (_TASKS, [started, now]),
            (_ENDS, [now, ended]),
            (_OUTCOMES, [ended]),
        ):
            if ended.obj if ended in values else started.obj:
                text = f"with written as ({text.format(schema)} returning 1) select from written where false"
                statements.append(Statement(text, values))
        return statements

    def _commit(self, batch: Sequence[Any]) -> Steps[Any]:
        yield from super()._commit(batch)
        for event in batch:
            for span in event.span.to_be_made():
                # Below another process it is written again with what follows: its parent may come later.
                span.made = span.row["task"] is None or span.row["run"] is not None
        return defaultdict(lambda: None)


class ProgressProcessor(SpanProcessor):
    """Makes a workflow of each agent's run, a sub-workflow of each agent below another, and tasks of their tools.

    An agent is also a task of its own workflow, which ends with it. Spans are written in the background: the agent
    neither waits for the database nor hears of its errors. What could not be written is counted in
    ``dropped``, and warned of.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        schema: str | None = None,
        tasks: Iterable[str] = ("execute_tool",),
        capture: Iterable[str] = ("error",),
        capacity: int = 10_000,
        patience: float = 60.0,
    ) -> None:
        """Say where to write; nothing is connected before the first span of an agent.

        ``tasks`` are the operations that become tasks; ``pyapp.otel.MODEL_CALLS`` are those of models. ``capture`` says
        what of a span is kept as the result of its task: "error", "input", "output". ``capacity`` is how many starts and
        ends may wait, ``patience`` how long to go on connecting to a database that is away, in seconds: beyond that they
        are dropped. Raises ``psycopg.ProgrammingError`` for what is no DSN.
        """
        connection_parameters(dsn)
        self._tasks, self._capture = frozenset((*_AGENTS, *tasks)), frozenset(capture)
        if unknown := self._capture - _CAPTURED.keys():
            raise ValueError(f"cannot capture {', '.join(unknown)}, but {', '.join(_CAPTURED)}")
        self._dsn, self._limits = dsn, {"capacity": capacity, "patience": patience, "schema": schema}
        self._places: dict[int, _Place] = {}
        self._ended: deque[int] = deque()
        self.dropped = self._told = 0
        self._tell_at = 0.0
        self._begin()
        begin = weakref.WeakMethod(self._begin)
        os.register_at_fork(after_in_child=lambda: (again := begin()) and again())

    def _begin(self) -> None:
        """Begin with no span waiting, in a forked process as well: those that wait are its parent's."""
        self._events = _Events(size=500, linger=0, **self._limits)
        self._events.lost = True
        self._work = Condition(self._events.lock)
        self._thread: Thread | None = None
        self._conn: Any = None

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Write down that a span started, in the background."""
        try:
            place = self._place(span)
            self._places[key := span.get_span_context().span_id] = place
            if isinstance(place, _Span) and place.key == key:
                self._put(place, "running", place.row["started"])
        except Exception as error:  # an agent must not fail because of it
            self._drop(1, error)

    def on_end(self, span: ReadableSpan) -> None:
        """Write down how a span ended, in the background."""
        try:
            place = self._places.get(key := span.context.span_id)
            if not (isinstance(place, _Span) and place.key == key):
                place = self._place(span)  # some are told only while they run what they are
            self._ended.append(key)
            if len(self._ended) > _KEPT:
                self._places.pop(self._ended.popleft(), None)
            if isinstance(place, _Span) and place.key == key:
                self._put(place, *self._outcome(span, place))
        except Exception as error:
            self._drop(1, error)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until all spans so far are written or dropped; returns whether they were in time."""
        with self._work:
            under_way = [event.done for event in self._events.under_way]
        return not wait(under_way, timeout_millis / 1000).not_done

    def shutdown(self) -> None:
        """Write what waits, for as long as the patience says and at most 30 seconds, and drop the rest."""
        with self._work:
            self._events.closed = True
            self._work.notify()
        if self._thread:
            self._thread.join(min(self._limits["patience"], _SHUTDOWN))
            if left := self._events.under_way:
                self._drop(len(left), TimeoutError("the database was away at the end"))
        self._warn()

    def _place(self, span: Any) -> _Place:
        context, parent, attributes = span.get_span_context(), span.parent, span.attributes or {}
        above: _Place = None
        if parent:
            above = self._places[parent.span_id] if parent.span_id in self._places else _id(parent)
        operation = attributes.get("gen_ai.operation.name") or _KINDS.get(attributes.get("openinference.span.kind"))
        operation = operation or span.name.partition(" ")[0]
        agent = operation in _AGENTS
        if operation not in self._tasks or (above is None and not agent):
            return above
        named = [attributes[name] for name in (_NAMES if agent else _TOOL_NAMES) if name in attributes]
        known, itself = above if isinstance(above, _Span) else None, _id(context)
        row = {
            "id": str(itself),
            "agent": agent,
            "name": _text([*named, span.name.removeprefix(f"{operation} ")][0], 200),
            "run": known and known.run and str(known.run),
            "task": known.row["id"] if known else above and str(above),
            "trace_id": f"{context.trace_id:032x}",
            "span_id": f"{context.span_id:016x}",
            "parent_span_id": f"{parent.span_id:016x}" if parent else None,
            "started": span.start_time,
        }
        return _Span(context.span_id, row, itself if agent else known and known.run, known, id(sys.exception()))

    def _outcome(self, span: ReadableSpan, known: _Span) -> tuple[TaskStatus, int, dict[str, Any] | None]:
        """Say how a span ended, when, and what is kept of it.

        No attribute tells of a cancellation, nor of many a failure; but the exception passes where the span is ended.
        """
        attributes: Any = span.attributes or {}
        raised, code = sys.exception(), span.status.status_code
        if id(raised) == known.handled or isinstance(raised, _NO_ERRORS):
            raised = None
        noted: Any = next((each.attributes for each in reversed(span.events) if each.name == "exception"), None) or {}
        kind = attributes.get("error.type") or noted.get("exception.type") or (type(raised).__name__ if raised else "")
        status: TaskStatus = "completed"
        if isinstance(raised, _CANCELS) or str(kind).rpartition(".")[2] in _CANCELS_CALLED:
            status = "cancelled"
        elif code is StatusCode.ERROR or (code is StatusCode.UNSET and (raised or "error.type" in attributes)):
            status = "failed"
        found = {what: [attributes[name] for name in _CAPTURED[what] if name in attributes] for what in self._capture}
        result = {what: _text(values[0]) for what, values in found.items() if values}
        if status != "completed" and "error" in self._capture:
            message = span.status.description or noted.get("exception.message") or raised or ""
            result |= {"error": _text(kind or "error", 200), "message": _text(message, 2_000)}
        return status, span.end_time or time.time_ns(), result or None

    def _put(self, span: _Span, status: TaskStatus, at: int, result: Any = None) -> None:
        event = _Event(UUID(int=0), TaskReport(span.row["id"], status, result), Future(), span=span, at=at)
        with self._work:
            if self._events.closed:
                return
            if not (full := len(self._events.waiting) >= self._limits["capacity"]):
                self._events.waiting.append(event)
                if self._thread is None:
                    self._thread = Thread(target=self._run, name="ProgressProcessor", daemon=True)
                    self._thread.start()
                self._work.notify()
        if full:
            self._drop(1, BufferError("too many wait for the database"))

    def _run(self) -> None:
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # what is sent here makes no spans
        while batch := self._next_batch():
            try:
                drive(self._events.deliver(batch), self._act)
            except Exception as error:  # the database was away for too long: the next span tries again
                self._events.give_up(error)
            if refused := [error for event in batch if (error := event.done.exception())]:
                self._drop(len(refused), refused[0])
        if self._conn:
            self._conn.close()

    def _next_batch(self) -> Sequence[Waiting[Future[Task]]]:
        with self._work:
            self._events.sending = ()
            self._work.wait_for(lambda: self._events.waiting or self._events.closed)
            return self._events.take()

    def _act(self, step: Any) -> Any:
        try:
            if not isinstance(step, Connect):
                return act(self._conn, step)
            self._conn = connect(self._dsn, autocommit=True)
        except Exception as error:
            if self._conn and gone(self._conn, error):
                self._conn.close()
            raise
        finally:
            self._events.lost = not self._conn or self._conn.closed

    def _drop(self, number: int, why: BaseException) -> None:
        with self._work:
            self.dropped, self._why = self.dropped + number, why
        if time.monotonic() >= self._tell_at:
            self._warn()

    def _warn(self) -> None:
        if new := self.dropped - self._told:
            self._told, self._tell_at = self.dropped, time.monotonic() + _QUIET
            _log.warning("%s starts and ends of spans were not written (%s in all): %s", new, self.dropped, self._why)


def _id(context: Any) -> UUID:
    return uuid5(NAMESPACE_OID, f"{context.trace_id:032x}-{context.span_id:016x}")


def _text(value: Any, longest: int | None = None) -> str:
    """Make text of a value that PostgreSQL takes."""
    return str(value)[:longest].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
