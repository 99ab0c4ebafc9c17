"""Batches of reports: what may go into one transaction, and that transaction."""

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

import psycopg

from pyapp.models import Key, Task, TaskReport
from pyapp.tasks import report_tasks


@dataclass(frozen=True, slots=True)
class Waiting:
    """A report on its way."""

    workflow_id: UUID
    report: TaskReport
    since: float = field(default_factory=time.monotonic)
    done: Future[Task] = field(default_factory=Future)


def take_batch(waiting: deque[Waiting], size: int) -> list[Waiting]:
    """Take the next batch, which may be sent again: a task that it opens again has no other report in it.

    Opened and settled twice, it would have been tried once too often.
    """
    batch: list[Waiting] = []
    opens: dict[Key, bool] = {}
    while waiting and len(batch) < size:
        report = waiting[0].report
        if opens.get(report.task_id, False) or (report.reopen and report.task_id in opens):
            break
        opens[report.task_id] = report.reopen
        batch.append(waiting.popleft())
    return batch


def report_all(conn: psycopg.Connection[Any], batch: Sequence[Waiting]) -> dict[tuple[UUID, Key], Task]:
    """Report a batch, workflow by workflow in the order of their ids: two reporters never deadlock."""
    tasks: dict[tuple[UUID, Key], Task] = {}
    by_workflow = attrgetter("workflow_id")
    for workflow_id, of_workflow in groupby(sorted(batch, key=by_workflow), by_workflow):
        for task in report_tasks(conn, workflow_id, [waiting.report for waiting in of_workflow]):
            tasks[workflow_id, task.id] = task
    return tasks
