"""The schema: the same from sql/ and from migrations/, gone without a trace when rolled back, and true to the house."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pglast
import psycopg
import pytest
from pglast import ast
from pglast.visitors import Visitor
from yoyo.migrations import read_sql_migration

from pyapp import migrate, rollback
from pyapp.schema import missing_objects

ROOT = Path(__file__).resolve().parents[1]
SQL = sorted((ROOT / "sql").glob("*.sql"))
OPTIONAL = sorted((ROOT / "sql" / "optional").glob("*.sql"))
MIGRATIONS = sorted((ROOT / "migrations").glob("*.sql"))
FORWARD = [file for file in MIGRATIONS if not file.name.endswith(".rollback.sql")]

MAINTAINED = [
    "progress",
    "agents_completed",
    "agents_total",
    "agents_created",
    "agents_failed",
    "agents_cancelled",
    "progress_updated_at",
]
# Ours among what a database holds: tables, views, indexes and sequences by relation; functions and types by schema.
OBJECTS_IN_PUBLIC = """
    select 'relation', relname::text from pg_class where relnamespace = 'public'::regnamespace
    union all
    select 'function', proname from pg_proc where pronamespace = 'public'::regnamespace
    union all
    select 'type', typname from pg_type where typnamespace = 'public'::regnamespace
    union all
    select 'schema', nspname from pg_namespace
    where nspname not in ('public', 'information_schema') and nspname not like 'pg\\_%'
    union all
    select 'trigger', tgname from pg_trigger where not tgisinternal
    union all
    select 'extension', extname from pg_extension where extname <> 'plpgsql'
