"""Odd arguments to the helpers: an error of psycopg or of pyapp, never a fault, and the connection stays usable."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import Connection
from psycopg.pq import TransactionStatus

import pyapp
from pyapp import (
    AgentProgressError,
    TaskNotFound,
    TransitionNotAllowed,
    UnknownStatus,
    VersionConflict,
    WorkflowNotFound,
)

from .helpers import examples, new_tasks, new_workflow, progress

NOBODY = UUID(int=0)
# What a helper may raise for what it was given. KeyError, AttributeError, IndexError and the like are faults.
EXPECTED = (psycopg.Error, AgentProgressError, ValueError, TypeError, OverflowError, RecursionError)

ODD_TEXTS = ["", "\0", "a\0b", "\udcff", "\ud800", "%s", "%(x)s", "{}", "'; drop table workflow; --", "\\", "x" * 9000]
TEXT = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(ODD_TEXTS)
NUMBER = st.integers() | st.sampled_from([2**31, 2**63, 10**400, -1, 0, True])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
) | st.sampled_from([{1: 2}, {None: 1}, {"a": object()}, b"bytes", datetime(1, 1, 1, tzinfo=UTC), {1, 2}])
ANYTHING = TEXT | NUMBER | JSON | st.none()
STATUS = st.sampled_from(["pending", "running", "completed", "failed", "cancelled", "paused"]) | TEXT


def of_these(required: str, odd: str, **others: Any) -> Any:
    """Mappings that have some names and may have others, with anything as their values."""
    names = dict.fromkeys(odd.split(), ANYTHING) | others
    return st.fixed_dictionaries(dict.fromkeys(required.split(), ANYTHING), optional=names)


WORKFLOW = of_these(
    "name type",
    "description current_stage agents_planned trace_id created_by",
    status=STATUS,
    priority=TEXT,
    input_data=JSON,
)
TASK = TEXT | of_these(
    "agent_type", "external_id stage priority max_retries timeout_ms nonsense", status=STATUS, payload=JSON
)
REPORT = st.tuples(st.sampled_from(["task", "nobody"]) | ANYTHING, STATUS, JSON, st.booleans())


@pytest.fixture
def transaction(dsn: str) -> Iterator[Connection]:
    """A connection in the caller's own transaction, rolled back after each example."""
    with psycopg.connect(dsn) as connection:
        yield connection
        connection.rollback()


def attempt(conn: Connection, act: Callable[[], Any]) -> None:
    """Call within a transaction of the caller: it may fail as expected; the connection serves on."""
    conn.execute("select 1")
    with suppress(*EXPECTED):
        act()
    status = conn.info.transaction_status
    assert status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)
    conn.rollback()
    assert conn.execute("select 1").fetchone() == (1,)
    conn.rollback()


many = settings(max_examples=examples(60))


@given(odd=WORKFLOW)
@many
def test_a_workflow_created_of_anything(transaction: Connection, odd: Any) -> None:
    attempt(transaction, lambda: pyapp.create_workflow(transaction, **odd))


@given(tasks=st.lists(TASK, max_size=3), reports=st.lists(REPORT, max_size=4))
@many
def test_tasks_and_reports_made_of_anything(transaction: Connection, tasks: Any, reports: Any) -> None:
    def add() -> None:
        assert len(pyapp.add_tasks(transaction, new_workflow(transaction), tasks)) == len(tasks)

    def report() -> None:
        workflow = new_workflow(transaction)
        (task,) = new_tasks(transaction, workflow, "running")
        ids = {"task": task, "nobody": NOBODY}
        given = [(ids[who] if isinstance(who, str) and who in ids else who, *rest) for who, *rest in reports]
        pyapp.report_tasks(transaction, workflow, given)

    attempt(transaction, add)
    attempt(transaction, report)


@given(who=ANYTHING, what=STATUS, stage=ANYTHING, number=NUMBER)
@many
def test_ids_statuses_stages_and_numbers_of_anything(
    transaction: Connection, who: Any, what: Any, stage: Any, number: Any
) -> None:
    conn = transaction
    workflow = new_workflow(conn)
    conn.commit()
    for name, *values in (
        *((name, who) for name in ("get_workflow", "get_state", "list_tasks", "repair", "get_tree")),
        *((name, [who]) for name in ("find_drift", "get_forecasts", "get_workflows")),
        ("report_task", who, who, what),
    ):
        attempt(conn, lambda name=name, values=values: getattr(pyapp, name)(conn, *values))
    for call in (
        lambda: pyapp.list_workflows(conn, status=what, type=stage, limit=number),
        lambda: pyapp.list_workflows(conn, after=(stage, who)),
        lambda: pyapp.list_timeline(conn, who, limit=number),
        lambda: pyapp.transition(conn, who, what, stage=stage, expected_version=number),
        lambda: pyapp.transition(conn, workflow, what, stage=stage, expected_version=number),
        lambda: pyapp.advance(conn, workflow, expected_version=number),
    ):
        attempt(conn, call)


def test_json_that_is_nested_too_deeply(transaction: Connection) -> None:
    deep: Any = []
    for _ in range(20_000):
        deep = [deep]
    attempt(transaction, lambda: pyapp.create_workflow(transaction, "n", "t", input_data=deep))
    attempt(transaction, lambda: pyapp.add_tasks(transaction, NOBODY, [{"agent_type": "a", "payload": deep}]))
    workflow = new_workflow(transaction)
    (task,) = new_tasks(transaction, workflow, "running")
    attempt(transaction, lambda: pyapp.report_task(transaction, workflow, task, "completed", deep))


