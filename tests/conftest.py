"""A real server for the tests, and a freshly migrated database for each."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyapp import embedded, migrate

from .crash import directory, new_cluster
from .databases import Databases
from .helpers import PATIENCE, examples

# The same examples in each run, unless more are asked for than CI does; how long they take is never a failure.
settings.register_profile(
    "tests", derandomize=examples(1) == 1, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("tests")
# Says where the tests run: a DSN with rights to create databases, else an embedded server of this major version.
TEST_DATABASE_URL = os.environ.get("TEST_DATABASE_URL")
# 18, 16, or the bin directory of an installed PostgreSQL.
TEST_POSTGRES = os.environ.get("TEST_POSTGRES", "18")


@dataclass
class Role:
    """A role of a test, which logs in."""

    name: str
    dsn: str
    connections: list[psycopg.Connection] = field(default_factory=list)

    def connect(self, **options: Any) -> psycopg.Connection:
        """Open a session of this role, which commits each statement."""
        self.connections.append(psycopg.connect(self.dsn, autocommit=True, **options))
        return self.connections[-1]


def pytest_configure() -> None:
    # What the developer's shell says must not lead a test to another database.
    for name in [
        name for name in os.environ if name.startswith("PG") or name in ("DATABASE_URL", "AGENT_PROGRESS_READ_DSN")
    ]:
        del os.environ[name]
    os.environ["PGCONNECT_TIMEOUT"] = f"{PATIENCE:.0f}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests recorded, added up: properties named "figures: …", counts by what was counted."""
    figures: dict[str, Counter[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            # A fixture may have recorded them after its test.
            if getattr(report, "when", None) == "teardown":
                for name, value in report.user_properties:
                    if name.startswith("figures: "):
                        figures.setdefault(name.removeprefix("figures: "), Counter()).update(value)
    for name, counts in figures.items():
        terminalreporter.section(name)
        for what, count in sorted(counts.items()):
            terminalreporter.line(f"{what}: {count:,}")


def programs() -> Path:
    return embedded.binaries(int(TEST_POSTGRES)) if TEST_POSTGRES.isdigit() else Path(TEST_POSTGRES)


@pytest.fixture(scope="session")
def bin_dir() -> Path:
    """The programs of the PostgreSQL under test."""
    return programs()


@pytest.fixture(scope="session")
def server(bin_dir: Path) -> Iterator[str]:
    """The DSN of the server under test, which is without durability, and in memory where that can be had."""
    if TEST_DATABASE_URL:
        yield TEST_DATABASE_URL
        return
    # Nor does anything happen in the background.
    quick = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}
    with (
        directory() as parent,
        embedded.server(new_cluster(bin_dir, parent / "data"), bin_dir=bin_dir, settings=quick) as running,
    ):
        where = conninfo_to_dict(running.dsn)
        yield make_conninfo(host=where["host"], port=where["port"], user=where["user"])


@pytest.fixture(scope="session")
def databases(server: str) -> Iterator[Databases]:
    """What makes the databases of the tests."""
    made = Databases(server)
    yield made
    made.close()


@pytest.fixture
def dsn(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """Where the test's own database is."""
    with databases.copy(getattr(request, "param", migrate)) as dsn:
        yield dsn


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection to the test's own database, which commits each statement."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def session(dsn: str) -> Iterator[Callable[[], psycopg.Connection]]:
    """Open further sessions on the test's database, each in transactions of its own."""
    opened: list[psycopg.Connection] = []

    def open_session() -> psycopg.Connection:
        opened.append(psycopg.connect(dsn))
        return opened[-1]

    yield open_session
    for connection in opened:
        connection.close()


@pytest.fixture
def new_role(conn: psycopg.Connection, dsn: str) -> Iterator[Callable[..., Role]]:
    """Create roles that log in and have no right yet; they are gone after the test, with all that they made."""
    made: list[Role] = []

    def create(options: str = "", name: str | None = None) -> Role:
        name = name or f"role_{uuid4().hex[:12]}"
        role = Role(name, make_conninfo(dsn, user=name, password="pw"))
        conn.execute(sql.SQL("create role {} login password 'pw' " + options).format(sql.Identifier(name)))
        made.append(role)
        return role

    yield create
    for role in made:
        for connection in role.connections:
            connection.close()
        # Its temporary objects go with its sessions, which end in their own time.
        conn.execute("select pg_terminate_backend(pid, 60000) from pg_stat_activity where usename = %s", [role.name])
        conn.execute(sql.SQL("reassign owned by {} to current_user").format(sql.Identifier(role.name)))
        conn.execute(sql.SQL("drop owned by {} cascade").format(sql.Identifier(role.name)))
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(role.name)))


@pytest.fixture(autouse=True)
def no_drift(request: pytest.FixtureRequest) -> Iterator[None]:
    """End each test on a migrated database by comparing all that is stored with all that is counted."""
    if "dsn" not in request.fixturenames:
        yield
        return
    dsn = request.getfixturevalue("dsn")
    yield
    with psycopg.connect(dsn) as connection:
        if connection.execute("select to_regclass('public.workflow_progress_drift')").fetchone() != (None,):
            assert connection.execute("select * from public.workflow_progress_drift").fetchall() == []


@pytest.fixture(scope="session")
def empty(databases: Databases) -> Callable[[], str]:
    """Create empty databases: each call returns the DSN of a new one."""
    return databases.empty


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the source distribution."""
    directory = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(directory)]
    subprocess.run(build, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    return directory


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    return next(built.glob("*.whl"))


@pytest.fixture
def own_server(bin_dir: Path) -> Iterator[Callable[[], Any]]:
    """A server of the test's own: each call starts it, again where it was killed."""
    with directory() as parent, ExitStack() as stopping:
        data = new_cluster(bin_dir, parent / "data")

        def start(**settings: str) -> Any:
            return stopping.enter_context(embedded.server(data, bin_dir=bin_dir, settings={"fsync": "off", **settings}))

        yield start