"""


def source(file: Path) -> str:
    """Read a file of SQL, with a name in place of the variable of psql that stands for a role."""
    return file.read_text("utf-8").replace(':"role"', '"role"')


def dump(dsn: str, bin_dir: Path) -> str:
    """Dump the schema without yoyo's tables and without what differs from run to run."""
    done = subprocess.run(
        [bin_dir / "pg_dump", "--schema-only", "--exclude-table=*yoyo*", f"--dbname={dsn}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return re.sub(r"^(\\(un)?restrict .*|-- Dumped .*)\n", "", done.stdout, flags=re.M)


def install_with_psql(dsn: str, bin_dir: Path) -> None:
    """Install as the README says: cat sql/*.sql | psql -1 -v ON_ERROR_STOP=1."""
    subprocess.run(
        [bin_dir / "psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", f"--dbname={dsn}"],
        input="".join(file.read_text("utf-8") for file in SQL),
        capture_output=True,
        text=True,
        check=True,
    )


def objects(dsn: str) -> list[tuple[str, str]]:
    """List whatever is in the database beside what every new one has."""
    with psycopg.connect(dsn) as conn:
        return conn.execute(OBJECTS_IN_PUBLIC).fetchall()


def statements(file: Path) -> list[str]:
    return list(pglast.split(source(file)))


# --- sql/ is what migrations/ arrive at ---------------------------------------------------------------------


def test_migrations_and_sql_files_build_the_same_schema(dsn: str, empty: Callable[[], str], bin_dir: Path) -> None:
    installed = empty()
    install_with_psql(installed, bin_dir)
    assert dump(installed, bin_dir) == dump(dsn, bin_dir)
    assert "CREATE TRIGGER" in dump(installed, bin_dir)


def test_up_down_up_gives_the_same_schema(empty: Callable[[], str], bin_dir: Path) -> None:
    dsn = empty()
    migrate(dsn)
    first = dump(dsn, bin_dir)
    rollback(dsn, all=True)
    migrate(dsn)
    assert dump(dsn, bin_dir) == first


def test_each_migration_is_taken_back_to_what_was_before_it_and_can_be_applied_again(
    empty: Callable[[], str], bin_dir: Path
) -> None:
    step_by_step = empty()
    states = [dump(step_by_step, bin_dir)]
    with psycopg.connect(step_by_step, autocommit=True) as conn:
        for file in FORWARD:
            with conn.transaction():
                conn.execute(file.read_text("utf-8"))
            states.append(dump(step_by_step, bin_dir))
    dsn = empty()
    names = migrate(dsn)
    assert names == [file.stem for file in FORWARD]
    for number in range(len(FORWARD), 0, -1):
        assert dump(dsn, bin_dir) == states[number]
        assert rollback(dsn) == [names[number - 1]]
    assert dump(dsn, bin_dir) == states[0]
    assert migrate(dsn) == names
    assert dump(dsn, bin_dir) == states[-1]


def test_each_migration_can_be_run_twice(dsn: str, conn: psycopg.Connection, bin_dir: Path) -> None:
    # yoyo applies and records in two transactions: a crash in between runs a migration again.
    whole = dump(dsn, bin_dir)
    for file in FORWARD:
        with conn.transaction():
            conn.execute(file.read_text("utf-8"))
        assert dump(dsn, bin_dir) == whole, file.name


def test_rolling_all_back_leaves_nothing(empty: Callable[[], str]) -> None:
    dsn = empty()
    assert objects(dsn) == []
    migrate(dsn)
    assert len(objects(dsn)) > 40
    rollback(dsn, all=True)
    assert objects(dsn) == []


def test_every_migration_has_a_rollback_beside_it() -> None:
    assert len(FORWARD) >= 6
    assert [file.with_suffix("").name + ".rollback.sql" for file in FORWARD] == [
        file.name for file in MIGRATIONS if file not in FORWARD
    ]


def test_each_migration_depends_on_the_one_before() -> None:
    depends = [read_sql_migration(str(file))[0].get("depends") for file in FORWARD]
    assert depends == [None, *(file.stem for file in FORWARD[:-1])]


@pytest.mark.parametrize("file", MIGRATIONS, ids=lambda file: file.name)
def test_yoyo_splits_a_migration_where_postgres_does(file: Path) -> None:
    _, _, split = read_sql_migration(str(file))
    assert [pglast.parse_sql(piece)[0].stmt for piece in split] == [
        pglast.parse_sql(piece)[0].stmt for piece in statements(file)
    ]
    assert all(len(pglast.parse_sql(piece)) == 1 for piece in split)


# --- The house rules, read from the catalog -----------------------------------------------------------------


def test_every_object_has_a_comment(conn: psycopg.Connection) -> None:
    silent = conn.execute(
        """
        select 'relation', c.relname::text from pg_class as c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'p', 'm')
            and c.relname not like '%yoyo%' and obj_description(c.oid, 'pg_class') is null
        union all
        select 'function', p.proname from pg_proc as p
        where p.pronamespace = 'public'::regnamespace and obj_description(p.oid, 'pg_proc') is null
        union all
        select 'trigger', t.tgname from pg_trigger as t
        where not t.tgisinternal and obj_description(t.oid, 'pg_trigger') is null
        union all
        select 'type', t.typname from pg_type as t
        where t.typnamespace = 'public'::regnamespace and t.typtype in ('e', 'd')
            and obj_description(t.oid, 'pg_type') is null
        """
    ).fetchall()
    assert silent == []


def test_every_comment_is_a_sentence(conn: psycopg.Connection) -> None:
    comments = conn.execute(
        """
        select d.description from pg_description as d
        left join pg_class as c on d.classoid = 'pg_class'::regclass and c.oid = d.objoid
        left join pg_proc as p on d.classoid = 'pg_proc'::regclass and p.oid = d.objoid
        left join pg_type as t on d.classoid = 'pg_type'::regclass and t.oid = d.objoid
        left join pg_trigger as g on d.classoid = 'pg_trigger'::regclass and g.oid = d.objoid
        where 'public'::regnamespace in (c.relnamespace, p.pronamespace, t.typnamespace) or g.oid is not null
        """
    ).fetchall()
    assert len(comments) > 40
    assert [text for (text,) in comments if not re.fullmatch(r"[A-Z][^\n]+\.", text)] == []


def test_every_maintained_column_says_that_it_is_maintained(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select attname::text from pg_attribute where attrelid = 'public.workflow'::regclass"
        " and col_description(attrelid, attnum) like 'Maintained: %'"
    ).fetchall()
    assert {name for (name,) in rows} == set(MAINTAINED)


def test_no_maintained_column_is_indexed_and_workflow_has_no_check(conn: psycopg.Connection) -> None:
    indexed = conn.execute(
        "select i.indexrelid::regclass::text, a.attname from pg_index as i"
        " join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)"
        " where i.indrelid = 'public.workflow'::regclass"
        " and (a.attname = any (%s) or i.indpred is not null or i.indexprs is not null)",
        [MAINTAINED],
    ).fetchall()
    assert indexed == []
    checks = "select conname from pg_constraint where conrelid = 'public.workflow'::regclass and contype = 'c'"
    assert conn.execute(checks).fetchall() == []


def test_counting_a_task_updates_the_workflow_row_in_place(conn: psycopg.Connection) -> None:
    workflow = conn.execute("insert into workflow (name, type) values ('w', 'app') returning id").fetchone()
    conn.execute("insert into agent_task (workflow_id, agent_type) values (%s, 'a')", workflow)
    with conn.transaction():
        conn.execute("update agent_task set status = 'completed'")
        updated, in_place = conn.execute(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_xact_user_tables where relname = 'workflow'"
        ).fetchone()
    assert updated == in_place > 0


def test_indexes_and_constraints_are_named_as_postgres_would(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        """
        select
            i.relname::text,
            t.relname || '_' || array_to_string(array(
                select a.attname from unnest(x.indkey) with ordinality as k (attnum, place)
                join pg_attribute as a on a.attrelid = t.oid and a.attnum = k.attnum order by k.place
            ), '_') || case when c.contype = 'u' then '_key' else '_idx' end,
            t.relname || '_pkey',
            x.indisprimary
        from pg_index as x
        join pg_class as i on i.oid = x.indexrelid
        join pg_class as t on t.oid = x.indrelid
        left join pg_constraint as c on c.conindid = i.oid and c.contype in ('p', 'u')
        where t.relnamespace = 'public'::regnamespace and t.relname not like '%yoyo%'
        """
    ).fetchall()
    assert len(rows) >= 12
    assert [name for name, by_columns, key, primary in rows if name != (key if primary else by_columns)] == []
    rows = conn.execute(
        """
        select c.conname::text, t.relname || '_' || array_to_string(array(
            select a.attname from unnest(c.conkey) with ordinality as k (attnum, place)
            join pg_attribute as a on a.attrelid = t.oid and a.attnum = k.attnum order by k.place
        ), '_') || '_fkey'
        from pg_constraint as c join pg_class as t on t.oid = c.conrelid
        where t.relnamespace = 'public'::regnamespace and c.contype = 'f'
        """
    ).fetchall()
    assert len(rows) == 3
    assert [pair for pair in rows if pair[0] != pair[1]] == []


def test_indexes_and_constraints_are_named_in_the_files() -> None:
    text = SQL[0].read_text("utf-8")
    assert not re.search(r"create (unique )?index (on|if)", text)
    for stmt in pglast.parse_sql(text):
        if isinstance(stmt.stmt, ast.CreateStmt):
            for part in stmt.stmt.tableElts:
                if isinstance(part, ast.Constraint):
                    assert part.conname
                else:
                    inline = {constraint.contype.name for constraint in part.constraints or ()}
                    assert inline <= {"CONSTR_NOTNULL", "CONSTR_DEFAULT", "CONSTR_IDENTITY"}, part.colname


def test_every_plpgsql_function_pins_its_search_path_and_trigger_functions_are_closed(
    conn: psycopg.Connection,
) -> None:
    rows = conn.execute(
        """
        select p.proname, p.proconfig, p.prosecdef, p.prorettype = 'trigger'::regtype,
            has_function_privilege('public', p.oid, 'execute')
        from pg_proc as p join pg_language as l on l.oid = p.prolang
        where p.pronamespace = 'public'::regnamespace and l.lanname = 'plpgsql'
        """
    ).fetchall()
    callable_by_all = {"transition_workflow", "advance_workflow", "plan_stages"}
    for name, config, definer, _, public in rows:
        assert name in UNPINNED or "search_path=pg_catalog, pg_temp" in config, name
        # What runs with its owner's rights sees every row, and nobody calls it unasked.
        assert not definer or "row_security=off" in config, name
        assert public == (name in callable_by_all), name
        assert not (definer and public), name
    assert {name for name, _, _, trigger, _ in rows if trigger} == {
        "maintain_progress",
        "guard_progress",
        "guard_transition",
        "follow_stages",
        "record_event",
        "clear_task_times",
        "fill_task_times",
    }


def test_sql_functions_can_be_inlined(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select p.proname::text, p.proconfig, p.prosecdef from pg_proc as p join pg_language as l on l.oid = p.prolang"
        " where p.pronamespace = 'public'::regnamespace and l.lanname = 'sql'"
    ).fetchall()
    assert sorted(rows) == [("progress_percentage", None, False), ("progress_total", None, False)]
    plan = conn.execute("explain (verbose, costs off) select settled_percentage from workflow_progress").fetchall()
    assert "progress_percentage(" not in str(plan)


def test_views_run_with_the_rights_of_who_reads_them(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select relname::text, reloptions from pg_class where relkind = 'v' and relnamespace = 'public'::regnamespace"
    ).fetchall()
    views = [
        "workflow_burnup",
        "workflow_forecast",
        "workflow_progress",
        "workflow_progress_calculated",
        "workflow_progress_drift",
        "workflow_stage_agents",
        "workflow_stage_progress",
        "workflow_timeline",
    ]
    assert sorted(rows) == [(view, ["security_invoker=true"]) for view in views]


class Stars(Visitor):
    """Finds ``select *`` inside views."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def visit_ViewStmt(self, _: Any, node: ast.ViewStmt) -> None:
        inner = Inner()
        inner(node.query)
        self.found += [node.view.relname] * inner.stars


class Inner(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.stars = 0

    def visit_A_Star(self, *_: Any) -> None:
        self.stars += 1


@pytest.mark.parametrize("file", SQL + FORWARD, ids=lambda file: file.name)
def test_no_view_selects_a_star(file: Path) -> None:
    stars = Stars()
    stars(pglast.parse_sql(source(file)))
    assert stars.found == []


def without_comments(file: Path) -> str:
    mark = "#" if file.suffix == ".py" else "--"
    return re.sub(rf"{mark}.*", "", file.read_text("utf-8")).lower()


@pytest.mark.parametrize("file", SQL + OPTIONAL + MIGRATIONS, ids=lambda file: file.name)
def test_no_statement_selects_a_star_not_even_inside_a_function(file: Path) -> None:
    # Bodies in PL/pgSQL are text to the parser. A row read into a variable of its table's type is whole by intention.
    assert re.findall(r"\bselect\s+(?:\w+\.)?\*(?! into )|,\s*(?:\w+\.)?\*\s*(?:,|from)", without_comments(file)) == []


def test_no_query_of_the_package_selects_a_star() -> None:
    for file in (ROOT / "pyapp").rglob("*.py"):
        assert not re.search(r"select \*", without_comments(file)), file


# They run with the rights of whoever writes a task, who may set those times himself: a pin would double their cost.
UNPINNED = {"clear_task_times", "fill_task_times"}


@pytest.mark.parametrize("file", SQL + OPTIONAL + FORWARD, ids=lambda file: file.name)
def test_functions_are_written_with_a_pinned_search_path_and_only_those_to_be_inlined_without(file: Path) -> None:
    for raw in pglast.parse_sql(source(file)):
        if not isinstance(raw.stmt, ast.CreateFunctionStmt):
            continue
        name = raw.stmt.funcname[-1].sval
        options = {option.defname: option.arg for option in raw.stmt.options}
        pins = [o.arg for o in raw.stmt.options if o.defname == "set" and o.arg.name == "search_path"]
        if options["language"].sval == "sql":
            assert pins == [], name
            assert raw.stmt.sql_body is not None, name  # names in it are bound when it is made
        elif name not in UNPINNED:
            assert [[value.val.sval for value in pin.args] for pin in pins] == [["pg_catalog", "pg_temp"]], name


@pytest.mark.parametrize("file", SQL + FORWARD, ids=lambda file: file.name)
def test_no_check_is_written_on_a_maintained_column(file: Path) -> None:
    for raw in pglast.parse_sql(source(file)):
        text = pglast.prettify(source(file)[raw.stmt_location :][: raw.stmt_len or None])
        if isinstance(raw.stmt, ast.CreateStmt | ast.AlterTableStmt) and "CHECK" in text:
            for check in re.findall(r"CHECK \(.*\)", text):
                assert not set(MAINTAINED) & set(re.findall(r"\w+", check)), check


@pytest.mark.parametrize("file", SQL + OPTIONAL, ids=lambda file: file.name)
def test_what_a_file_creates_it_comments_on(file: Path) -> None:
    created, commented = set(), set()
    for raw in pglast.parse_sql(source(file)):
        stmt = raw.stmt
        if isinstance(stmt, ast.CreateStmt):
            created.add(stmt.relation.relname)
        elif isinstance(stmt, ast.ViewStmt):
            created.add(stmt.view.relname)
        elif isinstance(stmt, ast.CreateFunctionStmt):
            created.add(stmt.funcname[-1].sval)
        elif isinstance(stmt, ast.CreateTrigStmt):
            created.add(stmt.trigname)
        elif isinstance(stmt, ast.CreateEnumStmt):
            created.add(stmt.typeName[-1].sval)
        elif isinstance(stmt, ast.CommentStmt):
            names = getattr(stmt.object, "objname", None) or getattr(stmt.object, "names", None) or stmt.object
            commented.add(names[-1].sval)
    assert created <= commented


@pytest.mark.parametrize("file", SQL, ids=lambda file: file.name)
def test_objects_are_created_under_their_full_names(file: Path) -> None:
    for raw in pglast.parse_sql(source(file)):
        stmt = raw.stmt
        relation = getattr(stmt, "relation", None) or getattr(stmt, "view", None)
        if relation is not None:
            assert relation.schemaname == "public", relation.relname
        for name in (getattr(stmt, "funcname", None), getattr(stmt, "typeName", None)):
            assert name is None or name[0].sval == "public", name


def test_the_trigger_and_the_guard_take_no_advisory_lock_and_notify_nobody() -> None:
    for file in SQL:
        code = re.sub(r"--.*", "", file.read_text("utf-8")).lower()
        assert not re.search(r"advisory|pg_notify|\bnotify\b|for update\b", code), file.name


def test_missing_objects_names_whatever_is_taken_away(conn: psycopg.Connection) -> None:
    assert missing_objects(conn) == []
    conn.execute("drop function repair_progress")
    conn.execute("drop view workflow_progress_drift")
    conn.execute("drop trigger agent_task_progress_delete on agent_task")
    conn.execute("alter table agent_task disable trigger agent_task_progress_update")
    conn.execute("alter table workflow enable replica trigger zz_workflow_progress_guard")
    assert missing_objects(conn) == [
        "trigger agent_task_progress_update disabled",
        "trigger agent_task_progress_delete",
        "trigger zz_workflow_progress_guard disabled",
        "view public.workflow_progress_drift",
        "function public.repair_progress(uuid)",
    ]


def test_plpgsql_check_finds_nothing(conn: psycopg.Connection) -> None:
    if not conn.execute("select from pg_available_extensions where name = 'plpgsql_check'").fetchall():
        pytest.skip("this server has no plpgsql_check (Debian: postgresql-NN-plpgsql-check)")
    conn.execute("create extension plpgsql_check")
    # One function serves triggers with different transition tables; here it finds them all, in the temporary schema.
    tables = {"agent_task": ("old_task", "new_task", "changed_task")}
    for table, names in tables.items():
        for name in names:
            conn.execute(f"create temporary table {name} (like public.{table})")
    # A trigger's function is checked once for each table that it serves, any other by itself.
    functions = conn.execute(
        """
        select distinct p.oid, p.proname::text, coalesce(t.tgrelid, 0)::oid
        from pg_proc as p
        join pg_language as l on l.oid = p.prolang
        left join pg_trigger as t on t.tgfoid = p.oid and not t.tgisinternal
        where p.pronamespace = 'public'::regnamespace and l.lanname = 'plpgsql'
        order by 2
        """
    ).fetchall()
    found = [
        (name, *row)
        for oid, name, table in functions
        for row in conn.execute(
            "select lineno, level, message from plpgsql_check_function_tb(%s, %s::regclass)", [oid, table]
        ).fetchall()
    ]
    assert len(functions) >= 9
    assert found == []
