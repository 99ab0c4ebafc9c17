"""ProgressProcessor on the real SDK and a real database: what becomes of spans."""

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import psycopg
import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from psycopg import Connection

import pyapp
from pyapp.otel import MODEL_CALLS, ProgressProcessor

from .commands import Run, output_of
from .commands import run as run
from .helpers import PATIENCE, kill, sessions, wait_for
from .pages import block_with, install_from_npm, page, run_python, url


def started(operation: str, name: str, **attributes: Any) -> dict[str, Any]:
    """What a span is started with."""
    kind = "tool" if operation == "execute_tool" else "agent"
    attributes = {"gen_ai.operation.name": operation, f"gen_ai.{kind}.name": name, **attributes}
    return {"name": f"{operation} {name}", "attributes": attributes}


class Tracing:
    """Tracing as a program sets it up: of a process of its own, as far as tracing goes."""

    def __init__(self, dsn: str, sampler: Sampler | None = None, **options: Any) -> None:
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.processor = ProgressProcessor(dsn, **options)
        self.provider.add_span_processor(self.processor)
        self.tracer = self.provider.get_tracer("test")
        self.flush = self.processor.force_flush

    def span(self, *of: Any, context: Context | None = None, **attributes: Any) -> AbstractContextManager[Span]:
        """Begin a span, by its operation and name or what it is started with, and end it with the block."""
        how = of[0] if isinstance(of[0], dict) else started(*of, **attributes) if len(of) == 2 else {"name": of[0]}
        return self.tracer.start_as_current_span(**how, context=context)

    def agent(self, name: str, **options: Any) -> AbstractContextManager[Span]:
        return self.span("invoke_agent", name, **options)

    def tool(self, name: str, **options: Any) -> AbstractContextManager[Span]:
        return self.span("execute_tool", name, **options)

    def begin(self, operation: str, name: str, above: Span | None = None) -> Span:
        """Begin a span that nobody ends by a block."""
        return self.tracer.start_span(**started(operation, name), context=above and set_span_in_context(above))


SetUp = Callable[..., Tracing]


@pytest.fixture
def set_up(dsn: str) -> Iterator[SetUp]:
    """Set up tracing, as often as a test likes."""
    made: list[Tracing] = []

    def make(sampler: Sampler | None = None, **options: Any) -> Tracing:
        made.append(Tracing(**{"dsn": dsn, "sampler": sampler, **options}))
        return made[-1]

    yield make
    for one in made:
        one.provider.shutdown()


@pytest.fixture
def tracing(set_up: SetUp) -> Tracing:
    return set_up()


def shown(conn: Connection) -> list[str]:
    """Each workflow in order of creation: where it is, its status, completed of total, and its tasks."""
    rows = conn.execute(
        """
        select format('%s%s: %s %s/%s of %s', w.name, ' < ' || a.name || '.' || t.agent_type, w.status,
            w.agents_completed, w.agents_total, string_agg(o.agent_type, ', ' order by o.ordinal))
        from workflow as w
        left join workflow as a on a.id = w.parent_id
        left join agent_task as t on t.id = w.parent_task_id and t.workflow_id = w.parent_id
        left join agent_task as o on o.workflow_id = w.id
        group by w.id, a.id, t.id
        order by w.created_at
        """
    ).fetchall()
    return [row[0] for row in rows]


def results(conn: Connection) -> dict[str, Any]:
    return dict(conn.execute("select agent_type, result from agent_task where result is not null").fetchall())


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "pyapp.otel"]


# --- What becomes of a span -------------------------------------------------------------------------------------


