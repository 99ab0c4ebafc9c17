"""One durable server, and a database for each way of keeping count."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import psycopg
from psycopg.conninfo import make_conninfo

from pyapp import embedded
from tests.benchmarks.work import FIRST_ID

SCHEMA = sorted((Path(__file__).parents[2] / "sql").glob("*.sql"))
OWN_SQL = Path(__file__).parent / "sql"
# Durable as by default. All data fits into memory, and neither a checkpoint nor autovacuum falls into somebody's
# measurement: each run is preceded by a VACUUM of its own.
SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "max_connections": "100",
    "jit": "off",
}
# The ways of keeping count, and what each adds to the tables and the formula (sql/01 to sql/03).
WAYS = {
    "untriggered": [],
    "app": [],
    "empty": [OWN_SQL / "empty.sql"],
    "row": [OWN_SQL / "row.sql"],
    "guarded": [OWN_SQL / "row.sql", OWN_SQL / "guard.sql"],
    "recount": [OWN_SQL / "recount.sql"],
    "ivm": [OWN_SQL / "ivm.sql"],
    "ours": SCHEMA[3:],
    "no_times": [*SCHEMA[3:], OWN_SQL / "no_times.sql"],
    "published": [],
    "side": [],
}
# What is wrong in each is found in its own way; a way that is not here stores nothing.
DRIFT = {
    "ours": "drift_ours",
    "no_times": "drift_ours",
    "app": "drift",
    "row": "drift",
    "guarded": "drift",
    "recount": "drift",
    "ivm": "drift_ivm",
}


@dataclass(frozen=True)
class Size:
    """How much data each measurement works on."""

    workflows: int = 10_000
    tasks: int = 20  # of each of these workflows
    hot: int = 40_000  # tasks of the hot workflow
    bulk: int = 20_000  # of them completed in one statement
    saved: int = 4_000  # likewise, each in a savepoint
    copied: int = 1_000_000
    reads: tuple[int, ...] = (10, 1_000, 100_000, 1_000_000)
    listed: int = 100_000  # workflows of the list
    large: int = 1_000  # tasks of each of the workflows on its first page
    growing: tuple[int, ...] = (10, 1_000, 100_000)
    adopted: tuple[int, int] = (10_000, 1_000_000)  # workflows and tasks
    whole: tuple[int, int] = (100_000, 10_000_000)  # likewise

    @property
    def spread(self) -> int:
        """Number of tasks that are not the hot workflow's; they come first."""
        return self.workflows * self.tasks


@dataclass(frozen=True)
class Bench:
    """A running server."""

    server: embedded.Server
    size: Size

    @property
    def fingerprint(self) -> str:
        """Return a hash of the SQL under test, so that figures say what they are of."""
        return sha256(b"".join(file.read_bytes() for file in SCHEMA)).hexdigest()

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(make_conninfo(self.server.dsn, dbname=database), autocommit=True)

    def number(self, database: str, query: str) -> int:
        with self.connect(database) as conn:
            row = conn.execute(query).fetchone()
        return int(row[0]) if row else 0

    def create_templates(self) -> None:
        """Create what every database is a copy of: the tables alone (bare), and the same with workflows and tasks."""
        with self.connect("postgres") as admin:
            admin.execute("create database bare")
            with self.connect("bare") as conn:
                for file in SCHEMA[:3]:
                    conn.execute(file.read_text())
            admin.execute("create database base template bare")
            with self.connect("base") as conn:
                conn.execute(self._own("base"))
                conn.execute("vacuum analyze")

    def ensure(self, way: str) -> bool:
        """Create the database of a way where it is missing; return whether this server can have it."""
        return self.create(way, way, "base")

    def create(self, database: str, way: str, template: str) -> bool:
        """Create a database from a template, its triggers added; return whether this server can have it."""
        if way == "ivm" and not self.number(
            "postgres", "select count(*) from pg_available_extensions where name = 'pg_ivm'"
        ):
            return False
        if self.number("postgres", f"select count(*) from pg_database where datname = '{database}'"):
            return True
        with self.connect("postgres") as admin:
            admin.execute(f"create database {database} template {template} strategy file_copy")
        with self.connect(database) as conn:
            for file in WAYS[way]:
                conn.execute(file.read_text())
        return True

    def drop(self, database: str) -> None:
        with self.connect("postgres") as admin:
            admin.execute(f"drop database if exists {database} with (force)")

    def reset(self, database: str) -> None:
        """Open all tasks again, so that the next run in this database settles them anew."""
        with self.connect(database) as conn:
            conn.execute(self._own("reset"))
            if database in ("side", "published"):
                conn.execute(self._own("reset_side"))
                conn.execute("vacuum agent_progress.workflow_counter")
            if database == "ivm":
                conn.execute("select refresh_immv('public.workflow_count', true)")
                conn.execute("analyze public.workflow_count")
            self.vacuum(conn)

    def vacuum(self, conn: psycopg.Connection) -> None:
        conn.execute("vacuum public.agent_task")
        conn.execute("vacuum public.workflow")

    def moved(self, database: str) -> int:
        """Return how many tasks are no longer pending, or new."""
        return self.number(
            database,
            "select count(*) from public.agent_task where status <> 'pending' or agent_type = 'inserted'",
        )

    def wrong(self, database: str, way: str = "") -> int:
        """Return of how many workflows the stored counters are not what their tasks say."""
        with self.connect(database) as conn:
            return self.wrong_in(conn, way or database)

    def wrong_in(self, conn: psycopg.Connection, way: str) -> int:
        """Return the same as the transaction of this session sees it."""
        row = conn.execute(self._own(DRIFT[way])).fetchone() if way in DRIFT else None
        return int(row[0]) if row else 0

    def _own(self, name: str) -> str:
        size = self.size
        numbers = {"workflows": size.workflows, "tasks": size.tasks, "hot": size.hot}
        numbers["hot_workflow"] = FIRST_ID + size.workflows
        return (OWN_SQL / f"{name}.sql").read_text() % numbers


@contextmanager
def running(directory: Path, size: Size, bin_dir: Path | None = None) -> Iterator[Bench]:
    with embedded.server(directory / "data", bin_dir=bin_dir, settings=SETTINGS) as server:
        yield Bench(server, size)


def processor_seconds(conn: psycopg.Connection) -> float:
    """Return the processor time that the session's server process has used, else (not Linux) the time of day."""
    try:
        used = Path(f"/proc/{conn.info.backend_pid}/schedstat").read_text().split()[0]
    except OSError:
        return perf_counter()
    return int(used) / 1e9


def commit_latency(bench: Bench, commits: int = 200) -> float:
    """Return the median time of a committed insert of one row in one session, in milliseconds."""
    times = []
    with bench.connect("postgres") as conn:
        conn.execute("create table commit_probe (n integer not null)")
        for n in range(commits):
            start = perf_counter()
            conn.execute("insert into commit_probe (n) values (%s)", [n])
            times.append(perf_counter() - start)
        conn.execute("drop table commit_probe")
    return sorted(times)[commits // 2] * 1000
