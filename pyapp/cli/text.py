"""Showing progress as text: a plain line for a pipe, a table of live bars for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pyapp.models import Forecast, Key, Stage, Workflow

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

BAR_WIDTH = 24


def clean(text: str | None) -> str:
    """Make text from the database fit for a terminal: one line, and nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text or "")


def cells(part: int, whole: int, width: int = BAR_WIDTH) -> int:
    """Count the cells of a bar that stand for a part: all of them only for the whole, none only for nothing."""
    if part <= 0 or whole <= 0:
        return 0
    return width if part >= whole else max(1, min(width - 1, part * width // whole))


def plain_bar(percentage: int, width: int = BAR_WIDTH) -> str:
    """Draw a bar of a percentage (0 to 100)."""
    full = cells(percentage, 100, width)
    return "█" * full + "░" * (width - full)


def agents(workflow: Workflow) -> str:
    """Say how many agents are done: "2 of 5 agents"."""
    return f"{workflow.agents_completed} of {workflow.agents_total} agents"


def remaining(forecast: Forecast | None) -> str:
    """Say how long a workflow will still take: "3m 20s", "stalled", or nothing where it is not known."""
    if forecast is None:
        return ""
    if forecast.stalled:
        return "stalled"
    if forecast.estimated_completion_at is None:
        return ""
    left = forecast.estimated_completion_at - datetime.now(UTC)
    seconds = max(0, round(left.total_seconds()))
    if seconds >= 48 * 3600:
        return f"{seconds // 86400}d"
    if seconds >= 3600:
        return f"{seconds // 3600}h {seconds % 3600 // 60}m"
    return f"{seconds // 60}m {seconds % 60}s" if seconds >= 60 else f"{seconds}s"


def outlook(forecast: Forecast) -> str:
    """Say when a workflow will be done and on what basis, or since when it stands still; nothing if not known."""
    if forecast.stalled:
        return f"stalled: nothing has changed since {forecast.last_activity_at:%Y-%m-%d %H:%M:%S %Z}"
    if forecast.estimated_completion_at is None or forecast.basis_seconds is None:
        return ""
    return (
        f"done in {remaining(forecast)}, at {forecast.completed_per_minute} per minute"
        f" ({forecast.basis_completions} completions in {round(forecast.basis_seconds)} s)"
    )


_STAGE_SIGN = {"completed": "✓", "running": "▶", "failed": "✗", "skipped": "»", "pending": "·"}


def stage_line(stages: Iterable[Stage]) -> str:
    """Describe the stages of a workflow in a line: a sign for the state of each, and its agents if it has any."""

    def one(stage: Stage) -> str:
        count = f" {stage.agents_completed}/{stage.agents_total}" if stage.agents_total else ""
        return f"{_STAGE_SIGN[stage.status]} {clean(stage.name)}{count}"

    return "  ".join(one(stage) for stage in stages)


def plain_line(workflow: Workflow, forecast: Forecast | None = None) -> str:
    """Describe a workflow in a line: name, bar, percentage, agents, failed and cancelled ones, status, stage, ETA."""
    parts = [f"{plain_bar(workflow.progress)} {workflow.progress:3d} %", agents(workflow)]
    if workflow.agents_failed:
        parts.append(f"{workflow.agents_failed} failed")
    if workflow.agents_cancelled:
        parts.append(f"{workflow.agents_cancelled} cancelled")
    parts += [clean(workflow.status), clean(workflow.current_stage)]
    if left := remaining(forecast):
        parts.append(left if left == "stalled" else f"ETA {left}")
    return "  ".join([clean(workflow.name or str(workflow.workflow_id)), *(part for part in parts if part)])


def as_columns(rows: Iterable[Iterable[object]], header: Iterable[str]) -> str:
    """Lay out rows of values as aligned columns below a header; the last one is not padded."""
    table = [[str(name) for name in header]]
    table += [["" if value is None else clean(str(value)) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def live_table(workflows: Iterable[Workflow], forecasts: Mapping[Key, Forecast]) -> Table:
    """Draw workflows as a table of bars for a rich display: completed, failed, cancelled and open agents."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    # Where there is little room, names, bars and stages give way; numbers and statuses never do.
    table.add_column("workflow", min_width=8)
    table.add_column("progress", min_width=8)
    table.add_column("", no_wrap=True, justify="right")
    table.add_column("agents", no_wrap=True)
    table.add_column("failed", no_wrap=True, justify="right")
    table.add_column("status", no_wrap=True)
    table.add_column("stage", max_width=24)
    table.add_column("ETA", no_wrap=True, justify="right")
    for workflow in workflows:
        table.add_row(
            Text(clean(workflow.name or str(workflow.workflow_id)), no_wrap=True, overflow="ellipsis"),
            _StackedBar(workflow),
            Text(f"{workflow.progress} %", style="bold"),
            Text(agents(workflow)),
            Text(str(workflow.agents_failed or ""), style="red"),
            Text(clean(workflow.status), style=_STATUS_STYLE.get(workflow.status, "")),
            Text(clean(workflow.current_stage), style="dim", no_wrap=True, overflow="ellipsis"),
            Text(remaining(forecasts.get(workflow.workflow_id))),
        )
    return table


_STATUS_STYLE = {
    "running": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "paused": "magenta",
}


class _StackedBar:
    """A bar of a workflow's agents, as wide as there is room for, at most BAR_WIDTH."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement(1, min(BAR_WIDTH, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield _stacked_bar(self.workflow, min(BAR_WIDTH, options.max_width))


def _stacked_bar(workflow: Workflow, width: int) -> Text:
    from rich.text import Text

    completed = cells(workflow.agents_completed, workflow.agents_total, width)
    # What failed and what was cancelled takes its share of the rest, so that it is seen even where it is small.
    left = width - completed
    failed = min(left, cells(workflow.agents_failed, workflow.agents_total, width))
    cancelled = min(left - failed, cells(workflow.agents_cancelled, workflow.agents_total, width))
    bar = Text("█" * completed, style="green")
    bar.append("█" * failed, style="red")
    bar.append("█" * cancelled, style="yellow")
    return bar.append("░" * (left - failed - cancelled), style="dim")
