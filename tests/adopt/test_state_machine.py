"""Whatever an application does, in whatever order, in however many transactions: each number is its count."""

import contextlib
from collections.abc import Callable

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .application import App
from .shapes import SHAPES, STATES, Shape

Make = Callable[..., App]
_WORKFLOWS = st.integers(1, 4)
_STATES = st.sampled_from(STATES)
_FEW = st.integers(1, 3)
_STEPS = st.one_of(
    st.tuples(st.just("tasks"), _WORKFLOWS, _STATES, _FEW),
    st.tuples(st.just("move"), _WORKFLOWS, _STATES, _FEW),
    st.tuples(st.just("remove"), _WORKFLOWS, _FEW),
    st.tuples(st.just("rekey"), _WORKFLOWS, _WORKFLOWS, _FEW),
    st.tuples(st.just("workflow"), _WORKFLOWS, _STATES),
    st.tuples(st.just("drop"), _WORKFLOWS),
    st.tuples(st.just("everything"), _STATES),
    st.tuples(st.just("truncate")),
    st.tuples(st.just("repair")),
    st.tuples(st.just("back to savepoint")),
    st.tuples(st.just("commit")),
    st.tuples(st.just("roll back")),
)
Steps = list[tuple[object, ...]]


def act(app: App, step: tuple[object, ...]) -> None:
    """Do a step in a savepoint: what the application's own constraints refuse did not happen."""
    shape, (what, *arguments) = app.shape, step
    try:
        with app.conn.transaction(force_rollback=what == "back to savepoint"):
            if what == "workflow":
                app.workflow(*arguments, again="on conflict do nothing")  # type: ignore[arg-type]
            elif what == "everything":
                value = shape.states[str(arguments[0])]
                app.run(f"update {shape.tasks} as t set {shape.status} = {value} where {shape.counts}")
            elif what == "truncate":
                app.run(f"truncate {shape.tasks} cascade")
            elif what == "repair":
                assert app.run("select * from agent_progress.repair_progress()").fetchall() == []
            elif what == "back to savepoint":
                app.run(f"delete from {shape.tasks} where n = 1")
            elif what != "drop" or shape.workflows:
                getattr(app, str(what))(*arguments)
    except (psycopg.errors.IntegrityError, psycopg.errors.ObjectInUse):
        pass


def end(app: App, how: str) -> None:
    """End a transaction; one that a deferred constraint refuses is rolled back by that."""
    with contextlib.suppress(psycopg.errors.IntegrityError):
        app.run(how)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.title)
@pytest.mark.parametrize("keep", [(), ("--keep-finished",)], ids=["", "kept"])
def test_any_sequence_of_changes_is_counted(make: Make, shape: Shape, keep: tuple[str, ...]) -> None:
    app = make(shape, *keep)

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(_STEPS, min_size=4, max_size=14))
    def run(steps: Steps) -> None:
        app.run("begin")
        for step in steps:
            if step[0] in ("commit", "roll back"):
                end(app, "commit" if step[0] == "commit" else "rollback")
                app.run("begin")
            else:
                act(app, step)
        end(app, "commit")
        if keep:
            assert app.drift() == []
        else:
            app.assert_exact()

    run()
