"""The partitions of agent_task, where it has any: each carries the triggers of the whole.

A trigger that fires once for each statement fires for the table that the statement names, and for no other: with one on
the whole table only, a write to a partition would not be counted. Those that fire for each row are copied to the
partitions by PostgreSQL.
"""

from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row

from pyapp.locks import LOCK_TIMEOUT

# A MERGE that inserts before it updates shows the update trigger of a partitioned table wrong rows (sql/adopt/06).
MERGE_TRIGGER = "agent_task_progress_merge"
_MERGE = f"""
create trigger {MERGE_TRIGGER}
    before insert on public.agent_task
    for each row
    when (false)
    execute function public.maintain_progress();

comment on trigger {MERGE_TRIGGER} on public.agent_task is
    'Never fires; lets a MERGE show the rows that it updates as they are.';
"""
_PARTITIONED = (
    "select exists (select from pg_catalog.pg_class where oid = to_regclass('public.agent_task') and relkind = 'p')"
)
_LACKING = """
    select p.name, t.tgname::text, d.wanted, obj_description(t.oid, 'pg_trigger'), d.wanted = d.found as disabled
    from (
        select
            relid,
            pg_catalog.format('%I.%I', n.nspname, c.relname) as name
        from pg_catalog.pg_partition_tree('public.agent_task') as i
        join pg_catalog.pg_class as c on c.oid = i.relid
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where i.level > 0
    ) as p
    cross join pg_catalog.pg_trigger as t
    left join pg_catalog.pg_trigger as o on o.tgrelid = p.relid and o.tgname = t.tgname
    cross join lateral (
        select
            replace(pg_catalog.pg_get_triggerdef(t.oid), ' ON public.agent_task ', ' ON ' || p.name || ' ') as wanted,
            pg_catalog.pg_get_triggerdef(o.oid) as found
    ) as d
    where
        t.tgrelid = 'public.agent_task'::regclass
        and (
            t.tgname like 'agent_task_progress_%'
            or t.tgname in ('agent_task_reopened', 'agent_task_times', 'agent_task_times_insert')
        )
        and t.tgname <> 'agent_task_progress_merge' -- never fires, whether enabled or not
        and not t.tgisinternal
        and (d.wanted is distinct from d.found or o.tgenabled not in ('O', 'A'))
    order by p.name, t.tgname
"""


def is_partitioned(conn: Connection[Any]) -> bool:
    """Tell whether agent_task has been partitioned."""
    return conn.cursor(row_factory=tuple_row).execute(_PARTITIONED.encode()).fetchone() == (True,)


def count(conn: Connection[Any]) -> int:
    """Count the partitions."""
    query = "select count(*) from pg_catalog.pg_partition_tree('public.agent_task') where isleaf and level > 0"
    row = conn.cursor(row_factory=tuple_row).execute(query).fetchone()
    return int(row[0]) if row else 0


def lacking(conn: Connection[Any]) -> list[str]:
    """List the triggers that agent_task or a partition of it lacks, or has in another form or disabled."""
    if not is_partitioned(conn):
        return []
    found = [] if _has_merge(conn) else [f"trigger {MERGE_TRIGGER}"]
    for partition, name, _, _, disabled in _lacking(conn):
        found.append(f"trigger {name} on {partition}{' disabled' if disabled else ''}")
    return found


def script(conn: Connection[Any]) -> list[str]:
    """Write the statements that give the partitions the triggers that they lack; a disabled one is left alone."""
    if not is_partitioned(conn):
        return []
    statements = [_MERGE] if not _has_merge(conn) and _counts(conn) else []
    for partition, name, wanted, comment, disabled in _lacking(conn):
        if not disabled:
            statements.append(wanted.replace("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1))
            if comment:
                quoted = comment.replace("'", "''")
                statements.append(f"comment on trigger {name} on {partition} is '{quoted}'")
    return statements


def renew(conn: Connection[Any]) -> int:
    """Give the partitions the triggers that they lack, after a migration for one; returns how many statements it took.

    Raises ``psycopg.errors.LockNotAvailable`` where others use them: to be tried again.
    """
    statements = script(conn)
    if statements:
        with conn.transaction():
            conn.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'".encode())
            for statement in statements:
                conn.execute(statement.encode())
    return len(statements)


def _has_merge(conn: Connection[Any]) -> bool:
    query = (
        "select exists (select from pg_catalog.pg_trigger"
        " where tgrelid = 'public.agent_task'::regclass and tgname = %s)"
    )
    return conn.cursor(row_factory=tuple_row).execute(query, [MERGE_TRIGGER]).fetchone() == (True,)


def _lacking(conn: Connection[Any]) -> list[Any]:
    return conn.cursor(row_factory=tuple_row).execute(_LACKING.encode()).fetchall()


def _counts(conn: Connection[Any]) -> bool:
    query = "select to_regprocedure('public.maintain_progress()') is not null"
    return conn.cursor(row_factory=tuple_row).execute(query).fetchone() == (True,)
