"""ProgressProcessor on the real SDK and a real database: what becomes of spans."""

# ruff: noqa: SIM117 (blocks are nested as the spans are)

import asyncio
import inspect
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import NAMESPACE_OID, uuid5

import psycopg
import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from psycopg.conninfo import conninfo_to_dict

import pyapp
from pyapp.otel import MODEL_CALLS, ProgressProcessor

from .commands import Run
from .commands import run as run
from .helpers import wait_for
from .pages import block_with, page, run_python

SetUp = Callable[..., tuple[Tracer, ProgressProcessor]]


def agent(name: str, operation: str = "invoke_agent", **attributes: Any) -> dict[str, Any]:
    """What an agent's span is started with."""
    attributes = {"gen_ai.operation.name": operation, "gen_ai.agent.name": name, **attributes}
    return {"name": f"{operation} {name}", "attributes": attributes}


def tool(name: str, operation: str = "execute_tool", **attributes: Any) -> dict[str, Any]:
    """What a tool's span is started with."""
    attributes = {"gen_ai.operation.name": operation, "gen_ai.tool.name": name, **attributes}
    return {"name": f"{operation} {name}", "attributes": attributes}


@pytest.fixture
def start(dsn: str) -> Iterator[SetUp]:
    """Set up tracing as a program does: each call is a process of its own, as far as tracing goes."""
    providers: list[TracerProvider] = []

    def set_up(sampler: Sampler | None = None, **options: Any) -> tuple[Tracer, ProgressProcessor]:
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        processor = ProgressProcessor(**{"dsn": dsn, **options})
        provider.add_span_processor(processor)
        providers.append(provider)
        return provider.get_tracer("test"), processor

    yield set_up
    for provider in providers:
        provider.shutdown()


def shown(conn: psycopg.Connection) -> dict[str, tuple[Any, ...]]:
    """Status, progress, completed and total of each workflow."""
    rows = conn.execute("select name, status::text, progress, agents_completed, agents_total from workflow").fetchall()
    return {row[0]: row[1:] for row in rows}


