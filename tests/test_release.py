"""What was released stays as it was, and every later version upgrades from it."""

import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

import pyapp
from pyapp import installed

from .helpers import wait_for
from .release import dumps, hashes, released, restore

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
    done = [0] * 3
    failures: list[BaseException] = []
    stop = threading.Event()

    def work(agent: int) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as mine:
                while not stop.is_set():
                    step(mine)
                    done[agent] += 1
        except BaseException as error:
            failures.append(error)

    def step(mine: psycopg.Connection) -> None:
        def turn() -> None:
            with mine.transaction():
                (key,) = mine.execute("select id from public.create_workflow('live', 'app')").fetchone() or (None,)
                mine.execute("""select public.add_tasks(%s, '["a", "b", "c"]')""", [key])
                mine.execute("update public.agent_task set status = 'completed' where workflow_id = %s", [key])
                reports = """[{"external_id": "x", "status": "failed"}]"""
                mine.execute("""select public.add_tasks(%s, '[{"agent_type": "d", "external_id": "x"}]')""", [key])
                mine.execute("select public.report_tasks(%s, %s)", [key, reports])

        pyapp.retry(turn)

    threads = [threading.Thread(target=work, args=[agent]) for agent in range(len(done))]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: failures or min(done) >= 3)
        pyapp.migrate(dsn)
        reached = list(done)
        wait_for(lambda: failures or all(now > then for now, then in zip(done, reached, strict=True)))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert pyapp.pending(dsn) == []
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert installed.differences(conn) == []
        assert conn.execute("select * from public.workflow_progress_drift").fetchall() == []
        assert conn.execute(NUMBERS).fetchall() == before
        live = conn.execute("select distinct progress, agents_total from public.workflow_progress where name = 'live'")
        assert live.fetchall() == [(75, 4)]
    assert pyapp.rollback(dsn, all=True, drop_data=True)
    with psycopg.connect(dsn) as conn:
        left = conn.execute("select oid::regclass from pg_class where relnamespace = 'public'::regnamespace")
        assert left.fetchall() == []
