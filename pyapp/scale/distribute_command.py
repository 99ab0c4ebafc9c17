"""distribute: print the SQL that moves the tables to Citus, or back."""

import argparse
from typing import Any

from pyapp.cli.common import UsageError, database, say
from pyapp.db import connect
from pyapp.render import clean
from pyapp.scale.distribute import DistributeError, distribution, require_ready, way_back

_HEAD = """\
-- agent-progress: {what}, in one transaction.
-- Read it, and pyapp/scale/CITUS.md, and then, while nobody writes:
--     agent-progress distribute{option} --print > distribute.sql && psql -v ON_ERROR_STOP=1 -f distribute.sql
-- What has to be so is checked first, and the numbers are compared at the end; nothing is changed unless all is right.
"""
_TAIL = """
-- Nobody knows yet how many rows there are now, and of what kind.

analyze public.workflow, public.agent_task, public.workflow_stage, public.workflow_event;
analyze public.workflow_transition, public.stage_definition;"""


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "distribute",
        parents=[shared],
        help="print the SQL that spreads the tables over a Citus cluster, or brings them back",
        description="Print the SQL that spreads the tables over the nodes of a Citus cluster, each workflow with all"
        " that is of it on one node; or, with --reverse, the SQL that makes them plain tables again. You run it with"
        " psql, on the coordinator, while nobody writes. With --dsn the database is looked at first; without --print"
        " that is all that is done. What changes for those who use it is told in pyapp/scale/CITUS.md.",
    )
    command.add_argument("--print", action="store_true", help="write the SQL; needs no database")
    command.add_argument("--reverse", action="store_true", help="the way back")
    command.set_defaults(run=_distribute)


def _distribute(args: argparse.Namespace) -> int:
    if args.dsn is not None or args.embedded or not args.print:
        try:
            with database(args) as dsn, connect(dsn, autocommit=True) as conn:
                require_ready(conn, back=args.reverse)
        except DistributeError as error:
            raise UsageError(clean(str(error))) from None
    option = " --reverse" if args.reverse else ""
    if not args.print:
        say(f"nothing is in the way: agent-progress distribute{option} --print writes the SQL")
        return 0
    what = "the way back from Citus" if args.reverse else "the tables spread over the nodes of a Citus cluster"
    print(_HEAD.format(what=what, option=option))
    print(way_back() if args.reverse else distribution(), end="")
    print(_TAIL)
    return 0
