"""watch: following workflows live."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pyapp import helpers
from pyapp.cli import tables
from pyapp.cli.common import (
    Command,
    Target,
    as_json,
    connection,
    number,
    pass_target,
    print_json,
    readable_database,
    views_of,
    workflow_ids,
)
from pyapp.cli.errors import tell_loss
from pyapp.cli.text import plain_line
from pyapp.models import Forecast, Key, Workflow
from pyapp.watch import watch_changes

if TYPE_CHECKING:
    from psycopg import Connection


@click.command(
    cls=Command,
    reads=True,
    example="""
    agent-progress watch                              the active workflows, until Ctrl-C
    agent-progress watch 6f1c29a0-… && echo done      this one, until it has ended
    """,
)
@workflow_ids
@click.option(
    "--interval",
    type=number(0.001, 3600, "a number of seconds (0.001 to 3600)", float),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@as_json
@pass_target
def watch(target: Target, ids: tuple[str, ...], interval: float, as_json: bool) -> None:
    """Follow workflows live: bars in a terminal, a line for each change in a pipe.

    Ends when all those given have ended; without an ID it follows the active ones until Ctrl-C. Where the server is
    away it waits until it is back. With --json each change is a line of JSON.
    """
    forecasts: dict[Key, Forecast] = {}
    with connection(target, reads=True) as conn:
        conn.execute("select")
        foretold = "workflow_forecast" in views_of(conn, target.schema)
        helpers.list_workflows(conn, limit=1, schema=target.schema)

    def read_forecasts(conn: "Connection[Any]", workflows: list[Workflow]) -> None:
        running = [workflow.workflow_id for workflow in workflows if workflow.status == "running"]
        forecasts.clear()
        if foretold and not as_json:
            forecasts.update(helpers.get_forecasts(conn, running, schema=target.schema))

    with readable_database(target) as dsn:
        changes = watch_changes(dsn, ids or None, interval, read_forecasts, tell_loss, schema=target.schema)
        if tables.in_terminal() and not as_json:
            _show_live(changes, forecasts)
            return
        for workflows in changes:
            for workflow in workflows:
                if as_json:
                    print_json(workflow)
                else:
                    print(plain_line(workflow, forecasts.get(workflow.workflow_id)), flush=True)


def _show_live(changes: Iterator[list[Workflow]], forecasts: dict[Key, Forecast]) -> None:
    from rich.live import Live

    seen: dict[Key, Workflow] = {}
    with Live(auto_refresh=False, console=tables.console()) as display:
        for workflows in changes:
            seen |= {workflow.workflow_id: workflow for workflow in workflows}
            rows = sorted(seen.values(), key=lambda w: (str(w.created_at), str(w.workflow_id)), reverse=True)
            waiting = "no active workflows; waiting (Ctrl-C ends)"
            display.update(tables.LiveTable(rows, forecasts) if rows else waiting, refresh=True)
