"""What people work with all day: lists that fit, attention first, ids by their beginning, times, and how watch ends."""

import json
import re
from typing import Any

import psycopg
import pytest

from .commands import Run, Terminal, outcome, start
from .commands import run as run
from .helpers import new_tasks, new_workflow, wait_for

LONG = "checkout of the shop with payments by 日本 cards"


def running(conn: psycopg.Connection, *statuses: str, **columns: Any) -> Any:
    workflow = new_workflow(conn, status="running", current_stage="s" * 30, **columns)
    new_tasks(conn, workflow, *statuses)
    return workflow


def frames(terminal: Terminal) -> list[list[str]]:
    """What a live display showed, look by look."""
    shown = terminal.text.replace("\r", "\n").split("WORKFLOW")[1:]
    return [[line for line in frame.splitlines()[1:] if line] for frame in shown]


# --- Lists that fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "columns", "head"),
    [
        ("list", 200, "ID NAME PROGRESS AGENTS FAILED STATUS STAGE CREATED"),
        ("list", 80, "ID NAME PROGRESS AGENTS FAILED STATUS"),
        ("list", 60, "ID NAME FAILED STATUS"),
        ("list", 40, "ID NAME FAILED"),
        ("list", 15, "ID NAME"),
        ("watch ID", 120, "WORKFLOW PROGRESS AGENTS FAILED STATUS STAGE"),
        ("watch ID", 80, "WORKFLOW PROGRESS AGENTS FAILED STATUS STAGE"),
        ("watch ID", 60, "WORKFLOW AGENTS FAILED STATUS"),
        ("watch ID", 40, "WORKFLOW FAILED STATUS"),
    ],
)
def test_a_table_fits_its_terminal_and_never_loses_the_name_nor_what_failed(
    command: str, columns: int, head: str, conn: psycopg.Connection, dsn: str
) -> None:
    workflow = running(conn, *["completed"] * 9, "failed", name=LONG)
    conn.execute("update workflow set status = 'completed'")
    with Terminal(*command.replace("ID", str(workflow)).split(), "--dsn", dsn, columns=columns) as terminal:
        assert terminal.end() == 0
        header, row = [line for line in terminal.text.replace("\r", "\n").splitlines() if line][-2:]
    assert header.split() == head.split()
    assert " c" in f" {row}"
    assert len(row) <= columns
    assert re.search(r"90 % .* 1\b", row) or columns < 40
    assert "STATUS" not in head or b"\x1b[32mcompleted" in terminal.raw


@pytest.mark.parametrize("columns", [200, 40])
def test_a_timeline_is_read_in_any_terminal(columns: int, conn: psycopg.Connection, dsn: str) -> None:
    workflow = running(conn, "completed")
    conn.execute("update workflow set status = 'paused', current_stage = 'scaffold of ' || current_stage")
    conn.execute("update workflow_event set occurred_at = '2020-02-03 04:05:06.789Z'")
    with Terminal("show", workflow, "--timeline", "--zone", "UTC", "--dsn", dsn, columns=columns) as terminal:
        assert terminal.end() == 0
    told = [" ".join(line.split()) for line in terminal.text.splitlines()]
    whole = "2020-02-03 04:05:06.789 event status_changed running -> paused"
    assert (whole if columns == 200 else "04:05:06 status_… running -> paused") in told


def test_live_bars_follow_the_size_of_their_terminal(conn: psycopg.Connection, dsn: str) -> None:
    running(conn, *["completed"] * 9, "failed", name=LONG)
    with Terminal("watch", "--interval", "0.02", "--dsn", dsn) as terminal:
        terminal.read_until("9 of 10")
        terminal.resize(40)
        wait_for(lambda: terminal.read_some() and max(map(len, frames(terminal)[-2:][0]), default=99) <= 40)
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert "Traceback" not in terminal.text
        assert terminal.raw.rindex(b"\x1b[?25h") > terminal.raw.rindex(b"\x1b[?25l")  # the cursor is back


