"""What went wrong, in one line that says what to do about it."""

import re

import psycopg
from psycopg import errors

from pyapp.adopt.pair import AdoptError
from pyapp.agent import PATIENCE
from pyapp.cli.common import UsageError, say
from pyapp.embedded import EmbeddedError
from pyapp.migrate import MigrationError
from pyapp.models import TransitionNotAllowed, VersionConflict
from pyapp.replay.trace import TraceError
from pyapp.scale.archive import ArchiveError
from pyapp.scale.partition import PartitionError

_NO_SCHEMA = (
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.UndefinedColumn,
    errors.UndefinedObject,
    errors.InvalidSchemaName,
)
_OURS = (
    UsageError,
    AdoptError,
    ArchiveError,
    MigrationError,
    EmbeddedError,
    PartitionError,
    TraceError,
    TransitionNotAllowed,
    VersionConflict,
)
_ADVICE: dict[type[psycopg.Error], str] = {
    errors.InsufficientPrivilege: "the owner of the schema can grant it (README: Rights)",
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


def explain(error: Exception) -> str | None:
    """Say in one line what went wrong; None for what is a fault of ours."""
    if isinstance(error, psycopg.Error):
        return _explain_database(error)
    if isinstance(error, UnicodeError):
        return "an argument, a variable of the environment or a row of the database is not valid UTF-8 text"
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return _first_line(error) if isinstance(error, _OURS) else None


def tell_loss(error: psycopg.Error | None) -> None:
    """Tell that the database is away and why, or for None that it is back: what an Agent says on its way."""
    lost = f"the database is away, trying again for {PATIENCE:.0f} s: "
    say("the database is back" if error is None else f"{lost}{explain(error)}")


def _explain_database(error: psycopg.Error) -> str:
    if isinstance(error, _NO_SCHEMA):
        return (
            "the database has no agent-progress schema, or an old one (adopted tables are meant with --name):"
            " run agent-progress migrate"
        )
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
    if isinstance(error, errors.InsufficientPrivilege) and error.diag.message_hint:
        return f"{_first_line(error)} ({error.diag.message_hint})"
    if isinstance(error, errors.SerializationFailure) and "recovery" in str(error):  # in English; else the usual advice
        return f"{_first_line(error)}; {_STANDBY_WENT_ON}"
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), None)
    return f"{_first_line(error)}; {advice}" if advice else _first_line(error)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
