"""What sessions do to workflows and tasks: every kind of statement that counts, guards, repairs, moves or removes.

Names in braces are rows: workflow {w} with its tasks {t}, {u}, {z} (running) and {d} (completed), workflow {v} with its
tasks {x}, {y} (running) and {e} (completed), workflow {empty} without tasks. {new} and {newer} are ids not yet in use.
"""

from collections.abc import Mapping

from tests.interleave import Shape, Transaction

WORKFLOWS = {name: f"'00000000-0000-0000-0000-00000000000{name[1:]}'" for name in ("w1", "w2", "w3")}
STATUSES = {1: "running", 2: "running", 3: "running", 4: "completed", 5: "failed"}


def _task(workflow: int, number: int) -> str:
    return f"'00000000-0000-0000-0000-0000000000{workflow}{number}'"


# The tasks of both workflows lie in the table in the opposite order of their ids.
DATA = """
    delete from agent_task;
    delete from workflow;
    insert into workflow (id, name, type)
    values ({w1}, 'one', 'bugfix'), ({w2}, 'two', 'bugfix'), ({w3}, 'three', 'bugfix');
    insert into agent_task (id, workflow_id, external_id, agent_type, status) values {tasks};
""".format(
    tasks=", ".join(
        f"({_task(workflow, number)}, {WORKFLOWS[f'w{workflow}']}, 'task {number}', 'agent', '{STATUSES[number]}')"
        for number in sorted(STATUSES, reverse=True)
        for workflow in (2, 1)
    ),
    **WORKFLOWS,
)


def rows(session: int, first: int, tasks: tuple[int, int, int]) -> Mapping[str, str]:
    """Return what the names stand for in a session whose {w} is workflow 1 or 2 and whose {t}, {u}, {z} are these."""
    second = 3 - first
    running = [_task(first, number) for number in tasks]
    others = [_task(second, number) for number in tasks]
    return {
        "w": WORKFLOWS[f"w{first}"],
        "v": WORKFLOWS[f"w{second}"],
        "empty": WORKFLOWS["w3"],
        "t": running[0],
        "u": running[1],
        "z": running[2],
        "d": _task(first, 4),
        "x": others[0],
        "y": others[1],
        "e": _task(second, 4),
        "new": f"'00000000-0000-0000-0000-000000000{session}01'",
        "newer": f"'00000000-0000-0000-0000-000000000{session}02'",
    }


SAME, BESIDE, LAST = (1, 2, 3), (2, 1, 3), (3, 2, 1)
# How the sessions of a scenario meet.
MEETINGS: dict[str, list[Mapping[str, str]]] = {
    "same tasks": [rows(1, 1, SAME), rows(2, 1, SAME), rows(3, 1, SAME)],
    "other tasks of the same workflow": [rows(1, 1, SAME), rows(2, 1, BESIDE), rows(3, 1, LAST)],
    "two workflows, crosswise": [rows(1, 1, SAME), rows(2, 2, SAME), rows(3, 1, BESIDE)],
}

LATE = frozenset({"WP001", "WP002", "WP003", "P0002"})  # a move that comes too late
DUPLICATE = frozenset({"23505"})
RECREATED = "insert into workflow (id, name, type, progress, agents_total) values ({w}, 'again', 'bugfix', 50, 2)"
UPSERT = " on conflict (workflow_id, external_id) where external_id is not null do update set status = 'completed'"

