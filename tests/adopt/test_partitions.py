"""Partitioned tables of the application's: written through the parent, directly, and changed while adopted."""

from collections.abc import Callable

import pytest

from .application import App, cli, succeed
from .hostile import HOSTILE_SHAPES
from .schemas import PARTITIONED, SHARDED
from .shape import Shape

Make = Callable[..., App]
HOSTILE = {shape.title: shape for shape in HOSTILE_SHAPES}
both_modes = pytest.mark.parametrize("columns", [False, True], ids=["side", "columns"])
tasks_in_partitions = pytest.mark.parametrize(
    "shape", [PARTITIONED, HOSTILE["hostile partitioned"]], ids=lambda shape: shape.title
)


@both_modes
@tasks_in_partitions
def test_writes_to_partitions_and_across_them_are_counted(make: Make, shape: Shape, columns: bool) -> None:
    app = make(shape, columns=columns)
    key = app.key(2)
    app.run("update <tasks> set <region> = 'us' where <t_workflow> = %(w)s and <n> = 1", w=key)
    app.assert_exact()
    app.run("update <tasks> set <region> = 'us', (<state>) = row(<=completed>) where <t_workflow> = %(w)s", w=key)
    app.assert_exact()
    app.run("update <tasks> set <n> = <n> + 1")
    app.assert_exact()
    app.run("insert into <schema>.<us> (<t_workflow>, <region>, <state>) values (%(w)s, 'us', <=failed>)", w=key)
    app.assert_exact()
    app.run("update <schema>.<us> set (<state>) = row(<=completed>)")
    app.assert_exact()
    app.run("update <schema>.<eu_odd> set (<state>) = row(<=completed>)")
    app.run("update <schema>.<eu> set (<state>) = row(<=cancelled>) where <n> = 2")
    app.assert_exact()
    app.run("delete from <schema>.<eu_even> where <t_workflow> <> %(w)s", w=key)
    app.assert_exact()
    app.run("truncate <schema>.<eu_odd>")
    app.assert_exact()
    app.run("truncate <schema>.<eu>")
    app.assert_exact()
    app.check()


@both_modes
@tasks_in_partitions
def test_a_merge_that_inserts_before_it_updates_is_counted(make: Make, shape: Shape, columns: bool) -> None:
    app = make(shape, columns=columns)
    app.run("set enable_hashjoin = off")
    app.run("set enable_mergejoin = off")  # row by row, in the order that is given
    app.run("update <tasks> set <n> = <n> * 2, <region> = 'us' where <t_workflow> = %(w)s", w=app.key(1))
    for target in ("<tasks>", "<schema>.<us>"):
        app.run(
            f"merge into {target} as t using (values (1), (2), (3), (4), (5)) as v (n)"
            " on t.<t_workflow> = %(w)s and t.<n> = v.n"
            " when matched then update set (<state>) = row(<=completed>)"
            " when not matched then insert (<t_workflow>, <n>, <region>, <state>) values (%(w)s, v.n, 'us', <=failed>)",
            w=app.key(1),
        )
        app.assert_exact()
        app.run("delete from <tasks> where <t_workflow> = %(w)s and <n> in (1, 3, 5)", w=app.key(1))
        app.run("update <tasks> set (<state>) = row(<=pending>) where <t_workflow> = %(w)s", w=app.key(1))


@both_modes
@tasks_in_partitions
def test_a_partition_added_later_is_told_by_check_and_taken_in_by_adopt(
    make: Make, shape: Shape, columns: bool
) -> None:
    app = make(shape, columns=columns)
    key = app.key(2)
    app.run("create table <schema>.later partition of <tasks> for values in ('asia')")
    app.run("insert into <tasks> (<t_workflow>, <region>, <state>) values (%(w)s, 'asia', <=completed>)", w=key)
    app.assert_exact()
    app.run("insert into <schema>.later (<t_workflow>, <region>, <state>) values (%(w)s, 'asia', <=completed>)", w=key)
    told = cli(app.dsn, "check", "--name", "default")
    assert told.code == 1
    assert "missing: trigger agent_task_progress_insert on " in told.out
    succeed(app.dsn, "adopt")
    app.assert_exact()
    app.run("insert into <schema>.later (<t_workflow>, <region>, <state>) values (%(w)s, 'asia', <=completed>)", w=key)
    app.assert_exact()
    app.check()


@both_modes
@tasks_in_partitions
def test_a_detached_partition_is_counted_no_more_after_repair_and_adopt(
    make: Make, shape: Shape, columns: bool
) -> None:
    app = make(shape, columns=columns)
    app.run("update <tasks> set <region> = 'us' where <t_workflow> = %(w)s", w=app.key(2))
    app.run("alter table <tasks> detach partition <schema>.<us>")
    told = cli(app.dsn, "check", "--name", "default")
    assert (told.code, "1 wrong" in told.out) == (1, True)
    assert "renews it" in told.out
    succeed(app.dsn, "adopt")
    app.assert_exact()
    app.check()
    app.run("delete from <schema>.<us>")  # an archive by now, and none of ours
    app.assert_exact()
    app.check()


@tasks_in_partitions
def test_unadopt_finds_its_triggers_on_a_detached_partition(make: Make, shape: Shape) -> None:
    app = make(shape)
    app.run("alter table <tasks> detach partition <schema>.<us>")
    succeed(app.dsn, "repair", "--name", "default")
    succeed(app.dsn, "unadopt")
    assert app.run("select tgname from pg_trigger where not tgisinternal").fetchall() == []


@both_modes
@pytest.mark.parametrize("shape", [SHARDED, HOSTILE["hostile sharded"]], ids=lambda shape: shape.title)
def test_workflows_in_partitions_are_followed_whichever_table_is_named(make: Make, shape: Shape, columns: bool) -> None:
    app = make(shape, columns=columns)
    # Which partition takes a key is up to a hash: ask for one that the first takes.
    app.workflow(90, "completed", "running")
    [home] = app.run("select tableoid::regclass::text from <workflows> where <w_id> = %(w)s", w=app.key(90)).fetchone()
    other = app.key(91)
    escaped = home.replace("%", "%%")
    app.run(f"update {escaped} set <w_status> = %(done)s where <w_id> = %(w)s", done=shape.w_done, w=app.key(90))
    app.assert_exact()
    app.run(f"update {escaped} set <progress> = 77, <version> = 5")
    app.assert_exact()
    app.run("update <workflows> set <version> = 3")
    app.run("insert into <workflows> (<w_id>) values (%(w)s)", w=other)
    app.assert_exact()
    app.run(f"delete from {escaped}")
    app.assert_exact()
    app.run("create table <schema>.archive (like <workflows>)")
    app.run("drop table <schema>.archive")
    app.check()