# --- Which errors end the caller's transaction ---------------------------------------------------------------------

# Errors that are found out after the statement, or before it: the transaction goes on.
OWN: dict[str, tuple[Callable[[Any, UUID, UUID], Any], type[Exception]]] = {
    "no uuid": (lambda conn, workflow, _: pyapp.report_task(conn, workflow, "no id", "completed"), ValueError),
    "a number for an id": (lambda conn, workflow, _: pyapp.report_task(conn, workflow, 7, "completed"), ValueError),
    "bad status": (lambda conn, *ids: pyapp.report_task(conn, *ids, "done"), UnknownStatus),
    "a bad status among others": (
        lambda conn, id, task: pyapp.report_tasks(conn, id, [(task, "completed"), (task, "done")]),
        UnknownStatus,
    ),
    "bad status of a workflow": (lambda conn, id, _: pyapp.transition(conn, id, "done"), UnknownStatus),
    "bad status of a new workflow": (
        lambda conn, *_: pyapp.create_workflow(conn, "n", "t", status="done"),
        UnknownStatus,
    ),
    "no status": (lambda conn, id, task: pyapp.report_tasks(conn, id, [{"task_id": task}]), UnknownStatus),
    "no uuid among others": (
        lambda conn, id, task: pyapp.report_tasks(conn, id, [(task, "completed"), ("no id", "completed")]),
        ValueError,
    ),
    "no json": (lambda conn, *ids: pyapp.report_task(conn, *ids, "completed", {"a": object()}), TypeError),
    "a task that is no list": (lambda conn, id, _: pyapp.add_tasks(conn, id, "planner"), TypeError),
    "a mapping that is no list": (lambda conn, id, _: pyapp.add_tasks(conn, id, {"agent_type": "a"}), TypeError),
    "an id that is no list": (lambda conn, id, _: pyapp.get_workflows(conn, str(id)), TypeError),
    "nul": (lambda conn, *_: pyapp.create_workflow(conn, "a\0b", "app"), psycopg.DataError),
    "surrogate": (lambda conn, *_: pyapp.create_workflow(conn, "\udcff", "app"), UnicodeEncodeError),
}
READS = (
    "get_workflow get_state get_tree tree_progress list_tasks list_stages stage_progress list_timeline list_burnup"
    " progress_metrics repair"
)
OWN |= {
    name: (lambda conn, *_, name=name: getattr(pyapp, name)(conn, NOBODY), WorkflowNotFound) for name in READS.split()
}
# Errors that the server raises: by nature they end the transaction, or the savepoint around them.
OF_THE_SERVER: dict[str, tuple[Callable[[Any, UUID, UUID], Any], type[Exception]]] = {
    "version": (lambda conn, id, _: pyapp.transition(conn, id, "running", expected_version=99), VersionConflict),
    "not allowed": (lambda conn, id, _: pyapp.transition(conn, id, "initiated"), TransitionNotAllowed),
    "transition": (lambda conn, *_: pyapp.transition(conn, NOBODY, "running"), WorkflowNotFound),
    "advance": (lambda conn, *_: pyapp.advance(conn, NOBODY), WorkflowNotFound),
    "add_tasks": (lambda conn, *_: pyapp.add_tasks(conn, NOBODY, ["a"]), WorkflowNotFound),
    "unknown task": (lambda conn, id, _: pyapp.report_task(conn, id, NOBODY, "completed"), TaskNotFound),
    "bad id": (lambda conn, *_: pyapp.get_workflow(conn, "no id"), psycopg.errors.InvalidTextRepresentation),
    "no such field": (
        lambda conn, id, _: pyapp.add_tasks(conn, id, [{"agent_type": "a", "no": 1}]),
        psycopg.errors.InvalidParameterValue,
    ),
}


@pytest.fixture
def begun(transaction: Connection) -> tuple[Connection, UUID, UUID]:
    """A transaction of the caller's that has done something already."""
    workflow = new_workflow(transaction, status="running")
    (task,) = new_tasks(transaction, workflow, "running")
    return transaction, workflow, task


@pytest.mark.parametrize("in_savepoint", [False, True])
def test_an_error_leaves_the_caller_s_transaction_as_it_was(
    begun: tuple[Connection, UUID, UUID], conn: Connection, in_savepoint: bool
) -> None:
    mine, workflow, task = begun
    for name, (act, error) in {**OWN, **(OF_THE_SERVER if in_savepoint else {})}.items():
        with pytest.raises(error), mine.transaction() if in_savepoint else nullcontext():
            act(*begun)
        assert mine.info.transaction_status == TransactionStatus.INTRANS, name
    pyapp.report_task(mine, workflow, task, "completed")
    mine.commit()
    assert progress(conn, workflow) == (100, 1, 1)


def test_without_a_savepoint_an_error_of_the_server_leaves_a_rollback_to_the_caller(
    begun: tuple[Connection, UUID, UUID],
) -> None:
    mine, *_ = begun
    mine.commit()
    for name, (act, error) in OF_THE_SERVER.items():
        with pytest.raises(error):
            act(*begun)
        assert mine.info.transaction_status == TransactionStatus.INERROR, name
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            pyapp.list_workflows(mine)
        mine.rollback()
        assert len(pyapp.list_workflows(mine)) == 1
        mine.rollback()
