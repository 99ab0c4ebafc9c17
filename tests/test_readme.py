"""README and the page of the schema: their examples run, and what they say is true."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pyapp import pending
from pyapp.cli.main import COMMANDS
from tests.commands import output_of
from tests.pages import ROOT, block_with, blocks, driver_url, install_from_npm, page, psql_session, run_python, url

README, SCHEMA = "README.md", "sql/README.md"


@pytest.mark.parametrize("name", [README, SCHEMA, "sql/TREES.md"])
def test_a_psql_session_prints_what_the_page_shows(
    name: str, conn: psycopg.Connection, dsn: str, bin_dir: Path
) -> None:
    printed, shown = psql_session(bin_dir, dsn, name)
    assert printed == shown


def test_the_python_example_runs(conn: psycopg.Connection, dsn: str) -> None:
    run_python(block_with(README, "python", "create_workflow"), dsn)
    assert conn.execute("select progress from workflow where name = 'search'").fetchone() == (33,)


def test_the_node_example_runs(conn: psycopg.Connection, dsn: str, tmp_path: Path) -> None:
    install_from_npm(tmp_path, "pg@8")
    (tmp_path / "example.mjs").write_text(block_with(SCHEMA, "js", "create_workflow"), "utf-8")
    environment = {**os.environ, "DATABASE_URL": url(dsn)}
    printed = output_of("node", "example.mjs", cwd=tmp_path, env=environment)
    assert printed == "50 % (1 of 2), stage scaffolding\n"


def test_the_schema_page_tells_the_shipped_weights(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select workflow_type, string_agg(weight::text, ', ' order by position) from stage_definition group by 1"
    ).fetchall()
    text = " ".join(page(SCHEMA).split())
    assert [name for name, weights in rows if f"{name} {weights} (" not in text] == []


def test_the_schema_page_names_every_function_that_people_call(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select proname from pg_proc where pronamespace = 'public'::regnamespace and prorettype <> 'trigger'::regtype"
        " and proname not in ('progress_total', 'plan_stages', 'settle_workflow')"
    ).fetchall()
    assert [name for (name,) in rows if f"`{name}(" not in page(SCHEMA)] == []


def test_the_shell_examples_of_the_schema_run(empty: Callable[[], str], bin_dir: Path) -> None:
    for start in ("agent-progress migrate\n", "yoyo apply", "cat sql/"):
        script = block_with(README, "sh", start)
        dsn = empty()
        script = script.replace('"postgresql+psycopg:///?host=localhost&dbname=mydb"', '"$YOYO_URL"')
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{bin_dir}:{os.environ['PATH']}",
            "DATABASE_URL": dsn,
            "YOYO_URL": driver_url(dsn),
        }
        output_of("bash", "-ec", script, cwd=ROOT, env=environment)
        assert pending(dsn) == []


def test_ci_calls_the_test_command_of_the_readme() -> None:
    (command,) = [line for block in blocks(README, "sh") for line in block.splitlines() if line.endswith("pytest")]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_every_link_of_the_pages_leads_somewhere() -> None:
    pages = [file for file in ROOT.rglob("*.md") if not {".venv", "node_modules"} & set(file.parts)]
    broken = [
        f"{file.relative_to(ROOT)}: {target}"
        for file in pages
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text("utf-8"))
        if not (file.parent / target).exists()
    ]
    assert broken == []


def test_the_readme_names_every_command_and_no_other() -> None:
    table = page(README).split("| command | what it does |")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {part.split()[0].strip("`") for row in rows for part in row.split(",")}
    assert named == {name for group in COMMANDS.values() for name in group}
