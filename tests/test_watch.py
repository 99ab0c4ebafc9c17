"""Following workflows: what is yielded, when it ends, and what it outlives."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import Connection

import pyapp
from pyapp import Workflow, WorkflowNotFound, watch
from pyapp.shipped import for_schema, resource
from pyapp.watch import watch_changes

from .helpers import at_work, in_background, new_tasks, new_workflow, sessions, set_status, wait_until_gone

INTERVAL = 0.02


def finish(conn: Connection, workflow: Any, status: str = "completed") -> None:
    conn.execute("update workflow set status = %s where id = %s", [status, workflow])


def next_of(changes: Iterator[Workflow]) -> Future[Workflow]:
    """Wait for the next change beside the test."""
    return in_background(lambda: next(changes))


def take(changes: Iterator[Workflow]) -> Workflow:
    """Take the next change, which must not be long in coming."""
    return next_of(changes).result(60)


class InLoop:
    """The changes that ``pyapp.aio.watch`` yields, one call each."""

    def __init__(self, *values: Any) -> None:
        self._runner = asyncio.Runner()
        self._changes = pyapp.aio.watch(*values)

    def __iter__(self) -> "InLoop":
        return self

    def __next__(self) -> Workflow:
        try:
            return self._runner.run(anext(self._changes))
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        if self._changes is not None:
            self._runner.run(self._changes.aclose())
            self._runner.close()
            self._changes = None


@pytest.fixture(params=[watch, InLoop], ids=["sync", "async"])
def watcher(request: pytest.FixtureRequest, dsn: str) -> Iterator[Callable[..., Iterator[Workflow]]]:
    """Watch in one of the two ways, and stop watching at the end of the test."""
    opened: list[Any] = []

    def start(ids: list[Any] | None = None, interval: float = INTERVAL, dsn: str = dsn) -> Iterator[Workflow]:
        opened.append(request.param(dsn, ids, interval))
        return opened[-1]

    yield start
    for changes in opened:
        changes.close()


def test_the_first_state_and_each_change_are_yielded(conn: Connection, watcher: Any) -> None:
    workflow, (one, two) = at_work(conn, 2)
    changes = watcher([workflow])
    assert take(changes).progress == 0
    set_status(conn, one, "completed")
    assert take(changes).progress == 50
    conn.execute("update workflow set current_stage = 'test' where id = %s", [workflow])
    assert take(changes).current_stage == "test"
    set_status(conn, two, "failed")
    change = take(changes)
    assert (change.progress, change.agents_failed) == (50, 1)
    waiting = next_of(changes)
    conn.execute("update workflow set name = 'renamed' where id = %s", [workflow])
    assert waiting.result(60).name == "renamed"


def test_nothing_is_yielded_as_long_as_nothing_changes(dsn: str, conn: Connection) -> None:
    workflow = new_workflow(conn)
    polls = watch_changes(dsn, [workflow], INTERVAL)
    assert [len(next(polls)) for _ in range(5)] == [1, 0, 0, 0, 0]
    new_tasks(conn, workflow, "pending")
    assert [len(next(polls)) for _ in range(3)] == [1, 0, 0]
    polls.close()


def test_it_ends_when_all_workflows_are_settled(conn: Connection, watcher: Any) -> None:
    done, failed, open_one = (new_workflow(conn) for _ in range(3))
    finish(conn, done)
    finish(conn, failed, "failed")
    changes = watcher([done, str(failed), open_one])
    assert {take(changes).workflow_id for _ in range(3)} == {done, failed, open_one}
    ending = in_background(lambda: list(changes))
    finish(conn, open_one, "cancelled")
    assert [workflow.status for workflow in ending.result(60)] == ["cancelled"]
    assert [workflow.status for workflow in watcher([done])] == ["completed"]
    wait_until_gone(conn)


def test_an_unknown_workflow_raises_at_once(conn: Connection, watcher: Any) -> None:
    workflow = new_workflow(conn)
    with pytest.raises(WorkflowNotFound, match=str(UUID(int=0))):
        next(watcher([workflow, UUID(int=0)]))
    with pytest.raises((ValueError, psycopg.errors.InvalidTextRepresentation)):
        next(watcher(["no id"]))
    wait_until_gone(conn)


def test_it_outlives_its_connection(conn: Connection, watcher: Any) -> None:
    workflow, (task,) = at_work(conn, 1)
    changes = watcher([workflow])
    take(changes)
    waiting = next_of(changes)
    for done in (False, True):
        (pid,) = sessions(conn)
        conn.execute("select pg_terminate_backend(%s, 60000)", [pid])
        if done:
            set_status(conn, task, "completed")
        while not sessions(conn):
            assert not waiting.done() or done
    assert waiting.result(60).progress == 100


def test_a_database_that_cannot_be_reached_raises_at_first(watcher: Any) -> None:
    with pytest.raises(psycopg.OperationalError):
        next(watcher(dsn="host=/nowhere dbname=x"))


def test_a_deleted_workflow_counts_as_ended(conn: Connection, watcher: Any) -> None:
    workflow, other = new_workflow(conn), new_workflow(conn)
    changes = watcher([workflow, other])
    take(changes)
    take(changes)
    ending = in_background(lambda: list(changes))
    conn.execute("delete from workflow where id = %s", [workflow])
    finish(conn, other)
    assert [change.workflow_id for change in ending.result(60)] == [other]
    alone = new_workflow(conn)
    changes = watcher([alone])
    take(changes)
    ending = in_background(lambda: list(changes))
    conn.execute("delete from workflow where id = %s", [alone])
    assert ending.result(60) == []


def test_without_ids_new_active_workflows_join_and_their_end_is_told(conn: Connection, watcher: Any) -> None:
    old = new_workflow(conn, name="old")
    finish(conn, old)
    first = new_workflow(conn, name="first")
    changes = watcher()
    assert take(changes).name == "first"
    waiting = next_of(changes)
    second = new_workflow(conn, name="second")
    assert waiting.result(60).name == "second"
    finish(conn, first)
    change = take(changes)
    assert (change.name, change.status) == ("first", "completed")
    waiting = next_of(changes)
    # What has ended and does not change is not looked at any more.
    conn.execute("update workflow set description = 'x' where id = any (%s)", [[old, second]])
    assert waiting.result(60).name == "second"


def test_leaving_the_loop_closes_the_connection(conn: Connection, watcher: Any) -> None:
    new_workflow(conn)
    changes = watcher()
    take(changes)
    assert len(sessions(conn)) == 1
    changes.close()
    wait_until_gone(conn)


@pytest.mark.parametrize("schema", ["public", 'My "own" Agents', "ä" * 25])
def test_a_notification_is_followed_at_once_however_long_the_interval(
    dsn: str, conn: Connection, watcher: Any, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_PROGRESS_SCHEMA", schema)
    pyapp.migrate(dsn)
    script = (resource("sql") / "optional" / "notify_on.sql").read_text("utf-8")
    conn.execute(for_schema(script, schema).encode())
    workflow = pyapp.create_workflow(conn, "w", "app").workflow_id
    (task,) = pyapp.add_tasks(conn, workflow, ["a"])
    changes = watcher([workflow], 3600)
    assert take(changes).progress == 0
    following = next_of(changes)
    pyapp.report_task(conn, workflow, task.id, "completed")
    assert following.result(60).progress == 100
    ending = next_of(changes)
    pyapp.transition(conn, workflow, "completed")
    assert ending.result(60).status == "completed"
    assert list(changes) == []
