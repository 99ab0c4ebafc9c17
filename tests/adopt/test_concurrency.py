"""Two sessions at once: one holds, the other waits, and every number is right after it. And many at random."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from pyapp.adopt.backfill import Backfill
from pyapp.adopt.inspect import inspect
from pyapp.adopt.install import install
from pyapp.adopt.request import Request
from pyapp.db import interrupted

from .application import App, succeed
from .shapes import (
    AIRFLOW,
    BY_TRIGGER,
    DJANGO,
    GROUPS,
    JSON_JOBS,
    ONE_TABLE,
    PARTITIONED,
    SHAPES,
    SHARDED,
    TIMES,
    UNIQUE_NULLABLE,
    Shape,
)

Make = Callable[..., App]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.title)
some = pytest.mark.parametrize(
    "shape", [AIRFLOW, JSON_JOBS, ONE_TABLE, UNIQUE_NULLABLE, TIMES, DJANGO, SHARDED], ids=lambda shape: shape.title
)
Step = Callable[[App], Any]
Session = Callable[[], psycopg.Connection]


@contextmanager
def waiting(app: App, session: psycopg.Connection, act: Callable[[], Any]) -> Iterator[list[BaseException]]:
    """Do something in a session that has to wait for another; the block releases it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            act()
            session.commit()
        except psycopg.Error as error:
            failed.append(error)
            session.rollback()

    thread = threading.Thread(target=run)
    thread.start()
    end = time.monotonic() + 60
    query = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
    while app.conn.execute(query, [session.info.backend_pid]).fetchone() != (True,) and thread.is_alive():
        assert time.monotonic() < end
        time.sleep(0.01)
    yield failed
    thread.join(60)
    assert not thread.is_alive()


STEPS: dict[str, tuple[Step, Step]] = {
    "siblings finish together": (lambda a: a.move(2, "completed", 1), lambda b: b.tasks(2, "completed", 3)),
    "one inserts, another deletes": (lambda a: a.tasks(3, "pending", 2), lambda b: b.remove(4, 50)),
    "the first tasks of a workflow": (lambda a: a.tasks(0, "completed"), lambda b: b.tasks(0, "pending", 2)),
    "the last tasks and new ones": (lambda a: a.remove(3), lambda b: b.tasks(3, "failed", 2)),
    "two move tasks to a third": (lambda a: a.rekey(3, 0), lambda b: b.rekey(1, 0, 2)),
    "moved there and back": (lambda a: a.rekey(1, 3), lambda b: b.tasks(1, "completed", 2)),
}


@some
@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_two_sessions_count_right(
    make: Make, session: Session, shape: Shape, steps: tuple[Step, Step], isolation: str
) -> None:
    app = make(shape)
    one, other = session(), session()
    for connection in (one, other):
        connection.execute(f"set session characteristics as transaction isolation level {isolation}".encode())
        connection.commit()
    other.execute("select")  # takes the snapshot
    steps[0](App(one, shape))
    with waiting(app, other, lambda: steps[1](App(other, shape))) as failed:
        one.commit()
    assert all(interrupted(error) for error in failed), failed
    assert not failed or isolation == "repeatable read"
    app.assert_exact()


@pytest.mark.parametrize("shape", [UNIQUE_NULLABLE, AIRFLOW, SHARDED, ONE_TABLE], ids=lambda shape: shape.title)
@pytest.mark.parametrize("keep", [(), ("--keep-finished",)], ids=["", "kept"])
def test_a_workflow_is_deleted_while_its_agents_report(
    make: Make, session: Session, shape: Shape, keep: tuple[str, ...]
) -> None:
    app = make(shape, *keep)
    one, other = session(), session()
    App(one, shape).move(2, "completed")
    with waiting(app, other, lambda: App(other, shape).drop(2)) as failed:
        one.commit()
    assert all(interrupted(error) for error in failed)
    app.assert_exact() if not keep else None
    App(one, shape).drop(3)
    with waiting(app, other, lambda: App(other, shape).move(3, "failed")) as failed:
        one.commit()
    assert all(interrupted(error) for error in failed)
    assert app.drift() == []
    assert app.run("select from agent_progress.workflow_counter where agents_created < 0").fetchall() == []


