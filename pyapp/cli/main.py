"""The parser of the command line, and how errors end."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from pyapp.adopt import command as adopt
from pyapp.cli import checks, common, moves, roles, schema, workflows
from pyapp.cli.errors import explain
from pyapp.models import TaskNotFound, WorkflowNotFound
from pyapp.render import clean
from pyapp.replay import command as replay
from pyapp.scale import distribute_command as distribute
from pyapp.web import command as web

_EPILOG = """\
The database is the one of --dsn, else of DATABASE_URL, else of libpq's environment (PGHOST, PGDATABASE, ...).
--embedded means a private server of your own, which is started when needed and stopped after it.

exit status: 0 fine; 1 not found, or drift; 2 wrong usage, no connection, or refused

first steps:
  agent-progress demo                      see it at work, without any database of yours
  agent-progress --dsn postgresql://localhost/mydb migrate
  agent-progress --dsn postgresql://localhost/mydb watch
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    # Not by defaults of the options: a subparser's would undo what was given before the command.
    args = _parser().parse_args(argv, argparse.Namespace(dsn=None, embedded=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no block elements shows question marks
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _give_up_output()  # whoever read it went away, as head does
        return 141
    except (WorkflowNotFound, TaskNotFound) as error:
        common.say(f"agent-progress: {error}")
        return 1
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        common.say(clean(f"agent-progress: {line}"))  # names and values in it may be anybody's
        if isinstance(error, OSError):
            _give_up_output()
        return 2


def _give_up_output() -> None:
    """Throw away output that cannot be written, lest the interpreter complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """A parser, as are those of the commands by it, that quotes arguments without what a terminal would obey."""

    def error(self, message: str) -> NoReturn:
        """End with the complaint."""
        super().error(clean(message))


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    options = shared.add_argument_group("database")
    options.add_argument("--dsn", default=argparse.SUPPRESS, help="connection string or URL of the database")
    options.add_argument(
        "--embedded", action="store_true", default=argparse.SUPPRESS, help="use the private embedded server"
    )
    parser = _Parser(
        prog="agent-progress",
        description="Exact, live progress of agent workflows, kept by PostgreSQL itself.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
    )
    parser.add_argument("--version", action="version", version=f"agent-progress {version('agent-progress')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (schema, workflows, moves, checks, roles, adopt, distribute, replay, web):
        module.add_commands(commands, shared)
    return parser
