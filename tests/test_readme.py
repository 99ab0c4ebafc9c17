"""The README's examples, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg

from tests.conftest import TestServer
from tests.helpers import new_tasks, new_workflow, progress

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def block_with(language: str, text: str) -> str:
    return next(block for block in blocks(language) if text in block)


def psql(bin_dir: Path, dsn: str, script: str) -> str:
    done = subprocess.run(
        [bin_dir / "psql", "-X", "-v", "ON_ERROR_STOP=1", f"--dbname={dsn}"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PGCLIENTENCODING": "UTF8"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_psql_session_prints_what_the_readme_shows(conn: psycopg.Connection, dsn: str, bin_dir: Path) -> None:
    session = block_with("psql", "insert into workflow")
    lines = session.splitlines()
    script = "\n".join(line.removeprefix("=> ") for line in lines if line.startswith("=> "))
    shown = "\n".join(line for line in lines if not line.startswith("=> "))
    assert psql(bin_dir, dsn, script).rstrip() == shown.rstrip()


def test_the_sql_example_runs(conn: psycopg.Connection, dsn: str, bin_dir: Path) -> None:
    output = psql(bin_dir, dsn, block_with("sql", "on conflict"))
    assert [part.strip() for part in output.splitlines()[-3].split("|")] == ["checkout", "0", "33", "1", "0", "3"]


def test_the_example_of_status_and_stages_prints_what_it_says(
    conn: psycopg.Connection, dsn: str, bin_dir: Path
) -> None:
    output = psql(bin_dir, dsn, block_with("sql", "transition_workflow"))
    rows = [[part.strip() for part in line.split("|")] for line in output.splitlines() if "|" in line]
    assert rows[1::2] == [["running", "initialization", "2"], ["validation", "20", "weighted"]]


def run_python(text: str, dsn: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(block_with("python", text).replace('"postgresql://localhost/mydb"', repr(dsn)), names)
    return names


def test_the_python_example_runs(conn: psycopg.Connection, dsn: str) -> None:
    run_python("create_workflow", dsn)
    assert conn.execute("select progress from workflow where name = 'search'").fetchone() == (33,)


def test_the_example_of_compare_and_swap_runs(conn: psycopg.Connection, dsn: str) -> None:
    state = run_python("VersionConflict", dsn)["state"]
    assert (state.status, state.current_stage, state.version) == ("running", "scaffolding", 3)


def test_the_readme_tells_the_shipped_weights(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select workflow_type, string_agg(weight::text, ', ' order by position) from stage_definition group by 1"
    ).fetchall()
    text = " ".join(README.split())
    assert [name for name, weights in rows if f"{name} {weights} (" not in text] == []


def test_the_retry_example_completes_a_task(conn: psycopg.Connection, dsn: str) -> None:
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    run_python("pyapp.retry", dsn)["complete"](workflow, task)
    assert progress(conn, workflow) == (100, 1, 1)


def test_the_shell_examples_of_the_migrations_run(empty, server: TestServer, bin_dir: Path) -> None:
    for start in ("agent-progress migrate  ", "yoyo apply", "cat sql/"):
        script = block_with("sh", start)
        dsn = empty()
        script = script.replace('"postgresql+psycopg:///?host=localhost&dbname=mydb"', '"$YOYO_URL"')
        name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
        where = f"host={server.host}&port={server.port}&user={server.user}&dbname={name}"
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{bin_dir}:{os.environ['PATH']}",
            "DATABASE_URL": dsn,
            "YOYO_URL": f"postgresql+psycopg:///?{where}",
        }
        done = subprocess.run(
            ["bash", "-ec", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        pending = subprocess.run(
            [sys.executable, "-m", "pyapp", "pending", "--json"], env=environment, capture_output=True, check=True
        )
        assert pending.stdout == b"[]\n"


def test_ci_calls_the_test_command_of_the_readme() -> None:
    (command,) = [line for block in blocks("sh") for line in block.splitlines() if line.endswith("pytest")]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()
