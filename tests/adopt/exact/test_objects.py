"""What an adoption leaves in the database: true to the house, and in nobody's way."""

import psycopg
import pytest

OURS = "n.nspname = 'agent_progress'"
FUNCTIONS = f"from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace where {OURS}"
TRIGGERS = (
    "from pg_trigger as t join pg_proc as p on p.oid = t.tgfoid join pg_namespace as n on n.oid = p.pronamespace"
    f" where {OURS} and not t.tgisinternal"
)
# Inlined into the statements that call them.
FORMULA = ["progress_percentage", "progress_total"]
# As anybody may.
CALLED_BY_READERS = [*FORMULA, "count_tasks", "describe_workflow"]


def test_every_object_has_a_comment(conn: psycopg.Connection) -> None:
    silent = conn.execute(
        f"""
        select 'relation', c.relname::text from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
        where {OURS} and c.relkind in ('r', 'v') and obj_description(c.oid, 'pg_class') is null
        union all
        select 'type', t.typname from pg_type as t join pg_namespace as n on n.oid = t.typnamespace
        where {OURS} and t.typtype = 'e' and obj_description(t.oid, 'pg_type') is null
        union all
        select 'function', p.proname {FUNCTIONS} and obj_description(p.oid, 'pg_proc') is null
        union all
        select 'trigger', t.tgname {TRIGGERS} and obj_description(t.oid, 'pg_trigger') is null
        union all
        select 'counter', a.attname from pg_attribute as a
        where a.attrelid in (to_regclass('workflow'), to_regclass('workflow_counter'))
            and a.attname ~ '^(agents_|progress_)' and col_description(a.attrelid, a.attnum) is null
            and (a.attname <> 'agents_planned' or to_regclass('workflow_counter') in (null, a.attrelid))
        """
    ).fetchall()
    assert silent == []


def test_every_function_pins_its_search_path(conn: psycopg.Connection) -> None:
    rows = conn.execute(f"select p.proname, p.proconfig {FUNCTIONS}").fetchall()
    assert len(rows) >= 7
    pinned = "search_path=pg_catalog, pg_temp"
    assert [name for name, settings in rows if pinned not in (settings or [])] == FORMULA


def test_no_function_that_runs_with_the_owner_s_rights_is_anybody_s_to_call(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select p.proname, p.prosecdef, exists ("
        "select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a where a.grantee = 0)"
        f" {FUNCTIONS} order by 1"
    ).fetchall()
    assert {name for name, definer, everybody in rows if everybody} == set(CALLED_BY_READERS)
    assert {name for name, definer, everybody in rows if not definer} == set(CALLED_BY_READERS)


def test_no_trigger_names_a_column_or_has_a_condition(conn: psycopg.Connection) -> None:
    rows = conn.execute(f"select t.tgname, t.tgattr::text, t.tgqual {TRIGGERS}").fetchall()
    assert len(rows) >= 5
    assert {(columns, condition) for _, columns, condition in rows} == {("", None)}


def test_nothing_of_ours_depends_on_a_column_but_the_key(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        """
        select distinct d.refobjid::regclass::text, a.attname::text
        from pg_depend as d
        join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
        left join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
        left join pg_class as c on c.oid = r.ev_class
        where d.refclassid = 'pg_class'::regclass
            and d.refobjid in ('app.workflow'::regclass, 'app.agent_task'::regclass)
            and (c.relnamespace = 'agent_progress'::regnamespace or d.classid in (
                'pg_proc'::regclass, 'pg_trigger'::regclass))
        """
    ).fetchall()
    assert rows == [("workflow", "id")]


def test_plpgsql_check_finds_nothing(conn: psycopg.Connection) -> None:
    if not conn.execute("select from pg_available_extensions where name = 'plpgsql_check'").fetchall():
        pytest.skip("this server has no plpgsql_check (Debian: postgresql-NN-plpgsql-check)")
    conn.execute("create extension plpgsql_check with schema public")
    # One function serves triggers with different transition tables; here it finds them all, in the temporary schema.
    for name in ("old_task", "new_task", "changed_task"):
        conn.execute(f"create temporary table {name} (like agent_task)")
    for name in ("old_workflow", "new_workflow"):
        conn.execute(f"create temporary table {name} (like workflow)")
    found = conn.execute(
        f"""
        select p.proname, f.lineno, f.message
        from (
            select distinct p.oid, p.proname, t.tgrelid {TRIGGERS}
            union all
            select p.oid, p.proname, 0 {FUNCTIONS} and p.prorettype <> 'trigger'::regtype and p.prolang = (
                select oid from pg_language where lanname = 'plpgsql')
        ) as p
        cross join lateral public.plpgsql_check_function_tb(p.oid, p.tgrelid::regclass) as f
        where f.level = 'error'
        """
    ).fetchall()
    assert found == []
