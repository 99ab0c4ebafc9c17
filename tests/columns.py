"""Writes sql/COLUMNS.md, from the comments in the database: ``python -m tests.columns``."""

import tempfile
from pathlib import Path

import psycopg

from pyapp import embedded, migrate

PAGE = Path(__file__).parents[1] / "sql" / "COLUMNS.md"
_OPENING = """\
# Tables, views and their columns

Written by `python -m tests.columns` from the comments of the objects, so that nobody needs `\\\\d+`. A column that
takes one of a few words lists them. Types are shortened: `text?` may be null; `= x` is what it is without a value.
"""
_RELATIONS = """
    select c.oid::regclass::text, case c.relkind when 'v' then 'view' else 'table' end, obj_description(c.oid)
    from pg_class as c
    where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v') and c.relname !~ 'yoyo'
    order by c.relkind, c.oid
"""
_COLUMNS = """
    select
        a.attname,
        case t.typname when 'timestamptz' then 'timestamptz' else format_type(a.atttypid, null) end
            || case when c.relkind = 'r' and not a.attnotnull then '?' else '' end,
        (
            select string_agg('`' || e.enumlabel || '`', ', ' order by e.enumsortorder)
            from pg_enum as e
            where e.enumtypid = t.oid
        ),
        case
            when a.attidentity <> '' then 'numbered'
            else regexp_replace(pg_get_expr(d.adbin, d.adrelid), '::\\w+$', '')
        end,
        col_description(c.oid, a.attnum)
    from pg_attribute as a
    join pg_class as c on c.oid = a.attrelid
    join pg_type as t on t.oid = a.atttypid
    left join pg_attrdef as d on d.adrelid = c.oid and d.adnum = a.attnum
    where c.oid = %s::regclass and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""


def page(dsn: str) -> str:
    """Write the page for a migrated database."""
    parts = [_OPENING.replace("\\\\", "\\")]
    with psycopg.connect(dsn) as conn:
        for name, kind, told in conn.execute(_RELATIONS).fetchall():
            parts.append(f"\n## {kind.capitalize()} {name}\n\n{told}\n\n| column | type | meaning |\n|---|---|---|\n")
            for column, type_, words, default, meaning in conn.execute(_COLUMNS, [name]).fetchall():
                more = f" = `{default}`" if default else ""
                text = ". ".join(filter(None, [(meaning or "").rstrip("."), f"One of {words}" if words else None]))
                parts.append(f"| `{column}` | {type_}{more} | {text.replace('|', '&#124;')} |\n")
    return "".join(parts)


def main() -> None:
    """Write it."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        with embedded.server(Path(parent, "data")) as server:
            migrate(server.dsn)
            PAGE.write_text(page(server.dsn), "utf-8")


if __name__ == "__main__":
    main()
