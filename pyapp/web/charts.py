"""What the templates draw: stacked bars, the burn-up chart, stages over time."""

from datetime import datetime, timedelta
from itertools import accumulate, count, pairwise
from typing import Any, NamedTuple

from pyapp.models import BurnupPoint, Stage, Workflow

_FINAL = ("completed", "failed", "cancelled")


class Segment(NamedTuple):
    """A part of a bar: where it begins and how wide it is, in percent of the bar."""

    name: str
    start: float
    width: float


def parts(workflow: Workflow, running: int = 0) -> dict[str, int]:
    """Split the agents of a workflow: ``running`` of the open ones are at work, planned ones are not created yet."""
    settled = {name: int(getattr(workflow, f"agents_{name}") or 0) for name in _FINAL}
    opened = max(0, workflow.agents_open or 0)
    running = min(running, opened)
    planned = max(0, (workflow.agents_total or 0) - sum(settled.values()) - opened)
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
    starts = accumulate(widths.values(), initial=0.0)
    return [Segment(name, start, width) for (name, width), start in zip(widths.items(), starts, strict=False)]


def state(workflow: Workflow) -> str:
    """Say how a bar looks: done only where the workflow is completed with all its agents, else active or ended."""
    if workflow.status == "completed" and workflow.progress_percentage == 100:
        return "done"
    return "ended" if workflow.status in _FINAL else "active"


def burnup(points: list[BurnupPoint], workflow: Workflow, now: datetime) -> dict[str, Any] | None:
    """Lay out the burn-up chart in a box of 1000 by 1000; None where there is nothing to draw.

    Returns the paths of ``total`` and ``completed``, the height of the plan if it is above what was created, the
    labels of both axes, evenly spaced, and a few rows of the same as a table.
    """
    if not points:
        return None
    began, last = points[0].at, points[-1]
    ended = max(last.at, workflow.completed_at or last.at)
    if state(workflow) == "active":
        ended = max(ended, now)
    span = max((ended - began) / timedelta(seconds=1), 1.0)
    total = workflow.agents_total or 0
    highest = max(last.agents_total, total, 1)
    step = _nice_step(highest)
    top = -(-highest // step) * step

    def x(at: datetime) -> str:
        return f"{(at - began) / timedelta(seconds=1) / span * 1000:.1f}"

    def y(number: int) -> str:
        return f"{1000 - number / top * 1000:.1f}"

    def path(name: str) -> str:
        steps = (
            f"H{x(point.at)}V{y(getattr(point, name))}"
            for before, point in pairwise(points)
            if getattr(point, name) != getattr(before, name)
        )
        return f"M0,{y(getattr(points[0], name))}{''.join(steps)}H{x(ended)}"

    completed = path("agents_completed")
    return {
        "total": path("agents_total"),
        "completed": completed,
        "area": f"{completed}V1000H0Z",
        "plan": y(total) if total > last.agents_total else None,
        "counts": list(range(top, -1, -step)),
        "times": [began + (ended - began) * part / 4 for part in range(5)],
        "rows": _spread(points, 12),
        "last": last,
    }


def stage_spans(stages: list[Stage], workflow: Workflow, now: datetime) -> list[tuple[Stage, float, float]]:
    """Lay out stages over time: each with where it begins and how long it takes, in percent of the whole time."""
    times = [at for stage in stages for at in (stage.started_at, stage.completed_at) if at is not None]
    if not times:
        return [(stage, 0.0, 0.0) for stage in stages]
    ended = now if state(workflow) == "active" else max(times)
    began = min(*times, ended)
    span = max((ended - began) / timedelta(seconds=1), 0.001)

    def place(stage: Stage) -> tuple[Stage, float, float]:
        if stage.started_at is None:
            return stage, 0.0, 0.0
        start = (stage.started_at - began) / timedelta(seconds=1) / span * 100
        length = ((stage.completed_at or ended) - stage.started_at) / timedelta(seconds=1) / span * 100
        start = min(max(start, 0.0), 99.0)
        return stage, round(start, 2), round(min(max(length, 1.0), 100 - start), 2)

    return list(map(place, stages))


def _nice_step(highest: int) -> int:
    """Choose the distance of grid lines, such that there are two to five."""
    steps = (int(step * 10**exponent) for exponent in count() for step in (1, 2, 5))
    return next(step for step in steps if highest <= 5 * step)


def _spread(points: list[BurnupPoint], most: int) -> list[BurnupPoint]:
    """Pick rows evenly, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[place * (len(points) - 1) // (most - 1)] for place in range(most)]


FUNCTIONS = {draw.__name__: draw for draw in (bar, parts, burnup, stage_spans, state)}
