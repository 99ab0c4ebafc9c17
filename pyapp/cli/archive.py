"""archive: workflows that ended long ago."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import click
import psycopg
from psycopg import Connection, sql

import pyapp
from pyapp.cli.common import Target, answer, as_json, command, connection, say
from pyapp.cli.text import plural
from pyapp.cli.waiting import at_work
from pyapp.db import find_schema, quoted_name, retry
from pyapp.models import Archived, WorkflowStatus

_ENDED: tuple[WorkflowStatus, ...] = ("completed", "failed", "cancelled")
# Asked for here: PostgreSQL takes 90 for seconds.
_LENGTH = re.compile(r"\s*(P[\dYMWDTHS.]+|((\d+(\.\d+)?\s*[A-Za-z]+|\d+:\d\d(:\d\d)?)[\s,]*)+)")
_COUNT = """
    select count(*), coalesce(sum(t.tasks), 0)
    from {workflow} as w
    cross join lateral (select count(*) as tasks from {agent_task} as a where a.workflow_id = w.id) as t
    where
        w.status::text = any (%s)
        and coalesce(w.completed_at, w.updated_at) < now() - %s::interval
        and t.tasks > 0
"""


@command()
@click.option(
    "--older-than", required=True, metavar="AGE", help="How long ago they must have ended: 90d, 12h, 2w, '6 months'."
)
@click.option(
    "--status",
    "statuses",
    type=click.Choice(_ENDED),
    multiple=True,
    default=_ENDED,
    metavar="STATUS",
    help="Only those that ended as completed, failed or cancelled; may be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Only say how much it would be.")
@as_json
def archive(
    target: Target, older_than: str, statuses: tuple[WorkflowStatus, ...], dry_run: bool, as_json: bool
) -> None:
    """Freeze workflows that ended long ago, and remove the rows of their tasks.

    In batches, while everybody goes on writing. Progress stays readable, with workflow, stages and events; the tasks
    are gone for good. Interrupted, the same command goes on where it was.

    Example:
      agent-progress archive --older-than 90d --dry-run
      agent-progress archive --older-than 90d --status completed
    """
    wrong = f"--older-than {older_than!r} is no length of time: 90d, 12h, 2w, or an interval of PostgreSQL"
    if not _LENGTH.fullmatch(older_than):
        raise click.UsageError(wrong)
    with connection(target, autocommit=True) as conn:
        try:
            workflows, tasks = _count(conn, target.schema, older_than, statuses)
        except (psycopg.DataError, psycopg.errors.SyntaxError):  # also a year that no timestamp holds
            raise click.UsageError(wrong) from None
        if dry_run:
            would = f"{plural(workflows, 'workflow')} would be archived, {plural(tasks, 'task')} removed"
            answer(_result(workflows, tasks), f"{would}\nnothing was changed", as_json)
            return
        archived: list[Archived] = []
        one_batch = partial(pyapp.archive, conn, older_than, statuses=statuses, schema=target.schema)
        with at_work("archiving", tasks) as advance:
            while batch := retry(one_batch):
                archived += batch
                advance(sum(workflow.tasks for workflow in batch))
        in_use, _ = _count(conn, target.schema, older_than, statuses)
    if in_use:
        say(f"{plural(in_use, 'workflow')} left alone, since others hold their rows: run it again")
    removed = sum(workflow.tasks for workflow in archived)
    done = f"{plural(len(archived), 'workflow')} archived, {plural(removed, 'task')} removed"
    answer(_result(len(archived), removed, in_use), done, as_json)


def _result(workflows: int, tasks: int, in_use: int = 0) -> dict[str, int]:
    return {"workflows": workflows, "tasks": tasks, "in_use": in_use}


def _count(conn: Connection[Any], schema: str | None, older_than: str, statuses: Sequence[str]) -> tuple[int, int]:
    names = {name: quoted_name(find_schema(schema), name) for name in ("workflow", "agent_task")}
    row = conn.execute(sql.SQL(_COUNT).format(**names), [list(statuses), older_than]).fetchone()
    return (row[0], int(row[1])) if row else (0, 0)
