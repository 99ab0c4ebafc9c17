"""The page on adopting (pyapp/adopt/README.md): its commands and its SQL, run as they stand there."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pyapp import adopt

from ..conftest import Role
from .application import App, succeed
from .shapes import DJANGO, JSON_JOBS, PRISMA, Shape

PAGE = Path(adopt.__file__).with_name("README.md").read_text("utf-8")
Make = Callable[..., App]


def commands(title: str) -> list[list[str]]:
    """Find the commands of ours in the first example of a section."""
    section = PAGE.split(f"{title}\n", 1)[1]
    (block,) = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)[:1]
    lines = [part.strip() for line in block.splitlines() for part in re.split(r"&&|>>", line)]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("agent-progress ")]


@pytest.mark.parametrize(
    ("shape", "title", "many"), [(PRISMA, "# Adopting the tables you have", 3), (DJANGO, "## Django", 1)]
)
def test_the_commands_of_the_page_adopt(make: Make, shape: Shape, title: str, many: int) -> None:
    app = make(shape, adopt=False)
    found = commands(title)
    assert len(found) == many
    for command in found:
        succeed(app.dsn, *command, *(["--yes"] if command[0] == "adopt" else []))
    app.assert_exact()


def test_the_migration_of_the_page_adopts_and_can_be_continued(make: Make) -> None:
    app = make(PRISMA, adopt=False)
    printed, go_on = commands("## Prisma")
    with app.conn.transaction():
        app.conn.execute(succeed(app.dsn, *printed).out.encode())
    succeed(app.dsn, *go_on)
    app.assert_exact()


def test_the_rights_of_the_page_suffice_to_read(make: Make, new_role: Callable[..., Role]) -> None:
    app = make(PRISMA)
    role = new_role()
    (block,) = [block for block in re.findall(r"^```sql\n(.*?)^```", PAGE, re.M | re.S) if "board" in block]
    app.conn.execute(block.replace("board", role.name).encode())
    for view in ("workflow_progress", "agent_task", "vocabulary", "workflow_tree_progress", "workflow_forecast"):
        role.connect().execute(f"select * from agent_progress.{view}".encode())


def test_every_option_of_the_page_is_one_of_the_command() -> None:
    told = set(re.findall(r"--[a-z][a-z-]+", PAGE.split("## Prisma")[0])) - {"--print"}
    shown = succeed("", "adopt", "--help").out
    assert {option for option in told if option not in shown} == set()


def test_a_status_without_regard_to_case_by_its_type_is_understood(make: Make, conn: psycopg.Connection) -> None:
    if conn.execute("select from pg_available_extensions where name = 'citext'").fetchone() is None:
        pytest.skip("this server has no citext")
    conn.execute("create extension citext")
    app = make(JSON_JOBS, adopt=False)
    app.run("alter table jobs alter state type citext")
    app.adopt()
    app.run("update jobs set state = 'COMPLETED' where id = (select min(id) from jobs where state = 'pending')")
    assert app.drift() == []
    counted = app.run("select sum(agents_completed) from agent_progress.workflow_progress").fetchone()
    assert counted == app.run("select count(*) from jobs where state = 'completed'").fetchone()
