"""grant: the rights of agents, readers and operators."""

from collections.abc import Callable
from itertools import chain
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
def grant(target: Target, revoke: bool, only_print: bool, **roles: Any) -> None:
    """Give roles the rights that they need, and no more, in one transaction.

    Agents add tasks, report on them and read progress; readers read, as the dashboard does; operators also create,
    move, delete and repair workflows, as orchestrators do. Safe to repeat; do so after an upgrade. What migrate and
    notify do needs the owner.

    Example:
      agent-progress grant --agent workers --reader dashboard --operator conductor
    """
    if not any(roles.values()):
        raise click.UsageError("grant to whom? Give --agent, --reader or --operator with a role")
    for role in chain.from_iterable(roles.values()):
        role.encode()
    how: Any = {"revoke": revoke, "schema": target.schema}
    try:
        if only_print:
            pairs = [(kind.removesuffix("s"), role) for kind, named in roles.items() for role in dict.fromkeys(named)]
            lines = [statement for pair in pairs for statement in grants(*pair, **how)]
            print("\n".join(f"{line};" for line in ("begin", *lines, "commit")))
            return
        with connection(target) as conn:
            done = grant_rights(conn, **roles, **how)
            warnings = [] if revoke else loopholes(conn, [*roles["agents"], *roles["readers"]], schema=target.schema)
    except RoleNotFound as error:
        raise click.ClickException(str(error)) from None  # its name may have several lines
    print("\n".join(map(clean, done)))
    for warning in warnings:
        say(f"warning: {clean(warning)}")
