"""adopt and unadopt as people use them: look first, print, paste, take up, go live, and take back."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from .application import App, cli, succeed
from .hostile import HOSTILE_SHAPES
from .schemas import DJANGO, PARTITIONED, PRISMA, SHAPES, SHARDED, TIMES
from .shape import Shape

Make = Callable[..., App]
both_modes = pytest.mark.parametrize("columns", [False, True], ids=["side", "columns"])
HOSTILE = {shape.title: shape for shape in HOSTILE_SHAPES}


@pytest.fixture
def dump(bin_dir: Path, dsn: str) -> Callable[[], str]:
    """Dump the schema of the test's database."""

    def run() -> str:
        ran = subprocess.run([bin_dir / "pg_dump", "-s", dsn], capture_output=True, text=True, check=True)
        return re.sub(r"^\\(un)?restrict .*$", "", ran.stdout, flags=re.MULTILINE)

    return run


@pytest.fixture
def psql(bin_dir: Path, dsn: str) -> Callable[[str], None]:
    """Run a script with psql in one transaction, as a migration would be."""

    def run(script: str) -> None:
        command = [bin_dir / "psql", "-X", "-1", "-q", "-v", "ON_ERROR_STOP=1", dsn]
        environment = {**os.environ, "PGCLIENTENCODING": "utf-8"}
        ran = subprocess.run(command, input=script.encode(), capture_output=True, env=environment, check=False)
        assert ran.returncode == 0, ran.stderr.decode()

    return run


@both_modes
@pytest.mark.parametrize(
    "shape", [PRISMA, PARTITIONED, TIMES, HOSTILE["hostile prisma"]], ids=lambda shape: shape.title
)
def test_a_dry_run_tells_what_would_change_and_changes_nothing(
    make: Make, dump: Callable[[], str], shape: Shape, columns: bool
) -> None:
    app = make(shape, columns=columns, adopt=False)
    before, said = dump(), app.said() if shape.progress else {}
    ran = succeed(app.dsn, *app.adopt_arguments("--dry-run"))
    assert "nothing was changed" in ran.out
    told = json.loads(succeed(app.dsn, *app.adopt_arguments("--dry-run", "--json")).out)
    assert dump() == before
    counted = {key: numbers[0] for key, numbers in app.counted().items() if key not in map(str, app.frozen)}
    if shape.progress:
        assert app.said() == said
        moves = {key: (said[key], new) for key, new in counted.items() if said[key] != new}
        assert {change["workflow"]: (change["stored"], change["counted"]) for change in told["examples"]} == moves
        assert (told["raised"], told["lowered"]) == (
            sum(new > old for old, new in moves.values()),
            sum(new < old for old, new in moves.values()),
        )
        assert told["frozen"] == len(app.frozen)
        assert told["unchanged"] == len(counted) - len(moves)
    else:
        assert {change["workflow"]: change["counted"] for change in told["examples"]} == counted
    assert told["workflows"] == len(counted) + len(app.frozen)


@both_modes
def test_a_dry_run_counts_with_the_plan_of_the_application(make: Make, columns: bool) -> None:
    app = make(DJANGO, columns=columns, adopt=False)
    app.run("alter table <workflows> add agents_planned integer")
    app.run("update <workflows> set agents_planned = 10")
    app.plans = dict.fromkeys(app.counted(), 10)
    told = json.loads(succeed(app.dsn, *app.adopt_arguments("--dry-run", "--json")).out)
    expected = {key: numbers[0] for key, numbers in app.counted().items() if app.said()[key] != numbers[0]}
    expected = {key: number for key, number in expected.items() if key not in map(str, app.frozen)}
    assert {change["workflow"]: change["counted"] for change in told["examples"]} == expected
    app.adopt()
    app.assert_exact()


