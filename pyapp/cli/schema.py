"""migrate, rollback, pending and psql: the schema, and a way into the database."""

import shutil
import subprocess
from pathlib import Path

import click

from pyapp.cli.common import Command, Target, as_json, database, pass_target, print_json, say


@click.command(
    cls=Command,
    example="""
    agent-progress --dsn postgresql://localhost/mydb migrate
    agent-progress --dsn postgresql://localhost/mydb migrate --schema agents     in a schema of its own
    """,
)
@click.option("--mark", is_flag=True, help="Only record them, for a schema that was installed with psql from sql/.")
@as_json
@pass_target
def migrate(target: Target, mark: bool, as_json: bool) -> None:
    """Install or upgrade the schema.

    Applies the migrations that are not applied yet, and makes functions, triggers and views anew where their text
    differs. Safe at any time; rows that are there are counted.
    """
    from pyapp.migrate import mark as record
    from pyapp.migrate import migrate as apply

    with database(target, migrated=False) as dsn:
        if mark:
            done = record(dsn, schema=target.schema)
        else:
            done = apply(dsn, schema=target.schema, on_step=say)
    _report(done, as_json, "recorded" if mark else "applied", "nothing to do: the schema is up to date")


@click.command(
    cls=Command,
    example="""
    agent-progress rollback            the last migration
    agent-progress rollback --all      everything, where the tables hold no rows
    """,
)
@click.option("--all", "all_of_them", is_flag=True, help="Take back all of them, until nothing is left.")
@click.option("--drop-data", is_flag=True, help="Drop the tables even though they hold rows.")
@as_json
@pass_target
def rollback(target: Target, all_of_them: bool, drop_data: bool, as_json: bool) -> None:
    """Take back the last migration, or all of them.

    Refuses while rows would be lost.
    """
    from pyapp.migrate import rollback as take_back

    with database(target, migrated=False) as dsn:
        done = take_back(dsn, schema=target.schema, all=all_of_them, drop_data=drop_data, on_step=say)
    _report(done, as_json, "rolled back", "nothing to do: no migration is applied")


@click.command(cls=Command, example="agent-progress pending && echo 'read what would be applied'")
@as_json
@pass_target
def pending(target: Target, as_json: bool) -> None:
    """List the migrations that are not applied yet.

    Changes nothing.
    """
    from pyapp.migrate import pending as find_pending

    with database(target, migrated=False) as dsn:
        names = find_pending(dsn, schema=target.schema)
    _report(names, as_json, "pending", "nothing pending: the schema is up to date")


def _report(names: list[str], as_json: bool, what: str, nothing: str) -> None:
    if as_json:
        print_json(names)
    elif names:
        print("\n".join(f"{what} {name}" for name in names))
    else:
        say(nothing)


@click.command(
    cls=Command,
    example="""
    agent-progress psql
    agent-progress psql -- -c 'select name, progress from workflow_progress'
    """,
)
@click.argument("arguments", nargs=-1, metavar="[-- ARG]...", type=click.UNPROCESSED)
@pass_target
def psql(target: Target, arguments: tuple[str, ...]) -> int:
    """Open psql on the database.

    It is the one that comes with the embedded server if there is no other. Arguments for psql stand after --.
    """
    with database(target) as dsn:
        program = shutil.which("psql") or _embedded_psql()
        return subprocess.run([program, f"--dbname={dsn}", *arguments], check=False).returncode


def _embedded_psql() -> Path:
    from pyapp import embedded

    try:
        return embedded.binaries() / "psql"
    except embedded.EmbeddedError:
        raise click.UsageError("there is no psql: install PostgreSQL's client, or the extra embedded") from None