@pytest.mark.parametrize("setting", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_a_terminal_without_colours_gets_none(setting: dict[str, str], conn: psycopg.Connection, dsn: str) -> None:
    workflow = new_workflow(conn, status="completed")
    for command in (["list"], ["show", workflow], ["watch", workflow]):
        with Terminal(*command, "--dsn", dsn, **setting) as terminal:
            assert terminal.end() == 0
        assert "completed" in terminal.text
        assert not re.search(rb"\x1b\[(\d+;)*3\d", terminal.raw)
        assert "TERM" not in setting or b"\x1b" not in terminal.raw


# --- watch --------------------------------------------------------------------------------------------------------


def test_watch_shows_first_what_needs_attention_and_tells_how_many_more_there_are(
    conn: psycopg.Connection, dsn: str
) -> None:
    conn.execute(
        "insert into workflow (name, type, status) select 'many', 'app', 'paused' from generate_series(1, 500)"
    )
    old = "now() - interval '3 hours'"
    for name in ("slow", "stalled", "failed"):
        running(conn, *["completed"] * 5, "failed" if name == "failed" else "running", name=name)
    conn.execute(f"update agent_task set completed_at = {old} where status <> 'running'")
    conn.execute(f"update agent_task set started_at = {old}, assigned_at = {old}")
    conn.execute("set session_replication_role = replica")
    conn.execute("update workflow set created_at = now() - interval '1 day', progress_updated_at = '2020-01-01'")
    conn.execute("delete from workflow_event")
    conn.execute(f"update workflow set progress_updated_at = {old} where name = 'stalled'")
    conn.execute("update workflow set progress_updated_at = now() - interval '5 minutes' where name = 'slow'")
    conn.execute(
        "update agent_task set completed_at = now() - interval '310 seconds' + ordinal % 5 * interval '1 second'"
        " where status = 'completed' and workflow_id = (select id from workflow where name = 'slow')"
    )
    conn.execute("set session_replication_role = origin")
    with Terminal("watch", "--interval", "0.05", "--dsn", dsn) as terminal:
        terminal.read_until("+466 more")
        assert [row.split()[0] for row in frames(terminal)[0][:4]] == ["failed", "stalled", "slow", "many"]


def test_watch_failed_shows_nothing_else(conn: psycopg.Connection, dsn: str) -> None:
    running(conn, "failed", "completed", name="bad")
    good = running(conn, "completed", name="good")
    with Terminal("watch", "--failed", "--interval", "0.05", "--dsn", dsn) as terminal:
        terminal.read_until("1 of 2")
        assert not re.search("good|more", terminal.text)
    process = start("watch", "--failed", "--json", "--interval", "0.05", "--dsn", dsn)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["name"] == "bad"
    new_tasks(conn, good, "failed")
    assert json.loads(process.stdout.readline())["name"] == "good"
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("update workflow set status = 'completed'", 0),
        ("update workflow set status = 'failed' where name = 'other'", 1),
        ("update workflow set status = 'cancelled' where name = 'other'", 1),
        ("delete from workflow where name = 'other'", 1),
    ],
)
def test_watch_tells_by_its_exit_status_whether_all_was_completed(
    end: str, status: int, conn: psycopg.Connection, dsn: str
) -> None:
    one, other = new_workflow(conn, status="running"), new_workflow(conn, status="running", name="other")
    process = start("watch", str(one)[:13], other, "--exit-status", "--interval", "0.02", "--dsn", dsn)
    assert process.stdout is not None
    assert {process.stdout.readline().split()[0] for _ in range(2)} == {"w", "other"}
    conn.execute(end)
    conn.execute("update workflow set status = 'completed' where name = 'w' and status = 'running'")
    found, _, err = outcome(process)
    assert (found, err) == (status, f"workflow {other} was deleted\n" if "delete" in end else "")


def test_an_exit_status_is_that_of_a_workflow(run: Run) -> None:
    status, out, err = run("watch", "--exit-status")
    assert (status, out, err.count("\n"), "Give an ID" in err) == (2, "", 1, True)


# --- Ids ----------------------------------------------------------------------------------------------------------


def test_every_command_takes_the_beginning_of_an_id(conn: psycopg.Connection, run: Run) -> None:
    key = new_workflow(conn, status="running", id="5ee00000-0000-4000-8000-000000000001")
    new_workflow(conn, status="completed", id="5ee10000-0000-4000-8000-000000000002", created_at="2020-01-01")
    for words in (
        ["show"], ["check"], ["repair"], ["list", "--after"], ["transition", "paused"], ["transition", "running"],
        ["transition", "completed"], ["watch"],
    ):  # fmt: skip
        for given in ("5ee0", "5EE00000-0", str(key)) if len(words) < 2 else ("5ee0",):
            command, *more = words
            arguments = [command, *more, given] if more == ["--after"] else [command, given, *more]
            status, out, err = run(*arguments)
            assert (status, err) == (0, ""), words
    assert (
        run("advance", "5ee0")[2]
        == f"agent-progress: workflow {key} is completed: only initiated and running ones advance\n"
    )
    status, out, err = run("show", "5ee")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"several workflows: {key} (w), 5ee1" in err
    assert run("show", "5eef") == (1, "", "agent-progress: workflow 5eef not found\n")


@pytest.fixture
def jobs(conn: psycopg.Connection, run: Run) -> None:
    """Adopt tables whose keys are texts and whose priorities are numbers, and which call tasks steps."""
    conn.execute("create table batch (name text primary key, priority integer, state text default 'completed')")
    conn.execute("create table step (id serial primary key, batch text references batch, state text)")
    conn.execute("insert into batch values ('etl/1', 7), ('etl/10', null), ('etl_2', 9)")
    nouns = ["--workflow-noun", "batch", "--task-noun", "step"]
    tables = ["--workflows", "batch", "--workflow-status", "state", "--tasks", "step", "--key", "batch"]
    status, _, err = run("adopt", *tables, *nouns, "--schema", "jobs", "--yes")
    assert status == 0, err


