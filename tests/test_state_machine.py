"""Random statements of every kind: what is stored equals what is calculated, and a model kept apart, after each."""

import uuid
from fractions import Fraction
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from psycopg import errors

from .helpers import allow_all_transitions, examples, wrong_numbers

WORKFLOWS = [uuid.UUID(int=number) for number in range(1, 5)]
NUMBERS = ["progress", "agents_completed", "agents_total", "agents_created", "agents_failed", "agents_cancelled"]
STORED = f"select id, {', '.join(NUMBERS)} from workflow"
TREES = (
    "select workflow_id, workflows, depth, progress, agents_completed, agents_total, agents_created, agents_failed,"
    " agents_cancelled from workflow_tree_progress"
)
MADE_UP = (77, 7, 9, 9, 1, 1)

status = st.sampled_from(["pending", "assigned", "running", "completed", "completed", "failed", "cancelled"])
workflow_status = st.sampled_from(["initiated", "running", "paused", "completed", "failed", "cancelled"])
workflow = st.sampled_from(WORKFLOWS)
planned = st.none() | st.integers(0, 12)
# A task by its place among those that are there, modulo their number; often one, which the trigger counts in a way of
# its own.
pick = st.integers(0, 30)
picks = st.lists(pick, min_size=1, max_size=1) | st.lists(pick, min_size=1, max_size=6)
# Where a task is to be, and in which status.
place = st.tuples(pick, workflow, status)
places = st.lists(place, min_size=1, max_size=1) | st.lists(place, min_size=1, max_size=6)

MERGE = """
    merge into agent_task as t
    using unnest(%s::uuid[], %s::uuid[], %s::task_status[]) as s (id, workflow_id, status) on t.id = s.id
    when matched and s.status = 'cancelled' then delete
    when matched then update set workflow_id = s.workflow_id, status = s.status
    when not matched then
        insert (id, workflow_id, agent_type, status) values (s.id, s.workflow_id, 'agent', s.status)
"""
INSERT = (
    "insert into agent_task (id, workflow_id, agent_type, status) select s.id, s.workflow_id, 'agent', s.status"
    " from unnest(%s::uuid[], %s::uuid[], %s::task_status[]) as s (id, workflow_id, status)"
)
UPDATE_EACH = (
    "update agent_task as t set workflow_id = s.workflow_id, status = s.status"
    " from unnest(%s::uuid[], %s::uuid[], %s::task_status[]) as s (id, workflow_id, status) where t.id = s.id"
)
ON_CONFLICT_UPDATE = " on conflict (id) do update set workflow_id = excluded.workflow_id, status = excluded.status"


def percentage(completed: int, total: int) -> int:
    if completed == 0 or total == 0:
        return 0
    return 100 if completed == total else max(1, min(99, int(Fraction(100 * completed, total) + Fraction(1, 2))))


