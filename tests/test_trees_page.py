"""The page on trees (sql/TREES.md): its examples run as they stand there."""

import os
from pathlib import Path

import psycopg
import pytest

from tests.commands import output_of
from tests.pages import block_with, install_from_npm, run_python, url

PAGE = "sql/TREES.md"


def test_the_typescript_example_runs(conn: psycopg.Connection, dsn: str, tmp_path: Path) -> None:
    install_from_npm(tmp_path, "pg@8", "esbuild@0.25")
    (tmp_path / "tree.ts").write_text(block_with(PAGE, "ts", "create_workflow"), "utf-8")
    output_of("node_modules/.bin/esbuild", "tree.ts", "--outfile=tree.mjs", "--log-level=warning", cwd=tmp_path)
    told = output_of("node", "tree.mjs", cwd=tmp_path, env={**os.environ, "DATABASE_URL": url(dsn)})
    assert told == "100 % of 9 agents in 4 workflows, 3 levels\n"
    rows = conn.execute(
        "select w.name, t.agent_type from workflow as w left join agent_task as t on t.id = w.parent_task_id order by 1"
    ).fetchall()
    assert rows == [("code", "code"), ("release", None), ("review", "review"), ("search", "search")]


def test_the_python_examples_run(conn: psycopg.Connection, dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_python(block_with(PAGE, "python", "def run"), dsn)
    assert capsys.readouterr().out.splitlines() == [
        "release: 100 %",
        "  code: 100 %",
        "  review: 100 %",
        "100 % of 6 agents in 3 workflows",
    ]
    conn.execute(
        "insert into workflow (name, type, status, parent_id) values ('late', 'a', 'running', %s)", [names["root"]]
    )
    run_python(block_with(PAGE, "python", "def cancel"), dsn)["cancel"](conn, names["root"])
    assert conn.execute("select name from workflow where status = 'cancelled'").fetchall() == [("late",)]
