"""The schema: the same from sql/ and from migrations/, gone without a trace when rolled back, and true to the house."""

import re
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

from .commands import output_of
from .pages import psql

ROOT = Path(__file__).resolve().parents[1]
SQL = sorted((ROOT / "sql").glob("*.sql"))
OPTIONAL = [
    *sorted((ROOT / "sql" / "optional").glob("grant_*.sql")),
    *sorted((ROOT / "sql" / "optional").glob("n*.sql")),
]
MIGRATIONS = sorted((ROOT / "migrations").glob("*.sql"))
FORWARD = [file for file in MIGRATIONS if not file.name.endswith(".rollback.sql")]
RENEWALS = sorted((ROOT / "migrations").glob("*_renew.py"))
ALL = [file.stem for file in sorted([*FORWARD, *RENEWALS])]
TABLES = {"01_tables", "02_rules"}

MAINTAINED = [
    "progress",
    "agents_completed",
    "agents_total",
    "agents_created",
    "agents_failed",
    "agents_cancelled",
    "progress_updated_at",
]
# Inlined where they are called, or so hot that they name all that they use with its schema instead.
UNPINNED = {"progress_percentage", "progress_total", "keep_task_times", "guard_progress"}
TO_BE_CALLED = {
    "create_workflow",
    "add_tasks",
    "report_task",
    "report_tasks",
    "transition_workflow",
    "advance_workflow",
    "archive_workflows",
    "plan_stages",
    "progress_percentage",
    "progress_total",
}
VIEWS = [
    "task_trend",
    "vocabulary",
    "workflow_burnup",
    "workflow_forecast",
    "workflow_progress",
    "workflow_progress_calculated",
    "workflow_progress_drift",
    "workflow_stage_agents",
    "workflow_stage_progress",
    "workflow_timeline",
    "workflow_tree",
    "workflow_tree_progress",
    "workflow_trend",
]
# Whatever a database holds beside what every new one has, with the rights on it.
CATALOG = """
    select 'relation', c.oid::regclass::text, c.relkind::text, c.relacl::text from pg_class as c
    where c.relnamespace <> all (array['pg_catalog', 'information_schema', 'pg_toast']::regnamespace[])
    union all
    select 'function', p.oid::regprocedure::text, md5(p.prosrc), p.proacl::text from pg_proc as p
    where p.pronamespace <> all (array['pg_catalog', 'information_schema']::regnamespace[])
    union all
    select 'type', t.oid::regtype::text, t.typtype::text, t.typacl::text from pg_type as t
    where t.typnamespace <> all (array['pg_catalog', 'information_schema', 'pg_toast']::regnamespace[])
    union all
    select 'schema', n.nspname, '', n.nspacl::text from pg_namespace as n
    where n.nspname not in ('information_schema', 'public') and n.nspname not like 'pg\\_%'
    union all
    select 'trigger', t.tgrelid::regclass || '.' || t.tgname, t.tgenabled::text, '' from pg_trigger as t
    where not t.tgisinternal
    union all
    select 'default privileges', d.defaclnamespace::regnamespace::text, d.defaclobjtype::text, d.defaclacl::text
    from pg_default_acl as d
    union all
    select 'extension', extname, '', '' from pg_extension where extname <> 'plpgsql'
    union all
    select 'setting', setdatabase::regrole::text, setconfig::text, '' from pg_db_role_setting where false
    order by 1, 2, 3
"""


def source(file: Path) -> str:
    """Read a file of SQL, with a name in place of the variable of psql that stands for a role."""
    return file.read_text("utf-8").replace(':"role"', '"role"')


def dump(dsn: str, bin_dir: Path) -> str:
    """Dump the schema without yoyo's tables and without what differs from run to run."""
    text = output_of(bin_dir / "pg_dump", "--schema-only", "--exclude-table=*yoyo*", f"--dbname={dsn}")
    return re.sub(r"^(\\(un)?restrict .*|-- Dumped .*)\n", "", text, flags=re.M)


def install_with_psql(dsn: str, bin_dir: Path) -> None:
    """Install as the README says: cat sql/*.sql | psql -1 -v ON_ERROR_STOP=1."""
    psql(bin_dir, dsn, "".join(file.read_text("utf-8") for file in SQL), "-q", "-1")


def objects(dsn: str) -> list[tuple[str, ...]]:
    """List whatever is in the database beside what every new one has."""
    with psycopg.connect(dsn) as conn:
        return conn.execute(CATALOG).fetchall()


def statements(file: Path) -> list[str]:
    return list(pglast.split(source(file)))


def parsed(files: list[Path]) -> list[tuple[str, Any]]:
    """Parse files; return each statement with the name of its file."""
    return [(file.name, raw.stmt) for file in files for raw in pglast.parse_sql(source(file))]


# --- sql/ is what migrations/ arrive at ---------------------------------------------------------------------


