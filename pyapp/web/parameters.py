"""What requests may ask for: our own tables have ids, statuses and priorities of theirs, adopted ones any text."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar, get_args
from urllib.parse import unquote
from uuid import UUID

import psycopg
from fastapi import Depends, HTTPException, Path, Query
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pyapp.source import Source
from pyapp.web import queries
from pyapp.web.database import Database
from pyapp.web.types import Priority, Status

T = TypeVar("T")
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
Offset = Annotated[int, Query(ge=0, le=10_000_000, description="Leave out so many at the beginning.")]
Cursor = Annotated[str | None, Query(max_length=8000, description="From the Link header of a page.")]


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("text", "Should not contain the character NUL")
    return text


Text = Annotated[
    str, Field(max_length=500, json_schema_extra={"pattern": r"^[^\u0000]*$"}), AfterValidator(_without_nul)
]
_AnyStatus = Annotated[Text, Field(json_schema_extra={"enum": list(get_args(Status))})]
AnyStatuses = Annotated[list[_AnyStatus] | None, Query(description="Any of these statuses.")]
AnyPriority = Annotated[Text | None, Query(json_schema_extra={"enum": list(get_args(Priority))})]
Position = Annotated[
    str | None,
    Query(
        pattern=r"^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$",
        description="Answer with what a standby shows once it has replayed its primary's log up to here, as"
        " pyapp.wal_position or pg_current_wal_lsn() told after a commit; else 503 after a second.",
    ),
]
GIVEN = BeforeValidator(lambda value: value or None)
"""For a form, which sends a field that is left empty as well."""


def after_position(after_position: Position = None) -> None:
    """Take a parameter of all requests that read, for run."""


def run(request: Request, query: Callable[[psycopg.Connection[Any], Source], T]) -> T:
    """Run a query of a request, on a standby not before it has replayed what the request says."""
    database: Database = request.app.state.database
    return database.run(query, after=request.query_params.get("after_position"))


def known(request: Request, name: str, kind: Any, value: T) -> T:
    """Check a value of the query that our own tables can only have some of; return it."""
    return _checked(("query", name), kind, value) if value and _is_ours(request) else value


async def _key(request: Request, workflow_id: Annotated[str, Path(json_schema_extra={"format": "uuid"})]) -> str:
    if _is_ours(request):
        return str(_checked(("path", "workflow_id"), UUID, workflow_id))
    # WholeAddresses left it escaped.
    return (await _keys(request, [unquote(workflow_id)]))[0]


async def _ids(
    request: Request,
    id: Annotated[
        list[Annotated[str, Field(json_schema_extra={"format": "uuid"})]] | None,
        Query(max_length=500, description="These; without, the active ones."),
    ] = None,
) -> list[str] | None:
    if id is None:
        return None
    return list(map(str, _checked(("query", "id"), list[UUID], id))) if _is_ours(request) else await _keys(request, id)


Key = Annotated[str, Depends(_key)]
Keys = Annotated[list[str] | None, Depends(_ids)]


async def _keys(request: Request, given: Sequence[str]) -> list[str]:
    """Take keys of adopted tables, of whatever type they are."""
    try:
        return await run_in_threadpool(
            request.app.state.database.run, lambda conn, source: queries.keys(conn, source, given)
        )
    except psycopg.DataError:
        raise HTTPException(404, "Workflow not found") from None


def _is_ours(request: Request) -> bool:
    return request.app.state.settings.name is None


def _checked(where: tuple[str, ...], kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as problem:
        raise RequestValidationError([{**one, "loc": (*where, *one["loc"])} for one in problem.errors()]) from None


class WholeAddresses:
    """Keeps an escaped slash in an address apart from one that separates its parts, where keys may have any."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, in whose path %2F and %25 are still escaped."""
        if scope["type"] == "http" and scope.get("raw_path"):
            raw = scope["raw_path"].decode("latin-1").partition("?")[0]
            scope["path"] = unquote(re.sub("%(2F|25)", r"%25\1", raw, flags=re.IGNORECASE))
        await self._app(scope, receive, send)
