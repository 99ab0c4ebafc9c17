"""Dumps, restores and pg_upgrade, with PostgreSQL's programs: each copy is exact, or after a step that README names."""

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pyapp import advance, create_workflow, embedded, find_drift, mark, migrate, pending, report_task, transition
from pyapp.cli import main
from pyapp.installed import differences

from .crash import QUICK, CrashableServer, directory, run, servers
from .helpers import new_tasks, new_workflow, progress
from .ledger import Ledger, assert_exact
from .test_schema import ALL

TABLES = ("workflow", "agent_task", "workflow_stage", "workflow_event", "workflow_transition", "stage_definition")
# What a migrated database has already, each in its own way.
OURS = ("--exclude-table=*yoyo*", "--exclude-table=installed_object")
# Where it holds rows from the beginning.
SEEDED = "truncate public.workflow_transition, public.stage_definition"
SEQUENCE = (
    "select setval(pg_get_serial_sequence('workflow_event', 'id'), max(id)) from workflow_event;"
    "select setval(pg_get_serial_sequence('agent_task', 'ordinal'), max(ordinal)) from agent_task"
)


def fill(dsn: str) -> None:
    """Put something of everything into a migrated database."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        Ledger(conn, seed=1).fill(conn)
        for kind in ("bugfix", "etl"):
            workflow = create_workflow(conn, kind, kind).workflow_id
            transition(conn, workflow, "running")
            new_tasks(conn, workflow, "completed", "failed", "running")
            below = new_workflow(conn, parent_id=new_workflow(conn))
            conn.execute("update workflow set parent_id = %s where id = %s", [below, workflow])
            transition(conn, workflow, "running", stage="validation")
        new_tasks(conn, new_workflow(conn, progress_frozen_at="now", progress=70, agents_total=10), "completed")
        conn.execute("insert into stage_definition values ('etl', 0, 'extract')")
        conn.execute("delete from workflow_transition where from_status = 'cancelled'")


def rows(conn: psycopg.Connection, *without: str) -> dict[str, list[str]]:
    """Read all rows of all tables, without some columns."""
    query = "select (to_jsonb(x) - %s::text[])::text from public.{} as x order by 1"
    return {table: [row[0] for row in conn.execute(query.format(table).encode(), [list(without)])] for table in TABLES}


def assert_copied(source: str, copy: str, *without: str) -> None:
    """Assert that a copy has all rows, is exact, and goes on counting, planning stages and recording events."""
    with psycopg.connect(source) as conn:
        expected = rows(conn, *without)
    assert len(expected["agent_task"]) > 100
    with psycopg.connect(copy, autocommit=True) as conn:
        assert rows(conn, *without) == expected
        assert_exact(conn)
        assert differences(conn) == []
        assert_goes_on(conn)
    assert pending(copy) == []
    assert migrate(copy) == []


def assert_goes_on(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "after", "bugfix").workflow_id
    task, _ = new_tasks(conn, workflow, "running", "running")
    transition(conn, workflow, "running")
    report_task(conn, workflow, task, "completed")
    last = "select id from agent_task order by ordinal desc limit 2"
    assert task in [row[0] for row in conn.execute(last)]
    advance(conn, workflow)
    assert progress(conn, workflow) == (50, 1, 2)
    events = conn.execute("select count(*) from workflow_event where workflow_id = %s", [workflow]).fetchone()
    assert events == (2,)
    assert_exact(conn)


@pytest.fixture(scope="module")
def server(bin_dir: Path) -> Iterator[CrashableServer]:
    with servers(bin_dir) as make:
        yield make("copies", **QUICK).start()


@pytest.fixture(scope="module")
def source(server: CrashableServer) -> str:
    dsn = server.create_migrated("source")
    fill(dsn)
    return dsn


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory that the server's account can write to."""
    with directory() as path:
        yield path


@pytest.fixture
def target(server: CrashableServer) -> str:
    """An empty database."""
    return server.create("target")


@pytest.fixture
def migrated(server: CrashableServer) -> str:
    return server.create_migrated("target")


def copy(bin_dir: Path, work: Path, source: str, target: str, dumping: list[str], restoring: list[str]) -> None:
    """Dump one database and restore it into another."""
    file = work / "dump"
    run(bin_dir, "pg_dump", f"--dbname={source}", f"--file={file}", *dumping)
    if "--format=plain" in dumping:
        run(bin_dir, "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", f"--dbname={target}", f"--file={file}")
    else:
        run(bin_dir, "pg_restore", "--exit-on-error", f"--dbname={target}", *restoring, file)


# --- Dump and restore ---------------------------------------------------------------------------------------

FORMATS: dict[str, tuple[list[str], list[str]]] = {
    "plain": (["--format=plain"], []),
    "custom": (["--format=custom"], []),
    "custom, two jobs": (["--format=custom"], ["--jobs=2"]),
    "directory, two jobs": (["--format=directory", "--jobs=2"], ["--jobs=2"]),
}


@pytest.mark.parametrize(("dumping", "restoring"), FORMATS.values(), ids=FORMATS)
def test_a_full_dump_is_restored_as_it_was(
    source: str, target: str, bin_dir: Path, work: Path, dumping: list[str], restoring: list[str]
) -> None:
    copy(bin_dir, work, source, target, dumping, restoring)
    assert_copied(source, target)