def test_a_run_shows_while_it_is_under_way_and_can_be_found_in_the_trace(conn: Connection, tracing: Tracing) -> None:
    with tracing.agent("researcher") as outer:
        assert tracing.flush()
        assert shown(conn) == ["researcher: running 0/1 of researcher"]
        with tracing.tool("look_up") as inner:
            assert tracing.flush()
            assert shown(conn) == ["researcher: running 0/2 of researcher, look_up"]
        assert tracing.flush()
        assert shown(conn) == ["researcher: running 1/2 of researcher, look_up"]
    assert tracing.flush()
    assert shown(conn) == ["researcher: completed 2/2 of researcher, look_up"]
    of_run, of_tool = outer.get_span_context(), inner.get_span_context()
    trace, above, below = f"{of_run.trace_id:032x}", f"{of_run.span_id:016x}", f"{of_tool.span_id:016x}"
    key = uuid5(NAMESPACE_OID, f"{trace}-{above}")
    query = "select id, type, trace_id, created_by from workflow"
    assert conn.execute(query).fetchall() == [(key, "agent", trace, "opentelemetry")]
    query = "select trace_id, span_id, parent_span_id from agent_task order by ordinal"
    assert conn.execute(query).fetchall() == [(trace, above, None), (trace, below, above)]


def test_times_are_those_of_the_spans(conn: Connection, tracing: Tracing) -> None:
    began = 1_000_000_000_000_000_000  # in 2001
    tracing.tracer.start_span(**started("invoke_agent", "old"), start_time=began).end(began + 90 * 10**9)
    tracing.flush()
    assert conn.execute(
        "select extract(year from t.created_at), t.started_at = t.created_at, w.created_at::date = t.created_at::date,"
        " round(extract(epoch from t.completed_at - t.started_at)) from agent_task as t, workflow as w"
    ).fetchall() == [(2001, True, True, 90)]


def below_each_other(tracing: Tracing) -> None:
    with tracing.agent("editor"):
        with tracing.tool("ask_writer"), tracing.agent("writer"), tracing.tool("look_up"):
            pass
        with tracing.agent("reader"):
            pass


def with_others_between(tracing: Tracing) -> None:
    with tracing.span({"name": "POST /chat", "kind": SpanKind.SERVER}):
        with tracing.tool("look_up"):
            pass  # no agent is above it
        with tracing.agent("editor"), tracing.span("plan", "step 1"):
            with tracing.span({"name": "chat gpt", "attributes": {"gen_ai.operation.name": "chat"}}):
                pass
            with tracing.tool("ask"), tracing.span("retry"), tracing.agent("writer"):
                pass


def told_in_other_words(tracing: Tracing) -> None:
    for how in (
        {"name": "invoke_agent a"},
        {"name": "a.run", "attributes": {"openinference.span.kind": "AGENT", "agent.name": "b"}},
        started("invoke_workflow", "x", **{"gen_ai.agent.name": "", "gen_ai.workflow.name": "c"}),
        {"name": "invoke_agent", "attributes": {"gen_ai.agent.name": ["d", "e"]}},
    ):
        with tracing.span(how):
            pass


def ends_late(tracing: Tracing) -> None:
    above = tracing.begin("invoke_agent", "hasty")
    early = tracing.begin("execute_tool", "before", above)
    above.end()
    late = tracing.begin("execute_tool", "after", above)
    early.end()
    late.end()


def fails(tracing: Tracing) -> None:
    with tracing.agent("clumsy"), tracing.tool("open"):
        raise ValueError("no such file")


def copes(tracing: Tracing) -> None:
    with tracing.agent("robust"):
        with tracing.tool("open", **{"error.type": "timeout"}) as span:
            span.set_status(Status(StatusCode.ERROR, "took too long"))
        with tracing.tool("open again"):
            pass


def fails_quietly(tracing: Tracing) -> None:
    quiet = {"record_exception": False, "set_status_on_exception": False}
    with tracing.tracer.start_as_current_span(**started("invoke_agent", "quiet"), **quiet):
        raise ValueError("lost")


def steps_in(tracing: Tracing) -> None:
    try:
        fails_quietly(tracing)
    except ValueError:
        with tracing.agent("second"), tracing.tool("look_up"):
            pass


def is_left(tracing: Tracing) -> None:
    """Read a part of a stream."""

    def stream() -> Iterator[int]:
        with tracing.agent("streaming"):
            yield from range(10)

    for _ in stream():
        break