class Tables(RuleBasedStateMachine):
    """Workflows and tasks in the database, and the same in dictionaries."""

    def __init__(self, conn: psycopg.Connection) -> None:
        super().__init__()
        self.conn = conn
        self.next_id = 0
        self.tasks: dict[uuid.UUID, tuple[uuid.UUID, str]] = {}
        self.workflows: dict[uuid.UUID, tuple[str, int | None]] = {}
        self.frozen: dict[uuid.UUID, tuple[int, ...]] = {}
        self.parents: dict[uuid.UUID, uuid.UUID] = {}
        self.stale: tuple[dict[str, Any], Any] | None = None

    @initialize(places=places)
    def start(self, places: list[Any]) -> None:
        allow_all_transitions(self.conn)
        self.conn.execute("truncate workflow cascade")
        for key in WORKFLOWS[:3]:
            self.conn.execute("insert into workflow (id, name, type) values (%s, 'w', 'app')", [key])
            self.workflows[key] = ("initiated", None)
        self.insert(places)

    # The model

    def numbers(self, key: uuid.UUID) -> tuple[int, ...]:
        if key in self.frozen:
            return self.frozen[key]
        statuses = [status for owner, status in self.tasks.values() if owner == key]
        created, completed = len(statuses), statuses.count("completed")
        status, plan = self.workflows[key]
        total = created if status == "completed" else max(created, plan or 0)
        shares = (percentage(completed, total), completed, total, created)
        return (*shares, statuses.count("failed"), statuses.count("cancelled"))

    @invariant()
    def stored_is_calculated_and_both_are_the_model(self) -> None:
        rows = {row[0]: row[1:] for row in self.conn.execute(STORED)}
        assert rows == {key: self.numbers(key) for key in self.workflows}
        assert self.conn.execute(wrong_numbers()).fetchall() == []

    def levels(self, key: uuid.UUID) -> list[list[uuid.UUID]]:
        """List a workflow and what is below it, level by level."""
        found = [[key]]
        while below := [child for child, parent in self.parents.items() if parent in found[-1]]:
            found.append(below)
        return found

    @invariant()
    def trees_have_the_sums_of_the_model(self) -> None:
        expected = {}
        for key in self.workflows:
            levels = self.levels(key)
            numbers = [self.numbers(one) for level in levels for one in level]
            completed, total, created, failed, cancelled = (
                sum(column) for column in list(zip(*numbers, strict=True))[1:]
            )
            shares = (percentage(completed, total), completed, total, created, failed, cancelled)
            expected[key] = (len(numbers), len(levels), *shares)
        assert {row[0]: row[1:] for row in self.conn.execute(TREES)} == expected

    def forget(self, key: uuid.UUID) -> None:
        """Take a workflow out of the model, with all that is deleted along with it."""
        for gone in [one for level in self.levels(key) for one in level]:
            for of in (self.workflows, self.frozen, self.parents):
                of.pop(gone, None)
            self.tasks = {task: value for task, value in self.tasks.items() if value[0] != gone}

    # What rules draw, made to fit what is there

    def existing(self, picks: list[int]) -> list[uuid.UUID]:
        keys = list(self.tasks)
        return list(dict.fromkeys(keys[pick % len(keys)] for pick in picks)) if keys else []

    def homes(self, places: list[Any]) -> list[Any]:
        """Keep the places whose workflow is there."""
        return [item for item in places if item[1] in self.workflows]

    def fresh(self, places: list[Any]) -> dict[uuid.UUID, tuple[uuid.UUID, str]]:
        made = {}
        for _, owner, status in self.homes(places):
            self.next_id += 1
            made[uuid.UUID(int=1000 + self.next_id)] = (owner, status)
        return made

    def moved(self, places: list[Any]) -> dict[uuid.UUID, tuple[uuid.UUID, str]]:
        keys = list(self.tasks)
        return {keys[at % len(keys)]: (owner, status) for at, owner, status in self.homes(places)} if keys else {}

    @staticmethod
    def columns(rows: dict[uuid.UUID, tuple[uuid.UUID, str]]) -> list[Any]:
        return [list(rows), [owner for owner, _ in rows.values()], [status for _, status in rows.values()]]

    # Statements on tasks

    @rule(places=places)
    def insert(self, places: list[Any]) -> None:
        made = self.fresh(places)
        self.conn.execute(INSERT, self.columns(made))
        self.tasks |= made

    @rule(places=places)
    def copy(self, places: list[Any]) -> None:
        made = self.fresh(places)
        with self.conn.cursor().copy("copy agent_task (id, workflow_id, agent_type, status) from stdin") as copy:
            for key, (owner, status) in made.items():
                copy.write_row((key, owner, "agent", status))
        self.tasks |= made

    @rule(picks=picks, status=status)
    def update(self, picks: list[int], status: str) -> None:
        keys = self.existing(picks)
        self.conn.execute("update agent_task set status = %s where id = any(%s)", [status, keys])
        self.tasks |= {key: (self.tasks[key][0], status) for key in keys}

    @rule(owner=workflow, before=status, after=status)
    def update_by_status(self, owner: uuid.UUID, before: str, after: str) -> None:
        self.conn.execute(
            "update agent_task set status = %s where workflow_id = %s and status = %s", [after, owner, before]
        )
        self.tasks |= {key: (owner, after) for key, value in self.tasks.items() if value == (owner, before)}

    @rule(places=places)
    def update_each_and_reparent(self, places: list[Any]) -> None:
        moved = self.moved(places)
        self.conn.execute(UPDATE_EACH, self.columns(moved))
        self.tasks |= moved

    @rule(one=workflow, other=workflow)
    def swap_workflows(self, one: uuid.UUID, other: uuid.UUID) -> None:
        if not {one, other} <= set(self.workflows):
            return
        self.conn.execute(
            "update agent_task set workflow_id = case workflow_id when %(one)s then %(other)s::uuid else %(one)s end"
            " where workflow_id in (%(one)s, %(other)s)",
            {"one": one, "other": other},
        )
        swapped = {one: other, other: one}
        self.tasks = {key: (swapped.get(owner, owner), status) for key, (owner, status) in self.tasks.items()}

    @rule(picks=picks)
    def delete(self, picks: list[int]) -> None:
        keys = self.existing(picks)
        self.conn.execute("delete from agent_task where id = any(%s)", [keys])
        for key in keys:
            del self.tasks[key]

    @rule(new=places, old=places)
    def upsert(self, new: list[Any], old: list[Any]) -> None:
        rows = self.fresh(new) | self.moved(old)
        self.conn.execute(INSERT + ON_CONFLICT_UPDATE, self.columns(rows))
        self.tasks |= rows

    @rule(new=places, old=places)
    def insert_unless_there(self, new: list[Any], old: list[Any]) -> None:
        rows = self.fresh(new) | self.moved(old)
        self.conn.execute(INSERT + " on conflict do nothing", self.columns(rows))
        self.tasks = rows | self.tasks

    @rule(new=places, old=places)
    def merge(self, new: list[Any], old: list[Any]) -> None:
        made, moved = self.fresh(new), self.moved(old)
        self.conn.execute(MERGE, self.columns(made | moved))
        self.tasks |= made | moved
        for key, (_, status) in moved.items():
            if status == "cancelled":
                del self.tasks[key]

    @rule(new=places, gone=picks, changed=picks, moved=places, status=status)
    def writable_cte(self, new: list[Any], gone: list[int], changed: list[int], moved: list[Any], status: str) -> None:
        made, left = self.fresh(new), self.existing(gone)
        set_to = [key for key in self.existing(changed) if key not in left]
        put = {key: value for key, value in self.moved(moved).items() if key not in left and key not in set_to}
        self.conn.execute(
            "with gone as (delete from agent_task where id = any(%s) returning 1)"
            ", changed as (update agent_task set status = %s where id = any(%s) returning 1)"
            f", moved as ({UPDATE_EACH} returning 1) {INSERT}",
            [left, status, set_to, *self.columns(put), *self.columns(made)],
        )
        self.tasks |= made | put | {key: (self.tasks[key][0], status) for key in set_to}
        for key in left:
            del self.tasks[key]

    @rule()
    def truncate_tasks(self) -> None:
        self.conn.execute("truncate agent_task")
        self.tasks = {}

    # Statements on workflows

    @rule(key=workflow, status=workflow_status, planned=planned, frozen=st.sampled_from([False, False, True]))
    def insert_workflow(self, key: uuid.UUID, status: str, planned: int | None, frozen: bool) -> None:
        if key in self.workflows:
            return
        numbers = dict(zip(NUMBERS, MADE_UP, strict=True)) | {"progress_frozen_at": "now" if frozen else None}
        columns = {"id": key, "name": "w", "type": "app", "status": status, "agents_planned": planned, **numbers}
        self.conn.execute(
            f"insert into workflow ({', '.join(columns)}) values ({', '.join(f'%({name})s' for name in columns)})",
            columns,
        )
        self.workflows[key] = (status, planned)
        if frozen:
            self.frozen[key] = MADE_UP

    @rule(key=workflow, again=st.booleans())
    def delete_workflow(self, key: uuid.UUID, again: bool) -> None:
        with self.conn.transaction():
            self.conn.execute("delete from workflow where id = %s", [key])
            self.forget(key)
            if again:
                self.insert_workflow(key, "running", 3, False)

    @rule(key=workflow, places=places, planned=planned)
    def insert_workflow_with_tasks_at_once(self, key: uuid.UUID, places: list[Any], planned: int | None) -> None:
        if key in self.workflows:
            return
        self.workflows[key] = ("initiated", planned)
        made = self.fresh([(at, key, status) for at, _, status in places])
        self.conn.execute(
            "with w as (insert into workflow (id, name, type, agents_planned) values (%s, 'w', 'app', %s) returning id)"
            " insert into agent_task (id, workflow_id, agent_type, status) select s.id, w.id, 'agent', s.status"
            " from w, unnest(%s::uuid[], %s::task_status[]) as s (id, status)",
            [key, planned, list(made), [status for _, status in made.values()]],
        )
        self.tasks |= made

    @rule(key=workflow, planned=planned)
    def delete_and_insert_workflow_at_once(self, key: uuid.UUID, planned: int | None) -> None:
        if key not in self.workflows:
            return
        self.conn.execute(
            "with gone as (delete from workflow where id = %s returning id)"
            " insert into workflow (id, name, type, agents_planned) select id, 'w', 'app', %s from gone",
            [key, planned],
        )
        self.forget(key)
        self.workflows[key] = ("initiated", planned)

    @rule(key=workflow, status=workflow_status, planned=planned)
    def upsert_workflow(self, key: uuid.UUID, status: str, planned: int | None) -> None:
        self.conn.execute(
            "insert into workflow (id, name, type, status, agents_planned, progress)"
            " values (%s, 'w', 'app', %s, %s, 55)"
            " on conflict (id) do update"
            " set status = excluded.status, agents_planned = excluded.agents_planned, progress = 66",
            [key, status, planned],
        )
        self.workflows[key] = (status, planned)

    @rule(key=workflow, new=workflow)
    def change_key(self, key: uuid.UUID, new: uuid.UUID) -> None:
        if key not in self.workflows or new in self.workflows:
            return
        if key in self.frozen or key in self.parents.values():
            return  # its counters go along; what is below it refers to its id
        self.conn.execute("update workflow set id = %s, progress = 15 where id = %s", [new, key])
        if key in self.parents:
            self.parents[new] = self.parents.pop(key)
        self.workflows[new] = self.workflows.pop(key)
        moved = {task: (new, status) for task, (owner, status) in self.tasks.items() if owner == key}
        self.tasks |= moved

    @rule(key=workflow, parent=st.none() | workflow)
    def put_below(self, key: uuid.UUID, parent: uuid.UUID | None) -> None:
        if key not in self.workflows or (parent is not None and parent not in self.workflows):
            return
        statement = "update workflow set parent_id = %s, progress = 15 where id = %s"
        if parent in [one for level in self.levels(key) for one in level]:
            with pytest.raises(psycopg.DatabaseError, match="cannot come below itself"):
                self.conn.execute(statement, [parent, key])
            return
        self.conn.execute(statement, [parent, key])
        self.parents.pop(key, None)
        if parent is not None:
            self.parents[key] = parent

    @rule(key=workflow, status=workflow_status)
    def set_status(self, key: uuid.UUID, status: str) -> None:
        if key in self.workflows:
            self.conn.execute("update workflow set status = %s, progress = 15 where id = %s", [status, key])
            self.workflows[key] = (status, self.workflows[key][1])

    @rule(planned=planned)
    def set_plan_of_all(self, planned: int | None) -> None:
        self.conn.execute("update workflow set agents_planned = %s", [planned])
        self.workflows = {key: (status, planned) for key, (status, _) in self.workflows.items()}

    @rule(key=workflow, frozen=st.booleans())
    def freeze_or_thaw(self, key: uuid.UUID, frozen: bool) -> None:
        if key not in self.workflows:
            return
        self.conn.execute(
            "update workflow set progress_frozen_at = %s, agents_created = 99 where id = %s",
            ["now" if frozen else None, key],
        )
        self.model_freeze(key, frozen)

    def model_freeze(self, key: uuid.UUID, frozen: bool) -> None:
        if frozen:
            self.frozen[key] = self.numbers(key)
        else:
            self.frozen.pop(key, None)

    @rule(key=workflow)
    def read_row(self, key: uuid.UUID) -> None:
        cursor = self.conn.execute("select * from workflow where id = %s", [key])
        for row in cursor:
            columns = [column.name for column in cursor.description]
            self.stale = (dict(zip(columns, row, strict=True)), self.workflows[key])

    @precondition(lambda self: self.stale is not None)
    @rule()
    def write_row_back(self) -> None:
        row, state = self.stale
        if row["id"] not in self.workflows:
            return
        columns = [name for name in row if name not in ("id", "input_data", "parent_id")]
        try:
            self.conn.execute(
                f"update workflow set {', '.join(f'{name} = %({name})s' for name in columns)} where id = %(id)s", row
            )
        except psycopg.DatabaseError as error:
            if error.sqlstate != "WP001":
                raise
            return  # its status has moved on since it was read
        kept = self.numbers(row["id"])
        self.workflows[row["id"]] = state
        if row["progress_frozen_at"] is None:
            self.frozen.pop(row["id"], None)
        else:
            self.frozen[row["id"]] = kept

    @rule()
    def repair(self) -> None:
        assert self.conn.execute("select * from repair_progress()").fetchall() == []

    # Transactions

    @rule(places=places, picks=picks, status=status, key=workflow)
    def take_back_to_a_savepoint(self, places: list[Any], picks: list[int], status: str, key: uuid.UUID) -> None:
        with self.conn.transaction():
            self.update(picks[:1], status)
            before = (dict(self.tasks), dict(self.workflows), dict(self.frozen), dict(self.parents))
            with self.conn.transaction(force_rollback=True):
                self.insert(places)
                self.delete(picks)
                self.freeze_or_thaw(key, True)
                self.delete_workflow(key, True)
            self.tasks, self.workflows, self.frozen, self.parents = before
            self.insert(places[:1])

    @rule(places=places, picks=picks, status=status)
    def fail(self, places: list[Any], picks: list[int], status: str) -> None:
        before = dict(self.tasks)
        unknown = {uuid.uuid4(): (uuid.uuid4(), status)}
        self.conn.execute("begin")
        self.update(picks, status)
        with pytest.raises(errors.ForeignKeyViolation):
            self.conn.execute(INSERT, self.columns(self.fresh(places) | unknown))
        self.conn.execute("rollback")
        self.tasks = before


def compare(conn: psycopg.Connection, number: int, machine: type[Tables] = Tables) -> None:
    """Run the machine that many times, or a part of it."""
    for table in ("agent_task", "workflow_stage", "workflow_event"):
        conn.execute(
            f"alter table {table} drop constraint {table}_workflow_id_fkey, add foreign key (workflow_id)"
            " references workflow (id) on update cascade on delete cascade"
        )
    run_machine(
        lambda: machine(conn),
        settings=settings(max_examples=examples(number), stateful_step_count=40),
    )


def test_stored_calculated_and_model_agree_after_any_statements(conn: psycopg.Connection) -> None:
    compare(conn, 100)
