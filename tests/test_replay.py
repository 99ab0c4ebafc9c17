"""Playing recorded runs through a real database, and the demo, as their users do."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyapp import Workflow, get_workflow, list_tasks, list_workflows, migrate, watch
from pyapp.cli import main
from pyapp.replay.player import Player
from pyapp.replay.trace import SAMPLE_PATH, read_trace

from .commands import Run, Terminal, outcome, start
from .commands import run as run  # a fixture, used by its name
from .test_embedded import is_alive
from .test_trace import FULL, REAL, row

SAMPLE = read_trace(SAMPLE_PATH)


def play(dsn: str, *traces: Any, **options: Any) -> Player:
    player = Player(dsn, traces or [SAMPLE], **options)
    player.start()
    assert player.join(60)
    return player


def read_while(dsn: str, player: Player) -> list[Workflow]:
    """Start a player and read its first workflow as often as can be until all is played."""
    seen: list[Workflow] = []
    player.start()
    with psycopg.connect(dsn, autocommit=True) as conn:
        ended = False
        while not ended:
            ended = player.join(0.005)
            seen.append(get_workflow(conn, player.workflow_ids[0]))
    return seen


def progress_of(seen: list[Workflow]) -> list[int]:
    return [workflow.progress for workflow in seen]


# --- The sample ---------------------------------------------------------------------------------------------


def test_the_sample_ends_with_exact_numbers(dsn: str, conn: psycopg.Connection, run: Run) -> None:
    status, out, err = run("replay", SAMPLE_PATH)
    assert (status, err) == (0, "")
    (workflow,) = list_workflows(conn)
    assert (workflow.name, workflow.type, workflow.status) == ("sample", "nextflow", "failed")
    assert (workflow.progress, workflow.settled_percentage) == (92, 100)
    assert (workflow.agents_completed, workflow.agents_total, workflow.agents_created) == (22, 24, 24)
    assert (workflow.agents_failed, workflow.agents_cancelled, workflow.agents_open) == (1, 1, 0)
    assert (workflow.agents_planned, workflow.current_stage) == (24, "deploy")
    assert workflow.completed_at is not None
    tasks = list_tasks(conn, workflow.workflow_id)
    assert {(task.agent_type, task.retry_count) for task in tasks if task.retry_count} == {("integration", 1)}
    assert {task.external_id for task in tasks} == {task.key for task in SAMPLE.tasks}
    assert {(t.external_id, t.agent_type, t.stage, t.status) for t in tasks} == {
        (t.key, t.agent_type, t.stage, t.attempts[-1].status) for t in SAMPLE.tasks
    }
    assert all(task.completed_at is not None for task in tasks)
    assert all(t.assigned_at <= t.started_at <= t.completed_at for t in tasks if t.started_at)
    table, verdict = out.splitlines()[-2:]
    numbers = ["92 %", "22 of 24 agents", "1", "1", "failed"]
    assert re.split(" {2,}", table) == ["sample", *numbers, str(workflow.workflow_id)]
    assert re.fullmatch(r"24 tasks in \d+\.\d s, stored equals counted for all", verdict)


def test_progress_without_a_terminal_is_told_in_plain_lines(conn: psycopg.Connection, run: Run) -> None:
    _, out, _ = run("replay", SAMPLE_PATH, "--speed", "150")
    lines = [line for line in out.splitlines() if line.startswith("sample  ")]
    percent = [int(re.search(r"(\d+) %", line)[1]) for line in lines]
    assert percent == sorted(percent)
    assert len(percent) >= 4
    assert all(re.search(r"\d+ of 24 agents", line) for line in lines)


def test_progress_never_reads_100_early_and_never_falls_while_the_plan_holds(dsn: str) -> None:
    trace = read_trace(SAMPLE_PATH)
    object.__setattr__(trace, "tasks", trace.tasks[:20])  # all of these are completed in the end
    seen = read_while(dsn, Player(dsn, [trace], speed=120))
    assert progress_of(seen) == sorted(progress_of(seen))
    assert len(set(progress_of(seen))) > 8
    assert {workflow.agents_total for workflow in seen} == {20}
    assert seen[0].agents_created < seen[-1].agents_created
    early = [workflow for workflow in seen if workflow.agents_completed < 20]
    assert max(progress_of(early)) < 100
    assert (seen[-1].progress, seen[-1].status) == (100, "completed")


def test_watch_follows_a_replay_to_its_end(dsn: str) -> None:
    player = Player(dsn, [SAMPLE], speed=150)
    player.start()
    seen = list(watch(dsn, player.workflow_ids, 0.01))
    assert player.join(60)
    assert progress_of(seen) == sorted(progress_of(seen))
    assert progress_of(seen)[-1] == 92
    assert {"scaffold", "validate", "test", "deploy"} <= {workflow.current_stage for workflow in seen}
    assert max(progress_of(seen[:-1])) < 100


def test_tasks_are_added_when_they_become_ready_or_all_at_once(dsn: str) -> None:
    one_by_one = read_while(dsn, Player(dsn, [SAMPLE], speed=150))
    assert len({workflow.agents_created for workflow in one_by_one}) > 5
    at_once = read_while(dsn, Player(dsn, [SAMPLE], speed=150, upfront=True))
    assert {workflow.agents_created for workflow in at_once} <= {0, 24}
    assert at_once[-1].agents_completed == one_by_one[-1].agents_completed == 22


def test_upfront_is_an_option_of_the_command(conn: psycopg.Connection, run: Run) -> None:
    assert run("replay", "--upfront", SAMPLE_PATH)[0] == 0
    (workflow,) = list_workflows(conn)
    created = {task.created_at for task in list_tasks(conn, workflow.workflow_id)}
    assert len(created) == 1
    assert workflow.agents_completed == 22


def test_speed_sets_how_long_it_takes(dsn: str, conn: psycopg.Connection) -> None:
    speed = SAMPLE.duration / 2
    began = time.monotonic()
    player = play(dsn, speed=speed)
    assert 2 <= time.monotonic() - began < 4
    # And when each task is moved: early ones early, late ones late.
    start_of_run = get_workflow(conn, player.workflow_ids[0]).created_at
    for task in list_tasks(conn, player.workflow_ids[0]):
        (given,) = (each for each in SAMPLE.tasks if each.key == task.external_id)
        late = (task.completed_at - start_of_run).total_seconds() - given.attempts[-1].finished / speed
        assert -0.05 < late < 1.5


@pytest.mark.parametrize("agents", [1, 12])
def test_any_number_of_agents_comes_to_the_same_end(dsn: str, conn: psycopg.Connection, agents: int) -> None:
    player = play(dsn, agents=agents)
    workflow = get_workflow(conn, player.workflow_ids[0])
    assert (workflow.agents_completed, workflow.agents_failed, workflow.agents_cancelled) == (22, 1, 1)


def test_agents_work_at_once_on_connections_of_their_own(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("create table witness (pid integer)")
    conn.execute(
        "create function witness() returns trigger language plpgsql as"
        " $$ begin insert into witness values (pg_backend_pid()); perform pg_sleep(0.01); return null; end $$"
    )
    conn.execute("create trigger witness after update on agent_task execute function witness()")
    play(dsn, SAMPLE, SAMPLE, agents=3)
    assert conn.execute("select count(distinct pid) from witness").fetchone() == (3,)


def test_several_files_are_played_at_once(conn: psycopg.Connection, run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("\n".join([FULL, row(1, "A (1)", end=5), row(2, "B (2)", submit=6, start=6, end=9)]))
    status, out, err = run("replay", SAMPLE_PATH, other, SAMPLE_PATH)
    assert (status, err) == (0, "")
    assert sorted((w.name, w.progress, w.agents_total) for w in list_workflows(conn)) == [
        ("other", 100, 2),
        ("sample", 92, 24),
        ("sample", 92, 24),
    ]
    assert out.splitlines()[-1].startswith("50 tasks in ")
    names = [line.split()[0] for line in out.splitlines()[-4:-1]]
    assert names == ["sample", "other", "sample"]


# --- Files ---------------------------------------------------------------------------------------------------


def test_a_bad_file_is_one_line_and_nothing_is_written(conn: psycopg.Connection, run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(f"{FULL}\n\n1;2;3\n")
    broken = tmp_path / "broken.json"
    broken.write_text('{"a": 1,\n}')
    for files, complaint in (
        ([bad], f"{bad}:3: no usable row; first: 3 fields instead of 13, row skipped"),
        ([SAMPLE_PATH, bad], f"{bad}:3: no usable row; first: 3 fields instead of 13, row skipped"),
        (
            [SAMPLE_PATH, broken],
            f"{broken}:2: not valid JSON: Expecting property name enclosed in double quotes",
        ),
        ([SAMPLE_PATH, tmp_path / "none"], f"{tmp_path}/none: No such file or directory"),
        ([tmp_path], f"{tmp_path}: Is a directory"),
    ):
        status, out, err = run("replay", *files)
        assert (status, out) == (2, "")
        assert re.fullmatch(re.escape(f"agent-progress: {complaint}") + r"[^\n]*\n", err)
    assert list_workflows(conn) == []


def test_a_bad_file_starts_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_PROGRESS_DATA", str(tmp_path / "data"))
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "data").exists()


def test_malformed_rows_are_reported_with_their_lines_and_skipped(
    conn: psycopg.Connection, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "run.csv"
    file.write_text("\n".join([FULL, row(1), "garbage", row(2), row(3, status="LOST")]))
    status, out, err = run("replay", file)
    assert status == 0
    assert err == (f"{file}:3: 1 fields instead of 13, row skipped\n{file}:5: unknown status 'LOST', row skipped\n")
    assert [w.agents_completed for w in list_workflows(conn)] == [2]
    assert out.splitlines()[-1].startswith("2 tasks in ")


def test_thousands_of_malformed_rows_do_not_flood_the_terminal(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    file.write_text("\n".join([FULL, row(1), *["garbage"] * 3000]))
    err = run("replay", file)[2].splitlines()
    assert (len(err), err[-1]) == (51, "run: 2950 more warnings")


def test_the_real_traces_are_played_whole(conn: psycopg.Connection, run: Run) -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
    directory = Path(os.environ.get("AGENT_PROGRESS_TRACES", beside))
    files = [directory / name for name in REAL]
    if not all(file.is_file() for file in files):
        pytest.skip(f"the real traces are not in {directory}; set AGENT_PROGRESS_TRACES")
    status, out, err = run("replay", *files, "--agents", "6")
    assert (status, err) == (0, "")
    numbers = [(tasks, failed) for tasks, failed, *_ in REAL.values()]
    assert numbers == [(11, 0), (1132, 6), (2122, 0)]
    assert sorted((w.agents_created, w.agents_failed) for w in list_workflows(conn)) == numbers
    assert {(w.agents_open, w.status) for w in list_workflows(conn)} == {(0, "completed")}
    assert {w.progress for w in list_workflows(conn)} == {99, 100}
    assert re.fullmatch(r"3265 tasks in [\d.]+ s, stored equals counted for all", out.splitlines()[-1])


# --- When it is broken off ----------------------------------------------------------------------------------


def assert_cancelled(conn: psycopg.Connection) -> None:
    (workflow,) = list_workflows(conn)
    assert (workflow.status, workflow.agents_open) == ("cancelled", 0)
    assert workflow.agents_cancelled > 0
    assert workflow.agents_completed > 0
    assert workflow.completed_at is not None


def test_ctrl_c_cancels_what_is_open_and_leaves_exact_numbers(dsn: str, conn: psycopg.Connection) -> None:
    process = start("replay", SAMPLE_PATH, "--speed", "40", "--dsn", dsn)
    while "1 of 24 agents" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, _, err = outcome(process)
    assert (status, err) == (130, "stopping: open tasks and their workflows are cancelled\n")
    assert_cancelled(conn)


def test_ctrl_c_in_a_terminal_does_the_same(dsn: str, conn: psycopg.Connection) -> None:
    with Terminal("replay", SAMPLE_PATH, "--speed", "40", "--dsn", dsn) as terminal:
        terminal.read_until("1 of 24 agents")
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert "stopping: open tasks and their workflows are cancelled" in terminal.text
        assert "Traceback" not in terminal.text
    assert_cancelled(conn)


def test_an_agent_that_fails_ends_all_in_one_line(conn: psycopg.Connection, run: Run) -> None:
    conn.execute(
        "create function fail() returns trigger language plpgsql as"
        " $$ begin raise exception 'the disk is full' using hint = 'buy another'; end $$"
    )
    conn.execute(
        "create trigger fail before update on agent_task for each row when (new.status = 'failed')"
        " execute function fail()"
    )
    status, _, err = run("replay", SAMPLE_PATH)
    assert (status, err) == (2, "agent-progress: the disk is full\n")
    assert_cancelled(conn)


def test_an_agent_that_waits_too_long_for_a_lock_ends_all_in_one_line(
    dsn: str, conn: psycopg.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    with psycopg.connect(dsn) as other:
        other.execute("lock table agent_task in exclusive mode")
        assert main(["replay", str(SAMPLE_PATH), "--dsn", f"{dsn} options='-c lock_timeout=200ms'"]) == 2
    assert capfd.readouterr().err == "agent-progress: canceling statement due to lock timeout\n"
    assert [w.status for w in list_workflows(conn)] in (["cancelled"], ["running"])


def test_numbers_that_are_wrong_in_the_end_make_it_exit_1(conn: psycopg.Connection, run: Run) -> None:
    conn.execute("alter table agent_task disable trigger agent_task_progress_update")
    status, out, _ = run("replay", SAMPLE_PATH)
    assert status == 1
    assert out.splitlines()[-1].endswith("1 of 1 workflows WRONG")
    conn.execute("alter table agent_task enable trigger agent_task_progress_update")
    run("repair")


def test_a_deadlock_among_agents_is_taken_again(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("create sequence hiccup")
    conn.execute(
        "create function hiccup() returns trigger language plpgsql as"
        " $$ begin if nextval('hiccup') % 7 = 0 then raise deadlock_detected; end if; return null; end $$"
    )
    conn.execute("create trigger hiccup after insert or update on agent_task execute function hiccup()")
    player = play(dsn)
    workflow = get_workflow(conn, player.workflow_ids[0])
    assert (workflow.agents_completed, workflow.agents_failed, workflow.agents_cancelled) == (22, 1, 1)


# --- The embedded server and the demo -----------------------------------------------------------------------


@pytest.fixture
def private() -> Iterator[Path]:
    """A data directory of the test's own for the embedded server; no process of it may be left."""
    base = Path(tempfile.mkdtemp(prefix="ap-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"))
    base.chmod(0o755)
    yield base / "data"
    alive = is_alive(base / "data")
    shutil.rmtree(base, ignore_errors=True)
    assert not alive


