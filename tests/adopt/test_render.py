"""The SQL of an adoption, for any names: it parses, says nothing of our own tables, and does what it should."""

import re
from collections.abc import Callable
from typing import Any

import pglast
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql

from pyapp.adopt import Labels, Pair, Wanted, backfill, install, look, remove
from pyapp.adopt.pair import quote
from pyapp.adopt.render import Partitions, removal, script
from pyapp.adopt.tokens import SHARED, TOKEN, own
from pyapp.schema import resource
from tests.helpers import examples

NASTY = [
    "public",
    "public.workflow",
    "their_key",
    "their_workflow",
    "$$",
    "$agent_progress$",
    "uuid",
    "KEY",
    "REMOVED",
    "new",
    "old",
    "id",
    "several",
    "change",
    "candidate",
    "status",
    "a\n\n\nb",
    "*/ -- x",
    'say "no"',
    "it's \\",
    "100 %s",
    "{}",
    "ıİß漢字🎈",
    "Workflow",
]
names = (st.sampled_from(NASTY) | st.text(alphabet="aA\"'$;%-\n \\.é\u202e{}0", min_size=1, max_size=12)).filter(
    lambda name: not name.startswith("pg_")
)
distinct = st.lists(names, min_size=7, max_size=7, unique=True)
values = st.lists(names, min_size=3, max_size=3, unique=True)


def pair_of(given: list[str], labels: list[str], columns: bool, key_type: str = "bigint") -> Pair:
    schema, workflows, tasks, key, task_workflow, status, progress = given
    return Pair(
        name="default",
        schema="agent_progress",
        workflows=(schema, workflows),
        tasks=(schema, tasks),
        key=key,
        key_type=key_type,
        task_workflow=task_workflow,
        task_status=Labels(status, *((label,) for label in labels)),
        workflow_status=Labels(status, (labels[0],)),
        progress=progress,
        columns=columns,
        shown={"name": progress, "status": status},
    )


def bare(text: str) -> str:
    """Take names, strings and comments away."""
    return re.sub(r"\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'|--[^\n]*", "", text)


@pytest.mark.parametrize("name", SHARED)
def test_rendered_for_our_own_tables_a_file_is_itself(name: str) -> None:
    text = (resource("sql") / name).read_text("utf-8")
    assert own(text) == text


@pytest.mark.parametrize("token", [line.strip(" |") for line in TOKEN.pattern.strip().splitlines()])
def test_every_token_occurs_in_sql(token: str) -> None:
    files = [*(resource("sql") / name for name in SHARED), *(resource("sql") / "adopt").glob("*.sql")]
    assert re.search(token, "".join(file.read_text("utf-8") for file in files), re.VERBOSE)


@pytest.mark.parametrize("columns", [False, True], ids=["beside", "in columns"])
@settings(deadline=None, max_examples=examples(40))
@given(given=distinct, labels=values)
def test_for_any_names_the_script_parses_and_says_nothing_of_our_tables(
    columns: bool, given: list[str], labels: list[str]
) -> None:
    pair = pair_of(given, labels, columns)
    partitions = Partitions(workflows=[("parts", given[1])], tasks=[("parts", given[2])])
    for text in (script(pair, partitions), "\n".join(removal(pair, drop_columns=True))):
        assert pglast.parse_sql(text)
        left = re.findall(r"\bpublic\.\w*|\btheir_\w*|\buuid\b|\bKEY\b|\bREMOVED\b|\0", bare(text))
        assert left == []


@pytest.mark.parametrize("columns", [False, True], ids=["beside", "in columns"])
def test_any_names_can_be_adopted_counted_and_given_back(columns: bool, empty: Callable[[], str]) -> None:
    dsn = empty()

    # As found: to make an example smaller takes many adoptions.
    @settings(
        deadline=None,
        max_examples=examples(30),
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(given=distinct, labels=values)
    def check(given: list[str], labels: list[str]) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            adopt_and_count(conn, pair_of(given, labels, columns), labels)

    check()


def adopt_and_count(conn: psycopg.Connection, pair: Pair, labels: list[str]) -> None:
    """Create such tables, adopt and fill them, look at the numbers, and take it all back."""
    workflows, tasks = sql.Identifier(*pair.workflows), sql.Identifier(*pair.tasks)
    terms = {
        "schema": sql.Identifier(pair.workflows[0]),
        "workflows": workflows,
        "tasks": tasks,
        "key": sql.Identifier(pair.key),
        "task_workflow": sql.Identifier(pair.task_workflow),
        "status": sql.Identifier(pair.task_status.column if pair.task_status else ""),
        "progress": sql.Identifier(pair.progress or ""),
        "completed": sql.Literal(labels[0]),
    }

    def run(text: str) -> psycopg.Cursor[Any]:
        return conn.execute(sql.SQL(text).format(**terms))

    if pair.workflows[0] != "public":
        run("create schema {schema}")
    run("create table {workflows} ({key} bigint primary key, {status} text, {progress} integer not null default 0)")
    run("create table {tasks} ({task_workflow} bigint references {workflows} on delete cascade, {status} text)")
    run("insert into {workflows} ({key}) values (1), (2)")
    run("insert into {tasks} ({task_workflow}, {status}) select w, s from unnest(array[1, 2]) as w,"
        " unnest(array['open', {completed}, 'open']) as s")  # fmt: skip
    outcomes = dict(zip(("completed", "failed", "cancelled"), ((label,) for label in labels), strict=True))
    status = pair.task_status.column if pair.task_status else ""
    wanted = Wanted(
        quote(*pair.workflows),
        quote(*pair.tasks),
        "default",
        "agent_progress",
        status=status,
        labels=outcomes,
        workflow_status=status,
        workflow_completed=(labels[0],),
        progress_column=pair.progress,
        columns=pair.columns,
    )
    findings = look(conn, wanted)
    try:
        install(conn, findings)
        assert backfill(conn, findings.pair).workflows == 2
        run("insert into {workflows} ({key}, {progress}) values (3, 50)")
        run("insert into {tasks} ({task_workflow}, {status}) values (3, {completed})")
        run("update {tasks} set {status} = {completed} where {task_workflow} = 1")
        run("delete from {tasks} where {task_workflow} = 2 and {status} = 'open'")
        numbers = "select workflow_id, progress, agents_completed, agents_total from agent_progress.workflow_progress"
        assert conn.execute(f"{numbers} order by 1").fetchall() == [(1, 100, 3, 3), (2, 100, 1, 1), (3, 100, 1, 1)]
        assert [row[0] for row in run("select {progress} from {workflows}")] == [100, 100, 100]
        assert conn.execute("select * from agent_progress.workflow_progress_drift").fetchall() == []
        run("truncate {tasks}")
        assert [row[0] for row in run("select {progress} from {workflows}")] == [0, 0, 0]
    finally:
        remove(conn, findings.pair, drop_columns=True)
        run("drop table {tasks}, {workflows}")
        if pair.workflows[0] != "public":
            run("drop schema {schema}")
    assert conn.execute("select from pg_namespace where nspname = 'agent_progress'").fetchall() == []