def is_cancelled(tracing: Tracing) -> None:
    async def work(name: str) -> None:
        with tracing.agent(name), tracing.tool("wait"):
            await asyncio.sleep(600)

    async def main() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.gather(work("one"), work("two"))

    asyncio.run(main())


TREE = [
    "editor: completed 2/2 of editor, ask_writer",
    "writer < editor.ask_writer: completed 2/2 of writer, look_up",
    "reader < editor.editor: completed 1/1 of reader",
]
PASSED_OVER = ["editor: completed 2/2 of editor, ask", "writer < editor.ask: completed 1/1 of writer"]
ASKED_FOR = ["editor: completed 4/4 of editor, step 1, gpt, ask", PASSED_OVER[1]]
NAMES = [f"{name}: completed 1/1 of {name}" for name in ("a", "b", "c", "('d', 'e')")]
FAILURE = {"error": "ValueError", "message": "ValueError: no such file"}
LOST = {"quiet": {"error": "ValueError", "message": "lost"}}


@pytest.mark.parametrize(
    ("act", "expected", "told"),
    [
        (below_each_other, TREE, {}),
        (with_others_between, PASSED_OVER, {}),
        (with_others_between, ASKED_FOR, {}),
        (told_in_other_words, NAMES, {}),
        (ends_late, ["hasty: completed 3/3 of hasty, before, after"], {}),
        (fails, ["clumsy: failed 0/2 of clumsy, open"], {"clumsy": FAILURE, "open": FAILURE}),
        (
            copes,
            ["robust: completed 2/3 of robust, open, open again"],
            {"open": {"error": "timeout", "message": "took too long"}},
        ),
        (fails_quietly, ["quiet: failed 0/1 of quiet"], LOST),
        (steps_in, ["quiet: failed 0/1 of quiet", "second: completed 2/2 of second, look_up"], LOST),
        (is_left, ["streaming: completed 1/1 of streaming"], {}),
        (is_cancelled, ["one: cancelled 0/2 of one, wait", "two: cancelled 0/2 of two, wait"], None),
    ],
)
def test_agents_are_workflows_below_each_other_with_the_outcome_of_their_spans(
    conn: Connection,
    set_up: SetUp,
    act: Callable[[Tracing], None],
    expected: list[str],
    told: dict[str, Any] | None,
) -> None:
    tracing = set_up(**{"tasks": ("execute_tool", "plan", *MODEL_CALLS)} if expected == ASKED_FOR else {})
    with suppress(ValueError, TimeoutError):
        act(tracing)
    tracing.flush()
    assert shown(conn) == expected
    assert told is None or results(conn) == told
    assert conn.execute("select sum(agents_open) from workflow_progress").fetchone() == (0,)


def test_agents_of_a_workflow_work_side_by_side_below_it(conn: Connection, tracing: Tracing) -> None:
    def work(name: str, above: Context) -> None:
        with tracing.agent(name, context=above):
            for _ in range(10):
                with tracing.tool("x"):
                    pass

    with tracing.span("invoke_workflow", "both") as span, ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [f"agent {number}" for number in range(20)], [set_span_in_context(span)] * 20))
    tracing.flush()
    below = [f"agent {n} < both.both: completed 11/11 of agent {n}{', x' * 10}" for n in range(20)]
    assert sorted(shown(conn)) == sorted(["both: completed 1/1 of both", *below])


@pytest.mark.parametrize(
    ("capture", "kept"),
    [
        (("error",), {"error": "_OTHER", "message": "no"}),
        ((), None),
        (("input", "output"), {"input": '{"path": "x"}', "output": "secret"}),
    ],
)
def test_nothing_of_prompts_or_results_is_kept_unless_asked_for(
    conn: Connection, set_up: SetUp, capture: tuple[str, ...], kept: Any
) -> None:
    tracing = set_up(capture=capture)
    secret = {"gen_ai.input.messages": "secret", "gen_ai.output.messages": "secret", "input.value": "secret"}
    arguments = {"gen_ai.tool.call.arguments": '{"path": "x"}', "gen_ai.tool.call.result": "secret"}
    of_agent = {} if "input" in capture else secret
    with tracing.agent("researcher", **of_agent), tracing.tool("open", **arguments, **{"error.type": "_OTHER"}) as span:
        span.set_status(Status(StatusCode.ERROR, "no"))
    tracing.flush()
    assert results(conn) == ({"open": kept} if kept else {})
    query = "select distinct description, input_data, payload from workflow, agent_task"
    assert conn.execute(query).fetchall() == [(None, None, {})]


