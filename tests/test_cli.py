"""The command line: what it prints where, how it ends, and that nothing hostile reaches the terminal."""

import argparse
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pyapp import migrate
from pyapp.cli import checks, main
from pyapp.cli.main import _parser
from pyapp.renew import resource

from .helpers import new_tasks, new_workflow, set_status
from .test_tasks import as_replica

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = "evil\x1b[2J\x1b]0;title\x07\nsecond line\r\t\u202egnp.exe\u2066\x9b31m\x7f end"
NEEDS_A_DATABASE = ["migrate", "rollback", "pending", "list", f"show {UUID(int=0)}", "watch", "check", "repair", "psql"]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(dsn: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command on the test's database within this process: exit status, stdout, stderr."""

    def call(*arguments: Any) -> tuple[int, str, str]:
        try:
            status = main([*map(str, arguments), "--dsn", dsn])
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capsys.readouterr()

    return call


def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    """Start a command in a process of its own, without a terminal."""
    environment = {**options.pop("env", os.environ)}
    environment.pop("PYTHONUNBUFFERED", None)  # which would hide that something is not flushed
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(
        [sys.executable, "-m", "pyapp", *map(str, arguments)],
        **{"text": True, "cwd": ROOT, **pipes, **options},
        env=environment,
    )
    # A test that waits for a line which never comes shall fail, not hang.
    guard = threading.Timer(60, process.kill)
    guard.daemon = True
    guard.start()
    return process


def outcome(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


class Terminal:
    """A command at work in a terminal of a fixed size, and what it shows there."""

    def __init__(self, *arguments: Any, columns: int = 120, code: str | None = None, **environment: str) -> None:
        # The size is that of the terminal, not what pytest's workers are told.
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, *(["-c", code] if code else ["-m", "pyapp"]), *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env={**inherited, "TERM": "xterm-256color", **environment},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.raw = b""

    @property
    def text(self) -> str:
        """What was written, without the sequences that colour it and move the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode(errors="replace"))

    def read_until(self, wanted: str | None, seconds: float = 30) -> str:
        """Read until the text is there, or to the end."""
        give_up = time.monotonic() + seconds
        while wanted is None or wanted not in self.text:
            assert time.monotonic() < give_up, self.text
            if not select.select([self.master], [], [], 0.1)[0]:
                continue
            try:
                self.raw += os.read(self.master, 65536)
            except OSError:  # the last process of the terminal is gone
                assert wanted is None, self.text
                break
        return self.text

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self, seconds: float = 30) -> int:
        """Read to the end and return the exit status."""
        self.read_until(None, seconds)
        return self.process.wait(seconds)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


def commands() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    return dict(subparsers.choices)


def mixed_workflow(conn: psycopg.Connection, **columns: Any) -> Any:
    workflow = new_workflow(conn, status="running", current_stage="review", **columns)
    new_tasks(conn, workflow, "completed", "completed", "failed", "running", "pending")
    return workflow


# --- Help ---------------------------------------------------------------------------------------------------


def test_every_command_and_every_option_has_a_help_text() -> None:
    (subparsers,) = (a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert {choice.dest for choice in subparsers._choices_actions if choice.help} == set(commands())
    for name, parser in commands().items():
        for action in parser._actions:
            assert action.help, f"{name} {action.dest}"


@pytest.mark.parametrize("command", [None, *commands()])
def test_help_is_printed_for_each_command(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"] if command else ["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: agent-progress")
    assert "--dsn DSN" in out
    assert max(map(len, out.splitlines())) <= 120
    if command is None:
        assert "exit status: 0 fine; 1 not found, or drift; 2 wrong usage" in out


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert re.fullmatch(r"agent-progress \d+\.\d+\.\d+\n", capsys.readouterr().out)


# --- Which database -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", NEEDS_A_DATABASE)
def test_without_a_database_a_command_ends_2_with_one_clear_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 2
    assert capsys.readouterr() == (
        "",
        "agent-progress: which database? Give --dsn, set DATABASE_URL or PGHOST and the like, or say --embedded\n",
    )


def test_the_dsn_stands_before_or_after_the_command_or_in_the_environment(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--dsn", dsn, "list"]) == 0
    assert main(["list", "--dsn", dsn]) == 0
    monkeypatch.setenv("DATABASE_URL", dsn)
    assert main(["list"]) == 0
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost:1/nowhere")
    assert main(["list"]) == 2
    assert main(["list", "--dsn", dsn]) == 0
    monkeypatch.delenv("DATABASE_URL")
    for name, value in psycopg.conninfo.conninfo_to_dict(dsn).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(name, f"PG{name.upper()}"), str(value))
    assert main(["list"]) == 0
    assert capsys.readouterr().out == "no workflows\n" * 5


def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for command in NEEDS_A_DATABASE[:-1]:
        assert main([*command.split(), "--dsn", "host=/nowhere/at-all user=me password=secret"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"agent-progress: no connection to the database: .*No such file or directory.*\n", err)
        assert "secret" not in err


@pytest.mark.parametrize(
    "bad",
    [
        "postgresql://u:se-cret@[bad",
        "postgresql://u:top@se-cret@localhost/db",
        "postgresql://u:se%zzse-cret@localhost/db",
        "mysql://u:se-cret@h/d",
        "se-cret",
        "host=localhost password='se-cret",
        "host=localhost passwrd=se-cret",
    ],
)
@pytest.mark.parametrize("command", ["list", "migrate", "watch"])
def test_a_connection_string_that_cannot_be_read_is_never_shown(
    bad: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--dsn", bad]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"agent-progress: the connection string cannot be read \(not shown.*\n", err)
    assert "cret" not in err


@pytest.mark.parametrize("command", ["list", f"show {UUID(int=0)}", "watch", "repair"])
def test_a_database_without_the_schema_is_one_line(
    command: str, empty: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--dsn", empty()]) == 2
    assert capsys.readouterr() == (
        "",
        "agent-progress: the database has no agent-progress schema, or an old one"
        " (adopted tables are meant with --name): run agent-progress migrate\n",
    )


def test_check_of_a_database_without_the_schema_does_not_pass(
    empty: Callable[[], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--dsn", empty()]) in (1, 2)
    assert "agent-progress migrate" in capsys.readouterr().err


# --- Usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("nonsense", "invalid choice: 'nonsense'"),
        ("show", "the following arguments are required: ID"),
        ("show 123", "'123' is not a workflow id (a UUID)"),
        ("watch x", "'x' is not a workflow id (a UUID)"),
        ("check x", "'x' is not a workflow id (a UUID)"),
        ("repair x", "'x' is not a workflow id (a UUID)"),
        ("list --after x", "'x' is not a workflow id (a UUID)"),
        ("list --limit 0", "'0' is not a positive number"),
        ("list --limit -1", "'-1' is not a positive number"),
        ("list --limit many", "'many' is not a positive number"),
        ("list --limit 99999999999", "'99999999999' is not a positive number"),
        ("list --status done", "invalid choice: 'done'"),
        ("list --priority urgent", "invalid choice: 'urgent'"),
        ("watch --interval 0", "'0' is not a number of seconds (0 to 3600)"),
        ("watch --interval nan", "'nan' is not a number of seconds (0 to 3600)"),
        ("replay", "the following arguments are required: FILE"),
        ("replay f --agents 0", "'0' is not a number of agents (1 to 150)"),
        ("replay f --speed inf", "'inf' is not a speed (a positive number)"),
        ("replay f --speed 0", "'0' is not a speed (a positive number)"),
    ],
)
def test_wrong_usage_ends_2_and_says_what_is_wrong(command: str, complaint: str, run: Run) -> None:
    status, out, err = run(*command.split())
    assert (status, out) == (2, "")
    assert complaint in err.splitlines()[-1]


def test_control_characters_in_an_argument_are_not_echoed(run: Run) -> None:
    for arguments in (("show", HOSTILE), ("list", "--limit", HOSTILE)):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert all(char.isprintable() or char == "\n" for char in err)


# --- migrate, pending, rollback -----------------------------------------------------------------------------


def test_the_schema_commands_say_what_they_do(empty: Callable[[], str], capsys: pytest.CaptureFixture[str]) -> None:
    dsn = ["--dsn", empty()]
    names = sorted(file.stem for file in resource("migrations").glob("*[!k].sql"))
    assert len(names) >= 6

    def call(*arguments: str) -> tuple[int, str, str]:
        return main([*arguments, *dsn]), *capsys.readouterr()

    def lines(what: str, listed: list[str]) -> str:
        return "".join(f"{what} {name}\n" for name in listed)

    assert call("pending") == (0, lines("pending", names), "")
    assert call("pending", "--json") == (0, json.dumps(names) + "\n", "")
    assert call("migrate") == (0, lines("applied", names), lines("applying", names))
    assert call("migrate") == (0, "", "nothing to do: the schema is up to date\n")
    assert call("migrate", "--json") == (0, "[]\n", "")
    assert call("pending") == (0, "", "nothing pending: the schema is up to date\n")
    assert call("rollback") == (0, f"rolled back {names[-1]}\n", f"rolling back {names[-1]}\n")
    assert call("migrate", "--json")[:2] == (0, json.dumps(names[-1:]) + "\n")
    assert call("migrate", "--mark") == (0, "", "nothing to do: the schema is up to date\n")
    with psycopg.connect(dsn[1], autocommit=True) as conn:
        new_workflow(conn)
    assert call("rollback", "--all") == (
        2,
        "",
        "agent-progress: nothing changed: table workflow holds rows, which would be lost; --drop-data drops them\n",
    )
    assert call("rollback", "--all", "--drop-data", "--json")[:2] == (0, json.dumps(names[::-1]) + "\n")
    assert call("rollback") == (0, "", "nothing to do: no migration is applied\n")
    assert call("migrate", "--mark")[0] == 2


def test_psql_opens_the_database(dsn: str, bin_dir: Path) -> None:
    path = f"{bin_dir}{os.pathsep}{os.environ['PATH']}"
    process = start("psql", "--dsn", dsn, "--", "-XAtc", "select 40 + 2", env={**os.environ, "PATH": path})
    assert outcome(process) == (0, "42\n", "")
    process = start("psql", "--dsn", dsn, "--", "-c", "select nonsense", env={**os.environ, "PATH": path})
    assert outcome(process)[0] != 0


# --- list and show ------------------------------------------------------------------------------------------


def test_list_shows_a_line_for_each_workflow(conn: psycopg.Connection, run: Run) -> None:
    workflow = mixed_workflow(conn, name="checkout", created_at="2020-02-03 04:05")
    done = new_workflow(conn, name="login", status="completed", priority="high", created_at="2020-01-01")
    status, out, err = run("list")
    assert (status, err) == (0, "")
    header, first, second = out.splitlines()
    assert header.split() == ["ID", "NAME", "PROGRESS", "AGENTS", "FAILED", "STATUS", "STAGE", "CREATED"]
    assert first == (
        f"{workflow}  checkout  ████░░░░░░  40 %  2 of 5 agents  1       running    review          2020-02-03 04:05"
    )
    assert re.split(" {2,}", second)[:4] == [str(done), "login", "░░░░░░░░░░", "0 %"]
    assert str(done) in run("list", "--status", "completed")[1]
    assert str(workflow) not in run("list", "--status", "completed")[1]
    assert run("list", "--priority", "low")[1] == "no workflows\n"
    assert run("list", "--type", "nothing")[1] == "no workflows\n"
    assert str(done) in run("list", "--limit", "1", "--after", workflow)[1]
    assert run("list", "--after", UUID(int=0)) == (1, "", f"agent-progress: workflow {UUID(int=0)} not found\n")


def test_show_tells_everything_about_a_workflow(conn: psycopg.Connection, run: Run) -> None:
    workflow = mixed_workflow(conn, name="checkout", description="about it", agents_planned=8, trace_id="t-1")
    conn.execute("update agent_task set external_id = 'key-1', stage = 'unit' where status = 'failed'")
    status, out, err = run("show", workflow, "--tasks", "--metrics")
    assert (status, err) == (0, "")
    assert out.splitlines()[:8] == [
        f"workflow   checkout  ({workflow})",
        "about      about it",
        "progress   ██████░░░░░░░░░░░░░░░░░░ 25 %  (2 of 8 agents)",
        "agents     2 completed, 1 failed, 2 open, 3 not created yet",
        "settled    38 %",
        "status     running",
        "stage      review",
        "type       app, priority medium",
    ]
    assert re.search(r"^read in    \d+\.\d\d ms, not stale$", out, re.M)
    assert re.search(r"key-1  agent  unit   failed", out)
    assert len(out.split("\n\n")[1].splitlines()) == 6


def test_show_of_an_unknown_workflow_ends_1(run: Run) -> None:
    assert run("show", UUID(int=0)) == (1, "", f"agent-progress: workflow {UUID(int=0)} not found\n")


def test_show_says_when_a_number_is_stale(conn: psycopg.Connection, run: Run) -> None:
    workflow = mixed_workflow(conn)
    as_replica(conn, "delete from agent_task")
    assert re.search(r"ms, STALE$", run("show", workflow, "--metrics")[1], re.M)
    run("repair")


def test_output_with_json_is_json_everywhere(conn: psycopg.Connection, run: Run) -> None:
    workflow = mixed_workflow(conn, name=HOSTILE, description="ü")
    finished = new_workflow(conn, status="completed")

    def read(*arguments: Any) -> Any:
        status, out, err = run(*arguments, "--json")
        assert (status, err) == (0, "")
        assert all(char.isprintable() or char == "\n" for char in out)
        return json.loads(out)

    assert {entry["workflow_id"] for entry in read("list")} == {str(workflow), str(finished)}
    shown = read("show", workflow, "--tasks", "--metrics")
    assert (shown["name"], shown["description"], shown["progress"]) == (HOSTILE, "ü", 40)
    assert len(shown["tasks"]) == 5
    assert shown["tasks"][0]["payload"] == {}
    assert shown["metrics"]["stale_data"] is False
    assert shown["created_at"][:2] == "20"
    assert read("show", finished)["agents_total"] == 0
    assert read("watch", finished)["status"] == "completed"
    assert read("check") == {"workflows": 2, "drift": [], "missing": []}
    assert read("repair") == []
    assert read("pending") == []


@pytest.mark.parametrize(
    "command", [["list"], ["show", "--tasks", "--metrics", "ID"], ["check"], ["repair"], ["watch", "ID"]]
)
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_hostile_text_never_reaches_the_terminal_raw(
    command: list[str], form: list[str], conn: psycopg.Connection, run: Run
) -> None:
    workflow = new_workflow(
        conn,
        status="completed",
        **dict.fromkeys(("name", "description", "type", "current_stage", "trace_id"), HOSTILE),
    )
    new_tasks(conn, workflow, "completed")
    text = dict.fromkeys(("agent_type", "stage", "external_id"), HOSTILE)
    conn.execute(
        "update agent_task set agent_type = %(agent_type)s, stage = %(stage)s, external_id = %(external_id)s", text
    )
    as_replica(conn, "update workflow set agents_completed = 5")
    _, out, err = run(*[workflow if word == "ID" else word for word in command], *form)
    assert "evil" in out
    assert [char for char in out + err if not char.isprintable() and char != "\n"] == []
    assert "\nsecond line" not in out
    run("repair")


def test_a_hostile_name_does_not_get_through_live_bars(conn: psycopg.Connection, dsn: str) -> None:
    workflow = new_workflow(conn, name=HOSTILE + " [red]not markup[/red]", status="completed")
    with Terminal("watch", workflow, "--dsn", dsn, columns=200) as terminal:
        assert terminal.end() == 0
        assert b"\x1b[2J" not in terminal.raw
        assert b"\x1b]0;" not in terminal.raw
        assert b"\x07" not in terminal.raw
        assert "\u202e" not in terminal.text
        assert "[red]not markup[/red]" in terminal.text


def test_output_into_head_ends_quietly(conn: psycopg.Connection, dsn: str) -> None:
    conn.execute("insert into workflow (name, type) select repeat('x', 40), 'app' from generate_series(1, 20000)")
    command = f"{sys.executable} -m pyapp list --limit 20000 --dsn '{dsn}' | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout[:2], done.stdout.count("\n"), done.stderr) == ("ID", 1, "")


def test_a_terminal_that_knows_ascii_only_is_no_obstacle(conn: psycopg.Connection, dsn: str) -> None:
    workflow = mixed_workflow(conn, name="caffè", description="日本")
    for command in (["list"], ["show", workflow], ["check"]):
        process = start(*command, "--dsn", dsn, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
        status, out, err = outcome(process)
        assert (status, err) == (0, ""), command
        assert out.isascii()


# --- check and repair ---------------------------------------------------------------------------------------


def test_check_of_what_is_right_ends_0(conn: psycopg.Connection, run: Run) -> None:
    workflow = mixed_workflow(conn)
    mixed_workflow(conn)
    assert run("check") == (0, "2 workflows checked, stored equals counted\n", "")
    assert run("check", workflow) == (0, "1 workflow checked, stored equals counted\n", "")
    assert run("check", UUID(int=0)) == (1, "", f"agent-progress: workflow {UUID(int=0)} not found\n")


def test_check_prints_drift_and_repair_mends_it_and_says_so(conn: psycopg.Connection, run: Run) -> None:
    workflow, right = mixed_workflow(conn, name="checkout"), mixed_workflow(conn, name="login")
    as_replica(conn, "update agent_task set status = 'completed' where workflow_id = %s", [workflow])
    stored = "40 % (2 of 5, 5 created, 1 failed, 0 cancelled)"
    counted = "100 % (5 of 5, 5 created, 0 failed, 0 cancelled)"
    status, out, err = run("check")
    assert (status, err) == (1, "")
    assert [re.split(" {2,}", line) for line in out.splitlines()] == [
        ["ID", "NAME", "STORED", "COUNTED"],
        [str(workflow), "checkout", stored, counted],
        ["2 workflows checked, 1 wrong: agent-progress repair mends them"],
    ]
    assert run("check", right)[0] == 0
    assert run("check", workflow)[0] == 1
    report = json.loads(run("check", "--json")[1])
    assert (report["workflows"], report["drift"][0]["calculated_completed"], report["missing"]) == (2, 5, [])
    assert run("repair", right) == (0, "nothing to repair\n", "")
    status, out, err = run("repair")
    assert (status, err) == (0, "")
    assert [re.split(" {2,}", line) for line in out.splitlines()] == [
        ["ID", "NAME", "WAS", "IS"],
        [str(workflow), "checkout", stored, counted],
    ]
    assert run("repair") == (0, "nothing to repair\n", "")
    assert run("check")[0] == 0


def test_check_says_which_trigger_is_missing_or_disabled(conn: psycopg.Connection, run: Run) -> None:
    conn.execute("drop trigger agent_task_progress_delete on agent_task")
    conn.execute("alter table workflow disable trigger zz_workflow_progress_guard")
    status, out, err = run("check")
    assert status == 1
    assert out == (
        "missing: trigger agent_task_progress_delete\n"
        "missing: trigger zz_workflow_progress_guard disabled\n"
        "0 workflows checked, stored equals counted\n"
    )
    assert err == ("the schema is not whole: run agent-progress migrate, or enable the triggers, and check again\n")
    assert json.loads(run("check", "--json")[1])["missing"][0] == "trigger agent_task_progress_delete"


def test_repair_of_one_workflow_waits_for_nobody_else(conn: psycopg.Connection, dsn: str, run: Run) -> None:
    workflow, busy = mixed_workflow(conn), mixed_workflow(conn)
    as_replica(conn, "update workflow set agents_completed = 0 where id = %s", [workflow])
    with psycopg.connect(dsn) as other:
        other.execute("update workflow set current_stage = 'x' where id = %s", [busy])
        assert run("repair")[0] == 0
    assert run("check")[0] == 0


def many_tasks(conn: psycopg.Connection, workflows: int, each: int) -> None:
    conn.execute("insert into workflow (name, type) select 'w', 'app' from generate_series(1, %s)", [workflows])
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status)"
        " select id, 'a', 'completed' from workflow cross join generate_series(1, %s)",
        [each],
    )


def test_check_of_many_tasks_shows_that_it_is_alive(
    conn: psycopg.Connection, dsn: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    many_tasks(conn, 40, 5000)
    monkeypatch.setattr(checks, "_PAUSE", 0.005)
    status, out, err = run("check")
    assert (status, out) == (0, "40 workflows checked, stored equals counted\n")
    assert err.splitlines()[0] == "counting 200000 tasks of 40 workflows: 0 s so far"
    with Terminal("check", "--dsn", dsn) as terminal:
        assert terminal.end() == 0
        assert re.search(r"counting 200000 tasks of 40 workflows 0:00:0\d", terminal.text)
        assert terminal.text.rstrip().endswith("40 workflows checked, stored equals counted")


@pytest.mark.skipif(not os.environ.get("AGENT_PROGRESS_HEAVY"), reason="a million tasks: set AGENT_PROGRESS_HEAVY=1")
def test_check_of_a_million_tasks_shows_that_it_is_alive(conn: psycopg.Connection, dsn: str) -> None:
    many_tasks(conn, 1000, 1000)
    with Terminal("check", "--dsn", dsn) as terminal:
        assert terminal.end(120) == 0
        assert "counting 1000000 tasks of 1000 workflows 0:00:0" in terminal.text


# --- watch --------------------------------------------------------------------------------------------------


def test_watch_in_a_pipe_prints_a_plain_line_for_each_change(conn: psycopg.Connection, dsn: str) -> None:
    workflow = mixed_workflow(conn, name="checkout")
    process = start("watch", workflow, "--interval", "0.02", "--dsn", dsn)
    assert process.stdout.readline() == (
        "checkout  █████████░░░░░░░░░░░░░░░  40 %  2 of 5 agents  1 failed  running  review\n"
    )
    conn.execute("update agent_task set status = 'completed' where status in ('running', 'pending')")
    assert process.stdout.readline() == (
        "checkout  ███████████████████░░░░░  80 %  4 of 5 agents  1 failed  running  review\n"
    )
    conn.execute("update agent_task set status = 'cancelled' where status = 'failed'")
    assert "80 %  4 of 5 agents  1 cancelled  running  review" in process.stdout.readline()
    conn.execute("update workflow set status = 'completed'")
    assert outcome(process) == (
        0,
        "checkout  ███████████████████░░░░░  80 %  4 of 5 agents  1 cancelled  completed  review\n",
        "",
    )


def test_watch_in_a_terminal_shows_live_bars(conn: psycopg.Connection, dsn: str) -> None:
    workflow, other = mixed_workflow(conn, name="checkout"), mixed_workflow(conn, name="login")
    (task, *_) = new_tasks(conn, workflow, "running")
    with Terminal("watch", workflow, other, "--interval", "0.02", "--dsn", dsn) as terminal:
        terminal.read_until("2 of 6 agents")
        set_status(conn, task, "completed")
        terminal.read_until("3 of 6 agents")
        conn.execute("update workflow set status = 'completed'")
        assert terminal.end() == 0
        last = terminal.text.replace("\r", "\n").split("workflow  ")[-1]
        assert re.search(r"checkout +█{12,16}░+ +50 % +3 of 6 agents +1 +completed +review", last)
        assert re.search(r"login +█{13}░+ +40 % +2 of 5 agents +1 +completed +review", last)
        assert b"\x1b[31m" in terminal.raw  # the failed share is red


def test_live_bars_fit_a_terminal_of_80_columns(conn: psycopg.Connection, dsn: str) -> None:
    workflow = new_workflow(conn, name="a rather long name of a workflow", status="completed", current_stage="s" * 30)
    new_tasks(conn, workflow, *["completed"] * 9, "failed")
    with Terminal("watch", workflow, "--dsn", dsn, columns=80) as terminal:
        assert terminal.end() == 0
        assert re.search(r"a rat.*… +█+░* +90 % +9 of 10 agents +1 +completed +s+…", terminal.text)


def test_watch_of_an_unknown_workflow_ends_1(run: Run) -> None:
    assert run("watch", UUID(int=0)) == (1, "", f"agent-progress: workflow {UUID(int=0)} not found\n")


def test_an_interrupt_ends_watch_130_without_a_traceback(conn: psycopg.Connection, dsn: str) -> None:
    mixed_workflow(conn)
    process = start("watch", "--dsn", dsn)
    assert "2 of 5 agents" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert outcome(process) == (130, "", "")


def test_ctrl_c_ends_live_bars_and_gives_the_cursor_back(conn: psycopg.Connection, dsn: str) -> None:
    mixed_workflow(conn)
    with Terminal("watch", "--dsn", dsn) as terminal:
        terminal.read_until("2 of 5 agents")
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text
        assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")


def test_an_interrupt_ends_a_waiting_migrate_130(dsn: str, conn: psycopg.Connection, session: Any) -> None:
    main(["rollback", "--dsn", dsn])
    blocker = session()
    blocker.execute("lock table agent_task")
    process = start("rollback", "--dsn", dsn)
    line = ""
    while "waiting for other transactions" not in line:
        line = process.stderr.readline()
        assert line
    process.send_signal(signal.SIGINT)
    status, _, err = outcome(process)
    assert (status, err.count("Traceback")) == (130, 0)
    blocker.rollback()
    migrate(dsn)


# --- The embedded server ------------------------------------------------------------------------------------


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data directory of the test's own for the embedded server."""
    parent = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp", f"ap-cli-{os.getpid()}")
    parent.mkdir(mode=0o755)
    monkeypatch.setenv("AGENT_PROGRESS_DATA", str(parent / "data"))
    yield parent / "data"
    shutil.rmtree(parent, ignore_errors=True)


def test_embedded_means_a_private_server_whatever_the_environment_says(
    private: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost:1/nowhere")
    assert main(["check", "--embedded"]) == 0
    assert capsys.readouterr().out == "0 workflows checked, stored equals counted\n"
    assert (private / "PG_VERSION").exists()
    assert not (private / "postmaster.pid").exists()


def test_an_embedded_server_that_cannot_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENT_PROGRESS_DATA", "/dev/null/data")
    assert main(["list", "--embedded"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"agent-progress: cannot use the data directory /dev/null/data: .*\n", err)
