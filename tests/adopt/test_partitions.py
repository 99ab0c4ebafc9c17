"""Partitioned tables: through the parent, by a partition, and with partitions that come and go."""

from collections.abc import Callable

from .application import App, succeed
from .shapes import PARTITIONED, SHARDED

Make = Callable[..., App]


def test_rows_of_partitions_count_whichever_way_they_are_written(make: Make) -> None:
    app = make(PARTITIONED)
    key = app.key(1)[0]
    app.run(
        "insert into flow_task_2 (flow_id, status, created_at) values (%(key)s, 'completed', '2026-02-03')", key=key
    )
    app.run("update flow_task_1 set status = 'completed' where flow_id = %(key)s and n = 1", key=key)
    app.run("update flow_task set created_at = '2026-02-05' where flow_id = %(key)s and n < 4", key=key)
    app.assert_exact()
    app.run("update flow_task set created_at = '2026-01-05', status = 'failed' where flow_id = %(key)s", key=key)
    app.run("delete from flow_task_1 where n = 2")
    app.assert_exact()
    app.run("truncate flow_task_2")
    app.run("truncate flow_task_1")
    app.assert_exact()


def test_a_new_partition_counts_at_once(make: Make) -> None:
    app = make(PARTITIONED)
    app.run("create table flow_task_3 partition of flow_task for values from ('2026-03-01') to ('2026-04-01')")
    for status in ("pending", "completed"):
        app.run(
            "insert into flow_task (flow_id, status, created_at) values (%(key)s, %(status)s, '2026-03-03')",
            key=app.key(1)[0],
            status=status,
        )
    app.run("update flow_task set status = 'completed'")
    app.assert_exact()
    assert (app.check().code, "new partitions (" in app.check().out + app.check().err) == (0, True)
    app.run("insert into flow_task_3 (flow_id, created_at) values (%(key)s, '2026-03-04')", key=app.key(1)[0])
    assert app.check().code == 1
    succeed(app.dsn, "adopt")
    assert "new partitions" not in app.check().out + app.check().err
    app.run("update flow_task_3 set status = 'failed'")
    app.assert_exact()
    assert app.check().code == 0


def test_repair_takes_what_a_dropped_partition_held_from_the_counts(make: Make) -> None:
    app = make(PARTITIONED)
    app.run(
        "insert into flow_task (flow_id, status, created_at) values (%(key)s, 'done', '2026-02-03')", key=app.key(1)[0]
    )
    app.run("drop table flow_task_2")
    assert app.check().code == 1
    succeed(app.dsn, "repair", "--schema", "agent_progress")
    app.assert_exact()
    assert app.check().code == 0


def test_a_partition_that_was_detached_counts_no_more_once_it_is_repaired(make: Make) -> None:
    app = make(PARTITIONED)
    app.run(
        "insert into flow_task (flow_id, status, created_at) values (%(key)s, 'done', '2026-02-03')", key=app.key(1)[0]
    )
    app.run("alter table flow_task detach partition flow_task_2")
    assert app.check().code == 1
    succeed(app.dsn, "adopt")
    assert app.check().code == 0
    app.run("update flow_task_2 set status = 'pending'")
    app.assert_exact()


def test_merge_counts_inserted_and_updated_rows_of_partitions(make: Make) -> None:
    app = make(PARTITIONED)
    app.run(
        "merge into flow_task as t using"
        " (values (1, %(a)s::uuid), (2, %(a)s::uuid), (900, %(b)s::uuid), (901, %(b)s::uuid))"
        " as s (n, flow) on t.flow_id = s.flow and t.n = s.n"
        " when matched then update set status = 'completed'"
        " when not matched then insert (flow_id, n, status) values (s.flow, s.n, 'failed')",
        a=app.key(1)[0],
        b=app.key(3)[0],
    )
    app.assert_exact()


def test_upserts_count_right(make: Make) -> None:
    app = make(SHARDED)
    app.run("create unique index on step (flow, n) where n > 900")
    for _ in range(2):
        app.run(
            "insert into step (flow, n, status) values ('flow-1', 901, 'pending'), ('flow-2', 902, 'failed')"
            " on conflict (flow, n) where n > 900 do update set status = 'completed'"
        )
        app.assert_exact()
    app.run("insert into step (flow, n, status) values ('flow-1', 901, 'x') on conflict do nothing")
    app.run("update flow set id = 'flow-7' where id = 'flow-4'")  # the key cascades
    app.assert_exact()


def test_workflows_in_partitions_are_deleted_and_published(make: Make) -> None:
    app = make(SHARDED)
    app.run("delete from flow_0; delete from flow where id = 'flow-2'")
    app.run("update flow_1 set progress = 33")
    app.run("insert into flow (id, progress) values ('a', 4), ('b', 5), ('c', 6)")
    app.assert_exact()