def elsewhere(private: Path, dsn: str) -> dict[str, str]:
    """What sends the embedded server to the test's own directory, and a demo that looks at it astray."""
    return {"AGENT_PROGRESS_DATA": str(private), "DATABASE_URL": dsn}


def assert_demo_output(out: str) -> None:
    rows = [re.split(" {2,}", line.strip()) for line in out.splitlines()]
    by_name = {row[0]: row[1:-1] for row in rows if re.fullmatch(r"[0-9a-f-]{36}", row[-1])}
    assert set(by_name) == {"checkout service", "login page", "invoice export", "search index"}
    assert by_name["login page"] == ["100 %", "24 of 24 agents", "completed"]
    assert by_name["search index"] == ["92 %", "22 of 24 agents", "1", "1", "failed"]
    assert re.search(r"^96 tasks in \d+\.\d s, stored equals counted for all\r?$", out, re.M)
    assert re.search(r"look around: +\S+.* list --embedded\s+\S+.* psql --embedded", out)


def test_replay_without_a_database_uses_the_embedded_server(private: Path) -> None:
    process = start("replay", SAMPLE_PATH, env={**os.environ, "AGENT_PROGRESS_DATA": str(private)})
    status, out, err = outcome(process)
    assert (status, err) == (0, "")
    assert "22 of 24 agents" in out
    assert "stored equals counted for all" in out


