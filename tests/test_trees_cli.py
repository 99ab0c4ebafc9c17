"""Trees on the command line: roots by default, what is below them, and how far all of it is."""

import json
from typing import Any

import psycopg
import pytest

from .commands import Run, Terminal, outcome, start
from .commands import run as run
from .helpers import new_tasks, new_workflow


@pytest.fixture
def tree(conn: psycopg.Connection) -> dict[str, Any]:
    """Insert a root with two children, one of which has a child, and a workflow beside them."""
    made: dict[str, Any] = {}
    for name, parent in (("root", None), ("plan", "root"), ("build", "root"), ("deep", "build"), ("alone", None)):
        made[name] = new_workflow(conn, name=name, status="running", parent_id=made.get(parent or ""))
        new_tasks(conn, made[name], "completed", "running")
    new_tasks(conn, made["deep"], "completed", "completed", "failed")
    return made


def test_list_shows_roots_with_how_far_all_below_them_is(tree: dict[str, Any], run: Run) -> None:
    status, out, _ = run("list")
    assert status == 0
    assert "WITH ALL BELOW" in out.splitlines()[0]
    alone, root = out.splitlines()[1:]
    assert "alone" in alone
    assert "workflows" not in alone
    assert root.endswith("55 % of 4 workflows")
    status, out, _ = run("list", "--all", "--json")
    found = {row["name"]: row for row in json.loads(out)}
    assert set(found) == set(tree)
    assert (found["root"]["tree"]["workflows"], found["root"]["tree"]["agents_total"]) == (4, 11)
    assert found["deep"]["parent_id"] == str(tree["build"])


def test_show_tree_lists_all_below_a_workflow(tree: dict[str, Any], run: Run) -> None:
    status, out, _ = run("show", tree["root"], "--tree")
    assert status == 0
    assert "with below 55 % of 4 workflows\n" in out
    names = [line.split("  █")[0].rstrip() for line in out.partition("WORKFLOW")[2].splitlines()[1:]]
    assert names == ["root", "└ plan", "└ build", "  └ deep"]
    assert f"parent     {tree['build']}\n" in run("show", tree["deep"])[1]
    shown = json.loads(run("show", tree["build"], "--tree", "--json")[1])
    assert [(node["name"], node["level"], node["progress"]) for node in shown["tree"]] == [
        ("build", 1, 50),
        ("deep", 2, 60),
    ]
    assert shown["tree_progress"]["workflows"] == 2


def test_watch_follows_roots_and_tells_what_moves_below_them(
    conn: psycopg.Connection, dsn: str, tree: dict[str, Any]
) -> None:
    process = start("watch", tree["root"], "--interval", "0.02", "--dsn", dsn)
    assert "with all below: 55 % of 4 workflows" in process.stdout.readline()
    new_tasks(conn, tree["deep"], *["completed"] * 9)
    assert "with all below: 75 % of 4 workflows" in process.stdout.readline()
    conn.execute("update workflow set status = 'completed', completed_at = now() where id = %s", [tree["root"]])
    status, out, _ = outcome(process)
    assert (status, out.split()[0]) == (0, "root")


def test_watch_all_follows_every_workflow_of_a_tree_to_the_end(
    conn: psycopg.Connection, dsn: str, tree: dict[str, Any]
) -> None:
    process = start("watch", tree["build"], "--all", "--interval", "0.02", "--dsn", dsn)
    assert {process.stdout.readline().split()[0] for _ in range(2)} == {"build", "deep"}
    conn.execute("update workflow set status = 'completed', completed_at = now() where id = %s", [tree["build"]])
    assert process.stdout.readline().split()[0] == "build"
    conn.execute("update workflow set status = 'completed', completed_at = now() where id = %s", [tree["deep"]])
    status, out, _ = outcome(process)
    assert (status, out.split()[0]) == (0, "deep")


def test_watch_in_a_terminal_moves_children_in_below_their_parents(dsn: str, tree: dict[str, Any]) -> None:
    with Terminal("watch", "--interval", "0.02", "--dsn", dsn, columns=160) as terminal:
        text = terminal.read_until("55 % of 4 workflows")
        assert "deep" not in text
        terminal.press(b"\x03")
        assert terminal.end() == 130
    with Terminal("watch", "--all", "--interval", "0.02", "--dsn", dsn, columns=160) as terminal:
        lines = [line.strip("\r").split("  ")[0:3] for line in terminal.read_until("└ plan").splitlines()]
        names = [next(part for part in line if part) for line in lines if any(line)]
        assert [name for name in names if name in ("root", "└ build", "└ deep", "└ plan")] == [
            "root",
            "└ build",
            "└ deep",
            "└ plan",
        ]
        terminal.press(b"\x03")
        assert terminal.end() == 130