@pytest.mark.parametrize("shape", [UNIQUE_NULLABLE, DJANGO], ids=lambda shape: shape.title)
@pytest.mark.parametrize("workflow_first", [True, False])
def test_a_workflow_and_its_tasks_come_in_two_sessions(
    make: Make, session: Session, shape: Shape, workflow_first: bool
) -> None:
    if shape is DJANGO and not workflow_first:
        pytest.skip("its key refuses that")
    app = make(shape)
    one, other = session(), session()
    first: list[Step] = [lambda a: a.workflow(30), lambda a: a.tasks(30, "completed", 2)]
    if not workflow_first:
        first.reverse()
    first[0](App(one, shape))
    with waiting(app, other, lambda: first[1](App(other, shape))) as failed:
        one.commit()
    assert failed == []
    app.assert_exact()


def test_a_task_comes_while_its_finished_workflow_is_deleted(make: Make, session: Session) -> None:
    app = make(PARTITIONED, "--keep-finished")
    one, other = session(), session()
    app.workflow(40, "completed")
    app.remove(40)
    App(one, PARTITIONED).tasks(40, "pending")
    with waiting(app, other, lambda: App(other, PARTITIONED).drop(40)) as failed:
        one.commit()
    assert failed == []
    app.assert_exact()


def test_a_workflow_comes_while_its_tasks_are_counted(make: Make, session: Session) -> None:
    app = make(UNIQUE_NULLABLE)
    one, other = session(), session()
    app.tasks(40, "completed")
    App(one, UNIQUE_NULLABLE).tasks(40, "pending")
    with waiting(app, other, lambda: App(other, UNIQUE_NULLABLE).workflow(40)) as failed:
        one.commit()
    assert failed == []
    app.assert_exact()


def test_upserts_of_a_published_workflow_never_wait_for_each_other_in_a_circle(make: Make, session: Session) -> None:
    app = make(BY_TRIGGER)
    one, other = session(), session()
    upsert = "insert into flow (id, progress) values ('f1', 9), ('f2', 9) on conflict (id) do update set progress = 8"
    one.execute(upsert)
    with waiting(app, other, lambda: other.execute(upsert)) as failed:
        one.commit()
    assert failed == []
    app.assert_exact()


def test_what_others_change_while_it_is_counted_is_counted_once(make: Make, session: Session) -> None:
    """A writer that holds its tasks before, while and after the back-fill passes them."""
    app = make(JSON_JOBS, adopt=False)
    one, other = session(), session()
    fill = installed(app)
    before = App(one, JSON_JOBS)
    before.move(1, "completed", 2)  # seen by nobody yet
    fill._stage()
    after = App(other, JSON_JOBS)
    after.move(4, "completed", 100)
    after.tasks(60, "completed")
    one.commit()
    thread = threading.Thread(target=fill.run, args=(lambda _: None, lambda _: None))
    thread.start()
    time.sleep(0.2)
    other.commit()
    thread.join(60)
    assert not thread.is_alive()
    app.assert_exact()


def test_the_end_of_the_back_fill_waits_for_those_who_did_not_see_it(make: Make, session: Session) -> None:
    app = make(JSON_JOBS, adopt=False)
    one, other = session(), session()
    fill = installed(app)
    App(one, JSON_JOBS).tasks(60, "completed")
    with waiting(app, other, lambda: App(other, JSON_JOBS).tasks(60, "pending")) as failed:
        thread = threading.Thread(target=fill.run, args=(lambda _: None, lambda _: None))
        thread.start()
        thread.join(1.5)  # time enough for an end that does not wait
        one.rollback()
    thread.join(60)
    assert failed == []
    app.assert_exact()


def test_the_end_of_the_back_fill_waits_for_a_deletion_that_did_not_see_it(make: Make, session: Session) -> None:
    app = make(SHARDED, adopt=False)
    one = session()
    fill = installed(app, Request(tasks="step", workflows="flow"))
    fill._stage()
    fill._pages("copy.sql", "keys", lambda _: None)
    App(one, SHARDED).drop(4)

    def end() -> None:
        fill._retry(lambda: fill._ask("live.sql"))
        fill.run(lambda _: None, lambda _: None)

    thread = threading.Thread(target=end)
    thread.start()
    thread.join(1.5)  # time enough for an end that does not wait
    one.commit()
    thread.join(60)
    assert not thread.is_alive()
    app.assert_exact()


