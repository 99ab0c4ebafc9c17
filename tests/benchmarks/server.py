"""One durable server, a database for each variant, and the means to run something in them."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import perf_counter

import psycopg
from psycopg.conninfo import make_conninfo

from pyapp import embedded
from tests.benchmarks.work import FIRST_ID, STRIDE, Work

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
# The databases, and what each adds to the tables and the formula (sql/01 and sql/02).
DATABASES = {
    "untriggered": [],
    "app": [],
    "empty": [OWN_SQL / "empty.sql"],
    "row": [OWN_SQL / "row.sql"],
    "ours": SCHEMA[2:],
    "columns": [],
    "side": [],
}


@dataclass(frozen=True)
class Size:
    """How much data: workflows of `tasks` tasks each, one hot workflow, and one with many tasks to read."""

    workflows: int = 10_000
    tasks: int = 20
    hot: int = 40_000
    many: int = 1_000_000

    @property
    def spread(self) -> int:
        """Number of tasks that are not the hot workflow's; they come first."""
        return self.workflows * self.tasks


@dataclass(frozen=True)
class Bench:
    """A running server with a database for each variant."""

    server: embedded.Server
    size: Size

    @property
    def fingerprint(self) -> str:
        """Return a hash of the SQL under test, so that figures say what they are of."""
        return sha256(b"".join(file.read_bytes() for file in SCHEMA)).hexdigest()

    def connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(make_conninfo(self.server.dsn, dbname=database), autocommit=True)

    def create(self) -> None:
        with self.connect("postgres") as admin:
            admin.execute("create database base")
            with self.connect("base") as base:
                for file in SCHEMA[:2]:
                    base.execute(file.read_text())
                base.execute(self._own("base"))
                base.execute("vacuum analyze")
            for database, files in DATABASES.items():
                admin.execute(f"create database {database} template base strategy file_copy")
                with self.connect(database) as conn:
                    for file in files:
                        conn.execute(file.read_text())
            admin.execute("drop database base")

    def create_reading(self) -> None:
        with self.connect("postgres") as admin:
            admin.execute("create database reading")
        with self.connect("reading") as conn:
            for file in SCHEMA:
                conn.execute(file.read_text())
            conn.execute(self._own("reading"))
            conn.execute("vacuum analyze")

    def reset(self, database: str) -> None:
        """Open all tasks again, so that the next run in this database settles them anew."""
        with self.connect(database) as conn:
            conn.execute(self._own("reset"))
            if database == "side":
                conn.execute(self._own("reset_side"))
                conn.execute("vacuum agent_progress.workflow_counter")
            conn.execute("vacuum public.agent_task")
            conn.execute("vacuum public.workflow")

    def moved(self, database: str) -> int:
        """Return how many tasks are no longer pending."""
        with self.connect(database) as conn:
            row = conn.execute("select count(*) from public.agent_task where status <> 'pending'").fetchone()
        return int(row[0]) if row else 0

    def drifted(self) -> int:
        """Return how many workflows of ours are wrong."""
        with self.connect("ours") as conn:
            row = conn.execute("select count(*) from public.workflow_progress_drift").fetchone()
        return int(row[0]) if row else 0

    def pgbench(self, database: str, script: str, clients: int, seconds: int) -> tuple[float, int]:
        """Return transactions per second and how many there were."""
        path = self.server.data_dir.parent / f"{database}.pgbench"
        path.write_text(script)
        command = [str(self.server.bin_dir / "pgbench"), "--no-vacuum", "--protocol=prepared"]
        command += [f"--client={clients}", "--jobs=1", f"--time={seconds}"]
        command += ["--define=seq=-1", f"--file={path}", make_conninfo(self.server.dsn, dbname=database)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rate = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
        done = re.search(r"actually processed: (\d+)", output)
        if rate is None or done is None:
            raise RuntimeError(f"pgbench printed something else:\n{output}")
        return float(rate[1]), int(done[1])

    def script(self, work: Work, clients: int, *, hot: bool = False) -> str:
        """Return a pgbench script that takes another task each time, over all clients."""
        size = self.size
        first, count = (size.spread, size.hot) if hot else (0, size.spread)
        workflow = str(FIRST_ID + size.workflows) if hot else f"{FIRST_ID} + :n % {size.workflows}"
        return (
            "\\set seq :seq + 1\n"
            f"\\set n {first} + (:seq * {clients} + :client_id) * {STRIDE} % {count}\n"
            f"\\set task {FIRST_ID} + :n\n"
            f"\\set workflow {workflow}\n"
        ) + "".join(f"{one.format(task=':task', workflow=':workflow')};\n" for one in work)

    def create_loop(self, conn: psycopg.Connection, name: str, work: Work) -> None:
        """Create the procedure that does `work` for many tasks inside the server, a transaction for each."""
        # A transaction is here anyway; each ends with a commit, since plpgsql prepares itself anew in each.
        statements = "".join(
            f"{one.format(task='task_number', workflow='workflow_number')};\n"
            for one in work
            if one not in ("begin", "commit")
        )
        conn.execute(f"""
            create or replace procedure public.{name}(first bigint, rounds bigint)
            language plpgsql
            as $$
            declare
                n bigint;
                task_number bigint;
                workflow_number bigint;
            begin
                for i in first .. first + rounds - 1 loop
                    n := i::bigint * {STRIDE} % {self.size.spread};
                    task_number := {FIRST_ID} + n;
                    workflow_number := {FIRST_ID} + n % {self.size.workflows};
                    {statements}
                    commit;
                end loop;
            end
            $$""")

    def _own(self, name: str) -> str:
        size = self.size
        numbers = {"workflows": size.workflows, "tasks": size.tasks, "hot": size.hot, "many": size.many}
        numbers["hot_workflow"] = FIRST_ID + size.workflows
        return (OWN_SQL / f"{name}.sql").read_text() % numbers


@contextmanager
def running(directory: Path, size: Size) -> Iterator[Bench]:
    with embedded.server(directory / "data", settings=SETTINGS) as server:
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
    with bench.connect("untriggered") as conn:
        for n in range(commits):
            start = perf_counter()
            conn.execute("insert into public.commit_probe (n) values (%s)", [n])
            times.append(perf_counter() - start)
    return sorted(times)[commits // 2] * 1000
