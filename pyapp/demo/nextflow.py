"""Nextflow's trace file: a row for each attempt of a task, in order of completion, never quoted.

Values are for people ("2024-05-06 07:08:09.123", "1m 5s") or milliseconds; "-" is no value. A retry has its own task_id
and the name of its task. A run that was resumed may follow in the same file, below a header of its own.
"""

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pyapp.demo.trace import MAX_TEXT, Attempt, Outcome, Trace, TraceError, TraceTask

_OUTCOME: dict[str, Outcome] = {
    "COMPLETED": "completed",
    "CACHED": "completed",
    "FAILED": "failed",
    # Written for what was still under way when a run ended early, too.
    **dict.fromkeys(("ABORTED", "NEW", "SUBMITTED", "RUNNING"), "cancelled"),
}
_HEADER = {"task_id", "status", "submit"}
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MAX_LINES = 1_000_000


@dataclass(slots=True)
class _Row:
    """An attempt; times are milliseconds since the epoch."""

    line: int
    run: int
    key: str
    name: str
    status: str
    attempt: int | None
    action: str | None
    submit: int
    start: int
    end: int | None
    exit: str


def parse(data: bytes, path: Path) -> Trace:
    """Read a trace; rows that cannot be used become warnings. Raises TraceError where there is none left."""
    problems: list[tuple[int, str]] = []
    rows = list(_rows(data, path, problems))
    if not rows:
        line, reason = min(problems, default=(1, "there is no row below the header"))
        raise TraceError(f"{path}:{line}: no usable row; first: {reason}")
    # Of a task that was run again after a resume, the later run counts.
    latest = {row.name: row.run for row in rows}
    tasks = _tasks([row for row in rows if row.run == latest[row.name]], problems)
    tasks.sort(key=lambda task: task.attempts[0].submitted)
    name = re.sub(r"(\.(gz|csv|tsv|txt|trace))+$", "", path.name) or "trace"
    return Trace(name, "nextflow", tuple(tasks), tuple(f"{path}:{line}: {reason}" for line, reason in sorted(problems)))


def _rows(data: bytes, path: Path, problems: list[tuple[int, str]]) -> Iterator[_Row]:
    run, separator, columns = 0, "\t", list[str]()
    # Line by line: all lines at once would take several times the memory of their bytes.
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", "replace"), 1):
        if number > _MAX_LINES:
            raise TraceError(f"{path}:{number}: more than {_MAX_LINES:,} lines")
        if not line.strip():
            continue
        if run == 0:
            separator = max("\t;,", key=line.count)
        values = [value.strip() for value in line.split(separator)]
        names = [value.lower() for value in values]
        if _HEADER.issubset(names):
            run, columns = run + 1, names
            continue
        if run == 0:
            lacking = ", ".join(sorted(_HEADER.difference(names)))
            raise TraceError(f"{path}:{number}: neither WfFormat JSON nor a Nextflow trace: no column {lacking}")
        try:
            if len(values) != len(columns):
                raise ValueError(f"{len(values)} fields instead of {len(columns)}")
            yield _row(number, run, dict(zip(columns, values, strict=True)))
        except ValueError as error:
            problems.append((number, f"{error}, row skipped"))


def _row(line: int, run: int, values: dict[str, str]) -> _Row:
    given = {name: value for name, value in values.items() if value not in ("", "-")}
    status, action = given.get("status", ""), given.get("error_action")
    name = given.get("name") or f"{given.get('process', '')} ({given.get('tag', '')})"
    if status not in _OUTCOME:
        raise ValueError(f"unknown status {status!r:.60}")
    if name.startswith(" ") or not name.isprintable():
        raise ValueError("no name that can be shown")
    task_id, attempt = _value(given, "task_id", int), _value(given, "attempt", int)
    # Raw traces write a time that never came as 0.
    submit, start, end = (_value(given, field, _moment) or None for field in ("submit", "start", "complete"))
    duration, realtime = _value(given, "duration", _duration), _value(given, "realtime", _duration)
    if status == "CACHED":  # its times are those of the run that filled the cache: it is done when this one begins
        submit = start = end = 0
    if task_id is None or submit is None:
        raise ValueError("no task_id or no submit time")
    if end is None and duration is not None:
        end = submit + duration
    if end is None and _OUTCOME[status] != "cancelled":
        raise ValueError(f"{status} without complete or duration")
    if start is None:
        start = submit if end is None or realtime is None else end - realtime
    key = str(task_id) if run == 1 else f"{run}-{task_id}"  # numbers begin at 1 again in each run
    return _Row(line, run, key, name, status, attempt, action, submit, start, end, given.get("exit", ""))


