"""watch: following workflows live."""

from collections.abc import Iterator
from typing import Any

import click
from psycopg import Connection

from pyapp import helpers
from pyapp.cli.common import Number, Target, as_json, command, connection, database, print_json, relations, workflow_ids
from pyapp.cli.errors import tell_loss
from pyapp.cli.tables import LiveTable, console, in_terminal
from pyapp.cli.text import plain_line
from pyapp.models import Forecast, Key, Workflow
from pyapp.watch import watch_changes

_INTERVAL = Number(0.001, 3600)


@command(reads=True)
@workflow_ids
@click.option(
    "--interval", type=_INTERVAL, default=0.5, show_default=True, metavar="SECONDS", help="Time between two looks."
)
@as_json
def watch(target: Target, ids: tuple[str, ...], interval: float, as_json: bool) -> None:
    """Follow workflows live: bars in a terminal, a line for each change in a pipe.

    Ends when all those given have ended; without an ID it follows the active ones until Ctrl-C. Where the server is
    away it waits until it is back. With --json each change is a line of JSON.

    Example:
      agent-progress watch                    (the active workflows, until Ctrl-C)
      agent-progress watch ID && echo done    (this one, until it has ended)
    """
    schema = target.schema
    forecasts: dict[Key, Forecast] = {}
    with connection(target, reads=True) as conn:  # what is wrong from the beginning ends it
        helpers.list_workflows(conn, limit=1, schema=schema)
        foretold = "workflow_forecast" in relations(conn, schema)

    def read_forecasts(conn: Connection[Any], workflows: list[Workflow]) -> None:
        running = [workflow.workflow_id for workflow in workflows if workflow.status == "running"]
        forecasts.clear()
        if foretold and not as_json:
            forecasts.update(helpers.get_forecasts(conn, running, schema=schema))

    with database(target, reads=True) as dsn:
        changes = watch_changes(dsn, ids or None, interval, read_forecasts, tell_loss, schema=schema)
        if in_terminal() and not as_json:
            _show_live(changes, forecasts)
            return
        for workflow in (workflow for workflows in changes for workflow in workflows):
            if as_json:
                print_json(workflow)
            else:
                print(plain_line(workflow, forecasts.get(workflow.workflow_id)), flush=True)


def _show_live(changes: Iterator[list[Workflow]], forecasts: dict[Key, Forecast]) -> None:
    from rich.live import Live

    seen: dict[Key, Workflow] = {}
    with Live(auto_refresh=False, console=console()) as display:
        for workflows in changes:
            seen |= {workflow.workflow_id: workflow for workflow in workflows}
            rows = sorted(seen.values(), key=lambda w: (str(w.created_at), str(w.workflow_id)), reverse=True)
            waiting = "no active workflows; waiting (Ctrl-C ends)"
            display.update(LiveTable(rows, forecasts) if rows else waiting, refresh=True)