TRANSACTIONS = [
    # Tasks
    Transaction("insert one", ("insert into agent_task (workflow_id, agent_type) values ({w}, 'agent')",)),
    Transaction(
        "insert many",
        (
            "insert into agent_task (workflow_id, agent_type, status) select w, 'agent', s"
            " from unnest(array[{w}, {v}]::uuid[]) as w, unnest(array['pending', 'completed']::task_status[]) as s",
        ),
    ),
    Transaction(
        "copy",
        ("copy agent_task (workflow_id, agent_type, status) from stdin",),
        copy="{w}\tagent\tfailed\n{v}\tagent\tcompleted\n{w}\tagent\trunning\n",
    ),
    Transaction(
        "insert what may be there",
        (
            "insert into agent_task (workflow_id, external_id, agent_type) values ({w}, 'new', 'agent'),"
            " ({w}, 'task 1', 'agent') on conflict do nothing",
        ),
    ),
    Transaction("complete one", ("update agent_task set status = 'completed' where id = {t}",)),
    Transaction(
        "complete many",
        ("update agent_task set status = 'completed' where id in ({t}, {u}, {d}, {x})",),
        shape=Shape.ORDER,
    ),
    Transaction("fail one", ("update agent_task set status = 'failed' where id = {t}",)),
    Transaction(
        "cancel all", ("update agent_task set status = 'cancelled' where workflow_id = {w}",), shape=Shape.ORDER
    ),
    Transaction("reopen", ("update agent_task set status = 'running' where id in ({d}, {t})",), shape=Shape.ORDER),
    Transaction("start one", ("update agent_task set status = 'assigned' where id = {t}",)),
    Transaction("move one", ("update agent_task set workflow_id = {v}, external_id = null where id = {t}",)),
    Transaction(
        "swap",
        (
            "update agent_task set external_id = null, status = 'completed',"
            " workflow_id = case workflow_id when {w} then {v} else {w} end::uuid where id in ({t}, {e})",
        ),
        shape=Shape.ORDER,
    ),
    Transaction("delete one", ("delete from agent_task where id = {t}",)),
    Transaction(
        "delete many", ("delete from agent_task where id in ({t}, {d}, {x}) or workflow_id = {v}",), shape=Shape.ORDER
    ),
    Transaction(
        "upsert",
        (
            "insert into agent_task (workflow_id, external_id, agent_type) values ({w}, 'new', 'agent'),"
            " ({w}, 'task 1', 'agent')" + UPSERT,
        ),
        shape=Shape.ORDER,
    ),
    Transaction(
        "upsert over two",
        (
            "insert into agent_task (workflow_id, external_id, agent_type) values ({w}, 'task 1', 'agent'),"
            " ({v}, 'new', 'agent')" + UPSERT,
        ),
        shape=Shape.MIXED,
    ),
    Transaction(
        "merge",
        (
            "merge into agent_task as a using (values ({t}::uuid, {w}::uuid), ({e}, {v}), ({new}, {v}))"
            " as s (id, workflow_id) on a.id = s.id"
            " when matched and a.status = 'completed' then delete"
            " when matched then update set status = 'completed'"
            " when not matched then insert (id, workflow_id, agent_type) values (s.id, s.workflow_id, 'agent')",
        ),
        shape=Shape.MIXED,
        raises=DUPLICATE,
    ),
    Transaction(
        "writable CTE",
        (
            "with gone as (delete from agent_task where id = {e}),"
            " done as (update agent_task set status = 'completed' where id = {t} returning workflow_id)"
            " insert into agent_task (workflow_id, agent_type) select {v}::uuid, 'agent' from done",
        ),
        shape=Shape.MIXED,
    ),
    Transaction("truncate", ("truncate agent_task",), shape=Shape.TRUNCATE, isolation="read committed"),
    # Transactions of several statements
    Transaction(
        "complete two",
        (
            "update agent_task set status = 'completed' where id = {t}",
            "update agent_task set status = 'completed' where id = {u}",
        ),
        shape=Shape.TWO_TASKS,
    ),
    Transaction(
        "insert and complete",
        (
            "insert into agent_task (id, workflow_id, agent_type) values ({new}, {w}, 'agent')",
            "update agent_task set status = 'completed' where id = {new}",
        ),
    ),
    Transaction("complete and take back", ("update agent_task set status = 'completed' where id = {t}",), "rollback"),
    Transaction(
        "complete another, to a savepoint",
        (
            "savepoint before; update agent_task set status = 'completed' where id = {t}",
            "rollback to before; update agent_task set status = 'completed' where id = {u}",
        ),
    ),
    Transaction(
        "change the workflow, then a task",
        (
            "update workflow set current_stage = 'validation', progress = 40 where id = {w}",
            "update agent_task set status = 'completed' where id = {t}",
        ),
        shape=Shape.WORKFLOW_FIRST,
    ),
    Transaction(
        "new workflow with tasks",
        (
            "insert into workflow (id, name, type, progress, agents_total) values ({new}, 'new', 'bugfix', 70, 7)",
            "insert into agent_task (workflow_id, agent_type, status) values ({new}, 'agent', 'completed'),"
            " ({new}, 'agent', 'pending'), ({w}, 'agent', 'pending')",
        ),
    ),
    # Reports
    Transaction(
        "report two",
        (
            "select report_tasks({w}, jsonb_build_array(jsonb_build_object('task_id', {u}, 'status', 'completed'),"
            " jsonb_build_object('task_id', {t}, 'status', 'failed'),"
            " jsonb_build_object('task_id', {t}, 'status', 'running', 'reopen', true)))",
        ),
        raises=LATE,
        shape=Shape.ORDER,
    ),
    Transaction("report one", ("select report_task({w}, {t}, 'completed')",), raises=LATE),
    Transaction(
        "add tasks", ("""select add_tasks({w}, '["a", {{"agent_type": "b", "status": "completed"}}]')""",), raises=LATE
    ),
    # The guard
    Transaction(
        "write counters",
        (
            "update workflow set progress = 90, agents_completed = 7, agents_total = 9, agents_created = 0,"
            " progress_updated_at = null where id in ({w}, {v})",
        ),
    ),
    Transaction("plan", ("update workflow set agents_planned = 9, progress = 0 where id = {w}",)),
    Transaction("set the status", ("update workflow set status = 'completed' where id = {w}",), raises=LATE),
    Transaction(
        "write back a stale row",
        (
            "select set_config('test.seen', row_to_json(w)::text, true) from workflow as w where id = {w}",
            "update workflow as w set (name, progress, agents_completed, agents_total, agents_created, agents_failed,"
            " agents_cancelled, agents_planned, status, version) = (select 'stale', s.progress, s.agents_completed,"
            " s.agents_total, s.agents_created, s.agents_failed, s.agents_cancelled, s.agents_planned, s.status,"
            " s.version from json_populate_record(null::workflow, current_setting('test.seen')::json) as s)"
            " where id = {w}",
        ),
        raises=LATE | {"22P02"},
    ),
    Transaction("freeze", ("update workflow set progress_frozen_at = now() where id = {w}",)),
    Transaction(
        "thaw",
        ("update workflow set progress_frozen_at = null where id = {w}",),
        prepare="update workflow set progress_frozen_at = now() where id = {w};",
    ),
    Transaction(
        "freeze and thaw",
        (
            "update workflow set progress_frozen_at = now() where id = {w}",
            "update workflow set progress_frozen_at = null, agents_completed = 0 where id = {w}",
        ),
    ),
    Transaction(
        "change an id",
        ("update workflow set id = {new} where id = {empty}",),
        raises=frozenset({"23503"}),
        removes=True,
    ),
    Transaction(
        "insert where the id changes", ("insert into agent_task (workflow_id, agent_type) values ({empty}, 'a')",)
    ),
    # Repairing
    Transaction("repair one", ("select * from repair_progress({w})",)),
    Transaction(
        "repair wrong numbers",
        ("select * from repair_progress()",),
        prepare="set session_replication_role = replica; update workflow set progress = 90, agents_created = 12,"
        " agents_completed = agents_completed - 1; reset session_replication_role;",
        drifted=True,
    ),
    # Moves
    Transaction("transition to running", ("select transition_workflow({w}, 'running')",), raises=LATE),
    Transaction("transition to completed", ("select transition_workflow({w}, 'completed')",), raises=LATE),
    Transaction(
        "transition to cancelled", ("select transition_workflow({w}, 'cancelled')",), raises=LATE, shape=Shape.ORDER
    ),
    Transaction("advance", ("select advance_workflow({w})",), raises=LATE),
    # Trees
    Transaction(
        "put below the other",
        ("update workflow set parent_id = {v} where id = {w}",),
        raises=frozenset({"WP004", "23503"}),
        shape=Shape.TREE,
    ),
    Transaction(
        "new workflow below it",
        (
            "insert into workflow (id, name, type, parent_id) values ({new}, 'child', 'bugfix', {w})",
            "insert into agent_task (workflow_id, agent_type, status) values ({new}, 'agent', 'completed')",
        ),
        raises=frozenset({"23503"}),
    ),
    Transaction(
        "delete the tree",
        ("delete from workflow where id = {w}",),
        prepare="update workflow set parent_id = {w} where id = {empty};",
        shape=Shape.DELETION,
        removes=True,
    ),
    # Deletion
    Transaction("delete the workflow", ("delete from workflow where id = {w}",), shape=Shape.DELETION, removes=True),
    Transaction(
        "delete its tasks, then the workflow",
        ("delete from agent_task where workflow_id = {w}", "delete from workflow where id = {w}"),
        shape=Shape.DELETION,
        removes=True,
    ),
    Transaction(
        "delete the workflow and make it anew",
        ("delete from workflow where id = {w}", RECREATED),
        shape=Shape.DELETION,
        removes=True,
        raises=DUPLICATE,
    ),
]
KINDS = {transaction.name: transaction for transaction in TRANSACTIONS}


