"""The page on Python (pyapp/README.md): its examples, run as they stand there."""

import asyncio
import sys
from uuid import UUID

import httpx
import pytest
from psycopg import Connection
from psycopg.conninfo import conninfo_to_dict

import pyapp
from pyapp import errors

from .commands import output_of
from .helpers import at_work, progress
from .pages import at, block_with, page, run_python

PAGE = page("pyapp/README.md")


def example(text: str) -> str:
    """Find an example by what stands in it."""
    return block_with("pyapp/README.md", "python", text)


@pytest.mark.parametrize(
    ("text", "name", "expected", "printed"),
    [
        ("print(workflow.progress)  # 50", "checkout", (50, 1, 2), "50\n"),
        ("pyapp.retry", "nightly", (100, 3, 3), ""),
        ("ThreadPoolExecutor", "crawl", (100, 100, 100), ""),
        ("pyapp.aio.watch", "research", (100, 4, 4), "research 100 completed\n"),
        ("create_engine", "import", (50, 1, 2), "50\n"),
    ],
)
def test_an_example_runs_and_prints_what_it_says(
    dsn: str,
    conn: Connection,
    capsys: pytest.CaptureFixture[str],
    text: str,
    name: str,
    expected: tuple[int, int, int],
    printed: str,
) -> None:
    names = run_python(example(text), dsn)
    (workflow,) = conn.execute("select id from workflow where name = %s", [name]).fetchone()
    assert progress(conn, workflow) == expected
    assert capsys.readouterr().out == printed
    if "engine" in names:
        names["engine"].dispose()
    if isinstance(names.get("conn"), Connection):
        names["conn"].close()


def test_the_example_of_fastapi_answers(dsn: str, conn: Connection) -> None:
    workflow, (task,) = at_work(conn, 1, name="shown")
    app = run_python(example("AsyncConnectionPool"), dsn)["app"]

    async def ask(*requests: tuple[str, str]) -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://a") as client,
        ):
            return [await client.request(method, path) for method, path in requests]

    where, nowhere = f"/workflows/{workflow}", UUID(int=0)
    reported, shown, *wrong = asyncio.run(
        ask(
            ("POST", f"{where}/tasks/{task}?status=completed"),
            ("GET", where),
            ("GET", f"/workflows/{nowhere}"),
            ("POST", f"{where}/tasks/{nowhere}?status=failed"),
            ("POST", f"{where}/tasks/{task}?status=done"),
        )
    )
    assert reported.json()["status"] == "completed"
    assert (shown.json()["name"], shown.json()["progress"]) == ("shown", 100)
    assert [answer.status_code for answer in wrong] == [404, 404, 422]


def test_the_example_of_django_belongs_to_its_transaction(dsn: str, conn: Connection) -> None:
    where = conninfo_to_dict(dsn)
    options = {"HOST": where["host"], "PORT": where["port"], "USER": where["user"], "NAME": where["dbname"]}
    code = f"""
import django
from django.conf import settings
settings.configure(DATABASES={{"default": {{"ENGINE": "django.db.backends.postgresql", **{options!r}}}}}, USE_TZ=True)
django.setup()
{at(example("ensure_connection"), dsn)}
workflow = start("kept", ["planner", "builder"])
tasks = pyapp.list_tasks(connection.connection, workflow.workflow_id)
assert [(task.agent_type, task.payload) for task in tasks] == [("planner", {{}}), ("builder", {{}})], tasks
try:
    with transaction.atomic():
        start("lost", ["planner"])
        1 / 0
except ZeroDivisionError:
    pass
"""
    output_of(sys.executable, "-W", "error", "-c", code)
    assert conn.execute("select name, agents_total from workflow").fetchall() == [("kept", 2)]


def test_the_page_names_every_error_with_its_sqlstate_and_attributes() -> None:
    table = PAGE.split("## Errors")[1].split("\n## ")[0]
    for name, error in vars(errors).items():
        if isinstance(error, type) and issubclass(error, pyapp.AgentProgressError) and not name.startswith("_"):
            assert f"`{name}`" in PAGE or f"pyapp.{name}`" in PAGE, name
            assert error.sqlstate is None or error.sqlstate in table, name
