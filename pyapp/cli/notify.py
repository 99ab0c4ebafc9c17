"""notify: telling listeners of changes."""

import click

from pyapp.cli.common import Target, command, connection
from pyapp.db import find_schema
from pyapp.shipped import for_schema, resource


@command()
@click.argument("switch", type=click.Choice(["on", "off"]), metavar="on|off")
def notify(target: Target, switch: str) -> None:
    """Turn notifications of changes on or off.

    A trigger notifies of each change of a workflow, on channel agent_progress: live pages are quicker then, and every
    commit that counts costs a little more. Off by default.

    Example:
      agent-progress notify on
    """
    script = (resource("sql") / "optional" / f"notify_{switch}.sql").read_text("utf-8")
    with connection(target) as conn:
        conn.execute(for_schema(script, find_schema(target.schema)).encode())
    print(f"notifications are {switch}")
