"""What requests may ask for."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Literal, TypeVar, get_args
from urllib.parse import unquote

from fastapi import Depends, HTTPException, Path, Query
from fastapi.dependencies.models import Dependant
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from starlette.datastructures import QueryParams
from starlette.requests import Request

from pyapp.models import Priority, TaskStatus, WorkflowStatus
from pyapp.web.answers import PARENT
from pyapp.web.database import Database, Read

T = TypeVar("T")


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("text", "should not contain the character NUL")
    return text


Text = Annotated[
    str, Field(max_length=500, json_schema_extra={"pattern": r"^[^\u0000]*$"}), AfterValidator(_without_nul)
]
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
Offset = Annotated[int, Query(ge=0, le=10_000_000, description="Leave out so many at the beginning.")]
# What is longer when escaped (12 bytes a character) would not fit into an address of the 64 kB that the server takes.
Cursor = Annotated[str | None, Query(max_length=4500, description="From the Link header of a page.")]
Statuses = Annotated[list[WorkflowStatus] | None, Query(description="Any of these statuses.")]
# Shorter, so that with the other filters of tasks no address is longer than the server takes.
TaskCursor = Annotated[str | None, Query(max_length=3000, description="From the Link header of a page.")]
TaskStatuses = Annotated[list[TaskStatus] | None, Query(description="Any of these statuses.")]
# Those of an adoption may be other words.
OnePriority = Annotated[Text | None, Query(json_schema_extra={"enum": list(get_args(Priority))})]
_ParentKey = Annotated[str, Field(max_length=500, json_schema_extra={"pattern": PARENT}), AfterValidator(_without_nul)]
Parent = Annotated[
    _ParentKey | None, Query(description="The id of what started them; none: those that no workflow started.")
]
# fmt: off
Sort = Literal[
    "created", "-created", "name", "-name", "status", "-status", "progress", "-progress", "duration", "-duration"
]
# fmt: on
_UNITS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}
_LENGTH = "seconds, or 5 min, 2 h, 1 d"


def _seconds(text: str | None) -> float | None:
    if not text:
        return None
    if not (parts := re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(s|min|h|d)?", text, re.ASCII)):
        raise PydanticCustomError("length", f"should be {_LENGTH}")
    return float(parts[1]) * _UNITS[parts[2] or ""]


def _moment(text: str | None, *, through: bool = False) -> datetime | None:
    """Read a date, or a date with a time, of UTC where it does not say; a date alone ends with its day."""
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return at + timedelta(days=1) if through and len(text) == 10 else at
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
    except ValueError:
        raise PydanticCustomError("date", "should be a date, as 2026-03-01, or 2026-03-01T10:00:00Z") from None


_Date = Annotated[str, Field(max_length=40, json_schema_extra={"format": "date"})]
_Length = Annotated[str, Field(json_schema_extra={"pattern": r"^[0-9]{1,6}(\.[0-9]{1,3})? ?(s|min|h|d)?$"})]


@dataclass(frozen=True)
class Wanted:
    """Which workflows, in which order, and where the page before ended, or the one behind began."""

    status: Statuses = None
    type: Annotated[Text | None, Query()] = None
    priority: OnePriority = None
    match: Annotated[
        Text | None,
        AfterValidator(lambda text: text and text.strip()),
        Query(
            description="Contained in the name, without regard to case; or the id, how it begins, the trace id, or"
            " the external id of a task. What no index finds (see sql/optional/search.sql) is looked for among the"
            " newest 200,000 workflows, an external id among the tasks of the newest 10,000."
        ),
    ] = None
    name: Annotated[Text | None, Query(description="Beginning of the name.")] = None
    parent: Parent = None
    stalled: Annotated[bool, Query(description="Only those that run and have come to a halt.")] = False
    failures: Annotated[bool, Query(description="Only those with tasks that failed.")] = False
    created_from: Annotated[_Date | None, AfterValidator(_moment), Query(description="Not before.")] = None
    created_to: Annotated[
        _Date | None, AfterValidator(partial(_moment, through=True)), Query(description="Not after this day.")
    ] = None
    longer: Annotated[_Length | None, AfterValidator(_seconds), Query(description=f"Took more: {_LENGTH}.")] = None
    shorter: Annotated[_Length | None, AfterValidator(_seconds), Query(description=f"Took less: {_LENGTH}.")] = None
    sort: Annotated[Sort, Query(description="With - in front: descending.")] = "-created"
    cursor: Cursor = None


@dataclass(frozen=True)
class WantedTasks:
    """Which tasks, and where the page before ended, or the one behind began."""

    status: TaskStatuses = None
    agent_type: Annotated[Text | None, Query()] = None
    stage: Annotated[Text | None, Query()] = None
    text: Annotated[
        Text | None, Query(description="Contained in the agent type, an id or the error, without regard to case.")
    ] = None
    cursor: TaskCursor = None


def given_only(request: Request) -> None:
    """Leave out the parameters that are empty: a form sends them as well."""
    # Where the request keeps them once they are read.
    request._query_params = QueryParams([pair for pair in request.query_params.multi_items() if pair[1]])


WithTree = Annotated[bool, Query(description="All that is below it as well.")]
# Its address left it escaped.
Key = Annotated[
    str, Path(json_schema_extra={"format": "uuid"}), AfterValidator(lambda part: _without_nul(unquote(part)))
]
_Id = Annotated[str, Field(json_schema_extra={"format": "uuid"}), AfterValidator(_without_nul)]
Keys = Annotated[list[_Id] | None, Query(max_length=500, description="These; without, the active ones.")]
Trees = Annotated[list[_Id] | None, Query(max_length=500, description="These with all that is below them.")]
Active = Annotated[bool, Query(description="The newest active ones too.")]


async def after_position(
    after_position: Annotated[
        Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$")] | None,
        Query(
            description="Answer with what a standby shows once it has replayed its primary's log up to here, as"
            " pyapp.wal_position or pg_current_wal_lsn() told after a commit; else 503 after a second."
        ),
    ] = None,
) -> None:
    """Take a parameter of all requests that read, for ask."""


async def ask(request: Request, query: Read[T]) -> T:
    """Run a query of a request, on a standby not before it has replayed what the request says."""
    database: Database = request.app.state.database
    return await database.ask(query, after=request.query_params.get("after_position"))


async def known_parameters(request: Request) -> None:
    """Refuse a parameter that the route does not take; each may have the key of a signed link."""
    if given := request.query_params:
        known = {"key", *_taken_by(request.scope["route"].dependant)}
        for name in sorted(given.keys() - known):
            raise HTTPException(422, f"{name}: no such parameter here")


def _taken_by(dependant: Dependant) -> set[str]:
    return {field.alias for field in dependant.query_params}.union(*map(_taken_by, dependant.dependencies))


READING = [Depends(known_parameters), Depends(after_position)]
"""What all that reads takes."""
OF_PAGES = [Depends(given_only), *READING]