@pytest.mark.parametrize(
    ("dumping", "restoring"),
    [FORMATS["plain"], FORMATS["custom"], (["--format=plain", "--rows-per-insert=10000"], [])],
    ids=["plain", "custom", "inserts"],
)
def test_a_data_only_dump_counts_itself_in_a_migrated_database(
    source: str, migrated: str, bin_dir: Path, work: Path, dumping: list[str], restoring: list[str]
) -> None:
    with psycopg.connect(migrated, autocommit=True) as conn:
        conn.execute(SEEDED)
    data_only = [*dumping, "--data-only", *OURS]
    copy(bin_dir, work, source, migrated, data_only, restoring)
    assert_copied(source, migrated, "progress_updated_at")


def test_a_schema_filled_by_copy_counts_itself(source: str, target: str, bin_dir: Path, work: Path) -> None:
    copy(bin_dir, work, source, target, ["--format=plain", "--schema-only"], [])
    with psycopg.connect(source) as old, psycopg.connect(target, autocommit=True) as new:
        for table in TABLES:
            out = old.cursor().copy(f"copy public.{table} to stdout".encode())
            into = new.cursor().copy(f"copy public.{table} from stdin".encode())
            with out as reading, into as writing:
                for data in reading:
                    writing.write(data)
        # COPY moves no sequence, and the rows of yoyo's tables were left out.
        new.execute(SEQUENCE)
    assert pending(target) == ALL
    assert mark(target) == ALL
    assert_copied(source, target, "progress_updated_at")


def test_migrate_takes_over_a_schema_only_restore_and_fills_in_the_rules(
    source: str, target: str, bin_dir: Path, work: Path
) -> None:
    copy(bin_dir, work, source, target, ["--format=plain", "--schema-only"], [])
    assert migrate(target) == ALL
    assert pending(target) == []
    with psycopg.connect(target, autocommit=True) as conn:
        assert_goes_on(conn)


def test_disabled_triggers_keep_the_counters_of_a_dump_of_all_tables(
    source: str, migrated: str, bin_dir: Path, work: Path
) -> None:
    with psycopg.connect(migrated, autocommit=True) as conn:
        conn.execute(SEEDED)
    dumping = ["--format=custom", "--data-only", *OURS]
    copy(bin_dir, work, source, migrated, dumping, ["--disable-triggers", "--jobs=2"])
    assert_copied(source, migrated)


def test_tasks_restored_alone_with_disabled_triggers_are_drift_and_repair_counts_them(
    source: str, migrated: str, bin_dir: Path, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(migrated, autocommit=True) as conn:
        conn.execute(SEEDED)
    others = ["--format=custom", "--data-only", *OURS, "--exclude-table=agent_task"]
    copy(bin_dir, work, source, migrated, others, [])
    (work / "dump").unlink()
    tasks = ["--format=custom", "--data-only", "--table=agent_task"]
    copy(bin_dir, work, source, migrated, tasks, ["--disable-triggers"])
    assert main(["check", "--dsn", migrated, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    with psycopg.connect(migrated) as conn:
        assert len(found["drift"]) == len(find_drift(conn)) > 3
    assert found["missing"] == []
    assert main(["repair", "--dsn", migrated]) == 0
    assert main(["check", "--dsn", migrated]) == 0
    assert_copied(source, migrated, "progress_updated_at")


# --- pg_upgrade ---------------------------------------------------------------------------------------------


def embedded_binaries(major: int) -> Path:
    try:
        return embedded.binaries(major)
    except embedded.EmbeddedError as error:
        pytest.skip(str(error))


def test_pg_upgrade_from_16_to_18_keeps_all() -> None:
    old_programs, new_programs = embedded_binaries(16), embedded_binaries(18)
    with servers(new_programs) as make:
        old = make("old", old_programs, **QUICK).start()
        fill(old.create_migrated("app"))
        with old.connect("app") as conn:
            expected = rows(conn)
        old.stop()
        # As the server of 18 is initialised by default; 16 has no checksums.
        run(old_programs, "pg_checksums", "--enable", "--no-sync", "--pgdata", old.data_dir)
        new = make("new", **QUICK).start()
        new.stop()
        run(
            new_programs,
            "pg_upgrade",
            *("--old-bindir", old_programs, "--new-bindir", new_programs),
            *("--old-datadir", old.data_dir, "--new-datadir", new.data_dir),
            *("--username=postgres", "--no-sync", "--link"),
            cwd=old.data_dir.parent,
        )
        new.start()
        with new.connect("app") as conn:
            assert conn.info.server_version // 10000 == 18
            assert rows(conn) == expected
            assert_exact(conn)
            assert_goes_on(conn)
            # Each major version prints definitions in its own way: migrate sees to it.
            assert {line.rpartition(" ")[2] for line in differences(conn)} == {"differs"}
        assert pending(new.dsn("app")) == []
        assert migrate(new.dsn("app")) == []
        assert main(["check", "--dsn", new.dsn("app")]) == 0
