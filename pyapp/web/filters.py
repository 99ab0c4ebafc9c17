"""Which workflows a list shows: filters, and a search in names and ids, as SQL on ``workflow_progress``."""

import re
from typing import Any, TypeAlias
from uuid import UUID

from fastapi import HTTPException
from psycopg import sql

from pyapp.web.parameters import Wanted
from pyapp.web.reads import stalled
from pyapp.web.shape import Shape
from pyapp.web.wire import Conn, fetch_values

NAME = sql.SQL('p.name collate "C"')
_NEWEST_NAMES = 200_000
"""So many of the newest workflows have their names read where no index finds them: in 0.1 s."""
_NEWEST_TASKS = 10_000
"""So many of the newest workflows have their tasks looked at for an external id that no index finds."""
_HEX = re.compile(r"[0-9a-fA-F]{4,32}")
_TOOK = "extract(epoch from coalesce(p.completed_at, now())) - extract(epoch from p.created_at)"
_CONDITIONS = {
    "type": "p.type = %(type)s",
    "priority": "p.priority = %(priority)s",
    "created_from": "p.created_at >= %(created_from)s",
    "created_to": "p.created_at < %(created_to)s",
    "longer": f"{_TOOK} > %(longer)s",
    "shorter": f"{_TOOK} < %(shorter)s",
}


def conditions(shape: Shape, wanted: Wanted) -> tuple[list[sql.Composable], dict[str, Any]]:
    """Write the filters but for the statuses and the search, as conditions on ``p``. Raises HTTPException."""
    if wanted.priority and shape.priorities and wanted.priority not in shape.priorities:
        raise HTTPException(422, f"priority: should be one of {', '.join(shape.priorities)}")
    values = {name: value for name in _CONDITIONS if (value := getattr(wanted, name)) not in (None, "")}
    found: list[sql.Composable] = [sql.SQL(_CONDITIONS[name]) for name in values]
    if wanted.failures:
        found.append(sql.SQL("p.agents_failed > 0"))
    if wanted.stalled:
        found.append(stalled(shape))
    if wanted.name:
        values["name"] = literally(wanted.name) + "%"
        found.append(sql.SQL("{} like %(name)s").format(NAME))
    if wanted.parent == "none":
        found.append(sql.SQL("p.parent_id is null"))
    elif wanted.parent:
        values["parent"] = shape.key(wanted.parent)
        found.append(sql.SQL("p.parent_id = %(parent)s"))
    return found, values


Parts: TypeAlias = list[tuple[sql.Composable, sql.Composable]]


def search(shape: Shape, text: str) -> tuple[sql.Composed, Parts, dict[str, Any]]:
    """Search by a text in names, and by ids: of the workflow (also how it begins), of a task, of the trace.

    Returns a query for ``hits``, the keys that were found; conditions that have no row in common and find the rows,
    each behind where it looks; and the values of parameters.
    """
    values: dict[str, Any] = {"match": text, "pattern": f"%{literally(text)}%"}
    begins, digits = "", text.replace("-", "")
    found_by = ["p.trace_id = %(match)s"]
    if shape.key_type == "uuid" and _HEX.fullmatch(digits):
        values |= {"least": str(UUID(digits.ljust(32, "0"))), "most": str(UUID(digits.ljust(32, "f")))}
        found_by.append("p.workflow_id between %(least)s and %(most)s")
    elif shape.key_type == "text" or shape.key_type.startswith("character"):
        found_by.append("p.workflow_id = %(match)s")
        begins = " or starts_with(p.workflow_id::text, %(match)s)"
    elif shape.key_type != "uuid" and shape.knows_keys and re.fullmatch("-?[0-9]{1,18}", text):
        found_by.append("p.workflow_id = %(match)s")
    by_row = "(select p.workflow_id from {workflow_progress} as p where {condition} limit 100)"
    finds = [shape.query(by_row, condition=sql.SQL(one)) for one in found_by]
    if shape.has("agent_task"):
        by_task = "(select a.workflow_id from {agent_task} as a where {of}a.external_id = %(match)s limit {most})"
        if "external_id" in shape.indexed:
            finds.append(shape.query(by_task, of=sql.SQL(""), most=sql.Literal(100)))
        else:
            of = sql.SQL("a.workflow_id = p.workflow_id and ")
            among = (
                "(select a.workflow_id from (select p.workflow_id from {workflow_progress} as p"
                " order by p.created_at desc limit {newest}) as p cross join lateral {each} as a limit 100)"
            )
            each = shape.query(by_task, of=of, most=sql.Literal(1))
            finds.append(shape.query(among, newest=sql.Literal(_NEWEST_TASKS), each=each))
    known = shape.query("p.workflow_id = any ((select h.keys from hits as h)::{keys})", keys=shape.keys)
    everywhere = where = shape.query("{workflow_progress}")
    if not _by_index(shape, text):
        # What no index finds is looked for among the newest, in their order: what is found soon is not waited for.
        newest = (
            "(select p.* from {workflow_progress} as p order by p.created_at desc, p.workflow_id desc limit {most})"
        )
        where = shape.query(newest, most=sql.Literal(_NEWEST_NAMES))
    named = sql.SQL(f'(p.name collate "default" ilike %(pattern)s{begins})')
    by_name = sql.SQL("{} and not {}").format(named, known)
    keys = sql.SQL("select array({}) as keys").format(sql.SQL(" union all ").join(finds))
    return keys, [(where, by_name), (everywhere, known)], values


async def searched(conn: Conn, shape: Shape, text: str) -> str:
    """Say how a text was searched for, and in what part of the workflows."""

    async def among(most: int) -> str:
        query = shape.query("select 1 from {workflow_progress} as p order by p.created_at desc offset %s limit 1")
        return f"the newest {most:,} workflows" if await fetch_values(conn, query, [most]) else "all workflows"

    said = "names by index" if _by_index(shape, text) else f"names of {await among(_NEWEST_NAMES)}"
    if shape.has("agent_task"):
        where = "all workflows" if "external_id" in shape.indexed else await among(_NEWEST_TASKS)
        said += f"; external ids of tasks in {where}"
    return said


async def has_sub_workflows(conn: Conn, shape: Shape) -> bool:
    """Tell whether any workflow was started by another one."""
    query = shape.query("select 1 from {workflow_progress} as p where p.parent_id is not null limit 1")
    return shape.has("workflow_tree_progress") and bool(await fetch_values(conn, query))


def _by_index(shape: Shape, text: str) -> bool:
    return "name" in shape.indexed and len(text) >= 3


def literally(text: str) -> str:
    """Write a text such that ``like`` takes it for what it is."""
    return re.sub(r"([\\%_])", r"\\\1", text)