def _value(given: dict[str, str], field: str, read: Callable[[str], int]) -> int | None:
    text = given.get(field)
    if text is None:
        return None
    try:
        return int(text) if text.isdecimal() and len(text) <= 15 else read(text[:100])
    except (ValueError, LookupError, OverflowError):
        raise ValueError(f"{field} cannot be read: {text!r:.60}") from None


def _moment(text: str) -> int:
    # Dates carry no zone, and only their differences matter.
    moment = datetime.fromisoformat(text)
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)


def _duration(text: str) -> int:
    return round(sum(float(part.rstrip("dhms")) * _UNIT_MS[part.lstrip("0123456789.")] for part in text.split()))


def _tasks(rows: list[_Row], problems: list[tuple[int, str]]) -> list[TraceTask]:
    """Put the attempts of each task together."""
    origin = min((row.submit for row in rows if row.status != "CACHED"), default=0)
    last = max(max(row.submit, row.end or 0) for row in rows)
    waiting: defaultdict[str, list[list[_Row]]] = defaultdict(list)  # tasks whose last attempt failed, by name
    tasks: dict[str, list[_Row]] = {}
    for row in sorted(rows, key=lambda row: (row.submit, row.attempt or 0)):
        if row.end is None:
            row.end = last
            if row.status != "ABORTED":
                problems.append((row.line, f"still {row.status} when the trace ends, taken as cancelled"))
        failed = waiting[row.name]
        attempts = next((attempts for attempts in failed if _is_retry(attempts[-1], row)), None)
        if attempts is not None:
            failed.remove(attempts)
            attempts.append(row)
        elif row.key in tasks:
            problems.append((row.line, f"task_id {row.key} is there already, row skipped"))
            continue
        else:
            attempts = tasks[row.key] = [row]
        if row.status == "FAILED" and row.action in (None, "RETRY"):
            failed.append(attempts)
    return [_task(attempts, origin) for attempts in tasks.values()]


def _is_retry(failed: _Row, row: _Row) -> bool:
    if failed.attempt is not None and row.attempt == failed.attempt + 1:
        return True
    # After a lost machine it keeps its number. Without numbers the times tell; durations are printed in whole seconds.
    same_number = failed.attempt == row.attempt and (row.attempt is None or failed.action == "RETRY")
    return same_number and (failed.end or 0) <= row.submit + 1000


def _task(rows: list[_Row], origin: int) -> TraceTask:
    process = rows[0].name.partition(" (")[0]
    *scope, name = [part[:MAX_TEXT] for part in process.split(":") if part] or [process[:MAX_TEXT]]
    attempts: list[Attempt] = []
    earliest = origin
    for row in rows:
        # Clocks of several machines disagree by a second or so: time is kept from running backwards.
        submit = max(row.submit, earliest)
        end = earliest = max(row.end or 0, submit)
        start = min(max(row.start, submit), end)
        submitted, started, finished = ((moment - origin) / 1000 for moment in (submit, start, end))
        attempts.append(Attempt(submitted, started, finished, _OUTCOME[row.status]))
    exits = [row.exit for row in rows if row.status == "FAILED" and row.exit.isdecimal()]
    error = f"exit status {exits[-1][:9]}" if exits else None
    return TraceTask(rows[0].key, name, scope[-1] if scope else name, tuple(attempts), error)