def test_tasks_that_are_truncated_during_the_back_fill_are_not_counted(make: Make) -> None:
    app = make(JSON_JOBS, adopt=False)
    fill = installed(app)
    fill._stage()
    app.run("truncate jobs")
    app.tasks(2, "pending")
    fill.run(lambda _: None, lambda _: None)
    app.assert_exact()


JOBS = Request(tasks="jobs", key_sql=("meta->>'workflow_id'",), status="state", words={"failed": ("discarded",)})


def installed(app: App, asked: Request = JOBS) -> Backfill:
    """Install an adoption, and count nothing yet."""
    adoption = inspect(app.conn, asked).adoption
    install(app.conn, adoption)
    return Backfill(app.conn, adoption)


class Hammer:
    """Writers that do anything at random, and one that looks; errors that are no fault of theirs are told."""

    def __init__(self, app: App, writers: int = 6) -> None:
        self.app, self.stop, self.errors = app, threading.Event(), list[BaseException]()
        self.done = 0
        self.threads = [threading.Thread(target=self._write, args=(n,)) for n in range(writers)]

    def __enter__(self) -> "Hammer":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(60)

    def _write(self, seed: int) -> None:
        chance, shape = random.Random(seed), self.app.shape
        with psycopg.connect(self.app.dsn, autocommit=True) as conn:
            app = App(conn, shape)
            while not self.stop.is_set():
                try:
                    with conn.transaction():
                        for _ in range(chance.choice([1, 1, 1, 2])):
                            self._act(app, chance)
                    self.done += 1
                except (psycopg.errors.IntegrityError, psycopg.errors.FeatureNotSupported):
                    pass
                except psycopg.Error as error:
                    if not interrupted(error):
                        self.errors.append(error)
                        return

    def _act(self, app: App, chance: random.Random) -> None:
        n, m = chance.randrange(12), chance.randrange(12)
        state = chance.choice(["pending", "running", "completed", "completed", "failed", "cancelled"])
        what = chance.randrange(10)
        if what < 3:
            app.tasks(n, state, chance.choice([1, 1, 5]))
        elif what < 6:
            app.move(n, state, chance.choice([1, 2, 5]))
        elif what == 6:
            app.remove(n, chance.choice([1, 3]))
        elif what == 7:
            app.rekey(n, m, 2)
        elif app.shape.workflows and what == 8:
            app.drop(n)
        elif app.shape.workflows:
            app.workflow(n, state, again="on conflict do nothing")


def looks(app: App, seconds: float) -> int:
    """Compare in one snapshot each counter that is counted with its count, again and again; return how often."""
    count = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        wrong = app.conn.execute(
            "select * from agent_progress.compare_progress() where stored_created is not null"
            " and (stored_created, stored_completed, stored_failed, stored_cancelled) is distinct from"
            " (calculated_created, calculated_completed, calculated_failed, calculated_cancelled)"
        ).fetchall()
        assert wrong == []
        count += 1
    return count


@shapes
def test_many_write_while_it_is_installed_and_counted(make: Make, shape: Shape) -> None:
    app = make(shape, adopt=False)
    with Hammer(app) as hammer:
        looking = threading.Thread(target=lambda: succeed(app.dsn, "adopt", *shape.options, "--yes"))
        looking.start()
        looking.join(60)
        assert not looking.is_alive()
        looks(app, 1.0)
    assert hammer.errors == []
    assert hammer.done > 0
    assert app.run("select live from agent_progress.counting").fetchall() == [(True,)]
    app.assert_exact()
    app.check()


@pytest.mark.parametrize("shape", [AIRFLOW, GROUPS, UNIQUE_NULLABLE, ONE_TABLE], ids=lambda shape: shape.title)
def test_many_write_while_it_is_counted_and_what_is_finished_kept(make: Make, shape: Shape) -> None:
    app = make(shape, adopt=False)
    with Hammer(app) as hammer:
        adopting = threading.Thread(
            target=lambda: succeed(app.dsn, "adopt", *shape.options, "--yes", "--keep-finished")
        )
        adopting.start()
        adopting.join(60)
        looks(app, 1.0)
    assert hammer.errors == []
    assert app.drift() == []
