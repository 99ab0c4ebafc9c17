"""Workflows as a table of bars for a live display."""

from collections.abc import Iterable, Mapping

from rich.console import Group
from rich.text import Text

from pyapp.cli.tables import Column, below_parents, indented, lay_out, progress_cells, progress_columns
from pyapp.cli.text import BAR_WIDTH, is_slow, remaining, whole
from pyapp.models import Forecast, Key, TreeProgress, Workflow


def live_table(
    workflows: Iterable[Workflow],
    forecasts: Mapping[Key, Forecast],
    trees: Mapping[Key, TreeProgress],
    total: int,
    nouns: str,
    size: tuple[int, int],
) -> Group:
    """Draw those first that need attention, and children below their parents.

    As many as a terminal of this ``size``, in columns and lines, has room for, and how many of ``total`` are left.
    """
    width, height = size
    ranked = sorted(workflows, key=lambda w: (str(w.created_at), str(w.workflow_id)), reverse=True)
    ranked.sort(key=lambda w: _attention(w, forecasts.get(w.workflow_id), trees.get(w.workflow_id)))
    columns = [
        Column("WORKFLOW", least=6, most=40, last=True),
        *progress_columns(nouns, BAR_WIDTH),
        Column("STAGE", least=8, most=24, style="dim", leaves=6),
        Column("ETA", right=True, leaves=4),
        Column("WITH ALL BELOW", leaves=5),
    ]
    rows = [
        (
            indented(w, level),
            *progress_cells(w, nouns),
            w.current_stage,
            remaining(forecasts.get(w.workflow_id)),
            whole(trees.get(w.workflow_id)),
        )
        for level, w in below_parents(ranked)
    ]
    room = max(1, height - 2)
    shown = rows if len(rows) <= room and total <= len(rows) else rows[: room - 1]
    lines = lay_out(columns, shown, width)
    if (more := max(total, len(rows)) - len(shown)) > 0:
        lines.append(Text(f"+{more} more", style="dim"))
    return Group(*lines)


def _attention(workflow: Workflow, forecast: Forecast | None, tree: TreeProgress | None) -> int:
    """Rank a workflow by how much it needs attention: failed, stalled, slow, any other, and those that are done."""
    if workflow.status == "failed" or workflow.agents_failed or (tree and tree.agents_failed):
        return 0 if workflow.status != "completed" else 4
    if forecast is not None and (forecast.stalled or is_slow(forecast)):
        return 1 if forecast.stalled else 2
    return 3 if workflow.status not in ("completed", "cancelled") else 4
