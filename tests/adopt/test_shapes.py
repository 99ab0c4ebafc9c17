"""Tables of every shape are adopted, and counted right from then on, whatever writes to them."""

from collections.abc import Callable, Iterator

import pytest

from .application import App
from .hostile import HOSTILE_SHAPES
from .schemas import SHAPES
from .shape import Shape

Make = Callable[..., App]
EVERY = [
    pytest.param(shape, columns, id=f"{shape.title}-{'columns' if columns else 'side'}")
    for shape in (*SHAPES, *HOSTILE_SHAPES)
    for columns in (False, True)
]
every_shape = pytest.mark.parametrize(("shape", "columns"), EVERY)


@every_shape
def test_what_was_there_and_every_statement_on_tasks_is_counted(make: Make, shape: Shape, columns: bool) -> None:
    app = make(shape, columns=columns)
    app.assert_exact()
    app.check()
    one, two, three = app.key(1), app.key(2), app.key(3)
    for _ in statements_on_tasks(app, one, two, three):
        app.assert_exact()


def statements_on_tasks(app: App, one: object, two: object, three: object) -> Iterator[None]:
    yield app.move(one, "running", 1)
    yield app.move(one, "completed", 1)
    yield app.move(one, "completed")  # four more at once, one written as it was
    yield app.move(one, "running")  # reopened
    yield app.move(two, "failed")
    yield app.tasks(two, "pending")
    yield app.tasks(two, "completed")
    yield app.tasks(three, "cancelled", 7)
    yield app.run("update <tasks> set <t_workflow> = %(to)s where <t_workflow> = %(w)s and <n> <= 2", to=three, w=one)
    yield app.run("update <tasks> set <t_workflow> = null where <t_workflow> = %(w)s and <n> = 3", w=one)
    yield app.run("update <tasks> set <t_workflow> = %(w)s where <t_workflow> is null", w=two)
    yield app.run("delete from <tasks> where <t_workflow> = %(w)s and <n> = 4", w=one)
    yield app.run("delete from <tasks> where <t_workflow> = any (%(all)s)", all=[two, three])
    yield app.run(
        "merge into <tasks> as t using (values (1), (5), (6)) as v (n) on t.<t_workflow> = %(w)s and t.<n> = v.n"
        " when matched then update set (<state>) = row(<=completed>)"
        " when not matched then insert (<t_workflow>, <n>, <state>) values (%(w)s, v.n, <=failed>)",
        w=one,
    )
    load = app.shape.render("copy <tasks> (<t_workflow>, <n>) from stdin", parameters=False)
    with app.conn.cursor().copy(load.encode()) as copy:
        for n in range(20):
            copy.write_row([two if n % 2 else three, n])
    yield
    yield app.run("update <tasks> set (<state>) = row(<=completed>)")
    yield app.run("truncate <tasks>")


@every_shape
def test_workflows_that_come_change_and_go_are_followed(make: Make, shape: Shape, columns: bool) -> None:
    app = make(shape, columns=columns)
    for _ in statements_on_workflows(app):
        app.assert_exact()


def statements_on_workflows(app: App) -> Iterator[None]:
    shape = app.shape
    yield app.workflow(20)
    yield app.workflow(21, "completed", "completed", "running")
    yield app.run("insert into <workflows> (<w_id>) values (%(one)s), (%(two)s)", one=app.key(22), two=app.key(23))
    key = app.key(21)
    counters = "<workflows>" if app.columns else "agent_progress.workflow_counter"
    app.plans[str(key)] = 10
    yield app.run(f"update {counters} set agents_planned = 10 where {'<w_id>' if app.columns else 'id'} = %(w)s", w=key)
    if shape.w_done:
        yield app.finish(key)
    yield app.run(
        "insert into <workflows> as x (<w_id>) values (%(w)s), (%(new)s)"
        " on conflict (<w_id>) do update set <version> = x.<version> + 1",
        w=key,
        new=app.key(24),
    )
    yield app.run("insert into <workflows> (<w_id>) values (%(w)s) on conflict do nothing", w=key)
    if shape.rekeys is not None:
        with app.conn.transaction():
            app.run("update <workflows> set <w_id> = %(new)s where <w_id> = %(w)s", w=key, new=app.key(30))
            if shape.rekeys != "cascade":
                app.run("update <tasks> set <t_workflow> = %(new)s where <t_workflow> = %(w)s", w=key, new=app.key(30))
        app.plans[str(app.key(30))] = app.plans.pop(str(key))
        yield
    if shape.rekeys == "none":  # its tasks were there before it
        yield app.tasks(app.key(31), "completed", 2)
        yield app.run("update <workflows> set <w_id> = %(new)s where <w_id> = %(w)s", w=app.key(22), new=app.key(31))
    with app.conn.transaction():
        if not shape.cascades:
            app.run("delete from <tasks> where <t_workflow> = %(w)s", w=app.key(2))
        app.run("delete from <workflows> where <w_id> = %(w)s", w=app.key(2))
    yield
    with app.conn.transaction():
        app.run("delete from <tasks>")
        app.run("delete from <workflows> where <w_id> <> %(w)s", w=app.key(20))
    yield
    yield app.run("truncate <workflows>, <tasks>")
    yield app.workflow(40, "completed", "running")


@every_shape
def test_stale_writes_of_the_application_do_no_harm(make: Make, shape: Shape, columns: bool) -> None:
    app = make(shape, columns=columns)
    key = app.key(2)
    progress = "<progress>" if shape.progress else "progress" if columns else None
    if progress is None:
        return  # it has nowhere to write progress to
    for stage in range(1, 4):
        written = app.run(
            f"update <workflows> set {progress} = 15 * %(stage)s, <version> = <version> + 1"
            f" where <w_id> = %(w)s and <version> = %(stage)s returning {progress}, <version>",
            stage=stage,
            w=key,
        )
        assert (written.rowcount, written.fetchall()) == (1, [(40, stage + 1)])
    app.run(f"update <workflows> set {progress} = 90")
    app.assert_exact()
    inserted = app.run(
        f"insert into <workflows> (<w_id>, {progress}) values (%(w)s, 77) returning {progress}", w=app.key(50)
    )
    assert inserted.fetchall() == [(0,)]
    app.move(key, "completed")
    app.assert_exact()
    if "touched" in shape.names:
        assert app.run("select distinct <touched>::date::text from <workflows>").fetchall() == [("2020-01-01",)]
    assert app.run("select <version> from <workflows> where <w_id> = %(w)s", w=key).fetchall() == [(4,)]