@pytest.mark.parametrize(
    ("shape", "columns"),
    [
        (shape, place % 2 == turn)
        for turn, shapes in enumerate((SHAPES, HOSTILE_SHAPES))
        for place, shape in enumerate(shapes)
    ],
    ids=lambda value: value.title if isinstance(value, Shape) else "columns" if value else "side",
)
def test_what_is_printed_can_be_pasted_and_is_what_adopt_runs(
    make: Make, psql: Callable[[str], None], dump: Callable[[], str], shape: Shape, columns: bool
) -> None:
    app = make(shape, columns=columns, adopt=False)
    printed = succeed(app.dsn, *app.adopt_arguments("--print"))
    app.check_nothing_there()
    psql(f"create table other (id integer);\n{printed.out}\nalter table other add n integer;")
    numbers = app.stored()
    app.tasks(app.key(1), "completed")
    assert app.stored() == numbers  # not counted yet: what is added to null stays null
    ran = succeed(app.dsn, "adopt", "--continue")
    assert "counted" in ran.out
    app.assert_exact()
    app.check()
    assert succeed(app.dsn, "adopt", "--continue").out == "all workflows have been counted\n"
    pasted = dump()
    psql(printed.out)
    app.assert_exact()
    again = succeed(app.dsn, *app.adopt_arguments("--print")).out
    assert again == printed.out
    app.adopt()
    assert dump() == pasted
    app.assert_exact()
    app.check()


@both_modes
def test_a_shadow_keeps_the_count_beside_until_it_goes_live(make: Make, dump: Callable[[], str], columns: bool) -> None:
    app = make(DJANGO, columns=columns, adopt=False)
    said = app.said()
    app.adopt("--shadow")
    app.move(app.key(1), "completed", 2)
    app.run("update <workflows> set <progress> = 33 where <w_id> = %(w)s", w=app.key(1))
    assert app.said() == {**said, str(app.key(1)): 33}
    app.assert_exact(said=False)
    wrong = sum(
        app.said()[key] != numbers[0] for key, numbers in app.counted().items() if key not in map(str, app.frozen)
    )
    told = succeed(app.dsn, "check", "--name", "default")
    assert f"{wrong} workflows say something else" in told.out
    assert "adopt --live" in told.out
    succeed(app.dsn, "adopt", "--live")
    app.assert_exact()
    app.run("update <workflows> set <progress> = 33")
    app.move(app.key(1), "failed")
    app.assert_exact()
    app.check()
    live = dump()
    succeed(app.dsn, "unadopt", *(["--drop-columns"] if columns else []))
    app.adopt()
    assert columns or dump() == live  # as if it had been live from the beginning


@both_modes
def test_a_shadow_can_be_taken_back(make: Make, dump: Callable[[], str], columns: bool) -> None:
    app = make(DJANGO, columns=columns, adopt=False)
    before, said = dump(), app.said()
    app.adopt("--shadow")
    succeed(app.dsn, "unadopt", *(["--drop-columns"] if columns else []))
    assert (dump(), app.said()) == (before, said)


@both_modes
@pytest.mark.parametrize("printed", [False, True], ids=["run", "printed"])
@pytest.mark.parametrize(
    "shape", [PRISMA, PARTITIONED, TIMES, SHARDED, HOSTILE["hostile partitioned"]], ids=lambda s: s.title
)
def test_unadopt_leaves_what_was_there_and_adopt_comes_back(
    make: Make, dump: Callable[[], str], psql: Callable[[str], None], shape: Shape, columns: bool, printed: bool
) -> None:
    app = make(shape, columns=columns, adopt=False)
    before = dump()
    app.adopt()
    said = app.said() if shape.progress else {}
    options = ["--drop-columns"] if columns else []
    if printed:
        psql(succeed(app.dsn, "unadopt", "--print", *options).out)
    else:
        succeed(app.dsn, "unadopt", *options)
    assert dump() == before
    if shape.progress:
        assert app.said() == said
    app.move(app.key(1), "completed", 2)
    app.workflow(80, "completed", "running")
    app.run("delete from <tasks> where <t_workflow> = %(w)s", w=app.key(3))
    app.adopt()
    app.assert_exact()
    app.check()


def test_columns_that_are_kept_are_counted_anew_by_the_next_adoption(make: Make) -> None:
    app = make(DJANGO, columns=True)
    app.run("update <workflows> set agents_planned = 10 where <w_id> = %(w)s", w=app.key(2))
    succeed(app.dsn, "unadopt")
    app.plans[str(app.key(2))] = 10
    app.move(app.key(1), "completed", 2)
    app.workflow(80, "completed", "running")
    app.run("delete from <tasks> where <t_workflow> = %(w)s", w=app.key(3))
    app.adopt()
    app.assert_exact()
    app.check()


def test_counters_beside_a_table_that_kept_its_columns_are_those_that_count(make: Make) -> None:
    app = make(DJANGO, columns=True)
    succeed(app.dsn, "unadopt")
    app.columns = False
    app.move(app.key(1), "completed", 2)
    app.adopt()
    app.workflow(80, "completed", "running")
    app.assert_exact()
    app.check()