def test_the_demo_ends_in_time_with_a_table_and_the_check(private: Path, dsn: str, conn: psycopg.Connection) -> None:
    began = time.monotonic()
    status, out, err = outcome(start("demo", env={**os.environ, **elsewhere(private, dsn)}))
    assert time.monotonic() - began < 15
    assert (status, err) == (0, "starting a private PostgreSQL server\n")
    assert_demo_output(out)
    # DATABASE_URL is no place for a demo.
    assert list_workflows(conn) == []


def test_the_demo_in_a_terminal_shows_live_bars(private: Path, dsn: str, conn: psycopg.Connection) -> None:
    with Terminal("demo", "--speed", "100", **elsewhere(private, dsn)) as terminal:
        terminal.read_until("stored equals counted")
        assert terminal.end() == 0
        assert_demo_output(terminal.text)
        assert re.search(r"checkout service +█+[█░]+ +\d+ % +\d+ of 24 agents .*(running|completed)", terminal.text)
        assert b"\x1b[32m\xe2\x96\x88" in terminal.raw  # green blocks
    assert list_workflows(conn) == []


def test_ctrl_c_ends_the_demo_and_its_server(private: Path, dsn: str) -> None:
    with Terminal("demo", **elsewhere(private, dsn)) as terminal:
        terminal.read_until("1 of 24 agents")
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text