def test_migrations_and_sql_files_build_the_same_schema(dsn: str, empty: Callable[[], str], bin_dir: Path) -> None:
    installed = empty()
    install_with_psql(installed, bin_dir)
    assert dump(installed, bin_dir) == dump(dsn, bin_dir)
    assert "CREATE TRIGGER" in dump(installed, bin_dir)


def test_each_migration_is_taken_back_to_what_was_before_it_and_can_be_applied_again(
    empty: Callable[[], str], bin_dir: Path
) -> None:
    dsn = empty()
    states = [dump(dsn, bin_dir)]
    with psycopg.connect(dsn, autocommit=True) as conn:
        for file in FORWARD:
            for _ in range(2):  # yoyo applies and records in two transactions: a crash in between runs it again
                with conn.transaction():
                    conn.execute(file.read_text("utf-8"))
            states.append(dump(dsn, bin_dir))
    assert migrate(dsn) == ALL
    states.append(dump(dsn, bin_dir))
    without_comments = re.compile(r"^--\n-- Name: .*; Type: COMMENT.*\n--\n\nCOMMENT ON .*\n\n\n", re.M)
    for number in range(len(ALL), 0, -1):
        # Comments on tables are made by the renewal, which leaves them where the tables stay.
        assert without_comments.sub("", dump(dsn, bin_dir)) == without_comments.sub("", states[number])
        assert rollback(dsn) == [ALL[number - 1]]
    assert dump(dsn, bin_dir) == states[0]
    assert migrate(dsn) == ALL
    assert dump(dsn, bin_dir) == states[-1]


def test_each_migration_has_a_rollback_and_depends_on_the_one_before() -> None:
    names = [file.name for file in MIGRATIONS if file not in FORWARD]
    assert names == [f"{file.stem}.rollback.sql" for file in FORWARD]
    depends = [read_sql_migration(str(file))[0].get("depends") for file in FORWARD]
    assert depends == [None, *(file.stem for file in FORWARD[:-1])]
    [renewal] = RENEWALS
    assert renewal.stem == ALL[-1]
    assert f'__depends__ = {{"{FORWARD[-1].stem}"}}' in renewal.read_text("utf-8")


@pytest.mark.parametrize("file", [*MIGRATIONS, *SQL], ids=lambda file: file.name)
def test_yoyo_splits_a_file_where_postgres_does(file: Path) -> None:
    _, _, split = read_sql_migration(str(file))
    assert [pglast.parse_sql(piece)[0].stmt for piece in split] == [
        pglast.parse_sql(piece)[0].stmt for piece in statements(file)
    ]
    assert all(len(pglast.parse_sql(piece)) == 1 for piece in split)


def test_every_file_is_ascii_which_every_encoding_of_a_server_can_take() -> None:
    every = [*SQL, *(ROOT / "sql" / "optional").glob("*.sql"), *(ROOT / "migrations").iterdir()]
    assert [file for file in every if file.is_file() and not file.read_bytes().isascii()] == []


def test_all_but_the_tables_can_be_made_again_and_stands_under_its_full_name() -> None:
    repeatable = (ast.CreateFunctionStmt, ast.ViewStmt, ast.CreateTrigStmt)
    for name, stmt in parsed(SQL):
        if isinstance(stmt, repeatable):
            assert stmt.replace, name
            assert name.removesuffix(".sql") not in TABLES
        elif isinstance(stmt, ast.CommentStmt):
            continue
        elif isinstance(stmt, ast.GrantStmt):
            assert not stmt.is_grant, name
        else:
            assert name.removesuffix(".sql") in TABLES, (name, stmt)
        relation = getattr(stmt, "relation", None) or getattr(stmt, "view", None)
        assert relation is None or relation.schemaname == "public", (name, relation)
        for written in (getattr(stmt, "funcname", None), getattr(stmt, "typeName", None)):
            assert written is None or written[0].sval == "public", (name, written)


# --- The house rules ----------------------------------------------------------------------------------------


def test_every_object_has_a_comment_of_one_sentence(conn: psycopg.Connection) -> None:
    comments = conn.execute("""
        select 'relation ' || c.relname, obj_description(c.oid, 'pg_class') from pg_class as c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v', 'p', 'm')
            and c.relname not like '%yoyo%'
        union all
        select 'function ' || p.proname, obj_description(p.oid, 'pg_proc') from pg_proc as p
        where p.pronamespace = 'public'::regnamespace
        union all
        select 'trigger ' || t.tgname, obj_description(t.oid, 'pg_trigger') from pg_trigger as t
        where not t.tgisinternal
        union all
        select 'type ' || t.typname, obj_description(t.oid, 'pg_type') from pg_type as t
        where t.typnamespace = 'public'::regnamespace and t.typtype in ('e', 'd')
        union all
        select 'column ' || d.objoid::regclass || '.' || d.objsubid, d.description from pg_description as d
        join pg_class as c on c.oid = d.objoid and c.relnamespace = 'public'::regnamespace
        where d.classoid = 'pg_class'::regclass and d.objsubid > 0
    """).fetchall()
    assert len(comments) > 100
    assert [row for row in comments if not re.fullmatch(r"([A-Z]|agent-progress: )[^\n]+\.", row[1] or "")] == []


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
        " where i.indrelid = 'public.workflow'::regclass and a.attname = any (%s)",
        [[*MAINTAINED, "progress_frozen_at", "version", "updated_at"]],
    ).fetchall()
    assert indexed == []
    checks = "select conname from pg_constraint where conrelid = 'public.workflow'::regclass and contype = 'c'"
    assert conn.execute(checks).fetchall() == []


