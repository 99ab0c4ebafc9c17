"""Stages: the plan of a workflow, its course along it, and progress by stages."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pyapp import (
    TransitionNotAllowed,
    VersionConflict,
    WorkflowNotFound,
    advance,
    create_workflow,
    list_stages,
    stage_progress,
    transition,
)
from tests.conftest import Role
from tests.helpers import give_away, in_background, new_tasks, new_workflow, progress, set_status, wait_until_blocked_by

APP = [
    *("initialization", "scaffolding", "dependency_installation", "validation"),
    *("e2e_testing", "integration", "deployment", "monitoring"),
]
NO_ONE = "00000000-0000-0000-0000-000000000000"


def define(conn: psycopg.Connection, type: str, *stages: tuple[str, int, int | None]) -> None:
    """Define a type by the name, weight and number of agents of each of its stages."""
    for position, (name, weight, agents) in enumerate(stages):
        conn.execute(
            "insert into stage_definition (workflow_type, position, name, weight, agents) values (%s, %s, %s, %s, %s)",
            [type, position, name, weight, agents],
        )


def course(conn: psycopg.Connection, workflow: Any) -> str:
    """Tell the state of each stage by its first letter, in order: "crpp" is one completed, one running, two pending."""
    rows = conn.execute(
        "select status from workflow_stage where workflow_id = %s order by position, name", [workflow]
    ).fetchall()
    return "".join(status[0] for (status,) in rows)


def add_staged(conn: psycopg.Connection, workflow: Any, stage: str, *statuses: str) -> list[Any]:
    tasks = new_tasks(conn, workflow, *statuses)
    conn.execute("update agent_task set stage = %s where id = any (%s)", [stage, tasks])
    return tasks


def by_stages(conn: psycopg.Connection, workflow: Any) -> tuple[int | None, str | None]:
    found = stage_progress(conn, workflow)
    return found.progress_percentage, found.progress_calculation_method


# --- The plan -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["weight = 0", "weight = -1", "agents = -1"])
def test_a_definition_without_sense_is_refused(conn: psycopg.Connection, change: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        conn.execute(f"update stage_definition set {change}")


def test_a_workflow_created_in_mid_course_is_planned_so(conn: psycopg.Connection) -> None:
    created = create_workflow(conn, "w", "bugfix", status="running", current_stage="validation")
    first, here, last = list_stages(conn, created.workflow_id)
    assert (first.status, here.status, last.status) == ("skipped", "running", "pending")
    assert (first.started_at, here.started_at, last.started_at) == (None, created.created_at, None)
    for status, expected in {"paused": "srp", "completed": "scs", "failed": "sfp", "cancelled": "sfp"}.items():
        done = create_workflow(conn, "w", "bugfix", status=status, current_stage="validation")
        assert course(conn, done.workflow_id) == expected


def test_an_inserted_workflow_is_planned_at_its_first_change_and_not_before(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, type="bugfix")
    new_tasks(conn, workflow, "completed")
    conn.execute("update workflow set status = 'initiated', name = 'same status'")
    conn.execute("update workflow set agents_planned = 9")
    assert course(conn, workflow) == ""
    conn.execute("update workflow set status = 'running'")
    assert course(conn, workflow) == "rpp"
    staged = new_workflow(conn, type="bugfix", status="running")
    conn.execute("update workflow set current_stage = 'validation' where id = %s", [staged])
    assert course(conn, staged) == "crp"
    created, started = conn.execute(
        "select w.created_at, s.started_at from workflow as w join workflow_stage as s on s.workflow_id = w.id"
        " where w.id = %s and s.position = 0",
        [staged],
    ).fetchone()
    assert started == created


def test_a_stage_that_began_before_there_was_a_plan_has_no_known_beginning(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, type="other", status="running")
    conn.execute("update workflow set current_stage = 'validation'")
    conn.execute("update workflow set type = 'bugfix'")
    advance(conn, workflow)
    found = conn.execute("select status, started_at from workflow_stage where name = 'validation'").fetchall()
    assert found == [("completed", None)]


def test_workflows_of_different_types_changed_at_once_are_planned_by_their_types(conn: psycopg.Connection) -> None:
    workflows = [new_workflow(conn, type=type) for type in ("app", "bugfix", "other", "feature")]
    conn.execute("update workflow set status = 'running'")
    assert [course(conn, workflow) for workflow in workflows] == ["rppppppp", "rpp", "", "rpppp"]


def test_a_type_changed_before_the_plan_counts_and_one_changed_later_does_not(conn: psycopg.Connection) -> None:
    early, at_once = new_workflow(conn, type="app"), new_workflow(conn, type="app")
    conn.execute("update workflow set type = 'bugfix' where id = %s", [early])
    conn.execute("update workflow set status = 'running' where id = %s", [early])
    conn.execute("update workflow set type = 'bugfix', status = 'running' where id = %s", [at_once])
    assert (course(conn, early), course(conn, at_once)) == ("rpp", "rpp")
    conn.execute("update workflow set type = 'app'")
    assert advance(conn, early).current_stage == "validation"
    assert course(conn, early) == "crp"
    assert by_stages(conn, early) == (20, "weighted")


def test_stages_of_a_writer_who_keeps_them_himself_are_not_planned_over(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, type="app")
    conn.execute(
        "insert into workflow_stage (workflow_id, name, position) select %s, name, position"
        " from unnest('{build,test}'::text[], '{0,1}'::int[]) as s (name, position)",
        [workflow],
    )
    transition(conn, workflow, "running", stage="build")
    assert course(conn, workflow) == "rp"
    assert advance(conn, workflow).current_stage == "test"


def test_definitions_edited_while_workflows_run_do_not_change_them(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "bugfix").workflow_id
    transition(conn, workflow, "running", stage="validation")
    before = stage_progress(conn, workflow)
    stages = list_stages(conn, workflow)
    conn.execute("update stage_definition set weight = weight * 7 where name = 'validation'")
    conn.execute("insert into stage_definition values ('bugfix', 3, 'review', 500)")
    conn.execute("delete from stage_definition where workflow_type = 'bugfix' and name = 'initialization'")
    assert (stage_progress(conn, workflow), list_stages(conn, workflow)) == (before, stages)
    assert before.progress_percentage == 20
    conn.execute("delete from stage_definition")
    assert (stage_progress(conn, workflow), list_stages(conn, workflow)) == (before, stages)
    assert advance(conn, workflow).current_stage == "e2e_testing"
    assert advance(conn, workflow).status == "completed"
    assert create_workflow(conn, "new", "bugfix").current_stage == "initialization"


@pytest.mark.parametrize(
    ("numbers", "given", "planned"),
    [((2, 3, 1), None, 6), ((2, None, 1), None, None), ((2, 3, 1), 9, 9), ((0, 0, 0), None, 0)],
)
def test_the_plan_is_filled_where_all_stages_name_their_agents(
    conn: psycopg.Connection, numbers: tuple[int | None, ...], given: int | None, planned: int | None
) -> None:
    define(conn, "etl", *((name, 1, n) for name, n in zip(("extract", "transform", "load"), numbers, strict=True)))
    created = create_workflow(conn, "w", "etl", agents_planned=given)
    assert created.agents_planned == planned
    assert created.agents_total == (planned or 0)
    inserted = new_workflow(conn, type="etl", agents_planned=given)
    moved = conn.execute("select agents_planned from transition_workflow(%s, 'running')", [inserted]).fetchone()
    assert moved == (planned,)


def test_the_plan_keeps_progress_below_100_and_from_going_down(conn: psycopg.Connection) -> None:
    define(conn, "etl", ("extract", 1, 2), ("transform", 2, 3), ("load", 1, 1))
    workflow = create_workflow(conn, "w", "etl").workflow_id
    transition(conn, workflow, "running")
    seen = [0]
    for stage, number in (("extract", 2), ("transform", 3), ("load", 1)):
        for task in add_staged(conn, workflow, stage, *["running"] * number):
            set_status(conn, task, "completed")
            seen.append(progress(conn, workflow)[0])
        advance(conn, workflow)
        seen.append(progress(conn, workflow)[0])
    assert seen == [0, 17, 33, 33, 50, 67, 83, 83, 100, 100]
    assert transition(conn, workflow, "completed").status == "completed"


# --- The course ---------------------------------------------------------------------------------------------

# A type, and moves, to a status or to status/stage, each with the course after it.
COURSES = {
    "passing over": ("feature", "running rpppp running/validation cssrp completed csscs"),
    "to the last at once": ("bugfix", "running rpp completed/e2e_testing csc"),
    "to the last unbegun": ("bugfix", "completed/e2e_testing csc"),
    "back": ("feature", "running/scaffolding crppp running/validation ccsrp running/scaffolding crppp advance ccrpp"),
    "failing": ("bugfix", "running/validation crp failed cfp running crp failed cfp running/e2e_testing cfr"),
    "cancelled": ("bugfix", "running/validation crp cancelled cfp"),
    "completed early": ("bugfix", "running/validation crp completed ccs"),
    "cancelled unbegun": ("bugfix", "cancelled ppp"),
    "completed unbegun": ("bugfix", "completed css"),
    "failed unbegun": ("bugfix", "failed fpp"),
    "moved unbegun": ("bugfix", "initiated/validation cpp paused cpp running crp"),
    "detour unbegun": ("bugfix", "initiated/a-detour ppp"),
    "detours": (
        "bugfix",
        "running rpp running/a-detour cpp paused cpp running cpp advance crp running/b-detour ccp completed ccs",
    ),
}


@pytest.mark.parametrize("planned_by", ["create_workflow", "insert"])
def test_stages_follow_the_moves_of_their_workflow(conn: psycopg.Connection, planned_by: str) -> None:
    for name, (type, moves) in COURSES.items():
        made = planned_by == "create_workflow"
        workflow = create_workflow(conn, name, type).workflow_id if made else new_workflow(conn, type=type)
        words = moves.split()
        for move, expected in zip(words[::2], words[1::2], strict=True):
            status, _, stage = move.partition("/")
            if move == "advance":
                advance(conn, workflow)
            else:
                transition(conn, workflow, status, stage=stage or None)
            assert course(conn, workflow) == expected, (name, move)


def test_stages_start_and_complete_as_the_current_stage_moves(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "bugfix").workflow_id
    transition(conn, workflow, "running")
    begun = list_stages(conn, workflow)
    assert (course(conn, workflow), begun[0].completed_at, begun[1].started_at) == ("rpp", None, None)
    moved = transition(conn, workflow, "running", stage="validation")
    first, here, last = list_stages(conn, workflow)
    assert course(conn, workflow) == "crp"
    assert first.started_at == begun[0].started_at
    assert first.completed_at == here.started_at == moved.updated_at
    assert (here.completed_at, last.started_at, last.completed_at) == (None, None, None)
    assert [stage.retry_count for stage in (first, here, last)] == [0, 0, 0]


def test_going_back_counts_and_clears_the_times_of_later_stages(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "feature").workflow_id
    for stage in ("initialization", "scaffolding", "validation", "scaffolding"):
        transition(conn, workflow, "running", stage=stage)
    stages = list_stages(conn, workflow)
    assert [stage.retry_count for stage in stages] == [0, 1, 0, 0, 0]
    assert all(stage.started_at is stage.completed_at is None for stage in stages[2:])
    assert stages[1].completed_at is None


def test_a_failed_stage_runs_again_with_the_retry(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "bugfix").workflow_id
    transition(conn, workflow, "running", stage="validation")
    failed = transition(conn, workflow, "failed")
    assert list_stages(conn, workflow)[1].completed_at == failed.updated_at
    retried = transition(conn, workflow, "running")
    stage = list_stages(conn, workflow)[1]
    assert (stage.retry_count, stage.started_at, stage.completed_at) == (1, retried.updated_at, None)


def test_stages_of_one_position_come_in_the_order_of_their_names(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, type="other", current_stage="a")
    conn.execute(
        "insert into workflow_stage (workflow_id, name, position) select %s, name, 0"
        " from unnest('{c,a,b}'::text[]) as s (name)",
        [workflow],
    )
    transition(conn, workflow, "running")
    seen = [course(conn, workflow)]
    for _ in range(3):
        advance(conn, workflow)
        seen.append(course(conn, workflow))
    assert seen == ["rpp", "crp", "ccr", "ccc"]


# --- advance ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planned_by", ["create_workflow", "insert"])
def test_advance_goes_through_all_stages_and_then_completes(conn: psycopg.Connection, planned_by: str) -> None:
    made = planned_by == "create_workflow"
    workflow = create_workflow(conn, "w", "app").workflow_id if made else new_workflow(conn, type="app")
    seen = [advance(conn, workflow) for _ in range(8)]
    assert [state.current_stage for state in seen] == [*APP[1:], "monitoring"]
    assert [state.status for state in seen] == ["running"] * 7 + ["completed"]
    assert [state.version for state in seen] == list(range(2, 10))
    assert course(conn, workflow) == "c" * 8
    with pytest.raises(TransitionNotAllowed, match="is completed: only initiated and running ones advance"):
        advance(conn, workflow)


def test_advance_from_a_stage_that_is_not_in_the_plan_goes_to_the_first_that_was_not_begun(
    conn: psycopg.Connection,
) -> None:
    define(conn, "etl", ("extract", 1, None), ("load", 3, None))
    workflow = new_workflow(conn, type="etl", current_stage="a detour", status="running")
    assert [advance(conn, workflow).current_stage for _ in range(2)] == ["extract", "load"]
    assert by_stages(conn, workflow) == (25, "weighted")
    # A workflow from before its type was defined.
    old = new_workflow(conn, type="late")
    define(conn, "late", ("extract", 1, None), ("load", 3, None))
    transition(conn, old, "running")
    assert (course(conn, old), by_stages(conn, old)) == ("pp", (0, "weighted"))
    assert [advance(conn, old).current_stage for _ in range(2)] == ["extract", "load"]


def test_advance_says_why_it_cannot(conn: psycopg.Connection) -> None:
    with pytest.raises(WorkflowNotFound, match=NO_ONE):
        advance(conn, NO_ONE)
    for status in ("paused", "failed", "cancelled"):
        with pytest.raises(TransitionNotAllowed, match=f"is {status}: only"):
            advance(conn, new_workflow(conn, status=status))
    unplanned = new_workflow(conn, type="other", status="running")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="in stage initialization: it has no plan"):
        advance(conn, unplanned)
    workflow = new_workflow(conn)
    with pytest.raises(VersionConflict, match="version 1, and not version 2"):
        advance(conn, workflow, expected_version=2)
    assert course(conn, workflow) == ""
    transition(conn, workflow, "completed")
    with pytest.raises(VersionConflict):
        advance(conn, workflow, expected_version=1)


def test_of_two_who_advance_with_one_version_exactly_one_does(conn: psycopg.Connection, session: Any) -> None:
    workflow = new_workflow(conn, type="bugfix")
    first, second = session(), session()
    assert advance(first, workflow, expected_version=1).current_stage == "validation"
    waiting = in_background(lambda: advance(second, workflow, expected_version=1))
    wait_until_blocked_by(conn, second.info.backend_pid, first.info.backend_pid)
    first.commit()
    with pytest.raises(VersionConflict):
        waiting.result(60)
    assert course(conn, workflow) == "crp"


# --- Progress by stages -------------------------------------------------------------------------------------


def test_weighted_progress_is_the_share_of_finished_stages(conn: psycopg.Connection) -> None:
    workflow = create_workflow(conn, "w", "app").workflow_id
    seen = [by_stages(conn, workflow)[0]]
    for _ in range(8):
        advance(conn, workflow)
        seen.append(by_stages(conn, workflow)[0])
    assert seen == [0, 5, 15, 25, 40, 60, 75, 90, 100]
    found = stage_progress(conn, workflow)
    assert (found.progress_calculation_method, found.stages, found.stages_finished) == ("weighted", 8, 8)
    assert progress(conn, workflow) == (0, 0, 0)
    skipping = create_workflow(conn, "w", "feature").workflow_id
    for status, expected in {"running": 45, "failed": 45, "completed": 100}.items():
        transition(conn, skipping, "running", stage="validation")
        transition(conn, skipping, status)
        assert by_stages(conn, skipping) == (expected, "weighted")


def test_a_workflow_that_is_not_planned_yet_is_measured_by_its_type(conn: psycopg.Connection) -> None:
    for stage, expected in {"initialization": 0, "validation": 25, "monitoring": 90, "a detour": 0}.items():
        workflow = new_workflow(conn, current_stage=stage, status="running")
        assert by_stages(conn, workflow) == (expected, "weighted")
        assert stage_progress(conn, workflow).stages == 8
        conn.execute("update workflow set status = 'paused' where id = %s", [workflow])
        assert by_stages(conn, workflow) == (expected, "weighted")
    assert by_stages(conn, new_workflow(conn, status="completed")) == (100, "weighted")


def test_stages_that_come_one_by_one_are_weighed_against_the_whole_type(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, type="bugfix", status="running")
    conn.execute(
        "insert into workflow_stage (workflow_id, name, position, status)"
        " values (%s, 'initialization', 0, 'completed')",
        [workflow],
    )
    assert by_stages(conn, workflow) == (20, "weighted")
    assert stage_progress(conn, workflow).stages == 3


def test_without_stages_there_is_no_number(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, type="other", status="running")
    for status in ("running", "completed"):
        transition(conn, workflow, status)
        found = stage_progress(conn, workflow)
        assert (found.progress_percentage, found.progress_calculation_method) == (None, None)
        assert (found.stages, found.stages_finished) == (0, 0)


def test_linear_progress_is_the_place_of_the_current_stage(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn, type="other")
    conn.execute(
        "insert into workflow_stage (workflow_id, name, position) select %s, name, 10 * place"
        " from unnest('{a,b,c}'::text[]) with ordinality as s (name, place)",
        [workflow],
    )
    assert by_stages(conn, workflow) == (None, None)
    seen = []
    for stage in ("a", "b", "c"):
        transition(conn, workflow, "running", stage=stage)
        seen.append(by_stages(conn, workflow))
    assert seen == [(33, "linear"), (67, "linear"), (100, "linear")]
    transition(conn, workflow, "running", stage="elsewhere")
    assert by_stages(conn, workflow) == (None, None)
    transition(conn, workflow, "running", stage="b")
    transition(conn, workflow, "completed")
    assert by_stages(conn, workflow) == (100, "linear")


def test_each_stage_has_the_agents_that_name_it(conn: psycopg.Connection) -> None:
    workflow, other = (create_workflow(conn, "w", "bugfix").workflow_id for _ in range(2))
    add_staged(conn, workflow, "initialization", "completed", "completed", "failed")
    add_staged(conn, workflow, "validation", "running", "cancelled", "completed")
    add_staged(conn, workflow, "elsewhere", "completed")
    add_staged(conn, other, "validation", "completed")
    new_tasks(conn, workflow, "completed")
    assert [(s.name, s.agents_completed, s.agents_failed, s.agents_total) for s in list_stages(conn, workflow)] == [
        ("initialization", 2, 1, 3),
        ("validation", 1, 0, 3),
        ("e2e_testing", 0, 0, 0),
    ]


# --- Locks, rights, and what it reads -----------------------------------------------------------------------


def test_an_event_written_by_hand_does_not_hold_up_a_transition(conn: psycopg.Connection, session: Any) -> None:
    workflow = create_workflow(conn, "w", "bugfix").workflow_id
    writer = session()
    writer.execute("insert into workflow_event (workflow_id, event_type) values (%s, 'note')", [workflow])
    writer.execute("insert into agent_task (workflow_id, agent_type) values (%s, 'a')", [new_workflow(writer)])
    mover = session()
    mover.execute("set local lock_timeout = '60s'")
    assert advance(mover, workflow).current_stage == "validation"
    mover.commit()
    writer.commit()
    assert conn.execute("select count(*) from workflow_event").fetchone() == (3,)


def test_under_forced_row_security_a_move_fails_aloud_and_records_no_half(
    conn: psycopg.Connection, new_role: Callable[..., Role]
) -> None:
    workflow = create_workflow(conn, "w", "bugfix").workflow_id
    give_away(conn, new_role().name)
    conn.execute("alter table workflow_stage enable row level security")
    conn.execute("alter table workflow_stage force row level security")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        transition(conn, workflow, "running")
    assert conn.execute("select status, version from workflow").fetchone() == ("initiated", 1)
