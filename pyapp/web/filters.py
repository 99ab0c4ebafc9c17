"""Which workflows a list shows: filters, and a search in names and ids, as SQL on ``workflow_progress``."""

import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, sql

from pyapp.web.parameters import Wanted
from pyapp.web.reads import stalled
from pyapp.web.shape import NotAValue, Shape

NAME = sql.SQL('p.name collate "C"')
_NEWEST_NAMES = 200_000
"""So many of the newest workflows have their names read where no index finds them: in 0.1 s."""
_NEWEST_TASKS = 10_000
"""So many of the newest workflows have their tasks looked at for an external id that no index finds."""
_HEX = re.compile(r"[0-9a-fA-F]{4,32}")


def conditions(shape: Shape, wanted: Wanted) -> tuple[list[sql.Composable], dict[str, Any]]:
    """Write the filters but for the statuses and the search, as conditions on ``p``. Raises NotAValue."""
    if wanted.priority and shape.priorities and wanted.priority not in shape.priorities:
        raise NotAValue(f"priority: should be one of {', '.join(shape.priorities)}")
    took = "extract(epoch from coalesce(p.completed_at, now())) - extract(epoch from p.created_at) {} %({})s"
    written: dict[str, str] = {
        "type": "p.type = %(type)s",
        "priority": "p.priority = %(priority)s",
        "created_from": "p.created_at >= %(created_from)s",
        "created_to": "p.created_at < %(created_to)s",
        "longer": took.format(">", "longer"),
        "shorter": took.format("<", "shorter"),
    }
    values = {name: value for name in written if (value := getattr(wanted, name)) not in (None, "")}
    found: list[sql.Composable] = [sql.SQL(written[name]) for name in values]
    if wanted.failures:
        found.append(sql.SQL("p.agents_failed > 0"))
    if wanted.stalled:
        found.append(stalled(shape))
    if wanted.name:
        values["name"] = _literally(wanted.name) + "%"
        found.append(sql.SQL("{} like %(name)s").format(NAME))
    if wanted.parent == "none":
        found.append(sql.SQL("p.parent_id is null"))
    elif wanted.parent:
        values["parent"] = shape.key(wanted.parent)
        found.append(sql.SQL("p.parent_id = %(parent)s"))
    return found, values


@dataclass(frozen=True)
class Search:
    """A search: what finds keys, which conditions that have no row in common find the rows, and where each looks."""

    keys: sql.Composed
    parts: list[tuple[sql.Composable, sql.Composable]]
    values: dict[str, Any]


def search(shape: Shape, text: str) -> Search:
    """Search by a text in names, and by ids: of the workflow (also how it begins), of a task, of the trace."""
    progress, tasks = shape.name("workflow_progress"), shape.name("agent_task")
    values: dict[str, Any] = {"match": text, "pattern": f"%{_literally(text)}%"}
    finds = [sql.SQL("(select p.workflow_id from {} as p where p.trace_id = %(match)s limit 100)").format(progress)]
    named = sql.SQL('p.name collate "default" ilike %(pattern)s')
    begins: sql.Composable = sql.SQL("")
    by_key = sql.SQL("(select p.workflow_id from {} as p where p.workflow_id {} limit 100)")
    digits = text.replace("-", "")
    if shape.key_type == "uuid" and _HEX.fullmatch(digits):
        values |= {"least": str(UUID(digits.ljust(32, "0"))), "most": str(UUID(digits.ljust(32, "f")))}
        finds.append(by_key.format(progress, sql.SQL("between %(least)s and %(most)s")))
    elif shape.key_type == "text" or shape.key_type.startswith("character"):
        finds.append(by_key.format(progress, sql.SQL("= %(match)s")))
        begins = sql.SQL(" or starts_with(p.workflow_id::text, %(match)s)")
    elif shape.key_type != "uuid" and shape.knows_keys and re.fullmatch("-?[0-9]{1,18}", text):
        finds.append(by_key.format(progress, sql.SQL("= %(match)s")))
    if shape.has("agent_task"):
        one = "(select a.workflow_id from {tasks} as a where {of}a.external_id = %(match)s limit {most})"
        among = sql.SQL(
            "(select a.workflow_id from (select p.workflow_id from {} as p order by p.created_at desc limit {}) as p"
            " cross join lateral {} as a limit 100)"
        )
        if "external_id" in shape.indexed:
            finds.append(sql.SQL(one).format(tasks=tasks, of=sql.SQL(""), most=100))
        else:
            each = sql.SQL(one).format(tasks=tasks, of=sql.SQL("a.workflow_id = p.workflow_id and "), most=1)
            finds.append(among.format(progress, _NEWEST_TASKS, each))
    keys = sql.SQL("select array({}) as keys").format(sql.SQL(" union all ").join(finds))
    known = sql.SQL("p.workflow_id = any ((select h.keys from hits as h)::{}[])").format(_type(shape))
    # What no index finds is looked for among the newest ones, in their order: what is found soon is not waited for.
    newest = sql.SQL("(select p.* from {} as p order by p.created_at desc, p.workflow_id desc limit {})")
    where = progress if _by_index(shape, text) else newest.format(progress, _NEWEST_NAMES)
    by_name = sql.SQL("({}{}) and not {}").format(named, begins, known)
    return Search(keys, [(where, by_name), (progress, known)], values)


async def searched(conn: AsyncConnection[Any], shape: Shape, text: str) -> str:
    """Say how a text was searched for, and in what part of the workflows."""
    by_index, newest = _by_index(shape, text), "the newest {:,} workflows"

    async def more_than(count: int) -> bool:
        query = sql.SQL("select from {} as p order by p.created_at desc offset {} limit 1")
        return bool(await (await conn.execute(query.format(shape.name("workflow_progress"), count))).fetchall())

    part = not by_index and await more_than(_NEWEST_NAMES)
    said = [f"names {'by index' if by_index else 'of ' + newest.format(_NEWEST_NAMES) if part else 'of all workflows'}"]
    if shape.has("agent_task"):
        part = "external_id" not in shape.indexed and await more_than(_NEWEST_TASKS)
        said.append(f"external ids of tasks {'in ' + newest.format(_NEWEST_TASKS) if part else 'in all workflows'}")
    return "; ".join(said)


async def has_sub_workflows(conn: AsyncConnection[Any], shape: Shape) -> bool:
    """Tell whether any workflow was started by another one."""
    query = sql.SQL("select from {} as p where p.parent_id is not null limit 1").format(shape.name("workflow_progress"))
    return shape.has("workflow_tree_progress") and bool(await (await conn.execute(query, [])).fetchall())


def _by_index(shape: Shape, text: str) -> bool:
    return "name" in shape.indexed and len(text) >= 3


def _literally(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def _type(shape: Shape) -> sql.SQL:
    return sql.SQL(shape.key_type.replace("%", "%%"))
