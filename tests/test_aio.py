"""Every helper on both kinds of connection, whatever rows, cursors and transactions these make, in any schema."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from itertools import cycle
from types import SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg import AsyncClientCursor, AsyncRawCursor, ClientCursor, Connection, RawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row, dict_row, kwargs_row, namedtuple_row, scalar_row, tuple_row

import pyapp
from pyapp import TaskReport, WorkflowNotFound, migrate, reading, standby, writing

from .helpers import as_replica

NOWHERE = UUID(int=0)
ODD_SCHEMA = 'My "own" Agents; --'
ROWS = {
    "tuples": tuple_row,
    "dicts": dict_row,
    "named tuples": namedtuple_row,
    "objects": class_row(SimpleNamespace),
    "keywords": kwargs_row(dict),
    "scalars": scalar_row,
}
HELPERS = {
    name
    for module in (reading, writing, standby)
    for name, query in vars(module).items()
    if inspect.iscoroutinefunction(query) and query.__module__ == module.__name__ and not name.startswith("_")
}


class Caller:
    """Calls helpers by name on a connection of its kind, as if they were all synchronous, and keeps track of them."""

    def __init__(self, conn: Any, schema: str | None = None) -> None:
        self.conn, self.schema = conn, schema
        self.called: set[str] = set()

    def __call__(self, name: str, *values: Any, **options: Any) -> Any:
        self.called.add(name)
        if self.schema and name not in vars(standby):
            options["schema"] = self.schema
        return self.call(name, *values, **options)

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        return getattr(pyapp, name)(self.conn, *values, **options)

    def do(self, name: str, *values: Any) -> Any:
        """Call a method of the connection."""
        return getattr(self.conn, name)(*values)


class AsyncCaller(Caller):
    """The same for an asynchronous connection."""

    def __init__(self, runner: asyncio.Runner, conn: Any, schema: str | None = None) -> None:
        super().__init__(conn, schema)
        self.runner = runner

    def call(self, name: str, *values: Any, **options: Any) -> Any:
        return self.runner.run(getattr(pyapp.aio, name)(self.conn, *values, **options))

    def do(self, name: str, *values: Any) -> Any:
        async def act() -> Any:
            return await getattr(self.conn, name)(*values)

        return self.runner.run(act())


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Connect in one of the two ways; returns what calls helpers."""
    with asyncio.Runner() as runner:
        opened: list[Caller] = []

        def opens(dsn: str, schema: str | None = None, **options: Any) -> Caller:
            if request.param == "sync":
                opened.append(Caller(pyapp.connect(dsn, **options), schema))
            else:
                conn = runner.run(pyapp.aio.connect(dsn, **options))
                opened.append(AsyncCaller(runner, conn, schema))
            return opened[-1]

        opens.kind = request.param  # type: ignore[attr-defined]
        yield opens
        for caller in opened:
            caller.do("close")


