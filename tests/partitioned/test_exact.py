"""What holds for tasks in one table holds in partitions: some of the same tests, and the random statements."""

from typing import Any

import psycopg
from hypothesis.stateful import rule

from tests import test_state_machine as machine
from tests.test_concurrency import (  # noqa: F401
    blocked,
    test_truncating_tasks_deadlocks_once_with_a_transaction_that_changes_its_workflow_and_then_a_task,
)
from tests.test_repair import (  # noqa: F401
    test_repair_amid_a_statement_that_has_changed_tasks_but_not_counted_them_is_exact,
    test_repair_waits_for_an_uncommitted_completion_and_counts_it_once,
    test_truncate_recounts_and_mends_what_had_drifted,
)
from tests.test_trigger import (  # noqa: F401
    test_a_failing_statement_counts_nothing_of_its_transaction,
    test_a_statement_of_several_modifying_ctes_counts_them_all,
    test_a_statement_writes_its_workflow_once_and_heap_only,
    test_an_update_that_joins_a_task_twice_counts_it_once,
    test_copy_counts_each_task,
    test_deleting_a_workflow_leaves_the_others_alone,
    test_merge_counts_inserts_updates_and_deletes_of_one_statement,
    test_on_conflict_do_nothing_is_not_counted,
    test_one_update_over_many_workflows_counts_each,
    test_tasks_are_counted_after_their_table_was_altered_in_the_same_session,
    test_tasks_swapped_between_workflows_in_one_statement_are_counted_where_they_are,
    test_thawing_recounts,
    test_truncating_tasks_brings_each_workflow_to_zero,
    test_truncating_workflows_and_tasks_leaves_nothing_to_count,
    test_what_a_savepoint_takes_back_is_not_counted,
)


class Partitioned(machine.Tables):
    """The same statements, but that an upsert names the whole key, and so moves no task."""

    def stay(self, places: list[Any]) -> dict[Any, Any]:
        return {key: (self.tasks[key][0], status) for key, (_, status) in self.moved(places).items()}

    @rule(new=machine.places, old=machine.places)
    def upsert(self, new: list[Any], old: list[Any]) -> None:
        rows = self.fresh(new) | self.stay(old)
        update = " on conflict (id, workflow_id) do update set status = excluded.status"
        self.conn.execute(machine.INSERT + update, self.columns(rows))
        self.tasks |= rows

    @rule(new=machine.places, old=machine.places)
    def insert_unless_there(self, new: list[Any], old: list[Any]) -> None:
        rows = self.fresh(new) | self.stay(old)
        self.conn.execute(machine.INSERT + " on conflict do nothing", self.columns(rows))
        self.tasks = rows | self.tasks


def test_stored_calculated_and_model_agree_after_any_statements(conn: psycopg.Connection) -> None:
    machine.compare(conn, 25, Partitioned)
