"""Progress in words and characters: for a line in a pipe, and for the cells of tables."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta, tzinfo

from rich.text import Text

from pyapp.cli.common import clean, in_terminal
from pyapp.models import Forecast, Stage, Task, TreeProgress, Workflow

BAR_WIDTH = 24
_STYLES = {"running": "cyan", "completed": "green", "failed": "red", "cancelled": "yellow", "paused": "magenta"}
_STAGE_SIGN = {"completed": "✓", "running": "▶", "failed": "✗", "skipped": "»", "pending": "·"}


def bar(workflow: Workflow) -> Callable[[int], Text]:
    """Draw the tasks of a workflow in so many cells: completed, failed, cancelled and open ones, told by colour."""

    def draw(width: int) -> Text:
        w = workflow
        completed = _cells(w.agents_completed, w.agents_total, width)
        # What failed and what was cancelled takes its share of the rest, so that it is seen even where it is small.
        left = width - completed if in_terminal() else 0
        failed = min(left, _cells(w.agents_failed, w.agents_total, width))
        cancelled = min(left - failed, _cells(w.agents_cancelled, w.agents_total, width))
        text = Text("█" * completed, style="green")
        text.append("▓" * failed, style="red").append("▒" * cancelled, style="yellow")
        return text.append("░" * (width - completed - failed - cancelled), style="dim")

    return draw


def _cells(part: int | None, whole: int | None, width: int) -> int:
    """Count the cells of a bar that stand for a part: all of them only for the whole, none only for nothing."""
    if not part or not whole:
        return 0
    return width if part >= whole else max(1, min(width - 1, part * width // whole))


def coloured(status: str | None) -> Text:
    """Write a status in its colour."""
    return Text(clean(status), style=_STYLES.get(status or "", ""))


def percentage(workflow: Workflow) -> str:
    """Write the progress of a workflow: "40 %"; nothing where there is nothing to be done, or nothing was counted."""
    return f"{workflow.progress} %" if workflow.agents_total else ""


def done(workflow: Workflow, nouns: str) -> str:
    """Say how many tasks are done: "2 of 5"; "no agents" where there are none."""
    if workflow.agents_total is None:  # an adoption that is under way
        return "not counted"
    return f"{workflow.agents_completed} of {workflow.agents_total}" if workflow.agents_total else f"no {nouns}"


def done_nouns(workflow: Workflow, nouns: str) -> str:
    """Say how many of what are done: "2 of 5 agents"."""
    return f"{done(workflow, nouns)} {nouns}" if workflow.agents_total else done(workflow, nouns)


def whole(tree: TreeProgress | None) -> str:
    """Say how far a workflow is with all below it: "45 % of 13 workflows"; nothing where nothing is below it."""
    if tree is None or tree.workflows == 1:
        return ""
    workflows = f"{tree.workflows} workflows"
    return f"{workflows}, not counted" if tree.progress is None else f"{tree.progress} % of {workflows}"


def moment(value: datetime | None, zone: tzinfo | None, form: str = "%H:%M:%S %Z") -> str:
    """Write a time in a zone, None for the local one: with its date where that is not today; nothing for None."""
    if value is None:
        return ""
    there = value.astimezone(zone)
    today = there.date() == datetime.now(there.tzinfo).date()
    return f"{there:{form if today else f'%Y-%m-%d {form}'}}"


def span(time: timedelta) -> str:
    """Write a length of time in its two largest units: "3m20s"; without a blank, so that it is never wrapped."""
    seconds = max(0, round(time.total_seconds()))
    if seconds >= 48 * 3600:
        return f"{seconds // 86400}d"
    if seconds >= 3600:
        return f"{seconds // 3600}h{seconds % 3600 // 60}m"
    return f"{seconds // 60}m{seconds % 60}s" if seconds >= 60 else f"{seconds}s"


def plural(number: int, noun: str) -> str:
    """Write a number with its noun: "1 workflow", "2 workflows"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def remaining(forecast: Forecast | None) -> str:
    """Say how long a workflow will still take: "3m20s", "stalled", "slow", or nothing where it is not known."""
    if forecast is None:
        return ""
    if forecast.stalled:
        return "stalled"
    if is_slow(forecast):
        return "slow"
    ends = forecast.estimated_completion_at
    return "" if ends is None else span(ends - datetime.now(UTC))


def is_slow(forecast: Forecast) -> bool:
    """Tell whether nothing has happened for a minute, and for as long as five tasks took to be completed before."""
    if forecast.completed_per_minute is None or forecast.basis_seconds is None:
        return False
    quiet = (datetime.now(UTC) - forecast.last_activity_at).total_seconds()
    usual = (float(forecast.basis_seconds) - quiet) / (forecast.basis_completions - 1)
    return quiet > max(60, 5 * usual)


def outlook(forecast: Forecast, zone: tzinfo | None) -> str:
    """Say when a workflow will be done and on what basis, or since when it stands still; nothing if not known."""
    if forecast.stalled:
        return f"stalled: nothing has changed since {moment(forecast.last_activity_at, zone)}"
    if forecast.estimated_completion_at is None or forecast.basis_seconds is None:
        return ""
    return (
        f"done in {span(forecast.estimated_completion_at - datetime.now(UTC))},"
        f" at {forecast.completed_per_minute} per minute"
        f" ({forecast.basis_completions} completions in {round(forecast.basis_seconds)} s)"
    )


def stage_line(stages: Iterable[Stage]) -> str:
    """Describe the stages of a workflow in a line: a sign for the state of each, and its agents if it has any."""

    def one(stage: Stage) -> str:
        count = f" {stage.agents_completed}/{stage.agents_total}" if stage.agents_total else ""
        return f"{_STAGE_SIGN[stage.status]} {clean(stage.name)}{count}"

    return "  ".join(one(stage) for stage in stages)


def took(task: Task) -> str:
    """Say how long a task took, or has been at work for."""
    if task.started_at is None or (task.completed_at is None and task.status != "running"):
        return ""
    return span((task.completed_at or datetime.now(UTC)) - task.started_at)


def plain_line(workflow: Workflow, forecast: Forecast | None, tree: TreeProgress | None, nouns: str) -> str:
    """Describe a workflow in a line: name, bar, percentage, tasks, failed and cancelled, status, stage, ETA, tree."""
    left, in_all = remaining(forecast), whole(tree)
    parts = (
        clean(workflow.name or str(workflow.workflow_id)),
        f"{bar(workflow)(BAR_WIDTH)} {percentage(workflow):>5}".rstrip(),
        done_nouns(workflow, nouns),
        f"{workflow.agents_failed} failed" if workflow.agents_failed else "",
        f"{workflow.agents_cancelled} cancelled" if workflow.agents_cancelled else "",
        clean(workflow.status),
        clean(workflow.current_stage),
        left if left in ("", "stalled", "slow") else f"ETA {left}",
        f"with all below: {in_all}" if in_all else "",
    )
    return "  ".join(filter(None, parts))
