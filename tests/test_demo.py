"""Playing recorded runs through a real database, and the demo, as their users do."""

import os
import random
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pyapp import get_workflow, list_stages, list_tasks, list_workflows, migrate
from pyapp.cli import main
from pyapp.cli.demo import SERVED_SPEED
from pyapp.demo import player
from pyapp.demo.files import SAMPLE, demo_traces, read_trace
from pyapp.demo.player import Player

from .commands import Run, Terminal, outcome, start
from .commands import private as private  # a fixture, used by its name
from .commands import run as run
from .helpers import PATIENCE, in_background, obstruct, unanswered_commits, wait_for, wait_until_obstructed
from .test_trace import FULL, REAL, real_traces, row

TRACE = read_trace(SAMPLE)


def play(dsn: str, **options: Any) -> Player:
    made = Player(dsn, [TRACE], **options)
    made.play()
    return made


def assert_played_once(conn: psycopg.Connection) -> None:
    """The sample was played, and nothing of it twice."""
    (workflow,) = list_workflows(conn)
    assert (workflow.agents_created, workflow.agents_completed, workflow.progress) == (24, 22, 92)
    assert (workflow.agents_failed, workflow.agents_cancelled, workflow.status) == (1, 1, "failed")
    tasks = {task.external_id: task for task in list_tasks(conn, workflow.workflow_id)}
    assert {key: (t.agent_type, t.stage, t.status, t.retry_count) for key, t in tasks.items()} == {
        t.key: (t.agent_type, t.stage, t.attempts[-1].outcome, len(t.attempts) - 1) for t in TRACE.tasks
    }
    moves = conn.execute("select payload ->> 'to' from workflow_event where event_type = 'status'").fetchall()
    assert len(moves) == len(set(moves))
    assert conn.execute("select * from workflow_progress_drift").fetchall() == []


# --- The player ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agents", [1, 12])
def test_any_number_of_agents_comes_to_the_same_end_each_on_its_own_connection(
    dsn: str, conn: psycopg.Connection, agents: int
) -> None:
    conn.execute("create table witness (pid integer)")
    conn.execute(
        "create function witness() returns trigger language plpgsql as"
        " $$ begin insert into public.witness values (pg_backend_pid()); return null; end $$"
    )
    conn.execute("create trigger witness after update on agent_task execute function witness()")
    played = play(dsn, agents=agents)
    assert_played_once(conn)
    sessions = len(conn.execute("select distinct pid from witness").fetchall())
    assert agents // 2 < sessions <= agents  # by chance one may have no task to report
    workflow = get_workflow(conn, played.workflow_ids[0])
    assert (workflow.name, workflow.type, workflow.agents_planned) == ("sample", "nextflow", 24)
    tasks = list_tasks(conn, workflow.workflow_id)
    assert all(task.completed_at <= workflow.completed_at for task in tasks)  # it ends after the last of them
    assert all(t.assigned_at <= t.started_at <= t.completed_at for t in tasks if t.started_at and t.assigned_at)
    stages = list_stages(conn, workflow.workflow_id)
    assert [(stage.name, stage.status, stage.agents_total) for stage in stages] == [
        ("scaffold", "completed", 6), ("validate", "completed", 5), ("test", "completed", 6), ("deploy", "failed", 7)
    ]  # fmt: skip
    moved = "select payload ->> 'to' from workflow_event where event_type = 'stage_changed' order by id"
    assert [name for (name,) in conn.execute(moved).fetchall()] == [stage.name for stage in stages]


def test_a_trace_of_one_stage_has_no_plan(dsn: str, conn: psycopg.Connection, tmp_path: Path) -> None:
    file = tmp_path / "run.csv"
    file.write_text("\n".join([FULL, row(1, "P (a)", end=5), row(2, "P (b)", end=9)]))
    Player(dsn, [read_trace(file)]).play()
    assert conn.execute("select * from workflow_stage").fetchall() == []
    assert [w.progress for w in list_workflows(conn)] == [100]


