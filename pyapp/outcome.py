"""Where the reports of one task lead, taken one after the other."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from pyapp.models import SETTLED, TaskReport


class Time(NamedTuple):
    """What becomes of a time of a task: it keeps the one that it has, else is set to now; or neither, then null."""

    keeps: bool
    sets: bool


class Outcome(NamedTuple):
    """Where reports lead a task; a status of None stays as it is, ``retries`` is how often it was opened again."""

    status: str | None = None
    result: Any = None
    retries: int = 0
    assigned: Time = Time(keeps=True, sets=False)
    started: Time = Time(keeps=True, sets=False)


def outcome_of(reports: Iterable[TaskReport], settled: bool) -> Outcome:
    """Say where reports lead a task that is settled or not."""
    status, result, retries, assigned, started = Outcome()
    none = Time(keeps=False, sets=False)
    for report in reports:
        opens = report.status not in SETTLED
        if settled and opens:
            if not report.reopen:
                continue  # late
            result, retries, assigned, started = None, retries + 1, none, none
        if opens:
            assigned = none if report.status == "pending" else assigned._replace(sets=True)
            started = started._replace(sets=True) if report.status == "running" else none
        status, settled = report.status, not opens
        result = result if report.result is None else report.result
    return Outcome(status, result, retries, assigned, started)
