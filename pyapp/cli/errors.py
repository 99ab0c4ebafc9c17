"""What went wrong, in one line that says what to do about it, and the exit status."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import psycopg
from psycopg import Connection, errors

from pyapp.cli.common import relations, say, spelled

_LACKING = (
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.UndefinedColumn,
    errors.UndefinedObject,
    errors.InvalidSchemaName,
)
_ADVICE: dict[type[psycopg.Error], str] = {
    errors.InsufficientPrivilege: "the owner of the schema can grant it (agent-progress grant)",
    errors.ReadOnlySqlTransaction: "this is a hot standby, or a session that may only read: name the primary",
    errors.DiskFull: "make room on the server's disk",
    errors.DeadlockDetected: "another transaction went first: do it again",
    errors.SerializationFailure: "another transaction went first: do it again",
    errors.AdminShutdown: "the server stops or restarts: do it again later",
    errors.CrashShutdown: "the server restarts: do it again later",
    errors.QueryCanceled: "a longer statement_timeout may help",
}
_STANDBY_WENT_ON = (
    "do it again; on the standby, hot_standby_feedback or a longer max_standby_streaming_delay leave more time"
)
# libpq quotes what it takes for a host or a port where a character of the password was not escaped.
_MAY_QUOTE_A_PASSWORD = re.compile(
    r"""host (name )?(['"])((?!\2[,:]).)*@|invalid (integer value|port number)|Servname""", re.DOTALL
)


def explain(error: Exception) -> tuple[str, int] | None:
    """Say in one line what went wrong, and the exit status for it; None for a fault of the program itself."""
    if isinstance(error, click.ClickException):
        return _explain_usage(error), 2
    from pyapp.errors import TaskNotFound, WorkflowNotFound

    if type(error).__module__.startswith("pyapp."):  # each error class of the package says in a line what to do
        return _first_line(error), 1 if isinstance(error, WorkflowNotFound | TaskNotFound) else 2
    if isinstance(error, psycopg.Error):
        return _explain_database(error), 2
    if isinstance(error, UnicodeError):
        return "an argument, a variable of the environment or a row of the database is not valid UTF-8 text", 2
    if isinstance(error, MemoryError):
        return "not enough memory", 2
    if isinstance(error, OSError):
        return error.strerror or str(error), 2
    return None


def tell_loss(error: psycopg.Error | None) -> None:
    """Tell that the database is away and why, or for None that it is back."""
    say("the database is back" if error is None else f"the database is away, trying again: {_explain_database(error)}")


@contextmanager
def telling_what_lacks(conn: Connection[Any], schema: str | None) -> Iterator[None]:
    """Where a table or function is not there, look whether the schema lacks all of it or only that, and say so."""
    try:
        yield
    except _LACKING as error:
        if conn.closed:
            raise
        from pyapp.db import find_schema

        conn.rollback()
        name = find_schema(schema)
        there = relations(conn, name)
        if "installed_object" in there:
            told = f"{_first_line(error)}: schema {name} is older than this program, or not whole"
        elif "workflow_progress" in there:
            renew = spelled("adopt", name)
            told = (
                f"{_first_line(error)}: schema {name} holds an adoption, which may not have that; or renew it: {renew}"
            )
            raise click.ClickException(told) from error
        else:
            told = f"no agent-progress in schema {name} of this database (--schema names another)"
        raise click.ClickException(f"{told}: run {spelled('migrate', name)}") from error


def _explain_usage(error: click.ClickException) -> str:
    if not isinstance(error, click.UsageError):
        return error.format_message()
    line = " ".join(error.format_message().split()).rstrip(".")  # click lists choices below each other
    return f"{line} (see {error.ctx.command_path} --help)" if error.ctx else line


def _explain_database(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return "the connection string cannot be read (not shown: it may hold a password)"
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        if _MAY_QUOTE_A_PASSWORD.search(str(error)):
            return (
                "the connection string cannot be read (not shown): in the password of a URL, @ is written %40, / %2F;"
                " and a port is a number"
            )
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"no connection to the database: {'; '.join(lines[:3])}"
    line = _first_line(error)
    if error.diag.message_hint:
        return f"{line} ({error.diag.message_hint})"
    if isinstance(error, errors.SerializationFailure) and "recovery" in str(error):  # in English; else the usual advice
        return f"{line}; {_STANDBY_WENT_ON}"
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), None)
    return f"{line}; {advice}" if advice else line


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
