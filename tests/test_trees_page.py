"""The page on trees (sql/TREES.md): its examples run as they stand there."""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.pages import block_with, blocks, psql, run_python

PAGE = "sql/TREES.md"


def test_the_psql_session_prints_what_the_page_shows(conn: psycopg.Connection, dsn: str, bin_dir: Path) -> None:
    (session,) = blocks(PAGE, "psql")
    lines = session.splitlines()
    script = "\n".join(line.removeprefix("=> ") for line in lines if line.startswith("=> "))
    shown = "\n".join(line for line in lines if not line.startswith("=> "))
    assert psql(bin_dir, dsn, script).replace("UPDATE 1", "").split() == shown.split()


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory where Node finds the driver pg, and a compiler of TypeScript."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node and npm are not installed")
    directory = tmp_path_factory.mktemp("node")
    npm = ["npm", "install", "--silent", "--no-fund", "--no-audit", "pg@8", "esbuild@0.25"]
    done = subprocess.run(npm, cwd=directory, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        pytest.skip(f"the npm registry is out of reach: {done.stderr.strip()[-200:]}")
    return directory


def test_the_typescript_example_runs(conn: psycopg.Connection, dsn: str, node_modules: Path) -> None:
    (node_modules / "tree.ts").write_text(block_with(PAGE, "ts", "create_workflow"), "utf-8")
    compiler = node_modules / "node_modules" / ".bin" / "esbuild"
    subprocess.run([compiler, "tree.ts", "--outfile=tree.mjs", "--log-level=warning"], cwd=node_modules, check=True)
    where = conninfo_to_dict(dsn)
    url = f"postgresql://{where['user']}@{quote(str(where['host']), safe='')}:{where['port']}/{where['dbname']}"
    done = subprocess.run(
        ["node", "tree.mjs"],
        cwd=node_modules,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("100 % of 9 agents in 4 workflows, 3 levels\n", "")
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
