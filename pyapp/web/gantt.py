"""Tasks over time: lanes by stage or agent type, at most 200 tasks as bars, and how many were at work in the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, LiteralString, NamedTuple

from psycopg import AsyncConnection, sql

from pyapp.web.answers import Listed
from pyapp.web.shape import Shape
from pyapp.web.wire import fetch_rows

By = Literal["stage", "agent"]
_COLUMNS: dict[str, LiteralString] = {"stage": "stage", "agent": "agent_type"}
BARS = 200
_LANES = 20
_SLICES = 100
_ROWS = 24  # bars above each other in a lane
_NARROWEST = 0.4  # percent of the width
_DENSITY = 28  # pixels

# Failed tasks, those at work and the others take turns in what is drawn, the longest of each first.
_QUERY = """
    with task as materialized (
        select
            p.id::text as id,
            coalesce(nullif(concat_ws(' ', p.agent_type, p.external_id), ''), p.id::text) as name,
            p.{column} as lane,
            p.status::text as status,
            extract(epoch from t.began)::float8 as began,
            extract(epoch from greatest(t.ended, t.began))::float8 as ended
        from {tasks} as p
        cross join lateral (
            select
                coalesce(p.started_at, p.assigned_at, p.completed_at) as began,
                case
                    when p.status in ('assigned', 'running') then %(until)s
                    else coalesce(p.completed_at, p.started_at)
                end as ended
        ) as t
        where
            p.workflow_id = %(workflow)s
            and p.status <> 'pending'
            and t.began between '0001-01-02' and '9999-12-30'
            and t.ended between '0001-01-02' and '9999-12-30'
    ),
    lane as (
        select t.lane, least(row_number() over (order by count(*) desc, t.lane), {most}) as place
        from task as t
        group by t.lane
    ),
    placed as materialized (
        select t.*, l.place from task as t join lane as l on l.lane is not distinct from t.lane
    ),
    frame as (
        select min(p.began) as began, greatest(max(p.ended), min(p.began) + 0.001) as ended from placed as p
    ),
    ranked as (
        select p.*, row_number() over (partition by c.kind order by p.ended - p.began desc, p.id) as rank
        from placed as p
        cross join lateral (
            select case p.status when 'failed' then 0 when 'assigned' then 1 when 'running' then 1 else 2 end as kind
        ) as c
    )
    select
        'lane' as kind, p.place, null as id, min(p.lane) as name, null as status, min(p.began) as began,
        max(p.ended) as ended, count(*) as tasks, count(*) filter (where p.status = 'failed') as failed,
        count(distinct p.lane) as lanes
    from placed as p
    group by p.place
    union all
    (
        select 'bar', r.place, r.id, r.name, r.status, r.began, r.ended, 1, 0, 0
        from ranked as r
        order by r.rank, r.id
        limit {bars}
    )
    union all
    select 'slice', e.place, null, null, null, e.slice, 0, sum(e.change), 0, 0
    from (
        select p.place, width_bucket(p.began, f.began, f.ended, {slices}) as slice, 1 as change
        from placed as p cross join frame as f
        union all
        select p.place, width_bucket(p.ended, f.began, f.ended, {slices}) + 1, -1
        from placed as p cross join frame as f
    ) as e
    group by e.place, e.slice