def tree(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Each workflow as (its name, the one above, the task above), in order of creation."""
    return conn.execute(
        """
        select w.name, a.name, t.agent_type
        from workflow as w
        left join workflow as a on a.id = w.parent_id
        left join agent_task as t on t.id = w.parent_task_id and t.workflow_id = w.parent_id
        order by w.created_at
        """
    ).fetchall()


def tasks(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Each task as (its workflow, its name, its status), in order of creation."""
    return conn.execute(
        "select w.name, t.agent_type, t.status::text from agent_task as t join workflow as w on w.id = t.workflow_id"
        " order by t.ordinal"
    ).fetchall()


def results(conn: psycopg.Connection) -> dict[str, Any]:
    return dict(conn.execute("select agent_type, result from agent_task").fetchall())


def test_a_run_shows_while_it_is_under_way(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    with tracer.start_as_current_span(**agent("researcher")):
        assert processor.force_flush()
        assert shown(conn) == {"researcher": ("running", 0, 0, 1)}
        with tracer.start_as_current_span(**tool("look_up")):
            assert processor.force_flush()
            assert shown(conn) == {"researcher": ("running", 0, 0, 2)}
        assert processor.force_flush()
        assert shown(conn) == {"researcher": ("running", 50, 1, 2)}
    assert processor.force_flush()
    assert shown(conn) == {"researcher": ("completed", 100, 2, 2)}


def test_a_run_is_of_type_agent_and_its_spans_can_be_found_in_the_trace(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    with (
        tracer.start_as_current_span(**agent("researcher")) as outer,
        tracer.start_as_current_span(**tool("look_up")) as inner,
    ):
        pass
    processor.force_flush()
    trace, above, below = (
        f"{outer.get_span_context().trace_id:032x}",
        f"{outer.get_span_context().span_id:016x}",
        f"{inner.get_span_context().span_id:016x}",
    )
    assert conn.execute("select type, trace_id, created_by from workflow").fetchall() == [
        ("agent", trace, "opentelemetry")
    ]
    query = "select trace_id, span_id, parent_span_id from agent_task order by ordinal"
    assert conn.execute(query).fetchall() == [(trace, above, None), (trace, below, above)]


def test_times_are_those_of_the_spans(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    began = 1_000_000_000_000_000_000  # in 2001
    with tracer.start_as_current_span(**agent("researcher"), start_time=began, end_on_exit=False) as span:
        span.end(began + 90 * 10**9)
    processor.force_flush()
    assert conn.execute(
        "select extract(year from t.created_at), t.started_at = t.created_at, w.created_at::date = t.created_at::date,"
        " round(extract(epoch from t.completed_at - t.started_at)) from agent_task as t, workflow as w"
    ).fetchall() == [(2001, True, True, 90)]


def test_an_agent_below_another_is_a_workflow_below_its_workflow_and_task(
    conn: psycopg.Connection, start: SetUp
) -> None:
    tracer, processor = start()
    with tracer.start_as_current_span(**agent("editor")):
        with tracer.start_as_current_span(**tool("ask_writer")), tracer.start_as_current_span(**agent("writer")):
            with tracer.start_as_current_span(**tool("look_up")):
                pass
        with tracer.start_as_current_span(**agent("reader")):
            pass
    processor.force_flush()
    assert tree(conn) == [("editor", None, None), ("writer", "editor", "ask_writer"), ("reader", "editor", "editor")]
    assert tasks(conn) == [
        ("editor", "editor", "completed"),
        ("editor", "ask_writer", "completed"),
        ("writer", "writer", "completed"),
        ("writer", "look_up", "completed"),
        ("reader", "reader", "completed"),
    ]


def test_agents_of_a_workflow_work_side_by_side_below_it(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()

    def work(name: str, above: Context) -> None:
        with tracer.start_as_current_span(**agent(name), context=above):
            for _ in range(10):
                with tracer.start_as_current_span(**tool("look_up")):
                    pass

    with tracer.start_as_current_span(**agent("both", "invoke_workflow")) as span, ThreadPoolExecutor(8) as pool:
        above = set_span_in_context(span)
        list(pool.map(work, [f"agent {number}" for number in range(20)], [above] * 20))
    processor.force_flush()
    expected = {f"agent {number}": ("completed", 100, 11, 11) for number in range(20)}
    assert shown(conn) == {"both": ("completed", 100, 1, 1), **expected}
    assert {row[1:] for row in tree(conn) if row[0] != "both"} == {("both", "both")}


def test_other_spans_are_passed_over_and_do_not_break_the_chain(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    with tracer.start_as_current_span("POST /chat", kind=SpanKind.SERVER):
        with tracer.start_as_current_span(**tool("look_up")):
            pass  # no agent is above it
        with tracer.start_as_current_span(**agent("editor")), tracer.start_as_current_span("step 1"):
            with tracer.start_as_current_span("chat gpt", attributes={"gen_ai.operation.name": "chat"}):
                pass
            with tracer.start_as_current_span(**tool("ask")), tracer.start_as_current_span("retry"):
                with tracer.start_as_current_span(**agent("writer")):
                    pass
    processor.force_flush()
    assert tree(conn) == [("editor", None, None), ("writer", "editor", "ask")]
    assert [name for _, name, _ in tasks(conn)] == ["editor", "ask", "writer"]


def test_model_calls_are_tasks_where_asked_for(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start(tasks=("execute_tool", "plan", *MODEL_CALLS))
    with tracer.start_as_current_span(**agent("editor")):
        with tracer.start_as_current_span("plan", attributes={"gen_ai.operation.name": "plan"}):
            with tracer.start_as_current_span("chat gpt", attributes={"gen_ai.operation.name": "chat"}):
                pass
    processor.force_flush()
    assert [name for _, name, _ in tasks(conn)] == ["editor", "plan", "gpt"]


@pytest.mark.parametrize(
    "started",
    [
        {"name": "invoke_agent writer"},
        {"name": "writer.run", "attributes": {"openinference.span.kind": "AGENT", "agent.name": "writer"}},
        agent("x", "invoke_workflow", **{"gen_ai.agent.name": "", "gen_ai.workflow.name": "writer"}),
    ],
    ids=["by its name", "OpenInference", "the older name of a workflow"],
)
def test_an_agent_is_recognized(conn: psycopg.Connection, start: SetUp, started: dict[str, Any]) -> None:
    tracer, processor = start()
    with tracer.start_as_current_span(**started):
        pass
    processor.force_flush()
    assert shown(conn) == {"writer": ("completed", 100, 1, 1)}


def test_a_failure_is_that_of_the_task_and_the_workflow(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    with pytest.raises(ValueError, match="no such file"), tracer.start_as_current_span(**agent("clumsy")):
        with tracer.start_as_current_span(**tool("open")):
            raise ValueError("no such file")
    processor.force_flush()
    assert shown(conn) == {"clumsy": ("failed", 0, 0, 2)}
    failure = {"error": "ValueError", "message": "ValueError: no such file"}
    assert results(conn) == {"clumsy": failure, "open": failure}


def test_an_agent_that_copes_with_a_failed_tool_is_completed(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    with tracer.start_as_current_span(**agent("robust")):
        with tracer.start_as_current_span(**tool("open", **{"error.type": "timeout"})) as span:
            span.set_status(Status(StatusCode.ERROR, "took too long"))
        with tracer.start_as_current_span(**tool("open again")):
            pass
    processor.force_flush()
    assert shown(conn) == {"robust": ("completed", 67, 2, 3)}
    assert results(conn)["open"] == {"error": "timeout", "message": "took too long"}


def test_a_failure_is_seen_though_its_instrumentation_does_not_tell(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    quiet = {"record_exception": False, "set_status_on_exception": False}
    with pytest.raises(ValueError, match="lost"), tracer.start_as_current_span(**agent("quiet"), **quiet):
        raise ValueError("lost")
    processor.force_flush()
    assert shown(conn)["quiet"][0] == "failed"
    assert results(conn) == {"quiet": {"error": "ValueError", "message": "lost"}}


def test_an_agent_that_steps_in_for_a_failed_one_is_completed(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    try:
        with tracer.start_as_current_span(**agent("first")):
            raise ValueError("lost")
    except ValueError:
        with tracer.start_as_current_span(**agent("second")), tracer.start_as_current_span(**tool("look_up")):
            pass
    processor.force_flush()
    assert {name: row[0] for name, row in shown(conn).items()} == {"first": "failed", "second": "completed"}


def test_a_cancelled_agent_and_its_tools_are_cancelled(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()

    async def work(name: str) -> None:
        with tracer.start_as_current_span(**agent(name)), tracer.start_as_current_span(**tool("wait")):
            await asyncio.sleep(600)

    async def main() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.gather(work("one"), work("two"))

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    processor.force_flush()
    assert shown(conn) == {"one": ("cancelled", 0, 0, 2), "two": ("cancelled", 0, 0, 2)}
    assert {status for _, _, status in tasks(conn)} == {"cancelled"}
    assert conn.execute("select agents_open from workflow_progress").fetchall() == [(0,), (0,)]


def test_a_stream_that_is_not_read_to_its_end_is_no_failure(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()

    def stream() -> Iterator[int]:
        with tracer.start_as_current_span(**agent("streaming")):
            yield from range(10)

    for _ in stream():
        break
    processor.force_flush()
    assert shown(conn)["streaming"][0] == "completed"


@pytest.mark.parametrize(
    ("capture", "kept"),
    [
        (("error",), {"error": "_OTHER", "message": "no"}),
        ((), None),
        (("input", "output"), {"input": '{"path": "x"}', "output": "secret"}),
    ],
)
def test_nothing_of_prompts_or_results_is_kept_unless_asked_for(
    conn: psycopg.Connection, start: SetUp, capture: tuple[str, ...], kept: Any
) -> None:
    tracer, processor = start(capture=capture)
    secret = {"gen_ai.input.messages": "secret", "gen_ai.output.messages": "secret", "input.value": "secret"}
    with tracer.start_as_current_span(**agent("researcher", **{} if "input" in capture else secret)):
        arguments = {"gen_ai.tool.call.arguments": '{"path": "x"}', "gen_ai.tool.call.result": "secret"}
        with tracer.start_as_current_span(**tool("open", **arguments, **{"error.type": "_OTHER"})) as span:
            span.set_status(Status(StatusCode.ERROR, "no"))
    processor.force_flush()
    assert results(conn) == {"researcher": None, "open": kept}
    row = conn.execute("select description, input_data from workflow").fetchone()
    assert row == (None, None)
    assert conn.execute("select distinct payload from agent_task").fetchall() == [({},)]


def test_what_cannot_be_captured_is_refused_at_once(dsn: str) -> None:
    with pytest.raises(ValueError, match="cannot capture prompts, but error, input, output"):
        ProgressProcessor(dsn, capture=("prompts",))
    with pytest.raises(psycopg.ProgrammingError):
        ProgressProcessor("no dsn")


def test_attributes_of_any_kind_do_not_hurt_the_agent(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    with tracer.start_as_current_span("invoke_agent", attributes={"gen_ai.agent.name": ["a", "b"]}):
        with tracer.start_as_current_span(**tool("nul \0 and half \ud800" + "x" * 10_000)) as span:
            span.set_status(Status(StatusCode.ERROR, "\0" * 5_000))
    processor.force_flush()
    (name,) = conn.execute("select agent_type from agent_task order by ordinal offset 1").fetchone()
    assert name == ("nul \ufffd and half ?" + "x" * 10_000)[:200]
    assert (list(shown(conn)), processor.dropped) == (["('a', 'b')"], 0)


def test_what_ends_after_the_agent_still_ends(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    above = tracer.start_span(**agent("hasty"))
    context = set_span_in_context(above)
    early = tracer.start_span(**tool("started before"), context=context)
    above.end()
    late = tracer.start_span(**tool("started after"), context=context)
    early.end()
    late.end()
    processor.force_flush()
    assert shown(conn) == {"hasty": ("completed", 100, 3, 3)}


def test_spans_are_written_once_whoever_writes_them(conn: psycopg.Connection, dsn: str, start: SetUp) -> None:
    tracer, processor = start()
    second = ProgressProcessor(dsn)
    tracer.span_processor.add_span_processor(second)  # type: ignore[attr-defined]
    with tracer.start_as_current_span(**agent("editor")), tracer.start_as_current_span(**tool("look_up")):
        pass
    assert processor.force_flush()
    assert second.force_flush()
    second.shutdown()
    assert (shown(conn), processor.dropped, second.dropped) == ({"editor": ("completed", 100, 2, 2)}, 0, 0)


def carried(tracer: Tracer) -> Context:
    """The context as another process gets it with a request."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return TraceContextTextMapPropagator().extract(carrier)


def test_an_agent_in_another_process_comes_below_the_task_that_called_it(
    conn: psycopg.Connection, start: SetUp
) -> None:
    (here, near), (there, far) = start(), start()
    with here.start_as_current_span(**agent("editor")), here.start_as_current_span(**tool("ask_writer")):
        context = carried(here)
        wait_for(lambda: len(tasks(conn)) == 2)
        with there.start_as_current_span("POST /write", context=context, kind=SpanKind.SERVER):
            with there.start_as_current_span(**agent("writer")), there.start_as_current_span(**tool("look_up")):
                pass
    assert near.force_flush()
    assert far.force_flush()
    assert shown(conn) == {"editor": ("completed", 100, 2, 2), "writer": ("completed", 100, 2, 2)}
    assert tree(conn) == [("editor", None, None), ("writer", "editor", "ask_writer")]


def test_a_tool_in_another_process_is_a_task_of_the_agent_that_called_it(
    conn: psycopg.Connection, start: SetUp
) -> None:
    (here, _), (there, processor) = start(), start()
    with here.start_as_current_span(**agent("editor")):
        context = carried(here)
        wait_for(lambda: tasks(conn))
        with there.start_as_current_span(**tool("look_up"), context=context):
            pass
        processor.force_flush()
    wait_for(lambda: shown(conn) == {"editor": ("completed", 100, 2, 2)})


def test_a_parent_in_another_process_may_come_later(conn: psycopg.Connection, dsn: str, start: SetUp) -> None:
    there, processor = start()
    here, slow = TracerProvider(shutdown_on_exit=False).get_tracer("test"), ProgressProcessor(dsn)
    with here.start_as_current_span(**agent("editor")) as above, here.start_as_current_span(**tool("ask")) as task:
        with there.start_as_current_span(**agent("writer"), context=carried(here)):
            processor.force_flush()
            assert tree(conn) == [("writer", None, None)]
            for span in (above, task):
                slow.on_start(span)  # type: ignore[arg-type]
            slow.force_flush()
    processor.force_flush()
    slow.shutdown()
    assert sorted(tree(conn)) == [("editor", None, None), ("writer", "editor", "ask")]


class RecordOnly(Sampler):
    """Records spans for processors, and exports none."""

    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY, kwargs.get("attributes") or args[4])

    def get_description(self) -> str:
        return "record only"


@pytest.mark.parametrize(
    ("sampler", "expected"), [(ALWAYS_OFF, []), (RecordOnly(), ["editor"])], ids=["off", "recorded"]
)
def test_what_is_recorded_is_shown_and_what_is_not_sampled_is_not(
    conn: psycopg.Connection, start: SetUp, sampler: Sampler, expected: list[str]
) -> None:
    tracer, processor = start(sampler)
    with tracer.start_as_current_span(**agent("editor")):
        pass
    processor.force_flush()
    assert list(shown(conn)) == expected


def test_what_is_too_much_is_dropped_and_the_rest_still_makes_sense(
    conn: psycopg.Connection, start: SetUp, session: Callable[[], psycopg.Connection], caplog: pytest.LogCaptureFixture
) -> None:
    tracer, processor = start(capacity=2)
    with session() as other:
        other.execute("lock table workflow")
        first = tracer.start_span(**agent("first"))
        query = "select from pg_stat_activity where wait_event_type = 'Lock'"
        wait_for(lambda: conn.execute(query).fetchall())
        with tracer.start_as_current_span(**agent("second"), context=set_span_in_context(first)):
            for number in range(5):
                tracer.start_span(**tool(f"tool {number}")).end()
    wait_for(processor.force_flush)
    assert processor.dropped == 10
    first.end()  # which says all that is known of it, and of what is above it
    processor.force_flush()
    assert sorted(tree(conn)) == [("first", None, None), ("second", "first", "first")]
    assert tasks(conn) == [
        ("first", "first", "completed"),
        ("second", "second", "running"),
        ("second", "tool 0", "running"),
    ]
    processor.shutdown()
    assert [record.getMessage() for record in caplog.records if record.name == "pyapp.otel"] == [
        "1 starts and ends of spans were not written (1 in all): too many wait for the database",
        "9 starts and ends of spans were not written (10 in all): too many wait for the database",
    ]


def test_an_event_that_was_dropped_is_made_up_for_by_those_that_follow(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    processor._capacity = 0
    above = tracer.start_span(**agent("editor"))
    context = set_span_in_context(above)
    below = tracer.start_span(**tool("ask"), context=context)
    processor._capacity = 10
    with tracer.start_as_current_span(**agent("writer"), context=set_span_in_context(below)):
        pass
    processor.force_flush()
    assert processor.dropped == 2
    assert tree(conn) == [("editor", None, None), ("writer", "editor", "ask")]
    assert shown(conn) == {"editor": ("running", 0, 0, 2), "writer": ("completed", 100, 1, 1)}


def test_what_the_database_refuses_is_dropped_alone(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    conn.execute("alter table agent_task add constraint cheap check (agent_type <> 'expensive')")
    with tracer.start_as_current_span(**agent("editor")):
        for name in ("cheap", "expensive", "cheap"):
            with tracer.start_as_current_span(**tool(name)):
                pass
    processor.force_flush()
    assert (shown(conn), processor.dropped) == ({"editor": ("completed", 100, 3, 3)}, 2)


def test_the_agent_does_not_notice_that_the_database_is_away(
    own_server: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    pyapp.migrate(server.dsn)
    processor = ProgressProcessor(server.dsn)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span(**agent("editor")):
        processor.force_flush()
        os.kill(server.pid, signal.SIGKILL)
        with tracer.start_as_current_span(**tool("look_up")):
            pass
        assert not processor.force_flush(timeout_millis=1)
        server = own_server()
    provider.shutdown()
    with psycopg.connect(server.dsn) as conn:
        assert (shown(conn), processor.dropped) == ({"editor": ("completed", 100, 2, 2)}, 0)
    assert [record for record in caplog.records if record.name == "pyapp.otel"] == []


def test_a_database_that_stays_away_costs_spans_and_a_warning(
    conn: psycopg.Connection, dsn: str, start: SetUp, caplog: pytest.LogCaptureFixture
) -> None:
    tracer, processor = start(dsn="host=/nowhere", patience=0.0)
    with tracer.start_as_current_span(**agent("editor")):
        processor.force_flush()
        assert processor.dropped == 1
        with tracer.start_as_current_span(**tool("look_up")):
            pass
    processor.force_flush()
    processor.shutdown()
    assert processor.dropped == 4
    warnings = [record.getMessage() for record in caplog.records if record.name == "pyapp.otel"]
    assert [warning.partition(":")[0] for warning in warnings] == [
        "1 starts and ends of spans were not written (1 in all)",
        "3 starts and ends of spans were not written (4 in all)",
    ]
    assert "/nowhere" in warnings[0]


def test_a_processor_that_gave_up_tries_again(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start(patience=0.0)
    session = processor._batches.session
    dsn, session._dsn = session._dsn, "host=/nowhere"
    with tracer.start_as_current_span(**agent("editor")):
        processor.force_flush()
        assert processor.dropped == 1
        session._dsn = dsn
    processor.force_flush()
    assert shown(conn) == {"editor": ("completed", 100, 1, 1)}


def test_a_shutdown_writes_what_waits_and_is_final(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    with tracer.start_as_current_span(**agent("editor")):
        pass
    processor.shutdown()
    processor.shutdown()
    assert shown(conn) == {"editor": ("completed", 100, 1, 1)}
    with tracer.start_as_current_span(**agent("late")):
        pass
    assert (list(shown(conn)), processor.dropped, processor.force_flush()) == (["editor"], 0, True)


def test_nothing_is_connected_before_the_first_agent(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    query = "select from pg_stat_activity where application_name = 'agent-progress' and datname = current_database()"
    with tracer.start_as_current_span("GET /"):
        pass
    assert processor.force_flush()
    assert conn.execute(query).fetchall() == []


PROGRAM = """
import os, sys, time
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from pyapp.otel import ProgressProcessor

provider = TracerProvider()
provider.add_span_processor(processor := ProgressProcessor())
tracer = provider.get_tracer("test")


def agent(name):
    return tracer.start_as_current_span("invoke_agent " + name)


"""


def program(dsn: str, code: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM + code]
    return subprocess.Popen(command, env={**os.environ, "DATABASE_URL": dsn})


def test_a_program_that_ends_loses_nothing(conn: psycopg.Connection, dsn: str) -> None:
    assert program(dsn, "with agent('a'), agent('b'):\n    pass").wait(60) == 0
    assert shown(conn) == {"a": ("completed", 100, 1, 1), "b": ("completed", 100, 1, 1)}


def test_a_forked_process_writes_its_own_spans_and_no_others(conn: psycopg.Connection, dsn: str) -> None:
    code = """
with agent("parent"):
    if not os.fork():
        with agent("child"):
            pass
        processor.shutdown()
        os._exit(0)
    os.wait()
"""
    assert program(dsn, code).wait(60) == 0
    assert shown(conn) == {"parent": ("completed", 100, 1, 1), "child": ("completed", 100, 1, 1)}
    assert tree(conn)[1] == ("child", "parent", "parent")


def test_a_run_whose_process_died_is_stalled_and_can_be_settled(
    conn: psycopg.Connection,
    dsn: str,
    run: Run,
) -> None:
    process = program(dsn, "with agent('a'), tracer.start_as_current_span('execute_tool wait'): time.sleep(600)")
    wait_for(lambda: len(tasks(conn)) == 2)
    process.kill()
    process.wait()
    conn.execute("set agent_progress.stalled_after = '1 microsecond'")
    ((workflow, stalled),) = conn.execute("select workflow_id::text, stalled from workflow_forecast").fetchall()
    assert stalled
    assert run("transition", workflow, "cancelled")[0] == 0
    assert shown(conn) == {"a": ("cancelled", 0, 0, 2)}
    assert {status for _, _, status in tasks(conn)} == {"cancelled"}


def test_what_a_person_settled_stays_so(conn: psycopg.Connection, start: SetUp) -> None:
    tracer, processor = start()
    with tracer.start_as_current_span(**agent("slow")) as span, tracer.start_as_current_span(**tool("wait")):
        processor.force_flush()
        ((workflow,),) = conn.execute("select id from workflow").fetchall()
        assert str(workflow) == str(
            uuid5(NAMESPACE_OID, f"{span.get_span_context().trace_id:032x}-{span.get_span_context().span_id:016x}")
        )
        pyapp.transition(conn, workflow, "cancelled")
    processor.force_flush()
    assert (shown(conn), processor.dropped) == ({"slow": ("cancelled", 0, 0, 2)}, 0)


def test_it_works_in_any_schema(empty: Callable[[], str], start: SetUp) -> None:
    dsn = empty()
    pyapp.migrate(dsn, schema="my agents")
    tracer, processor = start(dsn=dsn, schema="my agents")
    with tracer.start_as_current_span(**agent("editor")):
        pass
    assert processor.force_flush()
    with psycopg.connect(dsn) as conn:
        (workflow,) = pyapp.list_workflows(conn, schema="my agents")
    assert (workflow.name, workflow.progress, processor.dropped) == ("editor", 100, 0)


def test_the_example_of_the_page_runs(conn: psycopg.Connection, dsn: str) -> None:
    provider = run_python(block_with("pyapp/OTEL.md", "python", "ProgressProcessor"), dsn)["provider"]
    with provider.get_tracer("test").start_as_current_span(**agent("editor")):
        pass
    provider.shutdown()
    assert shown(conn) == {"editor": ("completed", 100, 1, 1)}


def test_the_page_names_every_option() -> None:
    text = page("pyapp/OTEL.md")
    options = set(inspect.signature(ProgressProcessor).parameters) - {"dsn", "schema"}
    assert [name for name in options if f"{name}" not in text] == []


NODE = """
import { SpanStatusCode, context, trace } from "@opentelemetry/api";
import { BasicTracerProvider } from "@opentelemetry/sdk-trace-base";
import { ProgressProcessor, id } from "./progress.mjs";

const provider = new BasicTracerProvider({ spanProcessors: [new ProgressProcessor()] });
const tracer = provider.getTracer("test");
function start(operation, name, above) {
  const attributes = { "gen_ai.operation.name": operation, [`gen_ai.${above?.tool ? "tool" : "agent"}.name`]: name };
  const parent = above ? trace.setSpan(context.active(), above.span) : undefined;
  return tracer.startSpan(`${operation} ${name}`, { attributes }, parent);
}
const editor = start("invoke_agent", "editor");
const step = start("step", "passed over", { span: editor });
const ask = start("execute_tool", "ask", { span: step, tool: true });
const writer = start("invoke_agent", "writer", { span: ask });
const open = start("execute_tool", "open", { span: writer, tool: true });
await provider.forceFlush();
open.setStatus({ code: SpanStatusCode.ERROR, message: "no such file" });
for (const span of [open, writer, ask, step, editor]) span.end();
await provider.shutdown();
console.log(id(writer.spanContext()), writer.spanContext().traceId, writer.spanContext().spanId);
"""


def test_the_example_in_another_language_writes_the_same(conn: psycopg.Connection, dsn: str, tmp_path: Path) -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node and npm are not installed")
    packages = ["pg@8", "@opentelemetry/api@1", "@opentelemetry/sdk-trace-base@2"]
    npm = ["npm", "install", "--silent", "--no-fund", "--no-audit", *packages]
    done = subprocess.run(npm, cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        pytest.skip(f"the npm registry is out of reach: {done.stderr.strip()[-200:]}")
    (tmp_path / "progress.mjs").write_text(block_with("pyapp/OTEL.md", "js", "ProgressProcessor"), "utf-8")
    (tmp_path / "main.mjs").write_text(NODE, "utf-8")
    where = conninfo_to_dict(dsn)
    url = f"postgresql://{where['user']}@{quote(str(where['host']), safe='')}:{where['port']}/{where['dbname']}"
    command = ["node", "main.mjs"]
    environment = {**os.environ, "DATABASE_URL": url}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    key, trace, span = done.stdout.split()
    assert key == str(uuid5(NAMESPACE_OID, f"{trace}-{span}"))
    assert tree(conn) == [("editor", None, None), ("writer", "editor", "ask")]
    assert shown(conn) == {"editor": ("completed", 100, 2, 2), "writer": ("completed", 50, 1, 2)}
    assert results(conn)["open"] == {"error": "no such file"}
