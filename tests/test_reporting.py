"""report_task and report_tasks as any client calls them: as if each report came alone, all or none, few rows read."""

import json
from collections.abc import Callable
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from .helpers import (
    counters,
    examples,
    in_background,
    new_tasks,
    new_workflow,
    progress,
    read_row,
    row_version,
    wait_until_blocked_by,
)

Session = Callable[[], psycopg.Connection]
STATUSES = ["pending", "assigned", "running", "completed", "failed", "cancelled"]
OPEN, SETTLED = STATUSES[:3], STATUSES[3:]


def report(conn: psycopg.Connection, workflow: Any, *reports: Any) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        query = "select * from report_tasks(%s, %s)"
        return cursor.execute(query, [workflow, json.dumps(reports, default=str)]).fetchall()


def report_one(conn: psycopg.Connection, workflow: Any, *values: Any) -> dict[str, Any]:
    with conn.cursor(row_factory=dict_row) as cursor:
        query = f"select (r).* from report_task({', '.join(['%s'] * (1 + len(values)))}) as r"
        return cursor.execute(query, [workflow, *values]).fetchone()


def named(conn: psycopg.Connection, workflow: Any, **statuses: str) -> dict[str, UUID]:
    """Insert tasks by their external ids."""
    tasks = new_tasks(conn, workflow, *statuses.values())
    for name, task in zip(statuses, tasks, strict=True):
        conn.execute("update agent_task set external_id = %s where id = %s", [name, task])
    return dict(zip(statuses, tasks, strict=True))


# --- One report ---------------------------------------------------------------------------------------------


