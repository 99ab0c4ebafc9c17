"""What holds for our tables holds with the keys that distribute gives them: the same tests but ``LEFT_OUT``."""

from pathlib import Path

import psycopg
import pytest

from pyapp import migrate
from pyapp.scale.distribute import distribution
from tests.databases import template

TRUNCATE = "a distributed agent_task cannot be truncated"
KEY = "a task is found by the id of its workflow and its own: the id alone is no key"
LONG = "takes long, and asks nothing of the keys"
LEFT_OUT = {
    "test_truncating_tasks_brings_each_workflow_to_zero": TRUNCATE,
    "test_truncating_workflows_and_tasks_leaves_nothing_to_count": TRUNCATE,
    "test_counting_leaves_version_and_updated_at_alone": TRUNCATE,
    "test_a_frozen_workflow_keeps_its_counters[truncate agent_task]": TRUNCATE,
    "test_on_conflict_do_update_counts_new_and_changed_tasks": KEY,
    "test_a_batch_has_the_outcome_of_single_reports": LONG,
    "test_thousands_of_tasks_are_added_in_order_by_one_statement": LONG,
}


def change_keys(dsn: str) -> None:
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(distribution(citus=False).encode())


migrated = template(change_keys, "changed_keys")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    left_out = [
        item
        for item in items
        if here in item.path.parents and {item.name, item.name.partition("[")[0]} & LEFT_OUT.keys()
    ]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