def test_what_cannot_be_captured_is_refused_at_once(dsn: str) -> None:
    with pytest.raises(ValueError, match="cannot capture prompts, but error, input, output"):
        ProgressProcessor(dsn, capture=("prompts",))
    with pytest.raises(psycopg.ProgrammingError):
        ProgressProcessor("no dsn")


def test_attributes_of_any_kind_do_not_hurt_the_agent(conn: Connection, tracing: Tracing) -> None:
    with tracing.agent("a"), tracing.tool("nul \0 and half \ud800" + "x" * 10_000) as span:
        span.set_status(Status(StatusCode.ERROR, "\0" * 5_000))
    tracing.flush()
    (name,) = conn.execute("select agent_type from agent_task order by ordinal offset 1").fetchone()
    assert (name, tracing.processor.dropped) == (("nul \ufffd and half ?" + "x" * 10_000)[:200], 0)


def test_what_a_person_settled_stays_so(conn: Connection, tracing: Tracing) -> None:
    with tracing.agent("slow"), tracing.tool("wait"):
        tracing.flush()
        pyapp.transition(conn, pyapp.list_workflows(conn)[0].workflow_id, "cancelled")
    tracing.flush()
    assert (shown(conn), tracing.processor.dropped) == (["slow: cancelled 0/2 of slow, wait"], 0)


def test_it_works_in_any_schema(empty: Callable[[], str], set_up: SetUp) -> None:
    dsn = empty()
    pyapp.migrate(dsn, schema="my agents")
    tracing = set_up(dsn=dsn, schema="my agents")
    with tracing.agent("editor"):
        pass
    assert tracing.flush()
    with psycopg.connect(dsn) as conn:
        (workflow,) = pyapp.list_workflows(conn, schema="my agents")
    assert (workflow.name, workflow.progress, tracing.processor.dropped) == ("editor", 100, 0)


# --- Several processes ------------------------------------------------------------------------------------------


