"""What the commands share: which database, where output goes, and errors that end in one line."""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from psycopg import Connection

from pyapp.db import find_dsn, find_read_dsn
from pyapp.models import Key
from pyapp.source import OWN, Source

STATUSES = ("initiated", "running", "paused", "completed", "failed", "cancelled")


class UsageError(Exception):
    """The command cannot be carried out as it was given; the message is one line."""


def say(message: str) -> None:
    """Tell the user something that is not the data asked for."""
    print(message, file=sys.stderr, flush=True)


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


def workflow_id(text: str) -> UUID:
    """Read the id of a workflow from the command line."""
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a workflow id (a UUID)") from None


def add_name(command: argparse.ArgumentParser) -> None:
    """Let a command work on an adopted pair as well."""
    command.add_argument("--name", metavar="NAME", help="the adopted tables of this name, instead of our own")


def add_read_dsn(command: argparse.ArgumentParser) -> None:
    """Let a command read from a standby."""
    command.add_argument(
        "--read-dsn",
        metavar="DSN",
        help="read from this server instead, a standby of the database (AGENT_PROGRESS_READ_DSN, beside DATABASE_URL)",
    )


def find_source(conn: Connection[Any], args: argparse.Namespace) -> Source:
    """Find the tables that the user means."""
    if args.name is None:
        return OWN
    from pyapp.adopt import source

    return source.find_source(conn, args.name)


def workflow_key(text: str, args: argparse.Namespace) -> Key:
    """Read the key of a workflow, which in adopted tables can be anything. Raises UsageError."""
    if args.name is not None:
        return text
    try:
        return UUID(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a workflow id (a UUID)") from None


@contextmanager
def database(args: argparse.Namespace, *, or_embedded: bool = False) -> Iterator[str]:
    """Yield the DSN of the database that the user means.

    That is the embedded server with ``--embedded``, or, with ``or_embedded``, where no other was given: started for as
    long as the block lasts, and migrated. Raises UsageError where nobody said which database.
    """
    dsn = None if args.embedded else find_dsn(args.dsn)
    if dsn is not None:
        yield dsn
    elif args.embedded or or_embedded:
        from pyapp import embedded
        from pyapp.migrate import migrate

        with embedded.server() as server:
            migrate(server.dsn)
            yield server.dsn
    else:
        raise UsageError("which database? Give --dsn, set DATABASE_URL or PGHOST and the like, or say --embedded")


def reads_from(args: argparse.Namespace) -> str | None:
    """Tell the DSN of the standby that the user wants to read from, None for no other than the database."""
    if args.embedded and args.read_dsn:
        raise UsageError("--embedded has no standby: leave out --read-dsn")
    return None if args.embedded else find_read_dsn(args.read_dsn, args.dsn)


@contextmanager
def readable_database(args: argparse.Namespace) -> Iterator[str]:
    """Yield the DSN of where to read: the standby that the user means, else the database."""
    read_dsn = reads_from(args)
    with database(args) if read_dsn is None else nullcontext(read_dsn) as dsn:
        yield dsn
