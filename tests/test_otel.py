"""ProgressProcessor on the real SDK and a real database: what becomes of spans."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from opentelemetry.sdk.trace import Tracer, TracerProvider

from pyapp.otel import ProgressProcessor


def agent(name: str, operation: str = "invoke_agent", **attributes: Any) -> dict[str, Any]:
    return {
        "name": f"{operation} {name}",
        "attributes": {"gen_ai.operation.name": operation, "gen_ai.agent.name": name, **attributes},
    }


def tool(name: str, **attributes: Any) -> dict[str, Any]:
    return {
        "name": f"execute_tool {name}",
        "attributes": {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, **attributes},
    }


@pytest.fixture
def start(dsn: str) -> Iterator[Callable[..., tuple[Tracer, ProgressProcessor]]]:
    """Set up tracing as a program does: each call is a process of its own, as far as tracing goes."""
    providers: list[TracerProvider] = []

    def set_up(**options: Any) -> tuple[Tracer, ProgressProcessor]:
        provider = TracerProvider(shutdown_on_exit=False)
        processor = ProgressProcessor(**{"dsn": dsn, **options})
        provider.add_span_processor(processor)
        providers.append(provider)
        return provider.get_tracer("test"), processor

    yield set_up
    for provider in providers:
        provider.shutdown()


def tree(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    """Each task as (workflow, workflow above, task above, task, status), in order of creation."""
    return conn.execute(
        """
        select w.name, a.name, t.agent_type, k.agent_type, k.status::text
        from workflow as w
        join agent_task as k on k.workflow_id = w.id
        left join workflow as a on a.id = w.parent_id
        left join agent_task as t on t.id = w.parent_task_id and t.workflow_id = w.parent_id
        order by k.ordinal
        """
    ).fetchall()


def runs(conn: psycopg.Connection) -> dict[str, tuple[Any, ...]]:
    """Status, progress, completed and total of each workflow."""
    rows = conn.execute("select name, status::text, progress, agents_completed, agents_total from workflow").fetchall()
    return {row[0]: row[1:] for row in rows}


def test_a_run_shows_while_it_is_under_way(conn: psycopg.Connection, start: Any) -> None:
    tracer, processor = start()
    with tracer.start_as_current_span(**agent("researcher")):
        assert processor.force_flush()
        assert runs(conn) == {"researcher": ("running", 0, 0, 1)}
        with tracer.start_as_current_span(**tool("look_up")):
            assert processor.force_flush()
            assert runs(conn) == {"researcher": ("running", 0, 0, 2)}
        assert processor.force_flush()
        assert runs(conn) == {"researcher": ("running", 50, 1, 2)}
    assert processor.force_flush()
    assert runs(conn) == {"researcher": ("completed", 100, 2, 2)}
