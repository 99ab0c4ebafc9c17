"""How long workflows of a type usually take, for those that take longer."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import AsyncConnection, sql

from pyapp.web.answers import Listed
from pyapp.web.shape import Shape
from pyapp.web.wire import fetch_values

# The last 1,000 are enough, and bound what is read; of fewer than 20, the slowest is no measure.
_USUAL = """
    select percentile_cont(0.95) within group (order by extract(epoch from p.completed_at - p.created_at))
    from (
        select p.created_at, p.completed_at
        from {} as p
        where
            p.type = %s
            and p.status = 'completed'
            and p.completed_at is not null
            and p.created_at >= %s::timestamptz - interval '30 days'
        order by p.created_at desc
        limit 1000
    ) as p
    having count(*) >= 20
"""


@dataclass(frozen=True)
class Slow:
    """How long 95 of 100 workflows of the type took at most, and by how much this one is over it, in seconds."""

    usual: float
    over: float


async def read_slow(conn: AsyncConnection[Any], shape: Shape, workflow: Listed, now: datetime) -> Slow | None:
    """Compare a running workflow with those of its type that were completed, of the last 30 days."""
    if workflow.status != "running" or workflow.created_at is None or workflow.type is None:
        return None
    found = await fetch_values(conn, sql.SQL(_USUAL).format(shape.name("workflow_progress")), [workflow.type, now])
    took = (now - workflow.created_at) / timedelta(seconds=1)
    return next((Slow(usual, took - usual) for usual in map(float, found) if took > usual), None)
