"""What was and what will be: timeline, burn-up and forecast of workflows."""

from collections.abc import Sequence
from typing import Any

from psycopg import Connection, sql
from psycopg.rows import class_row

from pyapp.models import BurnupPoint, Forecast, Key, Moment
from pyapp.progress import columns, get_workflow


def get_forecasts(conn: Connection[Any], workflow_ids: Sequence[Key]) -> dict[Key, Forecast]:
    """Get the forecasts of workflows, by id, of those that exist.

    Reads the last 100 completions and the tasks at work of each, however many tasks there are.
    """
    query = sql.SQL("select {} from public.workflow_forecast where workflow_id = any (%s::uuid[])")
    with conn.cursor(row_factory=class_row(Forecast)) as cursor:
        rows = cursor.execute(query.format(columns(Forecast)), [[str(found) for found in workflow_ids]])
        return {forecast.workflow_id: forecast for forecast in rows}


def list_timeline(conn: Connection[Any], workflow_id: Key, *, limit: int | None = 1000) -> list[Moment]:
    """List what happened to a workflow, in time order: its events, stages and tasks.

    Returns the first ``limit`` moments of it, None for all. Raises WorkflowNotFound.
    """
    query = sql.SQL("select {} from public.workflow_timeline where workflow_id = %s limit %s")
    with conn.cursor(row_factory=class_row(Moment)) as cursor:
        moments = cursor.execute(query.format(columns(Moment)), [workflow_id, limit]).fetchall()
    if not moments:
        get_workflow(conn, workflow_id)
    return moments


def list_burnup(conn: Connection[Any], workflow_id: Key) -> list[BurnupPoint]:
    """List the numbers of tasks completed and created over time, for plotting. Raises WorkflowNotFound."""
    query = sql.SQL("select {} from public.workflow_burnup where workflow_id = %s order by at")
    with conn.cursor(row_factory=class_row(BurnupPoint)) as cursor:
        points = cursor.execute(query.format(columns(BurnupPoint)), [workflow_id]).fetchall()
    if not points:
        get_workflow(conn, workflow_id)
    return points
