"""The command line: what it prints where, how it ends, and that nothing hostile reaches the terminal."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import psycopg
import pytest

from pyapp.cli import main
from pyapp.cli.main import COMMANDS, program
from pyapp.shipped import resource

from .commands import ROOT, Run, Terminal, outcome, start
from .commands import private as private
from .commands import run as run
from .helpers import as_replica, new_tasks, new_workflow, set_status

HOSTILE = "evil\x1b[2J\x1b]0;title\x07\nsecond line\r\t\u202egnp.exe\u2066\x9b31m\x7f end"
NO_ONE = UUID(int=0)
NEEDS_A_DATABASE = ["migrate", "rollback", "pending", "list", f"show {NO_ONE}", "watch", "check", "repair", "psql"]
TAKE_AN_ID = ("show", "watch", "check", "repair", "list --after", "advance", "transition --stage x")
NAMES = [name for group in COMMANDS.values() for name in group]


def get_command(name: str) -> click.Command:
    command = program.get_command(click.Context(program), name)
    assert command is not None
    return command


def mixed_workflow(conn: psycopg.Connection, **columns: Any) -> Any:
    workflow = new_workflow(conn, status="running", current_stage="review", **columns)
    new_tasks(conn, workflow, "completed", "completed", "failed", "running", "pending")
    return workflow


# --- Help and completion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, *NAMES])
def test_every_command_explains_itself(name: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"] if name else ["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: agent-progress")
    assert max(map(len, out.splitlines())) <= 80
    if name is None:
        assert main(["--version"]) == 0
        assert re.fullmatch(r"agent-progress \d+\.\d+\.\d+\n", capsys.readouterr().out)
        assert "Exit status: 0 fine; 1 not found, or drift; 2 wrong usage" in out
        assert [re.search(rf"^  {command} +\w", out, re.M) for command in NAMES].count(None) == 0
        return
    assert re.search(r"\nExample:\n +.*agent-progress", out)
    options = [param for param in get_command(name).params if isinstance(param, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert name == "completion" or "--dsn DSN" in out


def test_help_imports_no_command_and_nothing_heavy() -> None:
    code = "import sys; from pyapp.cli import main; main(['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    loaded = set(out.splitlines()[-1].split())
    heavy = {"yoyo", "sqlparse", "rich", "fastapi", "uvicorn", "jinja2", "prometheus_client", "psycopg_pool"}
    assert loaded & (heavy | {f"pyapp.{name}" for name in ("adopt", "demo", "embedded", "web")}) == set()
    assert loaded & {f"pyapp.cli.{module}" for group in COMMANDS.values() for module, _ in group.values()} == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(shell: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    status, out, err = run("completion", shell)
    assert (status, err) == (0, "")
    assert f"_AGENT_PROGRESS_COMPLETE={shell}_complete" in out
    assert run("completion") == (0, out, "")
    monkeypatch.setenv("SHELL", "/bin/false")
    assert run("completion")[0] == 2


@pytest.fixture
def on_path(tmp_path: Path) -> Path:
    """A directory whose only program is agent-progress."""
    script = tmp_path / "agent-progress"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pyapp "$@"\n')
    script.chmod(0o755)
    return tmp_path


def test_a_real_bash_completes_commands_options_and_ids(conn: psycopg.Connection, dsn: str, on_path: Path) -> None:
    workflow = new_workflow(conn)
    path = f"{on_path}{os.pathsep}{os.environ['PATH']}"
    bash = ["bash", "--norc", "--noprofile", "-i"]
    with Terminal(program=bash, PATH=path, PS1="$ ", DATABASE_URL=dsn, PYTHONPATH=str(ROOT)) as terminal:
        terminal.press(b'eval "$(agent-progress completion bash)"; echo re""ady\n')
        terminal.read_until("ready")
        for typed, completed in (
            (b"agent-progress comple\t", "agent-progress completion"),
            (b"agent-progress show --met\t", "agent-progress show --metrics"),
            (b"agent-progress list --status canc\t", "agent-progress list --status cancelled"),
            (b"agent-progress transition x pau\t", "agent-progress transition x paused"),
            (f"agent-progress show {str(workflow)[:6]}\t".encode(), f"agent-progress show {workflow}"),
        ):
            terminal.press(typed)
            terminal.read_until(completed, keys=b"\t")  # for ids it does not wait long
            terminal.press(b"\x15")  # forgets the line


def test_completing_ids_never_complains(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("show", "--dsn host=/nowhere show", "--embedded show"):
        complete = {
            "_AGENT_PROGRESS_COMPLETE": "bash_complete",
            "COMP_WORDS": f"agent-progress {words} ",
            "COMP_CWORD": "9",
        }
        assert outcome(start(env={**os.environ, **complete})) == (0, "\n", "")


# --- Which database, and which schema -----------------------------------------------------------------------


@pytest.mark.parametrize("command", NEEDS_A_DATABASE)
def test_without_a_database_or_its_server_a_command_ends_2_with_one_clear_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    which = "which database? Give --dsn, set DATABASE_URL or PGHOST and the like, or say --embedded"
    assert (main(command.split()), *capsys.readouterr()) == (2, "", f"agent-progress: {which}\n")
    if command != "psql":
        assert main([*command.split(), "--dsn", "host=/nowhere/at-all user=me password=secret"]) == 2
        out, err = capsys.readouterr()
        assert (out, "secret" in err) == ("", False)
        assert re.fullmatch(r"agent-progress: no connection to the database: .*No such file or directory.*\n", err)


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


def test_each_command_works_in_the_schema_that_is_named(
    conn: psycopg.Connection, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = "My Agents, 100 %s"
    assert run("migrate", "--schema", schema)[0] == 0
    here = new_workflow(conn, name="here")
    conn.execute(f"insert into \"{schema}\".workflow (name, type) values ('there', 'app')")
    there = conn.execute(f'select id from "{schema}".workflow').fetchone()[0]
    for command in (["list"], ["show", there], ["check", there], ["transition", there, "completed"], ["watch", there]):
        assert run("--schema", schema, *command)[0] == 0, command
    assert "there" in run("list", "--schema", schema)[1]
    monkeypatch.setenv("AGENT_PROGRESS_SCHEMA", schema)
    assert run("show", here)[0] == 1
    assert run("grant", "--reader", "x", "--print")[1].startswith(f'begin;\ngrant usage on schema "{schema}" to "x";\n')
    assert run("notify", "on")[0] == 0
    assert run("archive", "--older-than", "0d")[1] == "0 workflows archived, 0 tasks removed\n"
    assert run("list", "--schema", "public")[1].count("here") == 1
    assert run("rollback", "--all", "--drop-data")[0] == 0
    for command in ("list", "check", "repair", f"show {here}", "watch"):
        assert run(*command.split()) == (
            2,
            "",
            f"agent-progress: no agent-progress in schema {schema} of this database (--schema names another):"
            f" run agent-progress migrate --schema '{schema}'\n",
        )


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


# --- What fails is told by what failed ----------------------------------------------------------------------


def test_an_event_trigger_that_forbids_ddl_is_what_migrate_tells(empty: Callable[[], str], capsys: Any) -> None:
    dsn = empty()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "create function forbid() returns event_trigger language plpgsql"
            " as $$begin raise undefined_object using message = 'no DDL here'; end$$"
        )
        conn.execute("create event trigger forbid on ddl_command_start execute function forbid()")
    assert main(["migrate", "--dsn", dsn]) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("agent-progress: ")
    assert "no DDL here" in err.splitlines()[-1]
    assert "run agent-progress migrate" not in err


def test_a_schema_that_lacks_a_view_is_told_with_what_it_lacks(conn: psycopg.Connection, run: Run) -> None:
    conn.execute("drop function archive_workflows")
    status, out, err = run("archive", "--older-than", "1d")
    assert (status, out) == (2, "")
    assert re.fullmatch(
        r"agent-progress: function public.archive_workflows\(.*\) does not exist: schema public is"
        r" older than this program, or not whole: run agent-progress migrate\n",
        err,
    )
    assert run("migrate")[0] == 0


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("", "Missing command"),
        ("nonsense", "No such command 'nonsense'"),
        ("show", "Missing argument 'ID'"),
        *((f"{words} 12x", "'12x' is no id: these are of type uuid, see agent-progress list") for words in TAKE_AN_ID),
        ("list --limit 0", "0 is not in the range"),
        ("list --limit many", "'many' is not a valid integer"),
        ("list --limit 99999999999", "is not in the range"),
        ("list --status done", "'done' is not one of 'initiated', 'running', 'paused', 'completed'"),
        ("list --priority urgent", "--priority 'urgent': there are low, medium, high, critical"),
        ("watch --interval 0", "0.0 is not in the range"),
        ("watch --interval nan", "'nan' is not a number"),
        ("archive --older-than 90", "'90' is no length of time"),
        ("archive --older-than -1d", "no length of time"),
        ("transition x done", "'done' is not one of"),
        ("transition x", "Missing argument 'STATUS'"),
        ("transition x running --version x", "'x' is not a valid integer"),
        ("advance", "Missing argument 'ID'"),
        (f"advance x --version {2**40}", "is not in the range"),
        ("grant", "grant to whom?"),
    ],
)
def test_wrong_usage_ends_2_and_says_in_a_line_what_is_wrong(command: str, complaint: str, run: Run) -> None:
    status, out, err = run(*command.split(), *(["running"] if command.endswith("--stage x 12x") else []))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("agent-progress: ")
    assert complaint in err


def test_without_any_argument_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "agent-progress demo" in err


@pytest.mark.parametrize("command", ["show", "list --after", "watch", "check", "repair", "advance", "transition"])
def test_an_unknown_workflow_ends_1(command: str, run: Run) -> None:
    more = ["running"] if command == "transition" else []
    assert run(*command.split(), NO_ONE, *more) == (1, "", f"agent-progress: workflow {NO_ONE} not found\n")


# --- migrate, pending, rollback, psql -----------------------------------------------------------------------


def test_the_schema_commands_say_what_they_do(empty: Callable[[], str], capsys: pytest.CaptureFixture[str]) -> None:
    dsn = ["--dsn", empty()]
    names = sorted({file.name.split(".")[0] for file in resource("migrations").glob("0*")})
    assert len(names) == 3

    def call(*arguments: str) -> tuple[int, str, str]:
        return main([*arguments, *dsn]), *capsys.readouterr()

    def lines(what: str, listed: list[str]) -> str:
        return "".join(f"{what} {name}\n" for name in listed)

    assert call("pending") == (0, lines("pending", names), "")
    assert call("pending", "--json") == (0, json.dumps(names) + "\n", "")
    told = lines("applying", names) + "making 44 functions, views and triggers\n"
    assert call("migrate") == (0, lines("applied", names), told)
    assert call("migrate") == (0, "", "nothing to apply: the schema is up to date\n")
    assert call("migrate", "--json") == (0, "[]\n", "")
    assert call("pending") == (0, "", "nothing pending: the schema is up to date\n")
    assert call("rollback") == (0, f"rolled back {names[-1]}\n", f"rolling back {names[-1]}\n")
    assert call("migrate", "--json")[:2] == (0, json.dumps(names[-1:]) + "\n")
    assert call("migrate", "--mark") == (0, "", "nothing to apply: the schema is up to date\n")
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
    show = ["--", "-XAtc", "show search_path"]
    process = start("psql", "--dsn", dsn, "--schema", 'My "Own', *show, env={**os.environ, "PATH": path})
    assert outcome(process) == (0, '"My ""Own",public\n', "")


# --- list and show ------------------------------------------------------------------------------------------


def test_list_shows_a_line_for_each_workflow(conn: psycopg.Connection, run: Run) -> None:
    workflow = mixed_workflow(conn, name="checkout", created_at="2020-02-03 04:05")
    done = new_workflow(conn, name="login", status="completed", priority="high", created_at="2020-01-01")
    status, out, err = run("list")
    assert (status, err) == (0, "")
    header, first, second = out.splitlines()
    assert header.split() == ["ID", "NAME", "PROGRESS", "AGENTS", "FAILED", "STATUS", "STAGE", "CREATED"]
    assert re.split(" {2,}", first) == [
        str(workflow), "checkout", "████░░░░░░", "40 %", "2 of 5", "1", "running", "review", "2020-02-03 04:05"
    ]  # fmt: skip
    assert re.split(" {2,}", second)[:4] == [str(done), "login", "░░░░░░░░░░", "no agents"]
    assert str(done) in run("list", "--status", "completed")[1]
    assert str(workflow) not in run("list", "--status", "completed")[1]
    assert run("list", "--priority", "low")[1] == "no workflows\n"
    assert run("list", "--type", "nothing")[1] == "no workflows\n"
    assert str(done) in run("list", "--limit", "1", "--after", workflow)[1]


def test_show_tells_everything_about_a_workflow(conn: psycopg.Connection, run: Run) -> None:
    workflow = mixed_workflow(conn, name="checkout", description="about it", agents_planned=8, trace_id="t-1")
    conn.execute("update agent_task set external_id = 'key-1', stage = 'unit' where status = 'failed'")
    status, out, err = run("show", workflow, "--tasks", "--metrics")
    assert (status, err) == (0, "")
    assert out.splitlines()[:8] == [
        f"workflow   checkout  ({workflow})",
        "about      about it",
        "progress   █████░░░░░░░░░░░░░░░ 25 %  (2 of 8 agents)",
        "agents     2 completed, 1 failed, 2 open, 3 not created yet",
        "settled    38 %",
        "status     running",
        "stage      review",
        "type       app, priority medium",
    ]
    assert re.search(r"^read in    \d+\.\d\d ms, not stale$", out, re.M)
    assert re.search(r"key-1  agent  unit   failed", out.split("\n\n")[1].splitlines()[1])
    assert len(out.split("\n\n")[1].splitlines()) == 6
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


@pytest.mark.parametrize("words", ["list", "show --tasks --metrics ID", "check", "repair", "watch ID"])
@pytest.mark.parametrize("form", ["plain", "--json", "terminal"])
def test_hostile_text_never_reaches_the_terminal_raw(
    words: str, form: str, conn: psycopg.Connection, dsn: str, run: Run
) -> None:
    text = dict.fromkeys(("name", "description", "type", "current_stage", "trace_id"), "[red]no[/red]" + HOSTILE)
    workflow = new_workflow(conn, status="completed", **text)
    new_tasks(conn, workflow, "completed")
    conn.execute("update agent_task set agent_type = %(name)s, stage = %(name)s, external_id = %(name)s", text)
    as_replica(conn, "update workflow set agents_completed = 5")
    arguments = [workflow if word == "ID" else word for word in words.split()]
    if form == "terminal":
        with Terminal(*arguments, "--dsn", dsn, columns=400) as terminal:
            terminal.end()
        assert not any(sequence in terminal.raw for sequence in (b"\x1b[2J", b"\x1b]0;", b"\x07"))
        out = terminal.text.replace("\r\n", "\n").replace("\r", "")
        assert "[red]no[/red]" in out
    else:
        out = "".join(run(*arguments, *([form] if form == "--json" else []))[1:])
    assert "evil" in out
    assert [char for char in out if not char.isprintable() and char != "\n"] == []
    assert "\nsecond line" not in out
    run("repair")


def test_a_terminal_that_knows_ascii_only_is_no_obstacle(conn: psycopg.Connection, dsn: str) -> None:
    workflow = mixed_workflow(conn, name="caffè", description="日本")
    for command in (["list"], ["show", workflow], ["check"]):
        process = start(*command, "--dsn", dsn, env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
        status, out, err = outcome(process)
        assert (status, err) == (0, ""), command
        assert out.isascii()


# --- check and repair ---------------------------------------------------------------------------------------


def test_check_prints_drift_and_repair_repairs_it_and_says_so(conn: psycopg.Connection, run: Run) -> None:
    workflow, right = mixed_workflow(conn, name="checkout"), mixed_workflow(conn, name="login")
    assert run("check") == (0, "2 workflows checked, stored equals counted\n", "")
    assert run("check", workflow) == (0, "1 workflow checked, stored equals counted\n", "")
    as_replica(conn, "update agent_task set status = 'completed' where workflow_id = %s", [workflow])
    stored = "40 % (2 of 5, 1 failed)"
    counted = "100 % (5 of 5)"
    status, out, err = run("check")
    assert (status, err) == (1, "")
    assert [re.split(" {2,}", line) for line in out.splitlines()] == [
        ["ID", "NAME", "STORED", "COUNTED"],
        [str(workflow), "checkout", stored, counted],
        ["2 workflows checked, 1 wrong: agent-progress repair repairs them"],
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


def test_check_names_what_is_missing_disabled_or_changed(conn: psycopg.Connection, run: Run) -> None:
    conn.execute("drop trigger agent_task_progress_delete on agent_task")
    conn.execute("alter table agent_task disable trigger agent_task_progress_insert")
    conn.execute(
        "create or replace function progress_percentage(completed bigint, total bigint) returns integer return 1"
    )
    status, out, err = run("check")
    assert status == 1
    named = ["function progress_percentage differs", "trigger agent_task_progress_insert on agent_task is disabled"]
    named.append("trigger agent_task_progress_delete on agent_task is missing")
    assert set(named) <= set(out.splitlines())
    assert out.splitlines()[-1] == "0 workflows checked, stored equals counted"
    assert "run agent-progress migrate" in err
    assert set(named) <= set(json.loads(run("check", "--json")[1])["missing"])
    assert run("migrate")[0] == 0
    assert run("check")[1].splitlines()[:-1] == [named[1]]  # that somebody disabled it is an intention
    conn.execute("alter table agent_task enable trigger agent_task_progress_insert")
    assert run("check")[0] == 0


def test_check_names_what_is_missing_where_nothing_can_be_counted(conn: psycopg.Connection, run: Run) -> None:
    conn.execute("drop view workflow_progress_calculated cascade")
    status, out, _ = run("check")
    assert (status, "view workflow_progress_calculated is missing" in out.splitlines()) == (1, True)
    assert out.splitlines()[-1].startswith("0 workflows checked, nothing could be counted: relation ")
    assert run("migrate")[0] == 0
    assert run("check") == (0, "0 workflows checked, stored equals counted\n", "")


def test_repair_of_one_workflow_waits_for_nobody_else(conn: psycopg.Connection, dsn: str, run: Run) -> None:
    workflow, busy = mixed_workflow(conn), mixed_workflow(conn)
    as_replica(conn, "update workflow set agents_completed = 0 where id = %s", [workflow])
    with psycopg.connect(dsn) as other:
        other.execute("update workflow set current_stage = 'x' where id = %s", [busy])
        assert run("repair")[0] == 0
    assert run("check")[0] == 0


@pytest.mark.parametrize("columns", [80, 30])
def test_check_in_a_terminal_shows_that_it_is_alive(columns: int, conn: psycopg.Connection, dsn: str) -> None:
    mixed_workflow(conn)
    with Terminal("check", "--dsn", dsn, columns=columns) as terminal:
        assert terminal.end() == 0
        assert re.search(r"counting 5 tasks of .*0:00:\d\d", terminal.text)
        assert terminal.text.rstrip().endswith("1 workflow checked, stored equals counted")


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
        terminal.read_until("2 of 6")
        set_status(conn, task, "completed")
        terminal.read_until("3 of 6")
        conn.execute("update workflow set status = 'completed'")
        assert terminal.end() == 0
        last = terminal.text.replace("\r", "\n").split("WORKFLOW  ")[-1]
        assert re.search(r"checkout +█{12}▓{4}░{8} +50 % +3 of 6 +1 +completed +review", last)
        assert re.search(r"login +█{9}▓{4}░{11} +40 % +2 of 5 +1 +completed +review", last)
        assert b"\x1b[31m\xe2\x96\x93" in terminal.raw  # the failed share is red


def test_an_interrupt_ends_a_waiting_migrate_130(dsn: str, conn: psycopg.Connection, session: Any, run: Run) -> None:
    blocker = session()
    blocker.execute("lock table agent_task")
    process = start("rollback", "--all", "--dsn", dsn)
    line = ""
    while "waiting: other transactions" not in line:
        line = process.stderr.readline()
        assert line
    process.send_signal(signal.SIGINT)
    status, _, err = outcome(process)
    assert (status, err.count("Traceback")) == (130, 0)
    blocker.rollback()
    assert run("migrate")[0] == 0


# --- The embedded server ------------------------------------------------------------------------------------


def test_embedded_means_a_private_server_whatever_the_environment_says(
    private: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost:1/nowhere")
    assert main(["check", "--embedded"]) == 0
    assert capsys.readouterr().out == "0 workflows checked, stored equals counted\n"
    for command in ("check", "list", f"show {NO_ONE}", "watch", "repair", "archive --older-than 1d", "notify on"):
        assert main([*command.split(), "--embedded", "--schema", "nonsense"]) == 2
        assert "no agent-progress in schema nonsense of this database" in capsys.readouterr().err
    assert main(["migrate", "--embedded", "--schema", "mine"]) == 0
    assert main(["list", "--embedded", "--schema", "mine"]) == 0
    assert (private / "PG_VERSION").exists()


def test_uninstalling_from_a_private_server_says_where_that_remains(
    private: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollback", "--all", "--embedded"]) == 0
    said = capsys.readouterr().err
    assert str(private) in said
    assert "the private server remains" in said


def test_an_embedded_server_that_cannot_start_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENT_PROGRESS_DATA", "/dev/null/data")
    assert main(["list", "--embedded"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"agent-progress: cannot use .*/dev/null/data.*\n", err)
