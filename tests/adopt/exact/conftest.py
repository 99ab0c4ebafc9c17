"""What holds for our own tables holds for adopted ones: the same tests, with the counters beside them, and in them.

The modules here are those of tests/ by name, and take their tests from there; ``LEFT_OUT`` says which not, and why.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from pyapp.adopt import Wanted, backfill, install, look
from tests.adopt.counted import APP, SEARCH_PATH, assert_exact
from tests.databases import Databases, template

NO_COLUMNS = "counters are no columns of the workflow: they cannot be inserted with it"
NO_PLAN = "a negative plan is none; no write of the application's is refused"
ANOTHER_PLAN = "the views call functions, so that no column of the application's is held fast by them"
LEFT_OUT = {
    "beside": {
        "test_a_workflow_inserted_frozen_keeps_its_counters": NO_COLUMNS,
        "test_a_workflow_inserted_with_made_up_counters_starts_at_zero": NO_COLUMNS,
        "test_a_workflow_inserted_with_null_counters_starts_at_zero": NO_COLUMNS,
        "test_workflows_copied_in_with_counters_count_the_tasks_that_follow": NO_COLUMNS,
        "test_an_upsert_of_a_workflow_leaves_progress_alone": NO_COLUMNS,
        "test_a_workflow_inserted_by_a_trigger_with_made_up_counters_starts_at_zero": NO_COLUMNS,
        "test_a_frozen_workflow_whose_id_changes_keeps_its_counters": NO_COLUMNS,
    },
    "columns": {},
    "both": {
        "test_a_negative_plan_is_refused_with_a_hint": NO_PLAN,
        "test_reading_progress_of_one_workflow_uses_its_primary_key_and_reads_no_task": ANOTHER_PLAN,
        "test_calculating_one_workflow_reads_its_tasks_only": ANOTHER_PLAN,
        "test_calculating_all_workflows_reads_the_tasks_once": ANOTHER_PLAN,
    },
}


def adopt(dsn: str, *, columns: bool) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(APP.read_text("utf-8"))
        wanted = Wanted("app.workflow", "app.agent_task", "default", "agent_progress", columns=columns)
        findings = look(conn, wanted)
        install(conn, findings)
        backfill(conn, findings.pair)
        conn.execute("grant usage on schema agent_progress to public")


beside = template(partial(adopt, columns=False), "beside")
columns = template(partial(adopt, columns=True), "columns")


@pytest.fixture(params=["beside", "columns"])
def dsn(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """Where the test's own database is, with adopted tables that are found by the names of ours."""
    with databases.copy(request.getfixturevalue(request.param), search_path=SEARCH_PATH) as dsn:
        yield dsn


@pytest.fixture(autouse=True)
def no_drift(dsn: str) -> Iterator[None]:
    """End each test by comparing what is stored, and what the views say, with what is counted by hand."""
    yield
    with psycopg.connect(dsn) as conn:
        assert_exact(conn)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_left_out(item: pytest.Item) -> bool:
    if not isinstance(item, pytest.Function) or Path(__file__).parent not in item.path.parents:
        return False
    mode = item.callspec.params.get("dsn") if hasattr(item, "callspec") else None
    return item.originalname in LEFT_OUT["both"] or item.originalname in LEFT_OUT.get(str(mode), {})
