"""The commands that move workflows, and what show and watch tell of stages, versions and forecasts."""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest

from pyapp import create_workflow, get_state, transition
from pyapp.cli.text import outlook, remaining
from pyapp.models import Forecast

from .commands import Run, outcome, start
from .commands import run as run
from .helpers import new_tasks, new_workflow, set_status

NO_ONE = UUID(int=0)


def test_transition_moves_a_workflow_and_prints_where_it_stands(conn: psycopg.Connection, run: Run) -> None:
    workflow = create_workflow(conn, "w", "app").workflow_id
    assert run("transition", workflow, "running") == (0, f"{workflow}  running  initialization  version 2\n", "")
    moved = run("transition", workflow, "paused", "--stage", "a\x1b[2J\nb", "--version", 2)
    assert moved == (0, f"{workflow}  paused  a\ufffd[2J\ufffdb  version 3\n", "")
    status, out, err = run("transition", workflow, "cancelled", "--json")
    state = get_state(conn, workflow)
    assert (status, err) == (0, "")
    assert json.loads(out) == {
        "workflow_id": str(workflow),
        "status": "cancelled",
        "current_stage": "a\x1b[2J\nb",
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


def test_what_is_refused_is_told_in_one_line_and_changes_nothing(conn: psycopg.Connection, run: Run) -> None:
    workflow = create_workflow(conn, "w", "app").workflow_id
    transition(conn, workflow, "completed")
    before = get_state(conn, workflow)
    prefix = f"agent-progress: workflow {workflow}"
    refused = f"{prefix} cannot go from completed to running; allowed from completed: none\n"
    assert run("transition", workflow, "running") == (2, "", refused)
    stale = f"{prefix} has moved on: it is completed, stage initialization, version 2, and not version 1\n"
    assert run("transition", workflow, "failed", "--version", 1) == (2, "", stale)
    assert run("advance", workflow, "--version", 1) == (2, "", stale)
    assert run("advance", workflow) == (2, "", f"{prefix} is completed: only initiated and running ones advance\n")
    other = new_workflow(conn, type="other", status="running")
    status, out, err = run("advance", other)
    assert (status, out, err.count("\n"), "no plan" in err) == (2, "", 1, True)
    assert get_state(conn, workflow) == before


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
    assert re.fullmatch(r"done in [45]m\d+s, at \S+ per minute \(4 completions in \d+ s\)", lines["forecast"])
    parts = json.loads(run("show", workflow, "--json")[1])
    assert (parts["version"], len(parts["stages"])) == (2, 5)
    assert parts["stage_progress"]["progress_percentage"] == 30
    assert parts["forecast"]["basis_completions"] == 4
    assert 0 < parts["forecast"]["completed_per_minute"] <= 1
    assert "timeline" not in parts


def test_show_says_what_is_known_only(conn: psycopg.Connection, run: Run) -> None:
    status, out, _ = run("show", new_workflow(conn, type="other"))
    assert status == 0
    assert not [line for line in out.splitlines() if line.startswith(("stages", "forecast", "frozen"))]
    long_ago = datetime(2020, 2, 2, tzinfo=UTC)
    workflow = new_workflow(conn, status="running", progress_frozen_at=long_ago, progress_updated_at=long_ago)
    out = run("show", workflow, "--zone", "UTC")[1]
    assert "forecast   stalled: nothing has changed since 2020-02-02" in out
    assert "frozen     2020-02-02 00:00:00 UTC: its numbers stay as they were then" in out


def test_show_lists_the_timeline(conn: psycopg.Connection, run: Run) -> None:
    workflow = create_workflow(conn, "w", "bugfix").workflow_id
    transition(conn, workflow, "running")
    set_status(conn, new_tasks(conn, workflow, "pending")[0], "completed")
    _, out, _ = run("show", workflow, "--timeline")
    table = out.split("\n\n")[1].splitlines()
    assert table[0].split() == ["AT", "KIND", "NAME", "WHAT"]
    assert [" ".join(line.split()[1:]) for line in table[1:]] == [
        "event status_changed initiated -> running",
        "stage initialization started",
        "task agent created",
        "task agent completed",
    ]
    moments = json.loads(run("show", workflow, "--timeline", "--json")[1])["timeline"]
    assert [moment["kind"] for moment in moments] == ["event", "stage", "task", "task"]


# --- The time that remains ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "shown"),
    [(-5, "0s"), (59, r"[45]\ds"), (239, r"3m\d+s"), (7319, "2h1m"), (4 * 86400 - 1, "3d"), (None, "")],
)
def test_the_time_that_remains_is_told_in_its_two_largest_units(left: float | None, shown: str) -> None:
    at = None if left is None else datetime.now(UTC) + timedelta(seconds=left)
    forecast = Forecast(NO_ONE, Decimal(1), at, 3, Decimal(60), datetime.now(UTC), False)
    assert re.fullmatch(shown, remaining(forecast))
    assert re.match(f"done in {shown}" if shown else "", outlook(forecast, UTC))


def test_watch_tells_when_a_workflow_will_be_done(conn: psycopg.Connection, dsn: str) -> None:
    workflow = new_workflow(conn, status="running", agents_planned=10)
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, status, completed_at)"
        " select %s, 'a', 'completed', now() - n * interval '1 minute' from generate_series(1, 5) as n",
        [workflow],
    )
    process = start("watch", workflow, "--interval", "0.1", "--dsn", dsn)
    assert process.stdout is not None
    first = process.stdout.readline()
    assert first.startswith("w  ")
    assert "  ETA " in first
    transition(conn, workflow, "completed")
    status, rest, err = outcome(process)
    assert (status, err, "completed" in rest, "ETA" in rest) == (0, "", True, False)
