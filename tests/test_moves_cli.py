"""The commands that move workflows, and what show, watch and replay tell of stages, versions and forecasts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pyapp import create_workflow, get_state, get_workflow, list_stages, transition
from pyapp.cli import main
from pyapp.models import Forecast
from pyapp.render import outlook, remaining
from pyapp.replay.trace import SAMPLE_PATH
from tests.helpers import new_tasks, new_workflow, set_status

ROOT = Path(__file__).resolve().parents[1]
NO_ONE = UUID(int=0)
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


# --- transition and advance ---------------------------------------------------------------------------------


def test_transition_moves_a_workflow_and_prints_where_it_stands(conn: psycopg.Connection, run: Run) -> None:
    workflow = create_workflow(conn, "w", "app").workflow_id
    assert run("transition", workflow, "running") == (0, f"{workflow}  running  initialization  version 2\n", "")
    moved = run("transition", workflow, "paused", "--stage", "validation", "--version", 2)
    assert moved == (0, f"{workflow}  paused  validation  version 3\n", "")
    status, out, err = run("transition", workflow, "cancelled", "--json")
    state = get_state(conn, workflow)
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "workflow_id": str(workflow),
        "status": "cancelled",
        "current_stage": "validation",
        "version": 4,
        "updated_at": state.updated_at.isoformat(),
        "completed_at": state.completed_at and state.completed_at.isoformat(),
    }


def test_advance_moves_a_workflow_to_its_next_stage_and_its_end(conn: psycopg.Connection, run: Run) -> None:
    workflow = create_workflow(conn, "w", "bugfix").workflow_id
    assert run("advance", workflow) == (0, f"{workflow}  running  validation  version 2\n", "")
    assert run("advance", workflow, "--version", 2) == (0, f"{workflow}  running  e2e_testing  version 3\n", "")
    status, out, _ = run("advance", workflow, "--json")
    assert (status, json.loads(out)["status"], json.loads(out)["version"]) == (0, "completed", 4)


def test_a_stage_with_control_characters_does_not_reach_the_terminal(conn: psycopg.Connection, run: Run) -> None:
    _, out, _ = run("transition", new_workflow(conn), "running", "--stage", "a\x1b[2J\nb")
    assert out.count("\n") == 1
    assert "\x1b" not in out


def test_what_is_refused_is_told_in_one_line_and_changes_nothing(conn: psycopg.Connection, run: Run) -> None:
    workflow = create_workflow(conn, "w", "app").workflow_id
    transition(conn, workflow, "completed")
    before = get_state(conn, workflow)
    prefix = f"agent-progress: workflow {workflow}"
    assert run("transition", workflow, "running") == (
        2,
        "",
        f"{prefix} cannot go from completed to running; allowed from completed: none\n",
    )
    stale = f"{prefix} has moved on: it is completed, stage initialization, version 2, and not version 1\n"
    assert run("transition", workflow, "failed", "--version", 1) == (2, "", stale)
    assert run("advance", workflow, "--version", 1) == (2, "", stale)
    assert run("advance", workflow) == (2, "", f"{prefix} is completed: only initiated and running ones advance\n")
    other = new_workflow(conn, type="other", status="running")
    status, out, err = run("advance", other)
    assert (status, out, err.count("\n"), "no plan" in err) == (2, "", 1, True)
    assert get_state(conn, workflow) == before


@pytest.mark.parametrize("command", [("transition", NO_ONE, "running"), ("advance", NO_ONE)])
def test_an_unknown_workflow_exits_1(run: Run, command: tuple[Any, ...]) -> None:
    assert run(*command) == (1, "", f"agent-progress: workflow {NO_ONE} not found\n")


@pytest.mark.parametrize(
    "command",
    [
        ("transition", NO_ONE),
        ("transition", NO_ONE, "done"),
        ("transition", "7", "running"),
        ("transition", NO_ONE, "running", "--version", "x"),
        ("advance",),
        ("advance", NO_ONE, "--version", 2**40),
    ],
)
def test_wrong_usage_exits_2(run: Run, command: tuple[Any, ...]) -> None:
    status, out, err = run(*command)
    assert (status, out) == (2, "")
    assert "migrate" not in err


def test_help_tells_every_option(run: Run) -> None:
    for command, wanted in {
        "transition": ("ID", "initiated, running, paused, completed, failed, cancelled", "--stage S", "--version N"),
        "advance": ("ID", "--version N", "--json", "after the last one"),
        "show": ("--timeline",),
    }.items():
        status, out, _ = run(command, "--help")
        assert status == 0
        for text in wanted:
            assert text in " ".join(out.split()), (command, text)


# --- show ---------------------------------------------------------------------------------------------------


def test_show_tells_version_stages_and_forecast(conn: psycopg.Connection, run: Run) -> None:
    workflow = create_workflow(conn, "w", "feature", agents_planned=9).workflow_id
    transition(conn, workflow, "running", stage="dependency_installation")
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, stage, status, completed_at)"
        " select %s, 'a', 'initialization', 'completed', now() - n * interval '1 minute'"
        " from generate_series(1, 4) as n",
        [workflow],
    )
    status, out, err = run("show", workflow)
    assert (status, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["version"] == "2"
    assert lines["stages"] == (
        "30 %: ✓ initialization 4/4  » scaffolding  ▶ dependency_installation  · validation  · e2e_testing"
    )
    assert lines["forecast"].startswith("done in 6m ")
    assert lines["forecast"].endswith("per minute (4 completions in 240 s)")
    parts = json.loads(run("show", workflow, "--json")[1])
    assert (parts["version"], len(parts["stages"])) == (2, 5)
    assert parts["stage_progress"]["progress_percentage"] == 30
    assert parts["forecast"]["basis_completions"] == 4
    assert 0.7 < parts["forecast"]["completed_per_minute"] <= 0.75
    assert "timeline" not in parts


def test_show_leaves_out_what_is_not_known(conn: psycopg.Connection, run: Run) -> None:
    status, out, _ = run("show", new_workflow(conn, type="other"))
    assert status == 0
    assert not [line for line in out.splitlines() if line.startswith(("stages", "forecast"))]


def test_show_says_that_a_workflow_is_stalled(conn: psycopg.Connection, run: Run) -> None:
    long_ago = datetime(2020, 2, 2, tzinfo=UTC)
    workflow = new_workflow(conn, status="running", progress_frozen_at=long_ago, progress_updated_at=long_ago)
    assert "forecast   stalled: nothing has changed since 2020-02-02" in run("show", workflow)[1]


def test_show_lists_the_timeline(conn: psycopg.Connection, run: Run) -> None:
    workflow = create_workflow(conn, "w", "bugfix").workflow_id
    transition(conn, workflow, "running")
    set_status(conn, new_tasks(conn, workflow, "pending")[0], "completed")
    _, out, _ = run("show", workflow, "--timeline")
    table = out.split("\n\n")[1].splitlines()
    assert table[0].split() == ["AT", "KIND", "NAME", "WHAT"]
    assert [line.split()[2:] for line in table[1:]] == [
        ["event", "status_changed", "initiated", "→", "running"],
        ["stage", "initialization", "started"],
        ["task", "agent", "created"],
        ["task", "agent", "completed"],
    ]
    moments = json.loads(run("show", workflow, "--timeline", "--json")[1])["timeline"]
    assert [moment["kind"] for moment in moments] == ["event", "stage", "task", "task"]


# --- watch and replay ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "shown"),
    [(-5, "0s"), (59, "59s"), (200, "3m 20s"), (7260, "2h 1m"), (3 * 86400 + 60, "3d"), (None, "")],
)
def test_the_time_that_remains_is_told_in_its_two_largest_units(left: float | None, shown: str) -> None:
    at = None if left is None else datetime.now(UTC) + timedelta(seconds=left + 0.2)
    forecast = Forecast(NO_ONE, Decimal(1), at, 3, Decimal(60), datetime.now(UTC), False)
    assert remaining(forecast) == shown
    assert outlook(forecast).startswith(f"done in {shown}" if shown else "")


def test_watch_tells_when_a_workflow_will_be_done(conn: psycopg.Connection, dsn: str) -> None:
    workflow = new_workflow(conn, status="running", agents_planned=10)
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status, completed_at)"
        " select %s, 'a', 'completed', now() - n * interval '1 minute' from generate_series(1, 5) as n",
        [workflow],
    )
    command = [sys.executable, "-m", "pyapp", "watch", str(workflow), "--interval", "0.1", "--dsn", dsn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ}) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        transition(conn, workflow, "completed")
        rest, _ = process.communicate(timeout=60)
    assert first.startswith("w  ")
    assert "  ETA 6m " in first
    assert "completed" in rest
    assert "ETA" not in rest
    assert process.returncode == 0


def test_replay_moves_the_stages_of_the_trace(conn: psycopg.Connection, run: Run) -> None:
    status, out, _ = run("replay", SAMPLE_PATH)
    assert status == 0, out
    (workflow,) = conn.execute("select id from workflow").fetchone()
    stages = list_stages(conn, workflow)
    assert len(stages) > 3
    # The sample is a run that failed in its last stage.
    assert get_workflow(conn, workflow).status == "failed"
    assert [stage.status for stage in stages] == ["completed"] * (len(stages) - 1) + ["failed"]
    assert all(stage.agents_total > 0 for stage in stages)
    assert sum(stage.agents_total for stage in stages) == get_workflow(conn, workflow).agents_total
    # Each is entered once and in order, though agents of several are at work at the same time.
    moved = conn.execute(
        "select payload ->> 'to' from workflow_event where event_type = 'stage_changed' order by id"
    ).fetchall()
    assert [name for (name,) in moved] == [stage.name for stage in stages]
    assert [stage.retry_count for stage in stages] == [0] * len(stages)
    shown = run("show", workflow)[1]
    assert all(f"{'✗' if stage is stages[-1] else '✓'} {stage.name}" in shown for stage in stages)