def test_a_report_is_taken_unless_it_comes_late(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    for before, after, reopen in product(STATUSES, STATUSES, [False, True]):
        one, other = new_tasks(conn, workflow, before, before)
        late = before in SETTLED and after in OPEN and not reopen
        expected = before if late else after
        alone = report_one(conn, workflow, one, after, None, reopen)
        [batched] = report(conn, workflow, {"task_id": other, "status": after, "reopen": reopen})
        for task, returned in ((one, alone), (other, batched)):
            assert returned == read_row(conn, "agent_task", task)
            assert returned["status"] == expected, (before, after, reopen)
            assert returned["retry_count"] == int(before in SETTLED and expected in OPEN)
            assert (returned["completed_at"] is not None) == (expected in SETTLED)


def test_what_is_reported_twice_is_written_once(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    [task] = new_tasks(conn, workflow, "running")
    first = report_one(conn, workflow, task, "completed")
    before = row_version(conn, workflow), conn.execute("select ctid from agent_task").fetchone()
    assert report_one(conn, workflow, task, "completed") == first
    assert report(conn, workflow, {"task_id": task, "status": "completed"}) == [first]
    assert (row_version(conn, workflow), conn.execute("select ctid from agent_task").fetchone()) == before


# --- Many reports -------------------------------------------------------------------------------------------


def test_tasks_come_back_once_in_the_order_of_their_first_report(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, *["running"] * 20)
    order = [tasks[place * 7 % 20] for place in range(20)]
    reports = [{"task_id": task, "status": "completed"} for task in order]
    again = [{"task_id": task, "status": "failed"} for task in reversed(order[:5])]
    returned = report(conn, workflow, *reports, *again)
    assert [found["id"] for found in returned] == order
    assert [found["status"] for found in returned] == ["failed"] * 5 + ["completed"] * 15


def test_external_ids_stand_for_ids_within_their_workflow(conn: psycopg.Connection) -> None:
    workflow, other = new_workflow(conn), new_workflow(conn)
    tasks, foreign = named(conn, workflow, a="running", b="running"), named(conn, other, a="running")
    returned = report(
        conn,
        workflow,
        {"external_id": "b", "status": "completed"},
        {"external_id": "a", "status": "failed"},
        {"task_id": tasks["b"], "status": "cancelled"},  # the same task by both names
        {"task_id": tasks["a"], "external_id": "b", "status": "completed"},  # its id says which
    )
    assert [(task["id"], task["status"]) for task in returned] == [(tasks["b"], "cancelled"), (tasks["a"], "completed")]
    assert read_row(conn, "agent_task", foreign["a"])["status"] == "running"


def test_a_batch_counts_once_whatever_its_size(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, *["running"] * 100)
    updates = "select n_tup_upd from pg_stat_xact_user_tables where relname = 'workflow'"
    with conn.transaction():
        [before] = conn.execute(updates).fetchone()
        report(conn, workflow, *({"task_id": task, "status": "completed"} for task in tasks))
        assert conn.execute(updates).fetchone() == (before + 1,)
    assert progress(conn, workflow) == (100, 100, 100)


# --- The model: what one report does, and reports one by one --------------------------------------------------

REPORTS = st.lists(
    st.tuples(
        st.integers(0, 4), st.sampled_from(STATUSES), st.none() | st.integers(0, 9), st.booleans(), st.booleans()
    ),
    max_size=12,
)


@given(before=st.lists(st.sampled_from(STATUSES), min_size=5, max_size=5), reports=REPORTS)
@settings(max_examples=examples(60))
def test_a_batch_ends_as_its_reports_do_one_by_one_and_as_the_model_says(
    conn: psycopg.Connection, before: list[str], reports: list[tuple[int, str, int | None, bool, bool]]
) -> None:
    one, other = new_workflow(conn), new_workflow(conn)
    batched, single = new_tasks(conn, one, *before), new_tasks(conn, other, *before)
    for workflow in (one, other):
        conn.execute(
            "update agent_task set external_id = place from (select id as of, (row_number() over (order by ordinal)"
            " - 1)::text as place from agent_task where workflow_id = %(w)s) as p where id = of",
            {"w": workflow},
        )
    model: list[tuple[str, Any, int]] = [(status, None, 0) for status in before]
    sent = []
    for place, status, number, reopen, by_name in reports:
        which = {"external_id": str(place)} if by_name else {"task_id": batched[place]}
        result = None if number is None else {"n": number}
        sent.append({**which, "status": status, "result": result, "reopen": reopen})
        values = [status, json.dumps(result), reopen]  # to be told null is to be told nothing
        report_one(conn, other, single[place], *values)
        was, kept, retries = model[place]
        if was in SETTLED and status in OPEN:
            if reopen:
                model[place] = (status, result, retries + 1)
        else:
            model[place] = (status, kept if result is None else result, retries)
    returned = report(conn, one, *sent)
    assert [batched.index(task["id"]) for task in returned] == list(dict.fromkeys(place for place, *_ in reports))
    seen = "select status, result, retry_count, {} from agent_task where id = any (%s) order by ordinal"
    whether = "assigned_at is null, started_at is null, completed_at is null"
    ends = [conn.execute(seen.format(whether), [tasks]).fetchall() for tasks in (batched, single)]
    assert ends[0] == ends[1]
    assert [end[:3] for end in ends[0]] == model
    assert counters(conn, one) == counters(conn, other)


# --- What is refused ----------------------------------------------------------------------------------------

MALFORMED = [
    ('{"task_id": "T", "status": "completed"}', "22023", "reports are given as a JSON array"),
    ("null", "22023", "reports are given as a JSON array"),
    ('[{"task_id": "T", "status": "failed", "state": "x"}]', "22023", "a report has no state"),
    ('[{"task_id": "T", "status": "failed"}, {"task_id": "T"}]', "22023", "report 2 lacks its status"),
    ('[{"task_id": "T", "status": null}]', "22023", "report 1 lacks its status"),
    ('[{"status": "failed"}]', "22023", "report 1 lacks its status, or says of no task"),
    ('[{"external_id": null, "status": "failed"}]', "22023", "says of no task"),
    ('["T"]', "22023", "reports are given as a JSON array of objects"),
    ('[{"task_id": "T", "status": "failed"}, 7]', "22023", "reports are given as a JSON array of objects"),
    ("[null]", "22023", "reports are given as a JSON array of objects"),
    ("[[]]", "22023", "reports are given as a JSON array of objects"),
    ('[{"task_id": "T", "status": "failed"}, {"task_id": "T", "status": "done"}]', "22P02", '"done"'),
    ('[{"task_id": "7", "status": "failed"}]', "22P02", '"7"'),
    ('[{"task_id": "T", "status": "failed", "reopen": "perhaps"}]', "22P02", "boolean"),
    ("[", "22P02", "json"),
]


def test_malformed_reports_are_refused_with_what_is_wrong_and_none_is_taken(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    [task] = new_tasks(conn, workflow, "running")
    for reports, state, told in MALFORMED:
        with pytest.raises(psycopg.Error) as refused:
            conn.execute("select report_tasks(%s, %s)", [workflow, reports.replace('"T"', f'"{task}"')])
        assert refused.value.sqlstate == state, (reports, refused.value)
        assert told in str(refused.value)
    assert read_row(conn, "agent_task", task)["status"] == "running"


def test_unknown_tasks_are_named_and_no_report_is_taken(conn: psycopg.Connection) -> None:
    workflow, other = new_workflow(conn), new_workflow(conn)
    tasks = named(conn, workflow, a="running")
    [foreign] = new_tasks(conn, other, "running")
    missing = uuid4()
    good = {"task_id": tasks["a"], "status": "completed"}
    wanting = [
        ([{"external_id": "z", "status": "failed"}], ["z"]),
        ([{"task_id": missing, "status": "failed"}], [missing]),
        ([{"task_id": foreign, "status": "failed"}], [foreign]),
        ([{"task_id": missing, "status": "failed"}, {"external_id": "z", "status": "failed"}] * 2, ["z", "z", missing]),
        # An id that is wrong is not made good by an external id.
        ([{"task_id": missing, "external_id": "a", "status": "failed"}], [missing]),
    ]
    for reports, named_ids in wanting:
        with pytest.raises(psycopg.Error) as refused:
            report(conn, workflow, good, *reports)
        assert refused.value.sqlstate == "WP003"
        told = json.loads(refused.value.diag.message_detail)
        assert sorted(map(str, told)) == sorted(map(str, named_ids))
        assert refused.value.diag.message_primary == f"workflow {workflow} has no task {told[0]}"
        assert "None of the reports" in refused.value.diag.message_hint
        assert read_row(conn, "agent_task", tasks["a"])["status"] == "running"
    assert read_row(conn, "agent_task", foreign)["status"] == "running"


def test_each_error_has_its_sqlstate_and_changes_nothing(conn: psycopg.Connection) -> None:
    workflow = new_workflow(conn)
    [task], [foreign] = new_tasks(conn, workflow, "running"), new_tasks(conn, new_workflow(conn), "running")
    for call, state in {
        "report_task({w}, gen_random_uuid(), 'completed')": "WP003",
        "report_task({w}, null, 'completed')": "22023",
        "report_task({w}, {foreign}, 'completed')": "WP003",
        "report_task({w}, {t}, null)": "22023",
        "report_task({w}, {t}, 'done')": "22P02",
        "report_task({w}, 'no id', 'completed')": "22P02",
        "report_task(gen_random_uuid(), {t}, 'completed')": "P0002",
        "report_task(null, {t}, 'completed')": "P0002",
        "report_tasks(gen_random_uuid(), '[]')": "P0002",
        "report_tasks(null, '[]')": "P0002",
        "report_tasks({w}, null)": "22023",
        "report_tasks({w}, '7')": "22023",
        """report_tasks(gen_random_uuid(), '[{{"external_id": "a", "status": "failed"}}]')""": "P0002",
    }.items():
        with pytest.raises(psycopg.Error) as refused:
            conn.execute("select " + call.format(w=f"'{workflow}'", t=f"'{task}'", foreign=f"'{foreign}'"))
        assert refused.value.sqlstate == state, (call, refused.value)
    assert conn.execute("select distinct status from agent_task").fetchall() == [("running",)]


# --- Two sessions -------------------------------------------------------------------------------------------


def test_two_batches_over_the_same_tasks_in_opposite_order_never_deadlock(
    conn: psycopg.Connection, session: Session
) -> None:
    workflow = new_workflow(conn)
    tasks = sorted(new_tasks(conn, workflow, *["running"] * 9))
    holder, one, other = session(), session(), session()
    holder.execute("select from agent_task where id = %s for update", [tasks[4]])
    upward = [{"task_id": task, "status": "completed"} for task in tasks]
    first = in_background(report, one, workflow, *upward)
    wait_until_blocked_by(conn, one.info.backend_pid, holder.info.backend_pid)
    second = in_background(report, other, workflow, *({**r, "status": "failed"} for r in reversed(upward)))
    wait_until_blocked_by(conn, other.info.backend_pid, one.info.backend_pid)
    holder.commit()
    assert len(first.result(60)) == 9
    one.commit()
    assert len(second.result(60)) == 9
    other.commit()
    assert counters(conn, workflow) == (9, 0, 9, 0)


@pytest.mark.parametrize("single", [True, False])
def test_a_report_that_waited_for_another_one_is_judged_by_what_that_left(
    conn: psycopg.Connection, session: Session, single: bool
) -> None:
    workflow = new_workflow(conn)
    [task] = new_tasks(conn, workflow, "assigned")
    one, other = session(), session()
    report_one(one, workflow, task, "completed")
    late = {"task_id": task, "status": "running"}
    waiting = (
        in_background(report_one, other, workflow, task, "running")
        if single
        else in_background(report, other, workflow, late)
    )
    wait_until_blocked_by(conn, other.info.backend_pid, one.info.backend_pid)
    one.commit()
    returned = waiting.result(60)
    assert (returned if single else returned[0])["status"] == "completed"
    other.commit()
    assert progress(conn, workflow) == (100, 1, 1)


def test_a_report_that_finds_its_task_opened_again_brings_its_result(
    conn: psycopg.Connection, session: Session
) -> None:
    workflow = new_workflow(conn)
    [task] = new_tasks(conn, workflow, "completed")
    one, other = session(), session()
    report_one(one, workflow, task, "pending", None, True)
    waiting = in_background(report_one, other, workflow, task, "running", '{"n": 1}')
    wait_until_blocked_by(conn, other.info.backend_pid, one.info.backend_pid)
    one.commit()
    returned = waiting.result(60)
    assert (returned["status"], returned["result"]) == ("running", {"n": 1})
    other.commit()


# --- What it reads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("analyzed", [False, True], ids=["without statistics", "with statistics"])
@pytest.mark.parametrize("by", ["task_id", "external_id"])
def test_a_batch_reads_its_own_tasks_only_however_many_there_are(
    conn: psycopg.Connection, analyzed: bool, by: str
) -> None:
    workflow = new_workflow(conn)
    conn.execute("alter table agent_task set (autovacuum_enabled = off)")
    # The session keeps the plans that it made while there were few.
    few = named(conn, workflow, a="running", b="running")
    conn.execute("vacuum analyze agent_task")
    for status in STATUSES[2:] * 2:
        report(conn, workflow, *({by: few[name] if by == "task_id" else name, "status": status} for name in few))
        report_one(conn, workflow, few["a"], status)
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, external_id)"
        " select %s, 'a', n::text from generate_series(1, 20000) as n",
        [workflow],
    )
    if analyzed:
        conn.execute("analyze agent_task")
    some = conn.execute("select id, external_id from agent_task order by md5(id::text) limit 300").fetchall()
    reports = [{by: str(task if by == "task_id" else name), "status": "completed"} for task, name in some]

    def read() -> tuple[int, int]:
        return conn.execute(
            "select seq_tup_read, coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables where relname = 'agent_task'"
        ).fetchone()

    with conn.transaction():
        before = read()
        report(conn, workflow, *reports)
        after = read()
    assert after[0] - before[0] == 0
    assert after[1] - before[1] < 300 * 10
    single = conn.execute("select id from agent_task where status = 'pending' limit 1").fetchone()
    with conn.transaction():
        before = read()
        report_one(conn, workflow, single[0], "running")
        report_one(conn, workflow, single[0], "completed")
        after = read()
    assert after[0] - before[0] == 0
    assert after[1] - before[1] < 20