def use_every_helper(call: Caller) -> UUID:
    """Take two workflows through their lives and read all that can be read; returns the one that is half done."""
    created = call("create_workflow", "w", "bugfix", input_data={"a": [1]}, agents_planned=2)
    workflow: UUID = created.workflow_id
    assert call("get_workflow", workflow) == created
    child = call("create_workflow", "child", "other", parent_id=workflow)
    a, b = call("add_tasks", workflow, ["a", {"agent_type": "b", "external_id": "k", "payload": {"n": 1}}])
    assert (a.agent_type, a.payload, b.external_id, b.payload) == ("a", {}, "k", {"n": 1})
    assert call("report_task", workflow, a.id, "completed", {"x": [1, None]}).result == {"x": [1, None]}
    assert [task.status for task in call("report_tasks", workflow, [TaskReport(None, "running", external_id="k")])] == [
        "running"
    ]
    assert [task.id for task in call("list_tasks", workflow)] == [a.id, b.id]
    assert [found.name for found in call("get_workflows", [workflow, child.workflow_id])] == ["child", "w"]
    assert [found.name for found in call("list_workflows", type="bugfix", priority="medium")] == ["w"]
    assert call("list_workflows", after=created) == []
    assert call("list_workflows", parent_id=workflow) == [child]
    assert [found.name for found in call("list_workflows", roots=True)] == ["w"]
    assert [(node.name, node.level) for node in call("get_tree", workflow)] == [("w", 1), ("child", 2)]
    assert call("tree_progress", workflow) == call("list_tree_progress", [workflow, NOWHERE])[workflow]
    assert call("tree_progress", workflow).workflows == 2
    assert call("transition", workflow, "running", expected_version=1).status == "running"
    state = call("advance", workflow)
    assert call("get_state", workflow) == state
    assert call("list_stages", workflow)[0].status == "completed"
    assert call("stage_progress", workflow).stages_finished == 1
    assert set(call("get_forecasts", [workflow, NOWHERE])) == {workflow}
    moments = call("list_timeline", workflow)
    assert call("list_timeline", workflow, after=moments[2]) == moments[3:]
    assert moments[-1].detail
    assert call("list_burnup", workflow)[-1].agents_completed == 1
    assert call("list_workflow_trends") == []
    # What this transaction did comes after its beginning, until which they are told.
    assert {trend.type for trend in call("list_task_trends")} <= {"a"}
    assert call("get_vocabulary").task_nouns == "agents"
    metrics = call("progress_metrics", workflow)
    assert (metrics.progress_percentage, metrics.stale_data) == (50, False)
    assert call("find_drift") == call("find_drift", [workflow]) == call("repair") == call("repair", workflow) == []
    call("transition", child.workflow_id, "cancelled")
    assert call("archive", "0", batch=1) == []  # it has no tasks
    with pytest.raises(WorkflowNotFound):
        call("get_workflow", NOWHERE)
    return workflow


@pytest.mark.parametrize(("rows", "autocommit"), list(zip(ROWS, cycle([True, False]))))
def test_every_helper_works_whatever_rows_the_connection_makes(
    dsn: str, connect: Callable[..., Caller], rows: str, autocommit: bool
) -> None:
    call = connect(dsn, row_factory=ROWS[rows], autocommit=autocommit)
    use_every_helper(call)
    assert call.conn.info.transaction_status == (TransactionStatus.IDLE if autocommit else TransactionStatus.INTRANS)
    if not autocommit:
        with pytest.raises(ValueError, match="commit it"):
            call("wal_position")
        call.do("commit")
    call("wait_for_position", call("wal_position"))
    call.do("rollback")
    assert call.called == HELPERS


def test_helpers_never_commit(dsn: str, conn: Connection, connect: Callable[..., Caller]) -> None:
    call = connect(dsn)
    use_every_helper(call)
    call.do("rollback")
    assert conn.execute("select from workflow").fetchall() == []


@pytest.mark.parametrize(
    "options",
    [
        {"prepare_threshold": None},  # as behind a pooler in transaction mode
        {"prepare_threshold": 0},
        {"options": "-c search_path=pg_catalog"},
        {"options": "-c quote_all_identifiers=on -c array_nulls=off -c standard_conforming_strings=off"},
        {"options": "-c default_transaction_isolation=serializable"},
    ],
    ids=str,
)
def test_every_helper_works_whatever_the_session_is_set_to(
    dsn: str, connect: Callable[..., Caller], options: dict[str, Any]
) -> None:
    use_every_helper(connect(dsn, autocommit=True, **options))


@pytest.mark.parametrize("style", ["client", "raw"])
def test_every_helper_works_whatever_cursors_the_connection_makes(
    dsn: str, connect: Callable[..., Caller], style: str
) -> None:
    kinds = {"client": (ClientCursor, AsyncClientCursor), "raw": (RawCursor, AsyncRawCursor)}[style]
    use_every_helper(connect(dsn, autocommit=True, cursor_factory=kinds[connect.kind == "async"]))  # type: ignore[attr-defined]


def test_json_is_read_where_the_connection_leaves_it_as_text(dsn: str, connect: Callable[..., Caller]) -> None:
    call = connect(dsn, autocommit=True)
    call.conn.adapters.register_loader("jsonb", psycopg.types.string.TextLoader)  # as Django does
    use_every_helper(call)


# --- Schemas ------------------------------------------------------------------------------------------------


def migrate_odd(dsn: str) -> None:
    migrate(dsn, schema=ODD_SCHEMA)


