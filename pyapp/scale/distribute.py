"""Moving to Citus and back: the SQL that does it, of sql/distribute/, and whether a database is ready for it."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import Connection

from pyapp.schema import missing_objects, resource

# A statement of ours begins at the margin, in small letters; a semicolon may stand in quotes and comments as well.
_STATEMENT = re.compile(r"^[a-z](?:\$\$.*?\$\$|'[^']*'|--[^\n]*|[^;'$])*;$", re.DOTALL | re.MULTILINE)
_DROPPED = re.compile(r"^drop function public\.(\w+)", re.MULTILINE)
_OF_FUNCTION = re.compile(r"(?:create function|(?:comment|revoke execute) on function) public\.(\w+)")
_KEPT = ("create type", "comment on type", "insert into")
_COMPARE = "compare.sql"
_CITUS = ("02_check_citus.sql", "04_shards.sql")


class DistributeError(Exception):
    """The tables cannot be distributed, or brought back; the message says all that is in the way, in one line."""


def distribution(*, citus: bool = True) -> str:
    """Write the SQL that distributes our tables over the nodes of a Citus cluster, in one transaction.

    Without ``citus`` it changes the keys and the triggers only, which needs none.
    """
    parts = [_read(file) for file in _files("0*.sql") if citus or file.name not in _CITUS]
    return _transaction([*parts, *map(_read, _files(_COMPARE))])


def way_back() -> str:
    """Write the SQL that makes our tables plain ones again, as sql/ has them, in one transaction."""
    check, aside, rows, end = map(_read, _files("1*.sql"))
    [compare] = map(_read, _files(_COMPARE))
    gone = set(_DROPPED.findall(aside))
    made = [statement for statement in own_statements() if _is_gone(statement, gone)]
    return _transaction([check, aside, *made, rows, compare, end])


def own_statements() -> list[str]:
    """List the statements of sql/, which build the schema."""
    return [found for file in sorted(resource("sql").glob("*.sql")) for found in _STATEMENT.findall(_read(file))]


def require_ready(conn: Connection[Any], *, back: bool = False) -> None:
    """See that a database can be distributed, or brought back: run the checks alone. Raises DistributeError."""
    if missing := missing_objects(conn):
        raise DistributeError(f"the schema is not whole: {', '.join(missing[:5])}; agent-progress check says more")
    for file in _files("1*_check*.sql" if back else "0*_check*.sql"):
        try:
            conn.execute(_read(file).encode())
        except psycopg.errors.ObjectNotInPrerequisiteState as error:
            raise DistributeError(error.diag.message_primary) from error


def _files(pattern: str) -> list[Path]:
    return sorted((resource("sql") / "distribute").glob(pattern))


def _read(file: Path) -> str:
    return file.read_text("utf-8").rstrip()


def _transaction(parts: Iterable[str]) -> str:
    return "\n\n".join(["begin;", *parts, "commit;"]) + "\n"


def _is_gone(statement: str, functions: set[str]) -> bool:
    """Say whether what a statement of sql/ makes went with the tables; types and most functions are there still."""
    if statement.startswith(_KEPT):
        return False
    of_function = _OF_FUNCTION.match(statement)
    return of_function is None or of_function[1] in functions
