"""Progress in words and characters: for a line in a pipe, and for the cells of tables."""

from collections.abc import Iterable
from datetime import UTC, datetime

from pyapp.cli.common import clean
from pyapp.models import Forecast, Stage, TreeProgress, Workflow

BAR_WIDTH = 24
_STAGE_SIGN = {"completed": "✓", "running": "▶", "failed": "✗", "skipped": "»", "pending": "·"}


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


def whole(tree: TreeProgress | None) -> str:
    """Say how far a workflow is with all below it: "45 % of 13 workflows"; nothing where nothing is below it."""
    return f"{tree.progress} % of {tree.workflows} workflows" if tree and tree.workflows > 1 else ""


def moment(value: datetime | None) -> str:
    """Write a time to the second, with its zone; nothing for None."""
    return f"{value:%Y-%m-%d %H:%M:%S %Z}".strip() if value else ""


def plural(number: int, noun: str) -> str:
    """Write a number with its noun: "1 workflow", "2 workflows"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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
        return f"stalled: nothing has changed since {moment(forecast.last_activity_at)}"
    if forecast.estimated_completion_at is None or forecast.basis_seconds is None:
        return ""
    return (
        f"done in {remaining(forecast)}, at {forecast.completed_per_minute} per minute"
        f" ({forecast.basis_completions} completions in {round(forecast.basis_seconds)} s)"
    )


def stage_line(stages: Iterable[Stage]) -> str:
    """Describe the stages of a workflow in a line: a sign for the state of each, and its agents if it has any."""

    def one(stage: Stage) -> str:
        count = f" {stage.agents_completed}/{stage.agents_total}" if stage.agents_total else ""
        return f"{_STAGE_SIGN[stage.status]} {clean(stage.name)}{count}"

    return "  ".join(one(stage) for stage in stages)


def plain_line(workflow: Workflow, forecast: Forecast | None = None, tree: TreeProgress | None = None) -> str:
    """Describe a workflow in a line: name, bar, percentage, agents, failed and cancelled, status, stage, ETA, tree."""
    parts = [f"{plain_bar(workflow.progress)} {workflow.progress:3d} %", agents(workflow)]
    if workflow.agents_failed:
        parts.append(f"{workflow.agents_failed} failed")
    if workflow.agents_cancelled:
        parts.append(f"{workflow.agents_cancelled} cancelled")
    parts += [clean(workflow.status), clean(workflow.current_stage)]
    if left := remaining(forecast):
        parts.append(left if left == "stalled" else f"ETA {left}")
    if in_all := whole(tree):
        parts.append(f"with all below: {in_all}")
    return "  ".join([clean(workflow.name or str(workflow.workflow_id)), *(part for part in parts if part)])
