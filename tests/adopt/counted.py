"""What is stored, compared with what is counted by hand: the oracle of the tests on adopted tables."""

from pathlib import Path

import psycopg

from pyapp.adopt.source import find_source
from pyapp.progress import find_drift
from tests.helpers import keeper, stored

APP = Path(__file__).with_name("app.sql")
"""An application with the table and column names of ours, in a schema of its own."""
SEARCH_PATH = "app, agent_progress, public"

# From the application's tables alone.
_COUNTED = """
    select
        w.id,
        count(t.id),
        count(t.id) filter (where t.status = 'completed'),
        count(t.id) filter (where t.status = 'failed'),
        count(t.id) filter (where t.status = 'cancelled'),
        greatest(count(t.id), case when w.status <> 'completed' then w.agents_planned end)
    from workflow as w
    left join agent_task as t on t.workflow_id = w.id
    group by w.id
    order by w.id
"""
_STORED = "select id, agents_created, agents_completed, agents_failed, agents_cancelled, agents_total from"


def assert_exact(conn: psycopg.Connection) -> None:
    """Compare what is stored, and what the views say, with what is counted by hand; frozen workflows are left out."""
    assert conn.execute("select * from workflow_progress_drift").fetchall() == []
    assert find_drift(conn, source=find_source(conn, "default")) == []
    frozen = f"select id from {keeper(conn)} where progress_frozen_at is not null"
    kept = {row[0]: row for row in conn.execute(f"{_STORED} {stored(conn)} where id not in ({frozen}) order by id")}
    assert list(kept.values()) == [row for row in conn.execute(_COUNTED) if row[0] in kept]
    if keeper(conn) != "workflow":
        beside = "select * from workflow_counter as s full join workflow as w on w.id = s.id"
        wrong = "s.progress_frozen_at is null and s.progress is distinct from w.progress"
        assert conn.execute(f"{beside} where s.id is null or w.id is null or {wrong}").fetchall() == []