def test_every_function_pins_its_search_path_and_only_those_to_be_called_are_open(conn: psycopg.Connection) -> None:
    conn.execute((ROOT / "sql" / "optional" / "notify_on.sql").read_bytes())
    rows = conn.execute("""
        select p.proname::text, p.proconfig, p.prosecdef, has_function_privilege('public', p.oid, 'execute'),
            p.prorettype = 'trigger'::regtype
        from pg_proc as p where p.pronamespace = 'public'::regnamespace
    """).fetchall()
    for name, config, definer, public, trigger in rows:
        assert (name in UNPINNED) != ("search_path=pg_catalog, pg_temp" in (config or [])), name
        # What runs with its owner's rights sees every row, and nobody calls it unasked.
        assert definer == ("row_security=off" in (config or [])) or name == "guard_progress", name
        assert public == (name in TO_BE_CALLED), name
        assert not (public and (definer or trigger)), name
    assert len(rows) == 20


def test_views_run_with_the_rights_of_who_reads_them_and_call_no_function(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select relname::text, reloptions from pg_class where relkind = 'v' and relnamespace = 'public'::regnamespace"
    ).fetchall()
    assert sorted(rows) == [(view, ["security_invoker=true"]) for view in VIEWS]
    for view in VIEWS:
        assert "progress_percentage(" not in str(conn.execute(f"explain (verbose) select * from {view}").fetchall())


class Stars(Visitor):
    """Finds ``select *`` inside views."""

    def __init__(self) -> None:
        super().__init__()
        self.stars = 0

    def visit_A_Star(self, *_: Any) -> None:
        self.stars += 1


def without_comments(file: Path) -> str:
    mark = "#" if file.suffix == ".py" else "--"
    return re.sub(rf"{mark}.*", "", file.read_text("utf-8")).lower()


def test_no_statement_selects_a_star_not_even_inside_a_function() -> None:
    for name, stmt in parsed([*SQL, *FORWARD]):
        if isinstance(stmt, ast.ViewStmt):
            stars = Stars()
            stars(stmt.query)
            assert stars.stars == 0, name
    # Bodies in PL/pgSQL are text to the parser. A row of a table's own type, `w.*`, is whole by intention.
    for file in [*SQL, *OPTIONAL, *MIGRATIONS]:
        assert re.findall(r"\bselect\s+\*|,\s*\*\s*(?:,|from)", without_comments(file)) == [], file
    for file in (ROOT / "pyapp").glob("*.py"):
        assert not re.search(r"select \*(?! from unnest)", without_comments(file)), file


def test_counting_takes_no_advisory_lock_and_notifies_nobody() -> None:
    for file in SQL:
        code = without_comments(file)
        assert not re.search(r"advisory|pg_notify|\bnotify\b", code), file.name
        # Stronger than the foreign key's lock; archiving alone deletes what it locks.
        assert file.stem == "17_archiving" or not re.search(r"for update\b", code), file.name


def test_plpgsql_check_finds_nothing(conn: psycopg.Connection) -> None:
    if not conn.execute("select from pg_available_extensions where name = 'plpgsql_check'").fetchall():
        pytest.skip("this server has no plpgsql_check (Debian: postgresql-NN-plpgsql-check)")
    conn.execute("create extension plpgsql_check")
    # One function serves triggers with different transition tables; here it finds them all, in the temporary schema.
    for name in ("old_task", "new_task", "changed_task"):
        conn.execute(f"create temporary table {name} (like public.agent_task)")
    # A trigger's function is checked once for each table that it serves, any other by itself.
    functions = conn.execute("""
        select distinct p.oid, p.proname::text, coalesce(t.tgrelid, 0)::oid
        from pg_proc as p
        join pg_language as l on l.oid = p.prolang
        left join pg_trigger as t on t.tgfoid = p.oid and not t.tgisinternal
        where p.pronamespace = 'public'::regnamespace and l.lanname = 'plpgsql'
        order by 2
    """).fetchall()
    found = [
        (name, *row)
        for oid, name, table in functions
        for row in conn.execute(
            "select lineno, level, message from plpgsql_check_function_tb(%s, %s::regclass)", [oid, table]
        ).fetchall()
    ]
    assert len(functions) >= 9
    assert found == []
