"""What is installed: the objects that sql/ defines, looked up in a database."""

import re
from pathlib import Path
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row

from pyapp import partitions

# Every object has its comment (a test holds that), so the comments list the objects.
_NAME = r'(?:"(?:[^"]|"")*"|[^\s("]+)+'
_COMMENT = re.compile(
    rf"^comment on (type|table|view|function|trigger) ({_NAME}(?:\([^)]*\))?)(?: on ({_NAME}))? is", re.MULTILINE
)

_MISSING = """
    select
        o.kind || ' ' || o.name
        || case when %s and o.relation <> '' then ' on ' || o.relation else '' end
        || case when t.tgname is not null then ' disabled' else '' end
    from unnest(%s::text[], %s::text[], %s::text[]) with ordinality as o (kind, name, relation, place)
    left join pg_catalog.pg_trigger as t
        on o.kind = 'trigger' and t.tgrelid = to_regclass(nullif(o.relation, '')) and t.tgname = o.name
    cross join lateral (
        select coalesce(bool_and(to_regtype(a.type) is not null), true) as known
        from unnest(string_to_array(nullif(substring(o.name, '[(](.*)[)]'), ''), ', ')) as a (type)
    ) as p
    where case o.kind
        when 'type' then to_regtype(o.name) is null
        -- PostgreSQL 15 raises an error where a type of an argument is missing
        when 'function' then case when p.known then to_regprocedure(o.name) is null else true end
        when 'trigger' then coalesce(t.tgenabled not in ('O', 'A'), true)
        else to_regclass(o.name) is null
    end
    order by o.place
"""


def resource(name: str) -> Path:
    """Find the directory ``sql`` or ``migrations``: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def listed_objects(script: str) -> list[tuple[str, str, str]]:
    """List the objects that a script defines: kind, name, and the table of a trigger."""
    return _COMMENT.findall(script)


def missing_objects(conn: Connection[Any], script: str | None = None) -> list[str]:
    """List the objects of ours that the database lacks, and the triggers of ours that are disabled there.

    They are those of sql/, and the triggers of partitions; or those of another script. Returns an empty list where the
    schema is whole.
    """
    texts = [script] if script else [file.read_text("utf-8") for file in sorted(resource("sql").glob("*.sql"))]
    objects = [found for text in texts for found in listed_objects(text)]
    kinds, names, relations = (list(column) for column in zip(*objects, strict=True))
    cursor = conn.cursor(row_factory=tuple_row)
    missing = [row[0] for row in cursor.execute(_MISSING, [script is not None, kinds, names, relations])]
    return missing if script else missing + partitions.lacking(conn)