def carried() -> Context:
    """The context as another process gets it with a request."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return TraceContextTextMapPropagator().extract(carrier)


def test_what_another_process_does_comes_below_the_task_and_the_agent_that_called_it(
    conn: Connection, set_up: SetUp
) -> None:
    here, there = set_up(), set_up()
    with here.agent("editor"):
        with here.tool("ask_writer"):
            context = carried()
            wait_for(lambda: "ask_writer" in str(shown(conn)))
            request = there.span({"name": "POST /write", "kind": SpanKind.SERVER}, context=context)
            with request, there.agent("writer"), there.tool("look_up"):
                pass
        with there.tool("of a server", context=carried()):
            pass
    assert here.flush()
    assert there.flush()
    assert shown(conn) == [
        "editor: completed 3/3 of editor, ask_writer, of a server",
        "writer < editor.ask_writer: completed 2/2 of writer, look_up",
    ]


def test_a_parent_in_another_process_may_come_later(conn: Connection, dsn: str, tracing: Tracing) -> None:
    here, slow = TracerProvider(shutdown_on_exit=False).get_tracer("test"), ProgressProcessor(dsn)
    with (
        here.start_as_current_span(**started("invoke_agent", "editor")) as above,
        here.start_as_current_span(**started("execute_tool", "ask")) as task,
        tracing.agent("writer", context=carried()),
    ):
        tracing.flush()
        assert shown(conn) == ["writer: running 0/1 of writer"]
        for span in (above, task):
            slow.on_start(span)  # type: ignore[arg-type]
        slow.force_flush()
    tracing.flush()
    slow.shutdown()
    assert "writer < editor.ask: completed 1/1 of writer" in shown(conn)


def test_spans_are_written_once_whoever_writes_them(conn: Connection, dsn: str, tracing: Tracing) -> None:
    second = ProgressProcessor(dsn)
    tracing.provider.add_span_processor(second)
    with tracing.agent("editor"), tracing.tool("look_up"):
        pass
    assert tracing.flush()
    assert second.force_flush()
    assert shown(conn) == ["editor: completed 2/2 of editor, look_up"]
    assert (tracing.processor.dropped, second.dropped) == (0, 0)


# --- Never in the agent's way -----------------------------------------------------------------------------------


def test_what_is_too_much_is_dropped_and_the_rest_still_makes_sense(
    conn: Connection, set_up: SetUp, session: Callable[[], Connection], caplog: pytest.LogCaptureFixture
) -> None:
    tracing = set_up(capacity=2)
    with session() as other:
        other.execute("lock table workflow")
        first = tracing.begin("invoke_agent", "first")
        query = "select from pg_stat_activity where wait_event_type = 'Lock'"
        wait_for(lambda: conn.execute(query).fetchall())
        with tracing.agent("second", context=set_span_in_context(first)):
            for number in range(5):
                with tracing.tool(f"tool {number}"):
                    pass
    wait_for(tracing.flush)
    assert tracing.processor.dropped == 10
    first.end()  # which says all that is known of it, and of what is above it
    tracing.flush()
    assert sorted(shown(conn)) == [
        "first: completed 1/1 of first",
        "second < first.first: running 0/2 of second, tool 0",
    ]
    tracing.processor.shutdown()
    assert warnings(caplog) == [
        "1 starts and ends of spans were not written (1 in all): too many wait for the database",
        "9 starts and ends of spans were not written (10 in all): too many wait for the database",
    ]


def test_an_event_that_was_dropped_is_made_up_for_by_those_that_follow(conn: Connection, tracing: Tracing) -> None:
    tracing.processor._capacity = 0
    above = tracing.begin("invoke_agent", "editor")
    below = tracing.begin("execute_tool", "ask", above)
    tracing.processor._capacity = 10
    with tracing.agent("writer", context=set_span_in_context(below)):
        pass
    tracing.flush()
    assert tracing.processor.dropped == 2
    assert shown(conn) == ["editor: running 0/2 of editor, ask", "writer < editor.ask: completed 1/1 of writer"]


def test_what_the_database_refuses_is_dropped_alone(conn: Connection, tracing: Tracing) -> None:
    conn.execute("alter table agent_task add constraint cheap check (agent_type <> 'expensive')")
    with tracing.agent("editor"):
        for name in ("cheap", "expensive", "cheap"):
            with tracing.tool(name):
                pass
    tracing.flush()
    assert (shown(conn), tracing.processor.dropped) == (["editor: completed 3/3 of editor, cheap, cheap"], 2)


def test_the_agent_does_not_notice_that_the_database_is_away(
    own_server: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server()
    pyapp.migrate(server.dsn)
    tracing = Tracing(server.dsn)
    with tracing.agent("editor"):
        tracing.flush()
        kill(server)
        with tracing.tool("look_up"):
            pass
        assert not tracing.flush(timeout_millis=1)
        server = own_server()
    tracing.provider.shutdown()
    with psycopg.connect(server.dsn) as conn:
        assert (shown(conn), tracing.processor.dropped) == (["editor: completed 2/2 of editor, look_up"], 0)
    assert warnings(caplog) == []


def test_a_database_that_stays_away_costs_spans_and_a_warning_until_it_is_back(
    conn: Connection, set_up: SetUp, caplog: pytest.LogCaptureFixture
) -> None:
    tracing = set_up(patience=0.0)
    session = tracing.processor._batches.session
    dsn, session._dsn = session._dsn, "host=/nowhere"
    with tracing.agent("editor"):
        tracing.flush()
        assert tracing.processor.dropped == 1
        with tracing.tool("look_up"):
            pass
        tracing.flush()
        session._dsn = dsn
    tracing.flush()
    assert shown(conn) == ["editor: completed 1/1 of editor"]
    tracing.processor.shutdown()
    assert tracing.processor.dropped == 3
    assert [warning.partition(":")[0] for warning in warnings(caplog)] == [
        "1 starts and ends of spans were not written (1 in all)",
        "2 starts and ends of spans were not written (3 in all)",
    ]
    assert "/nowhere" in warnings(caplog)[0]


def test_a_shutdown_writes_what_waits_and_is_final(conn: Connection, tracing: Tracing) -> None:
    with tracing.agent("editor"):
        pass
    tracing.processor.shutdown()
    tracing.processor.shutdown()
    assert shown(conn) == ["editor: completed 1/1 of editor"]
    with tracing.agent("late"):
        pass
    assert (len(shown(conn)), tracing.processor.dropped, tracing.flush()) == (1, 0, True)


def test_nothing_is_connected_before_the_first_agent(conn: Connection, tracing: Tracing) -> None:
    with tracing.span("GET /"):
        pass
    assert tracing.flush()
    assert sessions(conn) == []


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


def test_a_program_that_ends_loses_nothing(conn: Connection, dsn: str) -> None:
    assert program(dsn, "with agent('a'), agent('b'):\n    pass").wait(PATIENCE) == 0
    assert shown(conn) == ["a: completed 1/1 of a", "b < a.a: completed 1/1 of b"]


def test_a_forked_process_writes_its_own_spans_and_no_others(conn: Connection, dsn: str) -> None:
    code = """