THREES = [
    ("complete one", "complete one", "complete one"),
    ("complete one", "complete many", "transition to cancelled"),
    ("start one", "delete the workflow", "complete one"),
    ("start one", "complete two", "cancel all"),
    ("plan", "insert one", "insert one"),
    ("plan", "upsert over two", "upsert over two"),
    ("plan", "merge", "merge"),
    ("plan", "writable CTE", "writable CTE"),
    ("change the workflow, then a task", "truncate", "complete one"),
    ("truncate", "insert many", "repair wrong numbers"),
    ("truncate", "new workflow with tasks", "complete two"),
    ("thaw", "complete one", "delete many"),
    ("freeze", "insert many", "freeze and thaw"),
    ("repair wrong numbers", "complete many", "swap"),
    ("repair one", "transition to cancelled", "insert many"),
    ("delete the workflow and make it anew", "insert one", "complete many"),
    ("advance", "transition to cancelled", "complete one"),
    ("set the status", "write back a stale row", "complete one"),
    ("move one", "move one", "delete its tasks, then the workflow"),
    ("copy", "upsert", "delete many"),
    ("complete another, to a savepoint", "complete and take back", "complete one"),
    ("put below the other", "put below the other", "complete many"),
    ("put below the other", "new workflow below it", "delete the tree"),
    ("change an id", "insert where the id changes", "repair wrong numbers"),
]
# Keys that cascade on update, so that the id of a workflow with tasks can change; and who meets that.
CASCADE = "".join(
    f"alter table {table} drop constraint {table}_{column}_fkey,"
    f" add foreign key ({column}) references workflow on delete cascade on update cascade;"
    for table, column in (
        ("agent_task", "workflow_id"),
        ("workflow_stage", "workflow_id"),
        ("workflow_event", "workflow_id"),
        ("workflow", "parent_id"),
    )
)
CHANGE_AN_ID = Transaction(
    "change the id of a workflow with tasks",
    ("update workflow set id = {new}, progress = 50 where id = {w}",),
    shape=Shape.WORKFLOW_FIRST,
    removes=True,
    raises=frozenset({"23505"}),
)


def scenario(meeting: str, *names: str) -> list[Transaction]:
    """Return these kinds of transactions, each about the rows that its session has in this meeting."""
    return [KINDS[name].bind(of) for name, of in zip(names, MEETINGS[meeting], strict=False)]


def scenarios(*names: str) -> list[list[Transaction]]:
    """Return these kinds of transactions in each way that they can meet."""
    ways: list[list[Transaction]] = []
    for meeting in MEETINGS:
        if (way := scenario(meeting, *names)) not in ways:
            ways.append(way)
    return ways
