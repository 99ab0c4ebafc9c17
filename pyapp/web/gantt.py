"""Tasks over time: lanes by stage or agent type, at most 200 tasks as bars, and how many were at work in the rest."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from itertools import accumulate
from typing import Any, Literal

from psycopg import sql
from psycopg.rows import class_row

from pyapp.web.answers import Listed
from pyapp.web.shape import Shape
from pyapp.web.wire import Conn

By = Literal["stage", "agent"]
_COLUMNS = {"stage": "stage", "agent": "agent_type"}
BARS = 200
_LANES = 20
_SLICES = 100
_ROWS = 24  # bars above each other in a lane
_NARROWEST = 0.4  # percent of the width
_DENSITY = 28  # pixels

# One row for each lane. Failed tasks, those at work and the others take turns in what is drawn, the longest of each
# first. What is at work is drawn until now; in a workflow that has ended it is so no longer.
_QUERY = """
    with task as materialized (
        select
            p.id::text as id,
            coalesce(nullif(concat_ws(' ', p.agent_type, p.external_id), ''), p.id::text) as name,
            p.{column} as lane,
            p.status::text as status,
            t.began,
            greatest(t.began, t.ended) as ended
        from {agent_task} as p
        cross join lateral (
            select
                coalesce(p.started_at, p.assigned_at, p.completed_at) as began,
                case
                    when p.status in ('assigned', 'running') then least(%(ended)s::timestamptz, %(now)s)
                    else coalesce(p.completed_at, p.started_at)
                end as ended
        ) as t
        where
            p.workflow_id = %(workflow)s
            and p.status <> 'pending'
            and t.began between '0001-01-02' and '9999-12-30'
            and t.ended between '0001-01-02' and '9999-12-30'
    ),
    lane as materialized (
        select
            t.lane,
            least(row_number() over (order by count(*) desc, t.lane), %(lanes)s) as place,
            min(min(t.began)) over () as began,
            greatest(extract(epoch from max(max(t.ended)) over () - min(min(t.began)) over ()), 0.001)::float8 as span
        from task as t
        group by t.lane
    ),
    placed as materialized (
        select
            t.*,
            l.place,
            100 * extract(epoch from t.began - l.began)::float8 / l.span as x,
            100 * extract(epoch from t.ended - t.began)::float8 / l.span as width,
            row_number() over (
                partition by case when t.status = 'failed' then 0 when t.status in ('assigned', 'running') then 1 end
                order by t.ended - t.began desc, t.id
            ) as rank
        from task as t
        join lane as l on l.lane is not distinct from t.lane
    ),
    bar as materialized (
        select p.place, p.id, p.name, p.status, p.began, p.ended, p.x, p.width
        from placed as p
        order by p.rank, p.id
        limit %(bars)s
    ),
    slice as materialized (
        select e.place, e.slice, sum(e.change) as change
        from (
            select p.place, width_bucket(p.x, 0, 100, %(slices)s) as slice, 1 as change from placed as p
            union all
            select p.place, width_bucket(p.x + p.width, 0, 100, %(slices)s) + 1, -1 from placed as p
        ) as e
        group by e.place, e.slice
    )
    select
        case when count(distinct p.lane) <= 1 then min(p.lane) end as name,
        greatest(count(distinct p.lane), 1) as lanes,
        count(*) as tasks,
        count(*) filter (where p.status = 'failed') as failed,
        min(p.began) as began,
        max(p.ended) as ended,
        (select jsonb_agg(b order by b.began, b.ended) from bar as b where b.place = p.place) as drawn,
        (select jsonb_object_agg(s.slice, s.change) from slice as s where s.place = p.place) as changes
    from placed as p
    group by p.place
    order by count(distinct p.lane) > 1, min(p.began), p.place
"""


@dataclass
class Lane:
    """The tasks of a stage, or of a type of agents; ``lanes`` is more than 1 where several were put together.

    ``drawn`` are its bars and ``changes`` how many tasks came or went in a slice of the time, both as JSON. ``density``
    is a path in a box of 100 by 100 where not all tasks are bars, ``most`` how many were at work at most. ``bars`` are
    placed in percent of the width and in pixels.
    """

    name: str | None
    lanes: int
    tasks: int
    failed: int
    began: datetime
    ended: datetime
    drawn: str | None
    changes: str
    bars: list[dict[str, Any]] = field(default_factory=list)
    density: str = ""
    most: int = 0
    height: int = 0


async def read_gantt(conn: Conn, shape: Shape, workflow: Listed, now: datetime, by: By | None) -> dict[str, Any] | None:
    """Read and lay out the tasks that have begun; by stage unless none has a stage. None where there are no tasks.

    Returns lanes, times that are evenly spaced over the width, and the thickness of a bar in pixels.
    """
    if not shape.has("agent_task"):
        return None
    values = {"workflow": workflow.workflow_id, "ended": workflow.completed_at, "now": now}
    values |= {"lanes": _LANES, "bars": BARS, "slices": _SLICES}
    choice: tuple[By, ...] = (by,) if by else ("stage", "agent")
    for column in choice:
        query = shape.query(_QUERY, column=sql.Identifier(_COLUMNS[column]))
        lanes = await (await conn.cursor(row_factory=class_row(Lane)).execute(query, values)).fetchall()
        if lanes and (by or column == "agent" or any(lane.name or lane.lanes > 1 for lane in lanes)):
            return _lay_out(lanes, column)
    return None


def _lay_out(lanes: list[Lane], by: By) -> dict[str, Any]:
    rows = [_stack(lane) for lane in lanes]
    thickness = 13 if sum(rows) <= 2 * _ROWS else 7
    for lane, count in zip(lanes, rows, strict=True):
        if len(lane.bars) < lane.tasks:
            lane.density, lane.most = _density(json.loads(lane.changes))
        top = (_DENSITY + 3) if lane.density else 0
        lane.height = top + count * (thickness + 3)
        for bar in lane.bars:
            bar["y"] = top + bar["row"] * (thickness + 3)
    began = min(lane.began for lane in lanes)
    span = max(lane.ended for lane in lanes) - began
    times = [began + span * part / 4 for part in range(5)]
    return {"by": by, "lanes": lanes, "times": times, "thickness": thickness}


def _stack(lane: Lane) -> int:
    """Give each bar of a lane the first row where it has room; those that find none are part of the density."""
    free: list[float] = []  # until where each row is taken
    for bar in json.loads(lane.drawn or "[]"):
        width = min(max(bar["width"], _NARROWEST), 100)
        x = min(bar["x"], 100 - width)
        row = next((row for row, until in enumerate(free) if until <= x), len(free))
        if row == _ROWS:
            continue
        free[row : row + 1] = [x + width]
        times = {name: datetime.fromisoformat(bar[name]) for name in ("began", "ended")}
        lane.bars.append({**bar, **times, "x": round(x, 3), "width": round(width, 3), "row": row})
    return len(free)


def _density(changes: dict[str, int]) -> tuple[str, int]:
    """Draw how many tasks were at work in each slice, from how many came and went."""
    *counts, behind = accumulate(changes.get(str(number), 0) for number in range(1, _SLICES + 2))
    # What ends with the last slice is in a slice of its own, behind it.
    counts[-1] = max(counts[-1], behind)
    most = max(*counts, 1)
    steps = "".join(f"V{100 - count * 100 / most:.0f}H{x}" for x, count in enumerate(counts, 1))
    return f"M0,100{steps}V100Z", most