def test_progress_never_falls_while_tasks_are_added_at_their_times(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("""
        create table seen (ordinal serial, progress integer, agents_created integer, agents_total integer);
        create function see() returns trigger language plpgsql as $$ begin
            insert into public.seen (progress, agents_created, agents_total)
            values (new.progress, new.agents_created, new.agents_total);
            return null;
        end $$;
        create trigger see after update on workflow for each row execute function see()
    """)
    play(dsn, speed=150)
    progress, created, totals = conn.execute(
        "select array_agg(progress order by ordinal), array_agg(agents_created), array_agg(agents_total) from seen"
    ).fetchone()
    assert (progress, progress[-1], set(totals)) == (sorted(progress), 92, {24})
    assert len(set(created)) > 4
    (workflow,) = list_workflows(conn)
    finished = {task.key: task.attempts[-1].finished for task in TRACE.tasks}
    for task in list_tasks(conn, workflow.workflow_id):  # none before its time
        assert (task.completed_at - workflow.created_at).total_seconds() >= finished[task.external_id] / 150


def test_a_player_that_is_stopped_cancels_what_is_open(dsn: str, conn: psycopg.Connection) -> None:
    playing = Player(dsn, [TRACE], speed=1)
    ended = in_background(playing.play)
    wait_for(lambda: list_workflows(conn)[0].agents_completed)
    playing.stopped.set()
    ended.result(60)
    (workflow,) = list_workflows(conn)
    assert (workflow.status, workflow.agents_open) == ("cancelled", 0)
    assert workflow.agents_cancelled > 0


def test_an_agent_that_fails_ends_all_and_says_why(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute(
        "create function fail() returns trigger language plpgsql as $$ begin raise exception 'the disk is full'; end $$"
    )
    conn.execute(
        "create trigger fail before update on agent_task for each row when (new.status = 'failed')"
        " execute function fail()"
    )
    with pytest.raises(psycopg.errors.RaiseException, match="the disk is full"):
        play(dsn)
    assert [w.status for w in list_workflows(conn)] == ["cancelled"]


def test_a_schema_of_its_own_is_played_in(empty: Callable[[], str]) -> None:
    dsn = empty()
    migrate(dsn, schema="My Agents")
    played = play(dsn, schema="My Agents")
    with psycopg.connect(dsn) as conn:
        assert get_workflow(conn, played.workflow_ids[0], schema="My Agents").agents_completed == 22
        assert [stage.status for stage in list_stages(conn, played.workflow_ids[0], schema="My Agents")][:1]


# --- What it outlives ---------------------------------------------------------------------------------------


def test_answers_that_were_lost_after_the_commit_count_nothing_twice(own_server: Callable[[], Any]) -> None:
    dsn = own_server().dsn
    migrate(dsn)
    chance, lost, answered = random.Random(1), 0, set()
    playing = Player(dsn, [TRACE], agents=3)
    with psycopg.connect(dsn, autocommit=True) as conn, unanswered_commits(conn):
        ended = in_background(playing.play)
        while not ended.done():
            waiting = "select pid, query_start from pg_stat_activity where wait_event = 'SyncRep'"
            for commit in set(conn.execute(waiting).fetchall()) - answered:
                answered.add(commit)
                loses = not lost or chance.random() < 0.3
                lost += loses
                # A cancelled wait is an answer: committed.
                conn.execute(f"select pg_{'terminate' if loses else 'cancel'}_backend(%s)", commit[:1])
        ended.result()
        assert lost > 10
        assert_played_once(conn)


def test_deadlocks_and_serialization_failures_are_taken_again(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("create sequence hiccup")
    conn.execute(
        "create function hiccup() returns trigger language plpgsql as"
        " $$ begin if nextval('public.hiccup') % 7 = 0 then raise deadlock_detected; end if; return null; end $$"
    )
    conn.execute("create trigger hiccup after insert or update on agent_task execute function hiccup()")
    play(f"{dsn} options='-c default_transaction_isolation=serializable'", agents=8)
    assert_played_once(conn)


def test_a_replay_goes_on_after_the_server_crashed_and_restarted(own_server: Callable[[], Any]) -> None:
    server = own_server()
    migrate(server.dsn)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        obstruct(conn, "new.external_id = '12' and new.status = 'completed'")
        process = start("replay", SAMPLE, "--speed", "60", "--dsn", server.dsn)
        assert re.search(r"sample .* of 24 agents", process.stdout.readline())
        wait_until_obstructed(conn)
    os.kill(server.pid, signal.SIGKILL)
    assert re.fullmatch(r"the database is away, trying again[^\n]+\n", process.stderr.readline())
    own_server()
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute("delete from obstacle")
    status, out, err = outcome(process)
    assert (status, err) == (0, "the database is back\n")
    percent = [int(shown) for shown in re.findall(r"(\d+) %  \d+ of 24 agents", out)]
    assert percent == sorted(percent)
    assert "stored equals counted for all" in out
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        assert_played_once(conn)


def test_a_database_that_stays_away_ends_it_in_one_clear_line(
    own_server: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    server = own_server()
    migrate(server.dsn)
    monkeypatch.setattr(player, "PATIENCE", 0.5)
    ending = in_background(main, ["replay", str(SAMPLE), "--speed", "5", "--dsn", server.dsn])
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        wait_for(lambda: conn.execute("select from agent_task where status = 'completed'").fetchall())
    os.kill(server.pid, signal.SIGKILL)
    assert ending.result(60) == 2
    err = capfd.readouterr().err.splitlines()
    assert err[-1].startswith("agent-progress: ")
    assert len(err) <= 2


# --- replay -------------------------------------------------------------------------------------------------


def test_replay_plays_several_files_at_once_and_tells_how_they_ended(
    conn: psycopg.Connection, run: Run, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("\n".join([FULL, row(1, "A (1)", end=5), row(2, "B (2)", submit=6, start=6, end=9)]))
    status, out, err = run("replay", SAMPLE, other)
    assert (status, err) == (0, "")
    *_, sample, short, verdict = [re.split(" {2,}", line) for line in out.splitlines()]
    newest, oldest = list_workflows(conn)
    assert sample == ["sample", "█" * 9 + "░", "92 %", "22 of 24", "1", "failed", str(oldest.workflow_id)]
    assert short == ["other", "█" * 10, "100 %", "2 of 2", "completed", str(newest.workflow_id)]
    assert re.fullmatch(r"26 tasks in \d+\.\d s, stored equals counted for all", *verdict)


def test_a_bad_file_is_one_line_and_nothing_is_written(conn: psycopg.Connection, run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(f"{FULL}\n\n1;2;3\n")
    for files, complaint in (
        ([SAMPLE, bad], f"{bad}:3: no usable row; first: 3 fields instead of 13, row skipped"),
        ([SAMPLE, tmp_path / "none"], f"{tmp_path}/none: No such file or directory"),
    ):
        assert run("replay", *files) == (2, "", f"agent-progress: {complaint}\n")
    assert list_workflows(conn) == []


def test_malformed_rows_are_reported_but_do_not_flood_the_terminal(
    conn: psycopg.Connection, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "run.csv"
    file.write_text("\n".join([FULL, row(1), *["garbage\x1b[2J"] * 3000, row(2)]))
    status, out, err = run("replay", file)
    assert (status, len(err.splitlines())) == (0, 51)
    assert err.splitlines()[0] == f"{file}:3: 1 fields instead of 13, row skipped"
    assert err.splitlines()[-1] == "run: 2950 more warnings"
    assert out.splitlines()[-1].startswith("2 tasks in ")


def test_the_real_traces_are_played_whole(conn: psycopg.Connection, run: Run) -> None:
    status, out, err = run("replay", *real_traces(), "--agents", "6")
    assert (status, err) == (0, "")
    workflows = list_workflows(conn)
    assert {(w.agents_created, w.agents_failed) for w in workflows} == {numbers[:2] for numbers in REAL.values()}
    assert {(w.agents_open, w.status) for w in workflows} == {(0, "completed")}
    assert {w.progress for w in workflows} == {99, 100}
    assert re.fullmatch(r"3265 tasks in [\d.]+ s, stored equals counted for all", out.splitlines()[-1])


def test_numbers_that_are_wrong_in_the_end_make_it_exit_1(conn: psycopg.Connection, run: Run) -> None:
    conn.execute("alter table agent_task disable trigger agent_task_progress_update")
    status, out, _ = run("replay", SAMPLE)
    assert status == 1
    assert out.splitlines()[-1].endswith("1 of 1 workflows WRONG")
    conn.execute("alter table agent_task enable trigger agent_task_progress_update")
    run("repair")


def test_a_database_without_the_schema_is_one_line(
    empty: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(SAMPLE), "--dsn", empty()]) == 2
    assert re.fullmatch(r"agent-progress: [^\n]*run agent-progress migrate[^\n]*\n", capsys.readouterr().err)


# --- The embedded server and the demo -----------------------------------------------------------------------


def assert_demo_output(out: str) -> None:
    rows = [re.split(" {2,}", line.strip()) for line in out.splitlines()]
    by_name = {cells[0].removeprefix("└ "): cells[1:-1] for cells in rows if re.fullmatch(r"[0-9a-f-]{36}", cells[-1])}
    assert set(by_name) == {"checkout service", "login page", "invoice export", "search index"}
    assert by_name["login page"][1:] == ["100 %", "22 of 22", "completed"]
    assert by_name["search index"][1:] == ["92 %", "22 of 24", "1", "failed"]
    assert re.search(r"^92 tasks in \d+\.\d s, stored equals counted for all\r?$", out, re.M)
    assert re.search(r"look around: +\S+.* list --embedded\s+\S+.* psql --embedded", out)


def test_two_replays_without_a_database_share_one_private_server(private: Path) -> None:
    for process in [start("replay", SAMPLE) for _ in range(2)]:
        status, out, err = outcome(process)
        assert (status, err) == (0, "")
        assert "stored equals counted for all" in out


def test_the_demo_ends_by_itself_with_a_table_and_the_check_whatever_the_environment_says(
    private: Path, conn: psycopg.Connection, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", dsn)
    status, out, err = outcome(start("demo", "--speed", "100"))
    assert (status, err) == (0, "starting a private PostgreSQL server\n")
    assert_demo_output(out)
    assert list_workflows(conn) == []


def test_the_demo_in_a_terminal_shows_live_bars(private: Path) -> None:
    with Terminal("demo", "--speed", "100") as terminal:
        assert terminal.end() == 0
        assert_demo_output(terminal.text)
        assert re.search(r"checkout service +█*[█▓▒░]+ +\d+ % +\d+ of 24 .*(running|failed)", terminal.text)
        assert b"\x1b[32m\xe2\x96\x88" in terminal.raw  # green blocks


def test_output_into_head_ends_the_demo_silently(private: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m pyapp demo | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE)
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == "starting a private PostgreSQL server\n"


def test_ctrl_c_ends_the_demo_and_its_server(private: Path) -> None:
    with Terminal("demo", "--speed", "1") as terminal:
        terminal.read_until(" of 24")
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert "stopping: open tasks and their workflows are cancelled" in terminal.text
        assert "Traceback" not in terminal.text


@pytest.mark.parametrize("option", ["--keep", "--serve"])
def test_the_demo_keeps_its_server_until_it_is_interrupted(private: Path, bin_dir: Path, option: str) -> None:
    process = start("demo", option, "--port", "0", "--speed", "400")
    lines: list[str] = []
    while not (found := re.match(r"or with any psql: +psql (.+)$", lines[-1] if lines else "")):
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    query = "select count(*), sum(agents_total) from workflow_progress"
    psql = [bin_dir / "psql", "-XAt", "-c", query, *shlex.split(found[1])]
    assert subprocess.run(psql, capture_output=True, text=True).stdout == "4|92\n"
    process.send_signal(signal.SIGINT)
    status, _, err = outcome(process)
    assert (status, err.splitlines()[-1:]) == (0, ["stopping"])


def test_the_dashboard_of_the_demo_has_something_to_show_for_three_minutes() -> None:
    ends = [task.attempts[-1].finished * trace.stretch for trace in demo_traces() for task in trace.tasks]
    assert max(ends) / SERVED_SPEED >= 180


@pytest.mark.parametrize(("option", "name"), [("--serve", "SIGTERM"), ("--keep", "SIGHUP")])
def test_a_demo_that_is_terminated_leaves_no_server_behind(private: Path, option: str, name: str) -> None:
    process = start("demo", option, "--port", "0")
    while not process.stdout.readline().startswith("search index"):
        assert process.poll() is None
    process.send_signal(signal.Signals[name])
    status, _, err = outcome(process)
    assert (status, "Traceback" in err) == (128 + signal.Signals[name], False)


def test_the_demo_plays_where_dsn_says(dsn: str, conn: psycopg.Connection) -> None:
    status, _, err = outcome(start("demo", "--speed", "400", "--dsn", dsn))
    assert (status, err) == (0, "playing in the database that --dsn names\n")
    assert len(list_workflows(conn)) == 4
