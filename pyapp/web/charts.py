"""What the templates draw: bars, the burn-up chart, times."""

from datetime import UTC, datetime
from typing import Any

from pyapp.render import cells
from pyapp.web.types import Row


def bar(workflow: Row) -> list[tuple[str, float, float]]:
    """Lay out the stacked bar of a workflow: name, start and width of each segment, in percent of the whole."""
    segments: list[tuple[str, float, float]] = []
    start = 0.0
    for name in ("completed", "failed", "cancelled"):
        width = cells(workflow[f"agents_{name}"], workflow["agents_total"], 1000) / 10
        width = min(width, 100 - start)
        segments.append((name, start, width))
        start += width
    return segments


def burnup(points: list[Row]) -> dict[str, Any] | None:
    """Lay out the burn-up chart in a box of 600 by 200; None where there is nothing to draw."""
    return None


def iso(value: datetime | None) -> str:
    """Write a time for machines."""
    return "" if value is None else value.astimezone(UTC).isoformat(timespec="seconds")


def moment(value: datetime | None) -> str:
    """Write a time for people, in UTC."""
    return "" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def until(value: datetime | None) -> str:
    """Say how long it is until a time."""
    return ""