def test_the_demo_keeps_its_server_for_psql_until_it_is_interrupted(private: Path, dsn: str, bin_dir: Path) -> None:
    process = start("demo", "--keep", "--speed", "400", env={**os.environ, **elsewhere(private, dsn)})
    lines: list[str] = []
    while not (found := re.match(r"or with any psql: +psql (.+)$", lines[-1] if lines else "")):
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    query = "select count(*), sum(agents_total) from workflow_progress"
    psql = [bin_dir / "psql", "-XAt", "-c", query, *found[1].split()]
    assert subprocess.run(psql, capture_output=True, text=True).stdout == "4|96\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    status, _, err = outcome(process)
    assert (status, err.splitlines()[1:]) == (
        0,
        ["all keeps running until Ctrl-C", "stopping"],
    )


def test_the_demo_plays_where_dsn_says(dsn: str, conn: psycopg.Connection) -> None:
    status, _, err = outcome(start("demo", "--speed", "400", "--dsn", dsn))
    assert (status, err) == (0, "playing in the database that --dsn names\n")
    assert {w.name for w in list_workflows(conn)} == {
        "checkout service",
        "login page",
        "invoice export",
        "search index",
    }


def test_two_replays_share_one_private_server(private: Path) -> None:
    environment = {**os.environ, "AGENT_PROGRESS_DATA": str(private)}
    started = [start("replay", SAMPLE_PATH, env=environment) for _ in range(2)]
    results: list[Any] = [None, None]

    def collect(place: int) -> None:
        results[place] = outcome(started[place])

    threads = [threading.Thread(target=collect, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result[0] for result in results] == [0, 0], results


def test_a_replay_into_an_unmigrated_database_is_one_line(empty: Any, capsys: pytest.CaptureFixture[str]) -> None:
    dsn = empty()
    assert main(["replay", str(SAMPLE_PATH), "--dsn", dsn]) == 2
    assert capsys.readouterr().err == (
        "agent-progress: the database has no agent-progress schema, or an old one"
        " (adopted tables are meant with --name): run agent-progress migrate\n"
    )
    migrate(dsn)
    assert main(["replay", str(SAMPLE_PATH), "--dsn", dsn]) == 0
