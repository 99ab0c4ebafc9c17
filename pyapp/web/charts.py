"""What the templates draw: stacked bars, the burn-up chart, stages over time."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

from pyapp.web.types import Row

PARTS = ("completed", "failed", "cancelled", "running", "open", "planned")
_FINAL = ("completed", "failed", "cancelled")


class Segment(NamedTuple):
    """A part of a bar: where it begins and how wide it is, in percent of the bar."""

    name: str
    start: float
    width: float


def parts(workflow: Row, running: int = 0) -> dict[str, int]:
    """Split the agents of a workflow: ``running`` of the open ones are at work, planned ones are not created yet."""
    settled = {name: int(workflow[f"agents_{name}"]) for name in _FINAL}
    opened = max(0, workflow["agents_open"])
    running = min(running, opened)
    planned = max(0, workflow["agents_total"] - sum(settled.values()) - opened)
    return {**settled, "running": running, "open": opened - running, "planned": planned}


def bar(counts: dict[str, int], least: float = 2.5) -> list[Segment]:
    """Lay out a stacked bar.

    What there is, is seen: each part has at least ``least`` percent, taken from the largest. So completed agents fill
    the bar only when all are completed. The script in the page lays out alike.
    """
    total = sum(counts.values())
    widths = {name: max(least, count * 100 / total) if count > 0 else 0.0 for name, count in counts.items()}
    if total:
        largest = max(widths, key=lambda name: widths[name])
        widths[largest] -= sum(widths.values()) - 100
    segments = []
    start = 0.0
    for name, width in widths.items():
        segments.append(Segment(name, start, width))
        start += width
    return segments


def state(workflow: Row, look: str) -> str:
    """Say how a bar looks: done only where the workflow is completed with all its agents, else active or ended.

    ``look`` is that of its status.
    """
    if look == "completed" and workflow["progress_percentage"] == 100:
        return "done"
    return "ended" if look in _FINAL else "active"


def burnup(points: list[Row], workflow: Row, now: datetime) -> dict[str, Any] | None:
    """Lay out the burn-up chart in a box of 1000 by 1000; None where there is nothing to draw.

    Returns the paths of ``total`` and ``completed``, the height of the plan if it is above what was created, the
    labels of both axes, evenly spaced, and a few rows of the same as a table.
    """
    if not points:
        return None
    began, last = points[0]["at"], points[-1]
    ended = max(last["at"], workflow["completed_at"] or last["at"])
    if workflow["status"] not in _FINAL:
        ended = max(ended, now)
    span = max((ended - began) / timedelta(seconds=1), 1.0)
    highest = max(last["agents_total"], workflow["agents_total"], 1)
    step = _nice_step(highest)
    top = -(-highest // step) * step

    def x(at: datetime) -> str:
        return f"{(at - began) / timedelta(seconds=1) / span * 1000:.1f}"

    def y(count: int) -> str:
        return f"{1000 - count / top * 1000:.1f}"

    lines = {}
    for name in ("agents_total", "agents_completed"):
        drawn = [f"M0,{y(points[0][name])}"]
        for before, point in pairwise(points):
            if point[name] != before[name]:
                drawn.append(f"H{x(point['at'])}V{y(point[name])}")
        lines[name] = "".join(drawn) + f"H{x(ended)}"
    return {
        "total": lines["agents_total"],
        "completed": lines["agents_completed"],
        "area": f"{lines['agents_completed']}V1000H0Z",
        "plan": y(workflow["agents_total"]) if workflow["agents_total"] > last["agents_total"] else None,
        "counts": list(range(top, -1, -step)),
        "times": [began + (ended - began) * part / 4 for part in range(5)],
        "days": began.astimezone(UTC).date() != ended.astimezone(UTC).date(),
        "rows": _spread(points, 12),
        "last": last,
    }


def stage_spans(stages: list[Row], workflow: Row, now: datetime) -> list[tuple[Row, float, float]]:
    """Lay out stages over time: each with where it begins and how long it takes, in percent of the whole time."""
    times = [stage[key] for stage in stages for key in ("started_at", "completed_at") if stage[key] is not None]
    if not times:
        return [(stage, 0.0, 0.0) for stage in stages]
    ended = now if workflow["status"] not in _FINAL else max(times)
    began = min(*times, ended)
    span = max((ended - began) / timedelta(seconds=1), 0.001)
    spans = []
    for stage in stages:
        if stage["started_at"] is None:
            spans.append((stage, 0.0, 0.0))
            continue
        start = (stage["started_at"] - began) / timedelta(seconds=1) / span * 100
        length = ((stage["completed_at"] or ended) - stage["started_at"]) / timedelta(seconds=1) / span * 100
        start = min(max(start, 0.0), 99.0)
        spans.append((stage, round(start, 2), round(min(max(length, 1.0), 100 - start), 2)))
    return spans


def _nice_step(highest: int) -> int:
    """Choose the distance of grid lines, such that there are two to five."""
    magnitude = 1
    while True:
        for step in (1, 2, 5):
            if highest <= 5 * step * magnitude:
                return step * magnitude
        magnitude *= 10


def _spread(points: list[Row], most: int) -> Iterable[Row]:
    """Pick rows evenly, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[place * (len(points) - 1) // (most - 1)] for place in range(most)]
