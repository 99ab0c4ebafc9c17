"""What was released stays as it was, and every later version upgrades from it."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

import pyapp
from pyapp import installed

from .helpers import counters, new_workflow
from .release import dumps, hashes, released, restore
from .test_renew import Writers

NUMBERS = (
    "select workflow_id, name, status, progress, agents_completed, agents_total, agents_failed, agents_open,"
    " agents_planned from public.workflow_progress where name not like 'live%' order by workflow_id"
)


def test_migrations_are_as_they_were_released() -> None:
    shipped = {name: digest for names in released().values() for name, digest in names.items()}
    now = hashes()
    told = "a released migration changed; before the release of its version: python -m tests.release"
    assert {name: now.get(name) for name in shipped} == shipped, told


def test_migrations_that_are_new_come_after_those_that_were_released() -> None:
    shipped = {name for names in released().values() for name in names}
    new = hashes().keys() - shipped
    assert all(name > max(shipped) for name in new)
    if pyapp.__version__ in released():
        assert new == set(), "python -m tests.release"


@pytest.mark.parametrize("dump", dumps(), ids=lambda dump: dump.name.removesuffix(".sql.gz"))
def test_a_released_version_is_upgraded_while_agents_work(dump: Path, empty: Callable[[], str]) -> None:
    dsn = empty()
    restore(dump, dsn)
    with psycopg.connect(dsn) as conn:
        before = conn.execute(NUMBERS).fetchall()
    assert len(before) == 12
    with psycopg.connect(dsn, autocommit=True) as conn:
        live = [new_workflow(conn, name="live") for _ in range(2)]
    with Writers(dsn, live, 3) as writers:
        pyapp.migrate(dsn)
        writers.go_on()
    assert writers.errors == []
    assert pyapp.pending(dsn) == []
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert installed.differences(conn) == []
        assert conn.execute("select * from public.workflow_progress_drift").fetchall() == []
        assert conn.execute(NUMBERS).fetchall() == before
        for workflow, added in writers.added.items():
            assert counters(conn, workflow) == (added, added // 2, added // 2, 0)
    assert pyapp.rollback(dsn, all=True, drop_data=True)
    with psycopg.connect(dsn) as conn:
        left = conn.execute("select oid::regclass from pg_class where relnamespace = 'public'::regnamespace")
        assert left.fetchall() == []