def test_keys_that_are_texts_are_found_by_their_beginning_too(jobs: None, run: Run) -> None:
    for given, found in (("etl/1", "etl/1"), ("etl/10", "etl/10"), ("etl_", "etl_2")):
        assert json.loads(run("show", given, "--json", "--schema", "jobs")[1])["workflow_id"] == found
    assert "several workflows: etl/1 (etl/1), etl/10 (etl/10); give more" in run("show", "etl/", "--schema", "jobs")[2]
    assert run("show", "etl%", "--schema", "jobs")[0] == 1


def test_a_priority_that_no_adopted_workflow_has_is_told_with_those_that_there_are(jobs: None, run: Run) -> None:
    assert "etl/1 " in run("list", "--priority", "7", "--schema", "jobs")[1]
    wrong = "agent-progress: --priority 'high': there are 7, 9 (see agent-progress list --help)\n"
    assert run("list", "--priority", "high", "--schema", "jobs") == (2, "", wrong)


def test_workflows_and_tasks_are_called_what_the_schema_calls_them(
    conn: psycopg.Connection, jobs: None, run: Run
) -> None:
    for empty in (True, False):
        for command in (["list"], ["show", "etl_2"], ["watch", "etl_2"]):
            out = run(*command, "--schema", "jobs")[1]
            assert ("no steps" if empty else "1 of 1") in out
            assert ("0 %" in out.replace("100 %", ""), "agent" in out) == (False, False)
            assert empty or "steps" in out.replace("STEPS", "steps")
        conn.execute("insert into step (batch, state) values ('etl_2', 'completed')")
    assert run("list", "--type", "none", "--schema", "jobs")[1] == "no batches\n"


# --- list, show and times -----------------------------------------------------------------------------------------


def test_list_finds_what_contains_a_text_whose_wildcards_are_literal(conn: psycopg.Connection, run: Run) -> None:
    for name in ("Checkout 100%", r"a\b", "a_b"):
        above = new_workflow(conn, name=name)
    new_workflow(conn, name="checkout 1000", parent_id=above)  # also what is below others

    def found(text: str) -> set[str]:
        return {entry["name"] for entry in json.loads(run("list", "--match", text, "--json")[1])}

    assert found("CHECKOUT") == {"Checkout 100%", "checkout 1000"}
    assert (found("0%"), found("a_b"), found("\\")) == ({"Checkout 100%"}, {"a_b"}, {r"a\b"})


def test_show_lists_tasks_as_they_were_created_but_failed_ones_first_with_error_and_duration(
    conn: psycopg.Connection, run: Run
) -> None:
    workflow = new_workflow(conn, status="running")
    errors = {
        "text": '{"error": "out of memory\\nat 7"}',
        "object": '{"error": {"message": "no answer"}}',
        "trace": '{"message": "Traceback (most recent call last):\\n  File\\nValueError: 3"}',
        "other": "[1]",
    }
    new_tasks(conn, workflow, "completed", "running", *["failed"] * 4)
    for ordinal, result in enumerate(errors.values()):
        conn.execute(
            "update agent_task set result = %s, started_at = '2020-01-01 10:00Z', completed_at = '2020-01-01 11:02:03Z'"
            " where id = (select id from agent_task where status = 'failed' order by ordinal offset %s limit 1)",
            [result, ordinal],
        )
    table = run("show", workflow, "--tasks", "--zone", "Asia/Kolkata")[1].split("\n\n")[1].splitlines()[1:]
    rows = [re.split(" {2,}", line)[2:] for line in table]
    assert [row[0] for row in rows] == ["failed"] * 4 + ["completed", "running"]
    told = ["out of memory", "no answer", "ValueError: 3", None]
    assert [row[1:] for row in rows[:4]] == [["1h2m", "2020-01-01 16:32:03", *filter(None, [error])] for error in told]


def test_times_are_in_the_zone_that_is_asked_for_with_a_date_where_it_is_not_today(
    conn: psycopg.Connection, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow = new_workflow(conn, created_at="2020-07-01 23:30Z")
    assert "created    2020-07-02 01:30:00 CEST\n" in run("show", workflow, "--zone", "Europe/Berlin")[1]
    assert "2020-07-01 23:30\n" in run("list", "--zone", "utc")[1]
    now = new_workflow(conn)
    assert re.search(r"^created    \d\d:\d\d:\d\d UTC$", run("show", now, "--zone", "UTC")[1], re.M)
    for name in ("Nowhere/At", "../etc", "Europe"):
        status, out, err = run("list", "--zone", name)
        assert (status, out, "no time zone that is known here: say UTC" in err) == (2, "", True)
