"""Workflows as a table of bars for a live display."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rich.text import Text

from pyapp.cli.tables import Column, below_parents, indented, lay_out, progress_cells, progress_columns
from pyapp.cli.text import BAR_WIDTH, is_slow, remaining, whole
from pyapp.models import Forecast, Key, TreeProgress, Workflow

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class LiveTable:
    """Those first that need attention, as many as the terminal has lines for, and how many more there are."""

    def __init__(
        self,
        workflows: Iterable[Workflow],
        forecasts: Mapping[Key, Forecast],
        trees: Mapping[Key, TreeProgress],
        total: int,
        nouns: str,
    ) -> None:
        """Take what is to be shown, of ``total`` workflows: children come below their parents."""
        ranked = sorted(workflows, key=lambda w: (str(w.created_at), str(w.workflow_id)), reverse=True)
        ranked.sort(key=lambda w: _attention(w, forecasts.get(w.workflow_id), trees.get(w.workflow_id)))
        self.total = total
        self.columns = [
            Column("WORKFLOW", least=6, most=40, last=True),
            *progress_columns(nouns, BAR_WIDTH),
            Column("STAGE", least=8, most=24, style="dim", leaves=6),
            Column("ETA", right=True, leaves=3),
            Column("WITH ALL BELOW", leaves=5),
        ]
        self.rows = [
            (
                indented(w, level),
                *progress_cells(w, nouns),
                w.current_stage,
                remaining(forecasts.get(w.workflow_id)),
                whole(trees.get(w.workflow_id)),
            )
            for level, w in below_parents(ranked)
        ]
        if not any(row[-1] for row in self.rows):
            self.columns.pop()

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """Draw it in the size of the terminal."""
        room = max(1, console.height - 2)
        shown = self.rows if len(self.rows) <= room and self.total <= len(self.rows) else self.rows[: room - 1]
        yield from lay_out(self.columns, shown, options.max_width)
        if (more := max(self.total, len(self.rows)) - len(shown)) > 0:
            yield Text(f"+{more} more", style="dim")


def _attention(workflow: Workflow, forecast: Forecast | None, tree: TreeProgress | None) -> int:
    """Rank a workflow by how much it needs attention: failed, stalled, slow, any other, and those that are done."""
    if workflow.status == "failed" or workflow.agents_failed or (tree and tree.agents_failed):
        return 0 if workflow.status != "completed" else 4
    if forecast is not None and (forecast.stalled or is_slow(forecast)):
        return 1 if forecast.stalled else 2
    return 3 if workflow.status not in ("completed", "cancelled") else 4
