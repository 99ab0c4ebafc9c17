"""How workflows and tasks ended lately, by type: a page, and rows for the API."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from itertools import groupby, islice
from typing import Any, Literal, TypeAlias

from fastapi import APIRouter, Depends
from psycopg import AsyncConnection, sql
from starlette.requests import Request
from starlette.responses import Response

from pyapp import aio
from pyapp.models import Trend
from pyapp.reading import ORDER_OF_TRENDS
from pyapp.web.answers import columns
from pyapp.web.pages import read_page, render
from pyapp.web.parameters import after_position, known_parameters
from pyapp.web.reads import as_json
from pyapp.web.shape import Shape
from pyapp.web.wire import fetch_values

By: TypeAlias = Literal["type", "agent_type"]
router = APIRouter(include_in_schema=False, dependencies=[Depends(known_parameters), Depends(after_position)])
_VIEWS: dict[By, str] = {"type": "workflow_trend", "agent_type": "task_trend"}
_TYPES = 50


@cache
def _query(shape: Shape, by: By) -> sql.Composed:
    query = sql.SQL("select {} from {} as p order by {}")
    return as_json(query.format(columns(Trend), shape.name(_VIEWS[by]), sql.SQL(ORDER_OF_TRENDS)), Trend)


async def send_trends(conn: AsyncConnection[Any], shape: Shape, by: By) -> list[bytes]:
    """Read the trends of workflows by their type, or of tasks by the type of their agents, as JSON."""
    return await fetch_values(conn, _query(shape, by))


def as_csv(rows: Iterable[bytes]) -> str:
    """Write trends as CSV. A type that a spreadsheet would take for a formula gets an apostrophe in front."""
    file = io.StringIO()
    writer = csv.DictWriter(file, [field.name for field in fields(Trend)])
    writer.writeheader()
    for row in map(json.loads, rows):
        risky = (row["type"] or "").startswith(("=", "+", "-", "@", "\t", "\r"))
        writer.writerow(row | {"type": f"'{row['type']}" if risky else row["type"]})
    return file.getvalue()


@router.get("/trends")
async def show_trends(request: Request) -> Response:
    """Show how workflows and tasks ended in a day, a week and a month, by their types, the most frequent first."""

    async def read(conn: AsyncConnection[Any], shape: Shape) -> dict[str, Any]:
        def by_type(found: list[Trend]) -> list[tuple[str | None, list[Trend]]]:
            return [(type_, list(of)) for type_, of in islice(groupby(found, lambda one: one.type), _TYPES)]

        return {
            "of_workflows": by_type(await aio.list_workflow_trends(conn, schema=shape.schema)),
            "of_tasks": by_type(await aio.list_task_trends(conn, schema=shape.schema)),
            "most": _TYPES,
        }

    return render(request, "trends.html", await read_page(request, read))
