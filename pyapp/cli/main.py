"""The parser of the command line, and how errors end."""

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version

import psycopg

from pyapp.adopt import command as adopt
from pyapp.adopt.pair import AdoptError
from pyapp.cli import checks, common, moves, roles, schema, workflows
from pyapp.embedded import EmbeddedError
from pyapp.migrate import MigrationError
from pyapp.models import TaskNotFound, TransitionNotAllowed, VersionConflict, WorkflowNotFound
from pyapp.replay import command as replay
from pyapp.replay.trace import TraceError
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
        # Whoever read our output went away, as head does; the interpreter shall not complain at its end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (WorkflowNotFound, TaskNotFound) as error:
        common.say(f"agent-progress: {error}")
        return 1
    except Exception as error:
        line = _explain(error)
        if line is None:
            raise
        common.say(f"agent-progress: {line}")
        return 2


def _explain(error: Exception) -> str | None:
    """Say in one line what went wrong; None for what is a fault of ours."""
    if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedFunction):
        return (
            "the database has no agent-progress schema, or an old one (adopted tables are meant with --name):"
            " run agent-progress migrate"
        )
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return "the connection string cannot be read (not shown: it may hold a password)"
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        if re.search("host '[^']*@", str(error)):  # what follows a bare @ in a password
            return "the connection string cannot be read (not shown): in the password of a URL, @ is written %40"
        return f"no connection to the database: {_one_line(error)}"
    if isinstance(error, psycopg.errors.InsufficientPrivilege) and error.diag.message_hint:
        return f"{_one_line(error)} ({error.diag.message_hint})"
    expected = (
        psycopg.Error,
        common.UsageError,
        MigrationError,
        EmbeddedError,
        AdoptError,
        TraceError,
        TransitionNotAllowed,
        VersionConflict,
    )
    return _one_line(error) if isinstance(error, expected) else None


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    unreachable = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return "; ".join(lines[:3]) if unreachable else (lines or [type(error).__name__])[0]


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    options = shared.add_argument_group("database")
    options.add_argument("--dsn", default=argparse.SUPPRESS, help="connection string or URL of the database")
    options.add_argument(
        "--embedded", action="store_true", default=argparse.SUPPRESS, help="use the private embedded server"
    )
    parser = argparse.ArgumentParser(
        prog="agent-progress",
        description="Exact, live progress of agent workflows, kept by PostgreSQL itself.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
    )
    parser.add_argument("--version", action="version", version=f"agent-progress {version('agent-progress')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (schema, workflows, moves, checks, roles, adopt, replay, web):
        module.add_commands(commands, shared)
    return parser
