"""Live progress of agents that OpenTelemetry instruments: a span processor that writes their runs down as they go."""

import logging
import os
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, set_value
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import Span, StatusCode
from psycopg import Connection
from psycopg.types.json import Jsonb

from pyapp.batches import Batches, Entry
from pyapp.both import Statement
from pyapp.db import Session, connection_parameters, find_schema, quoted_name
from pyapp.models import Task, TaskReport
from pyapp.reporter import Sender

MODEL_CALLS = ("chat", "generate_content", "text_completion", "embeddings")
_log = logging.getLogger(__name__)
_AGENTS = ("invoke_workflow", "invoke_agent")
_KINDS = {"AGENT": "invoke_agent", "TOOL": "execute_tool", "LLM": "chat"}  # of OpenInference
_NAMES = ("gen_ai.tool.name", "tool.name", "gen_ai.agent.name", "gen_ai.workflow.name", "agent.name")
_CAPTURED = {
    "error": (),
    "input": ("gen_ai.tool.call.arguments", "gen_ai.input.messages", "input.value"),
    "output": ("gen_ai.tool.call.result", "gen_ai.output.messages", "output.value"),
}
_NO_WORKFLOW = UUID(int=0)
_CANCELS = {"CancelledError", "Cancelled", "KeyboardInterrupt", "SystemExit"}

# Where another process wrote what a span comes below, only the id of that task is known (above).
_SPANS = """
from jsonb_to_recordset(%s) as r
    (id uuid, agent boolean, name text, run uuid, above uuid, trace text, span text, parent text, at bigint)
left join {0}.agent_task as p on p.id = r.above and r.run is null"""
_RUNS = f"""
insert into {{0}}.workflow as w (id, name, type, status, trace_id, created_by, created_at, parent_id, parent_task_id)
select r.id, r.name, 'agent', 'running', r.trace, 'opentelemetry', to_timestamp(r.at / 1e9),
    coalesce(r.run, p.workflow_id), case when r.run is null then p.id else r.above end
{_SPANS} where r.agent order by r.at
on conflict (id) do update set parent_id = excluded.parent_id, parent_task_id = excluded.parent_task_id
where w.parent_id is null and excluded.parent_id is not null"""
_TASKS = f"""
insert into {{0}}.agent_task (
    id, workflow_id, agent_type, status, trace_id, span_id, parent_span_id, created_at, started_at)
select r.id, w.id, r.name, 'running', r.trace, r.span, r.parent, to_timestamp(r.at / 1e9), to_timestamp(r.at / 1e9)
{_SPANS} join {{0}}.workflow as w on w.id = case when r.agent then r.id else coalesce(r.run, p.workflow_id) end
order by r.at on conflict do nothing"""
_ENDS = """
update {0}.agent_task as a set status = e.status, result = e.result, completed_at = to_timestamp(e.at / 1e9)
from jsonb_to_recordset(%s) as e (id uuid, status {0}.task_status, result jsonb, at bigint)
where a.id = e.id and a.status < 'completed'"""
_OUTCOMES = """
update {0}.workflow as w set status = e.status
from jsonb_to_recordset(%s) as e (id uuid, agent boolean, status {0}.workflow_status)
where e.agent and w.id = e.id and w.status in ('initiated', 'running', 'paused')"""


@dataclass(slots=True, eq=False)
class _Span:
    """A span that is a task, or one of another process that comes above; that of an agent is a workflow as well."""

    key: int
    row: dict[str, Any]
    run: str | None = None  # the workflow that the task is in; None where another process wrote it
    above: "_Span | None" = None
    handled: int = 0  # which exception was being handled when it started: no outcome of this span
    made: bool = False  # whether it is known to be in the database

    def to_be_made(self) -> "list[_Span]":
        return [] if self.made else [self, *(self.above.to_be_made() if self.above else ())]


class _Spans(Batches):
    """Batches that write spans: again where interrupted, and what the database refuses alone."""

    def _statements(self, batch: Sequence[Entry]) -> list[Statement]:
        reports = [each.report for each in batch]
        spans = list({each.key: each.row for report in reports for each in report.result[0].to_be_made()}.values())
        ends = [report.result[0].row | report.result[1] for report in reports if "at" in report.result[1]]
        schema = quoted_name(find_schema(self._schema)).as_string()
        statements = super()._statements([])  # what tells after a lost connection whether this was committed
        for text, rows in ((_RUNS, spans), (_TASKS, spans), (_ENDS, ends), (_OUTCOMES, ends)):
            if rows:
                text = f"with written as ({text.format(schema)} returning 1) select from written where false"
                statements.append(Statement(text, [Jsonb(rows)]))
        return statements

    def _commit(self, batch: Sequence[Entry]) -> Any:
        super()._commit(batch)
        for span in (span for each in batch for span in each.report.result[0].to_be_made()):
            # Below another process it is written again with what follows: its parent may come later.
            span.made = span.row["above"] is None or span.row["run"] is not None
        return defaultdict(lambda: None)


