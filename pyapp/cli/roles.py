"""grant: the rights of agents, readers and operators."""

import argparse
from typing import Any

from pyapp.cli.common import UsageError, database, say
from pyapp.db import connect
from pyapp.models import RoleNotFound
from pyapp.render import clean
from pyapp.roles import KINDS, grant, grants, loopholes


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "grant",
        parents=[shared],
        help="give roles the rights that they need",
        description="Give roles the rights that they need and no more, in one transaction: agents add tasks, report on"
        " them and read progress; readers read, as the dashboard does; operators also create, move, delete and repair"
        " workflows, as orchestrators do. Safe to repeat; do so after an upgrade. migrate and notify need the owner.",
    )
    for kind in KINDS:
        article = "an" if kind[0] in "ao" else "a"
        command.add_argument(
            f"--{kind}",
            action="append",
            default=[],
            type=_role,
            metavar="ROLE",
            help=f"make this role {article} {kind} (may be repeated)",
        )
    command.add_argument("--revoke", action="store_true", help="take the same rights back")
    command.add_argument("--print", action="store_true", help="write the SQL instead of running it; needs no database")
    command.set_defaults(run=_grant)


def _grant(args: argparse.Namespace) -> int:
    wanted: dict[str, list[str]] = {kind: list(dict.fromkeys(getattr(args, kind))) for kind in KINDS}
    if not any(wanted.values()):
        raise UsageError("grant to whom? Give --agent, --reader or --operator with a role")
    try:
        if args.print:
            chosen = [(kind, role) for kind, roles in wanted.items() for role in roles]
            lines = [text.as_string() for pair in chosen for text in grants(*pair, revoke=args.revoke)]
            print("\n".join(f"{line};" for line in ("begin", *lines, "commit")))
            return 0
        with database(args) as dsn, connect(dsn) as conn:
            done = grant(
                conn,
                agents=wanted["agent"],
                readers=wanted["reader"],
                operators=wanted["operator"],
                revoke=args.revoke,
            )
            held_back = [] if args.revoke else wanted["agent"] + wanted["reader"]
            warnings = loopholes(conn, held_back)
    except RoleNotFound as error:
        raise UsageError(clean(str(error))) from None
    print("\n".join(map(clean, done)))
    for warning in warnings:
        say(f"warning: {clean(warning)}")
    return 0


def _role(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of a role") from None
    return text