@pytest.fixture
def odd(databases: Any) -> Iterator[str]:
    """A database with all in another schema, and nothing in public."""
    with databases.copy(migrate_odd) as dsn:
        yield dsn


def test_every_helper_works_in_any_schema(odd: str, connect: Callable[..., Caller]) -> None:
    call = connect(odd, ODD_SCHEMA, autocommit=True)
    workflow = use_every_helper(call)
    with psycopg.connect(odd, autocommit=True) as conn:
        as_replica(
            conn, """update "My ""own"" Agents; --".workflow set agents_completed = 2 where id = %s""", [workflow]
        )
    assert [drift.stored_completed for drift in call("find_drift")] == [2]
    assert [drift.calculated_completed for drift in call("repair")] == [1]


def test_the_environment_names_the_schema(
    odd: str, connect: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_PROGRESS_SCHEMA", ODD_SCHEMA)
    call = connect(odd, autocommit=True)
    workflow = use_every_helper(call)
    with pytest.raises(psycopg.errors.UndefinedTable):
        call("get_workflow", workflow, schema="public")


@pytest.mark.parametrize("style", ["ISO", "German"])
def test_times_that_python_has_not_are_the_nearest_it_has(dsn: str, connect: Callable[..., Caller], style: str) -> None:
    call = connect(dsn, autocommit=True)
    call.do("execute", f"set datestyle = {style}")
    for number, odd in enumerate(["infinity", "-infinity", "0044-03-15 BC", "20000-01-01"]):
        workflow = call("create_workflow", odd, "app").workflow_id
        [task] = call("add_tasks", workflow, [{"agent_type": "a", "created_at": odd, "external_id": "k"}])
        call.do("execute", "update workflow set created_at = %s where id = %s", [odd, workflow])
        year = 1 if odd[0] in "-0" else 9999
        assert task.created_at.astimezone(ZoneInfo("Pacific/Auckland")).year == year
        assert call("report_task", workflow, task.id, "completed").created_at == task.created_at
        assert call("get_workflow", workflow).created_at == task.created_at
        assert call("list_timeline", workflow)[-1 if year > 1 else 0].at == task.created_at
        assert len(call("list_workflows")) == number + 1
        with pyapp.TaskReporter(dsn) as reporter:
            assert reporter.report(workflow, task.id, "failed").result(60).created_at.year == year


# --- The wrong kind of connection ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(HELPERS))
def test_a_helper_says_what_to_pass_instead_of_the_wrong_kind_of_connection(name: str) -> None:
    arguments = ["x"] * sum(
        parameter.default is parameter.empty and parameter.name != "conn"
        for parameter in inspect.signature(getattr(pyapp, name)).parameters.values()
    )
    one, other = (
        Connection.__new__(Connection),
        psycopg.AsyncConnection.__new__(psycopg.AsyncConnection),
    )
    with pytest.raises(TypeError, match=rf"^pyapp\.{name} needs .* await pyapp\.aio\.{name}\(…\)$"):
        getattr(pyapp, name)(other, *arguments)
    with pytest.raises(TypeError, match=rf"^pyapp\.aio\.{name} needs .* call pyapp\.{name}\(…\)$"):
        asyncio.run(getattr(pyapp.aio, name)(one, *arguments))
    with pytest.raises(TypeError, match=r"not builtins\.str: pass .*driver_connection of SQLAlchemy"):
        getattr(pyapp, name)("postgresql://", *arguments)


def test_both_kinds_have_the_same_names_signatures_and_texts() -> None:
    assert {"get_workflow", "archive", "wait_for_position"} < HELPERS
    for name in HELPERS:
        one, other = getattr(pyapp, name), getattr(pyapp.aio, name)
        assert name in pyapp.__all__
        assert one.__doc__ == other.__doc__
        first, *rest = inspect.signature(one).parameters.values()
        second, *others = inspect.signature(other).parameters.values()
        assert (first.name, rest) == (second.name, others)
        assert inspect.iscoroutinefunction(other)
    for name in ("connect", "retry", "watch", "TaskReporter"):
        own, same = inspect.signature(getattr(pyapp, name)), inspect.signature(getattr(pyapp.aio, name))
        assert list(own.parameters.values())[1:] == list(same.parameters.values())[1:], name