class ProgressProcessor(Sender, SpanProcessor):
    """Makes workflows of the runs of agents, below each other as these are, and tasks of their tools and themselves."""

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

        ``tasks`` are operations (``MODEL_CALLS``: those of models), ``capture`` what tasks keep of their spans as their
        results: "error", "input", "output". Starts and ends are dropped, with a warning, where more than ``capacity``
        wait, or the database is away for more than ``patience`` seconds; the attribute ``dropped`` counts them.
        """
        connection_parameters(dsn)
        self._tasks, self._capture = {*_AGENTS, *tasks}, {*capture}
        if unknown := self._capture - _CAPTURED.keys():
            raise ValueError(f"cannot capture {', '.join(unknown)}, but {', '.join(_CAPTURED)}")
        self._places: dict[int, _Span | None] = {}
        self._ended: deque[int] = deque()
        self.dropped, self._told, self._quiet_until, self._capacity, self._patience = 0, 0, 0.0, capacity, patience

        def begin() -> None:
            session = Session(Connection, dsn, None)
            spans = _Spans(session, size=500, linger=0, capacity=capacity, patience=patience, schema=schema)
            Sender.__init__(self, spans)

        begin()
        os.register_at_fork(after_in_child=begin)  # what waits is the parent's

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Write down that a span started, in the background."""
        try:
            place = self._places[span.get_span_context().span_id] = self._place(span)
            self._put(span, place)
        except Exception as error:  # an agent must not fail because of it
            self._drop(error)

    def on_end(self, span: ReadableSpan) -> None:
        """Write down how a span ended, in the background."""
        try:
            self._put(span, self._places.get(span.context.span_id), ended=True)
            self._ended.append(span.context.span_id)  # others may still name it as their parent
            if len(self._ended) > 2_000:
                self._places.pop(self._ended.popleft(), None)
        except Exception as error:
            self._drop(error)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until all spans so far are written or dropped; returns whether they were in time."""
        with self._work:
            under_way = self._batches.under_way
        return not wait(under_way, timeout_millis / 1000).not_done

    def shutdown(self) -> None:
        """Write what waits, for as long as the patience says and at most 30 seconds, and drop the rest."""
        with self._work:
            self._batches.closed = True
            self._work.notify()
        if self._thread.ident:
            self._thread.join(min(self._patience, 30.0))
        self._batches.give_up(TimeoutError("the database was away at the end"))
        self._drop(None, at_once=True)

    def _place(self, span: Any) -> _Span | None:
        """Say which task a span is, else which one it comes below; None where no agent is above it."""
        context, parent, attributes = span.get_span_context(), span.parent, span.attributes or {}
        above = parent and self._places.get(parent.span_id)
        if parent and parent.span_id not in self._places:
            above = _Span(parent.span_id, {"id": _id(parent)}, made=True)
        operation = attributes.get("gen_ai.operation.name") or _KINDS.get(attributes.get("openinference.span.kind", ""))
        operation = operation or span.name.partition(" ")[0]
        agent = operation in _AGENTS
        if operation not in self._tasks or not (agent or above):
            return above
        named = filter(None, map(attributes.get, _NAMES))
        row = {
            "id": _id(context),
            "agent": agent,
            "name": _text(next(named, None) or span.name.removeprefix(f"{operation} "), 200),
            "run": above and above.run,
            "above": above and above.row["id"],
            "trace": f"{context.trace_id:032x}",
            "span": f"{context.span_id:016x}",
            "parent": parent and f"{parent.span_id:016x}",
            "at": span.start_time,
        }
        return _Span(context.span_id, row, row["id"] if agent else row["run"], above, id(sys.exception()))

    def _outcome(self, span: ReadableSpan, known: _Span) -> dict[str, Any]:
        """Say how a span ended, and what is kept of it."""
        attributes: Any = span.attributes or {}
        # No attribute tells of a cancellation, nor of many a failure; but the exception passes where the span is ended.
        raised, code = sys.exception(), span.status.status_code
        if id(raised) == known.handled or isinstance(raised, GeneratorExit | StopIteration | StopAsyncIteration):
            raised = None
        noted: Any = next((each.attributes for each in reversed(span.events) if each.name == "exception"), None) or {}
        passing = type(raised).__name__ if raised else ""
        kind = _text(attributes.get("error.type") or noted.get("exception.type") or passing or "error", 200)
        failed = code is StatusCode.ERROR or (code is StatusCode.UNSET and (raised or "error.type" in attributes))
        cancelled = {passing, kind.rpartition(".")[2]} & _CANCELS
        status = "cancelled" if cancelled else "failed" if failed else "completed"
        names = [(what, name) for what in self._capture for name in _CAPTURED[what] if name in attributes]
        result = {what: _text(attributes[name]) for what, name in reversed(names)}
        if status != "completed" and "error" in self._capture:
            message = span.status.description or noted.get("exception.message") or raised or ""
            result |= {"error": kind, "message": _text(message, 2_000)}
        return {"status": status, "at": span.end_time, "result": result or None}

    def _put(self, span: Any, place: _Span | None, ended: bool = False) -> None:
        if not place or place.key != span.get_span_context().span_id:
            return
        if len(self._batches.waiting) >= self._capacity:
            raise BufferError("too many wait for the database")
        news: Any = self._outcome(span, place) if ended else {"status": "running"}
        waiting = Entry(_NO_WORKFLOW, TaskReport(place.row["id"], news["status"], (place, news)), Future[Task]())
        waiting.done.add_done_callback(lambda done: self._drop(done.exception()))
        with self._work:
            if not self._batches.closed:
                self._batches.waiting.append(waiting)
                if not self._thread.ident:
                    self._thread.start()
                self._work.notify()

    def _run(self) -> None:
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # what is sent here makes no spans
        super()._run()
        while not self._batches.closed:  # it gave up, and tries again with the next span
            super()._run()

    def _drop(self, why: BaseException | None, at_once: bool = False) -> None:
        if why:
            self.dropped, self._why = self.dropped + 1, why
        if (new := self.dropped - self._told) and (at_once or time.monotonic() >= self._quiet_until):
            self._told, self._quiet_until = self.dropped, time.monotonic() + 60
            _log.warning("%s starts and ends of spans were not written (%s in all): %s", new, self.dropped, self._why)


def _id(context: Any) -> str:
    return str(uuid5(NAMESPACE_OID, f"{context.trace_id:032x}-{context.span_id:016x}"))


def _text(value: Any, longest: int | None = None) -> str:
    return str(value)[:longest].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
