"""watch: following workflows live."""

from collections.abc import Callable, Container, Sequence
from contextlib import nullcontext
from typing import Any

import click
from psycopg import Connection
from rich.live import Live

from pyapp import helpers
from pyapp.cli.common import Number, Target, as_json, command, connection, database, print_json, relations, workflow_ids
from pyapp.cli.errors import tell_loss
from pyapp.cli.tables import LiveTable, console, in_terminal
from pyapp.cli.text import plain_line
from pyapp.models import Forecast, Key, TreeProgress, Workflow
from pyapp.watch import watch_changes

_INTERVAL = Number(0.001, 3600)


@command(reads=True)
@workflow_ids
@click.option(
    "--interval", type=_INTERVAL, default=0.5, show_default=True, metavar="SECONDS", help="Time between two looks."
)
@click.option("--all", "below", is_flag=True, help="All that is below them as well; without an ID, all active ones.")
@as_json
def watch(target: Target, ids: tuple[str, ...], interval: float, below: bool, as_json: bool) -> None:
    """Follow workflows live: bars in a terminal, a line for each change in a pipe.

    Ends when all those given have ended; without an ID it follows the active ones that no other workflow started, until
    Ctrl-C. Where the server is away it waits until it is back. With --json each change is a line of JSON.

    Example:
      agent-progress watch                    (the active workflows, until Ctrl-C)
      agent-progress watch ID && echo done    (this one, until it has ended)
      agent-progress watch ID --all           (its sub-workflows too, below it)
    """
    with connection(target, reads=True) as conn:  # what is wrong from the beginning ends it
        helpers.list_workflows(conn, limit=1, schema=target.schema)
        there = relations(conn, target.schema)
    with database(target, reads=True) as dsn:
        if as_json:
            for changes in watch_changes(
                dsn, ids or None, interval, on_loss=tell_loss, below=below, schema=target.schema
            ):
                for workflow in changes:
                    print_json(workflow)
        else:
            follow(dsn, ids, interval, _print_line, schema=target.schema, below=below, there=there)


def follow(
    dsn: str,
    ids: Sequence[Key],
    interval: float,
    tell: Callable[[Workflow, Forecast | None, TreeProgress | None], None],
    *,
    schema: str | None = None,
    below: bool = False,
    there: Container[str] = ("workflow_forecast", "workflow_tree_progress"),
    ended: Callable[[], bool] = lambda: False,
    transient: bool = False,
) -> None:
    """Show workflows until they have ended: as live bars in a terminal, elsewhere ``tell`` is told each change.

    Without ``ids`` it follows the active ones; ``below`` what these started too. ``ended`` is asked after each look,
    ``there`` says what the schema has. ``transient`` bars go at the end.
    """
    forecasts: dict[Key, Forecast] = {}
    trees: dict[Key, TreeProgress] = {}
    told: dict[Key, TreeProgress] = {}
    seen: dict[Key, Workflow] = {}

    def read_more(conn: Connection[Any], workflows: list[Workflow]) -> None:
        running = [workflow.workflow_id for workflow in workflows if workflow.status == "running"]
        forecasts.clear()
        if "workflow_forecast" in there:
            forecasts.update(helpers.get_forecasts(conn, running, schema=schema))
        trees.clear()
        if "workflow_tree_progress" in there and not below:  # who sees them all can do without their sum
            trees.update(helpers.list_tree_progress(conn, [w.workflow_id for w in workflows], schema=schema))

    with Live(auto_refresh=False, transient=transient, console=console()) if in_terminal() else nullcontext() as live:
        for changes in watch_changes(dsn, ids or None, interval, read_more, tell_loss, below=below, schema=schema):
            seen |= {workflow.workflow_id: workflow for workflow in changes}
            if live is not None:
                rows = sorted(seen.values(), key=lambda w: (str(w.created_at), str(w.workflow_id)), reverse=True)
                waiting = "no active workflows; waiting (Ctrl-C ends)"
                live.update(LiveTable(rows, forecasts, trees) if rows else waiting, refresh=True)
            else:
                # What moved below a workflow is news of it.
                moved = {key for key, tree in trees.items() if told.get(key, tree) != tree}
                told |= trees
                moved -= {workflow.workflow_id for workflow in changes}
                for workflow in [*changes, *(seen[key] for key in moved if key in seen)]:
                    tell(workflow, forecasts.get(workflow.workflow_id), trees.get(workflow.workflow_id))
            if ended():
                return


def _print_line(workflow: Workflow, forecast: Forecast | None, tree: TreeProgress | None) -> None:
    print(plain_line(workflow, forecast, tree), flush=True)