def test_unadopt_refuses_while_others_use_what_it_would_drop(make: Make) -> None:
    app = make(DJANGO)
    app.run("create view report as select * from agent_progress.workflow_progress")
    ran = cli(app.dsn, "unadopt")
    assert (ran.code, ran.out, "report" in ran.err) == (2, "", True)
    app.move(app.key(1), "completed")
    app.assert_exact()
    app.run("drop view report")
    succeed(app.dsn, "unadopt")


def test_unadopt_goes_on_where_the_tables_are_gone(make: Make) -> None:
    app = make(PARTITIONED, columns=True)
    app.run("drop table <tasks>, <workflows> cascade")
    succeed(app.dsn, "unadopt", "--drop-columns")
    assert app.run("select to_regnamespace('agent_progress')").fetchall() == [(None,)]


@both_modes
def test_adoptions_stand_side_by_side(conn: psycopg.Connection, columns: bool) -> None:
    apps = [App(conn, shape, columns) for shape in (PRISMA, DJANGO, TIMES)]
    for app, name in zip(apps, ("default", "second", "third"), strict=True):
        app.create()
        app.fill()
        app.schema = "agent_progress" if name == "default" else f"agent_progress_{name}"
        app.adopt("--name", name)
    for app in apps:
        app.move(app.key(1), "completed", 3)
    succeed(apps[0].dsn, "adopt", "--name", "second")
    succeed(apps[0].dsn, "unadopt")
    for app, name in zip(apps[1:], ("second", "third"), strict=True):
        app.move(app.key(2), "cancelled")
        app.assert_exact()
        assert cli(app.dsn, "check", "--name", name).code == 0
    apps[0].adopt("--name", "fourth", "--schema", "elsewhere")
    apps[0].schema = "elsewhere"
    apps[0].assert_exact()


@both_modes
def test_finished_history_that_was_never_reported_is_listed_and_stays(make: Make, columns: bool) -> None:
    app = make(DJANGO, columns=columns, adopt=False)
    ran = app.adopt()
    assert "1 finished workflow was frozen as found, since no task was ever reported:\n  1008\n" in ran.out
    app.move(app.key(8), "completed", 1)
    app.run("update <workflows> set <version> = 7, <progress> = 3 where <w_id> = %(w)s", w=app.key(8))
    app.assert_exact()
    succeed(app.dsn, "adopt")
    assert succeed(app.dsn, "repair", "--name", "default").out == "nothing to repair\n"
    app.assert_exact()
    assert app.said()[str(app.key(8))] == 100
    succeed(app.dsn, "unadopt")
    if not columns:  # a mark that is kept with the columns is heeded
        app.frozen.clear()  # by now one of its tasks was reported
    app.adopt()
    app.assert_exact()


@both_modes
@pytest.mark.parametrize("shape", [*SHAPES, HOSTILE["hostile prisma"]], ids=lambda shape: shape.title)
def test_the_other_commands_work_on_an_adopted_pair(make: Make, shape: Shape, columns: bool) -> None:
    app = make(shape, columns=columns)
    pair = ("--name", "default")
    listed = json.loads(succeed(app.dsn, "list", *pair, "--json").out)
    assert {str(w["workflow_id"]): w["progress"] for w in listed} == {k: v[0] for k, v in app.stored().items()}
    assert succeed(app.dsn, "list", *pair).out.count("%") == len(listed)
    key = str(app.key(2))
    shown = succeed(app.dsn, "show", *pair, "--tasks", "--", key).out
    assert "40 %" in shown
    shown = json.loads(succeed(app.dsn, "show", *pair, "--tasks", "--json", "--", key).out)
    assert len(shown["tasks"]) == 5
    assert cli(app.dsn, "show", *pair, "--", str(app.key(99))).code == 1
    app.run("set session_replication_role = replica")
    app.move(app.key(1), "completed", 1)
    app.run("set session_replication_role = origin")
    told = cli(app.dsn, "check", *pair)
    assert (told.code, "1 wrong" in told.out) == (1, True)
    assert str(app.key(1)) in succeed(app.dsn, "repair", *pair).out
    app.assert_exact()
    succeed(app.dsn, "check", *pair, "--", str(app.key(1)), key)