with agent("parent"):
    if not os.fork():
        with agent("child"):
            pass
        processor.shutdown()
        os._exit(0)
    os.wait()
"""
    assert program(dsn, code).wait(PATIENCE) == 0
    assert shown(conn) == ["parent: completed 1/1 of parent", "child < parent.parent: completed 1/1 of child"]


def test_a_run_whose_process_died_is_stalled_and_can_be_settled(
    conn: Connection,
    dsn: str,
    run: Run,
) -> None:
    process = program(dsn, "with agent('a'), tracer.start_as_current_span('execute_tool wait'): time.sleep(600)")
    wait_for(lambda: shown(conn) == ["a: running 0/2 of a, wait"])
    process.kill()
    process.wait()
    conn.execute("set agent_progress.stalled_after = '1 microsecond'")
    ((workflow, stalled),) = conn.execute("select workflow_id::text, stalled from workflow_forecast").fetchall()
    assert stalled
    assert run("transition", workflow, "cancelled")[0] == 0
    assert shown(conn) == ["a: cancelled 0/2 of a, wait"]
    assert conn.execute("select distinct status from agent_task").fetchall() == [("cancelled",)]


def test_the_example_of_the_page_runs(conn: Connection, dsn: str) -> None:
    provider = run_python(block_with("pyapp/OTEL.md", "python", "ProgressProcessor"), dsn)["provider"]
    with provider.get_tracer("test").start_as_current_span("invoke_agent editor"):
        pass
    provider.shutdown()
    assert shown(conn) == ["editor: completed 1/1 of editor"]


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


def test_the_example_in_another_language_writes_the_same(conn: Connection, dsn: str, tmp_path: Path) -> None:
    install_from_npm(tmp_path, "pg@8", "@opentelemetry/api@1", "@opentelemetry/sdk-trace-base@2")
    (tmp_path / "progress.mjs").write_text(block_with("pyapp/OTEL.md", "js", "ProgressProcessor"), "utf-8")
    (tmp_path / "main.mjs").write_text(NODE, "utf-8")
    environment = {**os.environ, "DATABASE_URL": url(dsn)}
    key, trace, span = output_of("node", "main.mjs", cwd=tmp_path, env=environment).split()
    assert key == str(uuid5(NAMESPACE_OID, f"{trace}-{span}"))
    assert shown(conn) == ["editor: completed 2/2 of editor, ask", "writer < editor.ask: completed 1/2 of writer, open"]
    assert results(conn)["open"] == {"error": "no such file"}