"""


class Row(NamedTuple):
    """A row of the query: a lane, a task that is a bar, or how many came and went in a slice of the time."""

    kind: str
    place: int
    id: str | None
    name: str | None
    status: str | None
    began: float
    ended: float
    tasks: int
    failed: int
    lanes: int


@dataclass(frozen=True)
class Bar:
    """A task: from when to when, and where it is drawn, in percent of the width and in pixels."""

    id: str
    name: str
    status: str
    began: datetime
    ended: datetime
    x: float
    width: float
    y: int


@dataclass
class Lane:
    """The tasks of a stage, or of a type of agents; ``lanes`` is more than 1 where several were put together.

    ``density`` is a path in a box of 100 by 100 where not all tasks are bars, ``most`` how many were at work at most.
    """

    name: str | None
    lanes: int
    tasks: int
    failed: int
    began: datetime
    ended: datetime
    bars: list[Bar] = field(default_factory=list)
    density: str = ""
    most: int = 0
    height: int = 0


@dataclass(frozen=True)
class Gantt:
    """All lanes; ``times`` are evenly spaced over the width, ``thickness`` that of a bar in pixels."""

    by: By
    lanes: list[Lane]
    times: list[datetime]
    thickness: int

    @property
    def drawn(self) -> int:
        """How many tasks are bars."""
        return sum(len(lane.bars) for lane in self.lanes)

    @property
    def tasks(self) -> int:
        """How many tasks have begun."""
        return sum(lane.tasks for lane in self.lanes)


async def read_gantt(
    conn: AsyncConnection[Any], shape: Shape, workflow: Listed, now: datetime, by: By | None
) -> Gantt | None:
    """Read and lay out the tasks that have begun; by stage unless none has a stage. None where there are no tasks."""
    if not shape.has("agent_task"):
        return None
    for column in (by,) if by else ("stage", "agent"):
        query = sql.SQL(_QUERY).format(
            column=sql.Identifier(_COLUMNS[column]),
            tasks=shape.name("agent_task"),
            most=_LANES,
            bars=BARS,
            slices=_SLICES,
        )
        values = {"workflow": workflow.workflow_id, "until": end_of(workflow.completed_at, now)}
        rows = await fetch_rows(conn, Row, query, values)
        named = [row for row in rows if row.kind == "lane" and row.name is not None]
        if rows and (named or by or column == "agent"):
            return lay_out(rows, column)
    return None


def end_of(ended: datetime | None, now: datetime) -> datetime:
    """Say until when what is at work is drawn: in a workflow that has ended it is so no longer."""
    return min(ended or now, now)


def lay_out(rows: Sequence[Row], by: By) -> Gantt:
    """Lay out lanes in the order in which they began, those that were put together last; bars without overlaps."""
    lanes = [row for row in rows if row.kind == "lane"]
    began, ended = min(row.began for row in lanes), max(row.ended for row in lanes)
    span = max(ended - began, 0.001)
    placed = {row.place: _fill(row, rows, began, span) for row in sorted(lanes, key=lambda r: (r.lanes > 1, r.began))}
    rows_of = {place: max((row for _, row in bars), default=-1) + 1 for place, (_, bars) in placed.items()}
    thickness = 13 if sum(rows_of.values()) <= 2 * _ROWS else 7
    for place, (lane, bars) in placed.items():
        if len(bars) < lane.tasks:
            changes = {int(row.began): row.tasks for row in rows if row.kind == "slice" and row.place == place}
            lane.density, lane.most = _density(changes)
        top = (_DENSITY + 3) if lane.density else 0
        lane.height = top + rows_of[place] * (thickness + 3)
        lane.bars = [_bar(row, began, span, top + line * (thickness + 3)) for row, line in bars]
    times = [_at(began + span * part / 4) for part in range(5)]
    return Gantt(by, [lane for lane, _ in placed.values()], times, thickness)


def _fill(lane: Row, rows: Sequence[Row], began: float, span: float) -> tuple[Lane, list[tuple[Row, int]]]:
    """Give each bar of a lane the first line where it has room; those that find none are part of the density."""
    name = None if lane.lanes > 1 else lane.name
    made = Lane(name, lane.lanes, lane.tasks, lane.failed, _at(lane.began), _at(lane.ended))
    free: list[float] = []
    bars = []
    mine = (row for row in rows if row.kind == "bar" and row.place == lane.place)
    for row in sorted(mine, key=lambda row: (row.began, row.ended)):
        start, width = _extent(row, began, span)
        line = next((line for line, until in enumerate(free) if until <= start), len(free))
        if line == _ROWS:
            continue
        free[line : line + 1] = [start + width]
        bars.append((row, line))
    return made, bars


def _extent(row: Row, began: float, span: float) -> tuple[float, float]:
    width = min(max((row.ended - row.began) / span * 100, _NARROWEST), 100)
    return min((row.began - began) / span * 100, 100 - width), width


def _bar(row: Row, began: float, span: float, y: int) -> Bar:
    x, width = _extent(row, began, span)
    name, status = row.name or "", row.status or "other"
    return Bar(row.id or "", name, status, _at(row.began), _at(row.ended), round(x, 3), round(width, 3), y)


def _density(changes: dict[int, int]) -> tuple[str, int]:
    """Draw how many tasks were at work in each slice, from how many came and went."""
    counts, count = [], 0
    for slice_ in range(1, _SLICES + 2):
        count += changes.get(slice_, 0)
        counts.append(count)
    # What ends with the last slice is in a slice of its own, behind it.
    counts[-2:] = [max(counts[-2:])]
    most = max(*counts, 1)
    return "M0,100" + "".join(
        f"V{100 - count * 100 / most:.0f}H{x}" for x, count in enumerate(counts, 1)
    ) + "V100Z", most


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
