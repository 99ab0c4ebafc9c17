"""The command line: which commands there are, and how they end.

A command is a function in the module of its group (moves.py is a short one to copy), and a line in COMMANDS, which
names the module and says in a few words what the command does: the module is imported when the command is called.

The decorator ``command()`` gives a function --dsn, --embedded and --schema, and with ``reads=True`` --read-dsn as well;
they may stand before the command too, and come as its first argument, ``target``, which ``connection`` and ``database``
take. Its docstring is the help, the part below "Example:" as it stands. Data goes to stdout, messages to stderr by
``say``; text from the database is shown through ``clean`` or the tables of ``pyapp.cli.tables``. It returns its exit
status, None for 0. What is wrong is raised: a click.ClickException, or an error class of the package; each message is
one line that says what to do. What needs an extra is imported in the function, after ``require_extra``.
"""

import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

import click

from pyapp.cli.common import Command, Target, clean, pass_target, say

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

NAME = "agent-progress"
COMPLETE = "_AGENT_PROGRESS_COMPLETE"
"""The variable by which a shell asks for completions."""

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "Schema": {
        "migrate": ("schema", "install or upgrade the schema"),
        "rollback": ("schema", "take back the last migration"),
        "pending": ("schema", "list the migrations that are not applied yet"),
        "psql": ("schema", "open psql on the database"),
    },
    "Progress": {
        "list": ("workflows", "list workflows, newest first"),
        "show": ("show", "show one workflow"),
        "watch": ("watch", "follow workflows live"),
        "transition": ("moves", "move a workflow to a status"),
        "advance": ("moves", "move a workflow to its next stage"),
    },
    "Operation": {
        "check": ("checks", "compare what is stored with what is counted"),
        "repair": ("checks", "recount what is wrong, and repair it"),
        "grant": ("rights", "give roles the rights that they need"),
        "archive": ("archive", "freeze workflows that ended long ago, and remove their tasks"),
        "adopt": ("adopt", "keep exact progress for tables that you have already"),
        "unadopt": ("adopt", "take an adoption back"),
    },
    "Service": {
        "serve": ("serve", "serve the dashboard and the HTTP API"),
        "notify": ("notify", "turn notifications of changes on or off"),
    },
    "Try it": {
        "demo": ("demo", "see it at work: a private server and several workflows at once"),
        "replay": ("demo", "play recorded workflow runs through the database"),
        "completion": ("completion", "print what makes a shell complete commands and options"),
    },
}
"""Each command by its group: the module in pyapp.cli, and what the command does."""


class LazyGroup(Command, click.Group):
    """The commands of COMMANDS, each imported when it is called or asked for its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """List the names of all commands."""
        return [name for group in COMMANDS.values() for name in group]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        for group in COMMANDS.values():
            if cmd_name in group:
                module = import_module(f"pyapp.cli.{group[cmd_name][0]}")
                found: click.Command = getattr(module, "list_" if cmd_name == "list" else cmd_name)
                return found
        return None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands below the options, by group and without importing them."""
        super().format_options(ctx, formatter)
        width = max(map(len, self.list_commands(ctx)))
        for title, group in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", what) for name, (_, what) in group.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem"]:
        """Complete the name of a command, without importing any."""
        from click.shell_completion import CompletionItem

        commands = [(name, what) for group in COMMANDS.values() for name, (_, what) in group.items()]
        names = [CompletionItem(name, help=what) for name, what in commands if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.version_option(package_name=NAME, message="%(package)s %(version)s")
@pass_target
def program(_: Target) -> None:
    """Exact, live progress of agent workflows, kept by PostgreSQL itself.

    The database is the one of --dsn, else of DATABASE_URL, else of libpq's environment (PGHOST, PGDATABASE, ...). What
    only reads (list, show, watch, check, serve) takes a standby with --read-dsn or AGENT_PROGRESS_READ_DSN. --embedded
    means a private server of your own, which is started when needed and stopped after it.

    Exit status: 0 fine; 1 not found, or drift; 2 wrong usage, no connection, or refused.

    Example:
      agent-progress demo            (see it at work, without a database of yours)
      agent-progress --dsn postgresql://localhost/mydb migrate
      agent-progress --dsn postgresql://localhost/mydb watch
      agent-progress list --help     (options and an example)
    """


class _Terminated(KeyboardInterrupt):
    """Somebody asks the program to end: like Ctrl-C, it leaves no server behind."""


def _terminate(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: a second one would interrupt what is tidied up
    raise _Terminated(number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if instruction := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(program, {}, NAME, COMPLETE, instruction)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that knows no block elements shows question marks
    for name in ("SIGTERM", "SIGHUP"):
        with suppress(AttributeError, ValueError):  # no such signal here, or not the main thread
            if signal.getsignal(number := getattr(signal, name)) == signal.SIG_DFL:
                signal.signal(number, _terminate)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except _Terminated as end:
        return 128 + int(str(end))
    except (KeyboardInterrupt, click.Abort):
        return 130
    except BrokenPipeError:
        _give_up_output()  # whoever read it went away, as head does
        return 141
    except Exception as error:
        from pyapp.cli.errors import explain

        told = explain(error)
        if told is None:
            raise
        line, status = told
        say(clean(f"{NAME}: {line}"))  # names and values in it may be anybody's
        if isinstance(error, OSError):
            _give_up_output()
        return status


def _run(arguments: list[str]) -> int:
    try:
        if not arguments:
            say(program.get_help(click.Context(program, info_name=NAME, **program.context_settings)))
            return 2
        with program.make_context(NAME, arguments) as ctx:
            return program.invoke(ctx) or 0
    except click.exceptions.Exit as end:
        return end.exit_code


def _give_up_output() -> None:
    """Throw away output that cannot be written: the interpreter would complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
