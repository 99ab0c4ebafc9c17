"""grant: the rights of agents, readers and operators."""

from collections.abc import Callable
from typing import Any

import click

from pyapp.cli.common import Target, clean, command, connection, say
from pyapp.errors import RoleNotFound
from pyapp.roles import grant as grant_rights
from pyapp.roles import grants, loopholes


def _roles(kind: str, what: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(f"--{kind}", f"{kind}s", multiple=True, metavar="ROLE", help=f"{what} May be repeated.")


@command()
@_roles("agent", "Make this role an agent.")
@_roles("reader", "Make this role a reader.")
@_roles("operator", "Make this role an operator.")
@click.option("--revoke", is_flag=True, help="Take the same rights back.")
@click.option("--print", "only_print", is_flag=True, help="Write the SQL instead of running it; needs no database.")
def grant(
    target: Target,
    agents: tuple[str, ...],
    readers: tuple[str, ...],
    operators: tuple[str, ...],
    revoke: bool,
    only_print: bool,
) -> None:
    """Give roles the rights that they need, and no more, in one transaction.

    Agents add tasks, report on them and read progress; readers read, as the dashboard does; operators also create,
    move, delete and repair workflows, as orchestrators do. Safe to repeat; do so after an upgrade. What migrate and
    notify do needs the owner.

    Example:
      agent-progress grant --agent workers --reader dashboard --operator conductor
    """
    if not (agents or readers or operators):
        raise click.UsageError("grant to whom? Give --agent, --reader or --operator with a role")
    try:
        for role in (*agents, *readers, *operators):
            role.encode()
        if only_print:
            wanted = (("agent", agents), ("reader", readers), ("operator", operators))
            pairs = [(kind, role) for kind, roles in wanted for role in dict.fromkeys(roles)]
            lines = [text.as_string() for pair in pairs for text in grants(*pair, revoke=revoke, schema=target.schema)]
            print("\n".join(f"{line};" for line in ("begin", *lines, "commit")))
            return
        with connection(target) as conn:
            done = grant_rights(
                conn, agents=agents, readers=readers, operators=operators, revoke=revoke, schema=target.schema
            )
            warnings = [] if revoke else loopholes(conn, [*agents, *readers], schema=target.schema)
    except RoleNotFound as error:
        raise click.ClickException(str(error)) from None
    print("\n".join(map(clean, done)))
    for warning in warnings:
        say(f"warning: {clean(warning)}")
