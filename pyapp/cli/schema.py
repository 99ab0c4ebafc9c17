"""migrate, rollback, pending and psql: the schema, and a way into the database."""

import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import click
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pyapp.adopt.install import renew_adoptions
from pyapp.cli.common import Target, answer, as_json, command, database, say
from pyapp.db import find_schema
from pyapp.migrate import mark as record
from pyapp.migrate import migrate as apply
from pyapp.migrate import pending as find_pending
from pyapp.migrate import rollback as take_back


@command()
@click.option("--mark", is_flag=True, help="Only record them, for a schema that was installed with psql from sql/.")
@as_json
def migrate(target: Target, mark: bool, as_json: bool) -> None:
    """Install or upgrade the schema.

    Applies the migrations that are not applied yet, and makes functions, triggers and views anew where their text
    differs, in adoptions as well. Safe at any time; rows that are there are counted.

    Example:
      agent-progress --dsn postgresql://localhost/mydb migrate
      agent-progress migrate --schema agents    (in a schema of its own)
    """
    with database(target, install=False) as dsn:
        if mark:
            _report(record(dsn, schema=target.schema), as_json, "recorded")
        else:
            done = apply(dsn, schema=target.schema, on_step=say)
            renewed = [f"adoption in {schema}" for schema in renew_adoptions(dsn, say)]
            _report([*done, *renewed], as_json, "applied")


@command()
@click.option("--all", "all_of_them", is_flag=True, help="Take back all of them, until nothing is left.")
@click.option("--drop-data", is_flag=True, help="Drop the tables even though they hold rows.")
@as_json
def rollback(target: Target, all_of_them: bool, drop_data: bool, as_json: bool) -> None:
    """Take back the last migration, or all of them.

    Refuses while rows would be lost.

    Example:
      agent-progress rollback          (the last migration)
      agent-progress rollback --all    (everything, where the tables hold no rows)
    """
    with database(target, install=False) as dsn:
        done = take_back(dsn, schema=target.schema, all=all_of_them, drop_data=drop_data, on_step=say)
    _report(done, as_json, "rolled back", "nothing to do: no migration is applied")
    if target.embedded and all_of_them:
        from pyapp import embedded

        places = (embedded.default_data_dir(), embedded.COPIES)
        if left := [str(place) for place in places if place.exists()]:
            say(f"the private server remains, remove it where nothing else needs it: {shlex.join(left)}")


@command()
@as_json
def pending(target: Target, as_json: bool) -> None:
    """List the migrations that are not applied yet.

    Changes nothing.

    Example:
      agent-progress pending --json
    """
    with database(target, install=False) as dsn:
        names = find_pending(dsn, schema=target.schema)
    _report(names, as_json, "pending", "nothing pending: the schema is up to date")


def _report(
    names: list[str], as_json: bool, what: str, nothing: str = "nothing to apply: the schema is up to date"
) -> None:
    if names or as_json:
        answer(names, "\n".join(f"{what} {name}" for name in names), as_json)
    else:
        say(nothing)


@command()
@click.argument("arguments", nargs=-1, metavar="[-- ARG]...", type=click.UNPROCESSED)
def psql(target: Target, arguments: tuple[str, ...]) -> int:
    """Open psql on the database.

    It is the one that comes with the embedded server if there is no other. With --schema, names are looked up there
    first. Arguments for psql stand after --.

    Example:
      agent-progress psql
      agent-progress psql -- -c 'select name, progress from workflow_progress'
    """
    name = find_schema(target.schema)
    with database(target) as dsn:
        if name != "public":
            given = conninfo_to_dict(dsn).get("options") or os.environ.get("PGOPTIONS", "")
            path = re.sub(r"([\\\s])", r"\\\1", sql.Identifier(name).as_string())
            dsn = make_conninfo(dsn, options=f"{given} -csearch_path={path},public")
        program = shutil.which("psql") or _embedded_psql()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is psql's, which cancels a query with it
        return subprocess.run([program, f"--dbname={dsn}", *arguments], check=False).returncode


def _embedded_psql() -> Path:
    from pyapp import embedded

    try:
        return embedded.binaries() / "psql"
    except embedded.EmbeddedError:
        raise click.ClickException("there is no psql: install PostgreSQL's client, or the extra embedded") from None
