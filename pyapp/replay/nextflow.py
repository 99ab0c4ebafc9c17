"""Nextflow's trace file: one row for each attempt of a task, in order of completion.

Checked against Nextflow's own sources (TraceRecord, TraceFileObserver, TaskRun.makeCopy, TaskProcessor):
values are either for people ("2024-05-06 07:08:09.123", "1m 5s") or, with trace.raw, milliseconds; "-" is no
value, and nothing is ever quoted. A retry gets a new task_id but keeps its name, so attempts are joined by
name, and only where the rows prove it: different tasks may well share a name.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import pairwise
from pathlib import Path
from statistics import median_low

from pyapp.replay.trace import (
    MAX_SECONDS,
    MAX_TASKS,
    Attempt,
    Status,
    Trace,
    TraceError,
    TraceTask,
    display,
    file_title,
    quoted,
    text_problem,
)

_STATUS: dict[str, Status] = {
    "COMPLETED": "completed",
    "CACHED": "completed",
    "FAILED": "failed",
    "ABORTED": "cancelled",
    # Rows of a run that was cut off: Nextflow flushes what was still under way when it ends.
    "NEW": "cancelled",
    "SUBMITTED": "cancelled",
    "RUNNING": "cancelled",
}
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?) ?(ms|[smhd])(?: |$)")
_MAX_LINE = 1024 * 1024
_MAX_MS = MAX_SECONDS * 1000
# A derived end is submit + duration, and durations are printed in whole seconds: a retry may seem to be
# submitted up to half a second before its predecessor ended.
_SLACK_MS = 1000
# An attempt number is proof enough to forgive clocks of two machines that disagree.
_SKEW_MS = 60_000


class _BadRowError(ValueError):
    """Say why a row cannot be used."""


@dataclass(slots=True)
class _Row:
    line: int
    task_id: str
    label: str
    status: str
    attempt: int | None
    action: str | None
    submit: int
    start: int | None
    end: int | None
    realtime: int | None

    @property
    def finish(self) -> int:
        """Return the end, which is the submission where nothing else is known."""
        return self.submit if self.end is None else self.end


def parse(data: bytes, path: Path) -> Trace:
    """Parse a trace file; unusable rows become warnings.

    Raises TraceError when a required column is missing or no row is usable.
    """
    warnings: list[tuple[int, str]] = []
    rows = _drop_strays(list(_rows(data, path, warnings)), warnings)
    if not rows:
        line, reason = min(warnings, default=(1, "there is no row below the header"))
        raise TraceError(f"{display(path)}:{line}: no usable row; first: {reason}")
    tasks = _tasks(rows, warnings)
    return Trace(
        name=file_title(path),
        description=None,
        system="nextflow",
        tasks=tasks,
        warnings=tuple(f"{display(path)}:{line}: {reason}" for line, reason in sorted(warnings)),
    )


def _rows(data: bytes, path: Path, warnings: list[tuple[int, str]]) -> Iterable[_Row]:
    # Stray bytes matter only in the columns used, so they are let through here and refused there.
    # Line by line: text as a whole would take several times the memory of its bytes.
    lines = enumerate(io.TextIOWrapper(io.BytesIO(data), "utf-8", "surrogateescape", newline="\n"), 1)
    number, head = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    head = head[:_MAX_LINE]
    separator = max("\t;,", key=head.count)
    columns = [name.strip().lower() for name in _split(head, separator, 0)]
    lacking = [name for name in ("task_id", "status", "submit") if name not in columns]
    lacking += [] if {"name", "process"} & set(columns) else ["name or process"]
    lacking += [] if {"complete", "duration"} & set(columns) else ["complete or duration"]
    if lacking:
        raise TraceError(
            f"{display(path)}:{number}: neither WfFormat JSON nor a Nextflow trace: "
            f"the header lacks {', '.join(lacking)}"
        )
    seen: set[tuple[str, int | None]] = set()
    for count, (line, text) in enumerate(lines):
        if count >= MAX_TASKS:
            raise TraceError(f"{display(path)}:{line}: more than {MAX_TASKS:,} rows")
        if not text.strip():
            continue
        try:
            # One line is one row: a stray quote must not swallow the lines after it.
            values = _split(text, separator, len(columns))
            if len(values) != len(columns):
                raise _BadRowError(f"{len(values)} fields instead of {len(columns)}")
            row = _row(line, dict(zip(columns, map(str.strip, values), strict=True)))
            if (row.task_id, row.attempt) in seen:
                raise _BadRowError(f"task_id {quoted(row.task_id)} is there already")
            seen.add((row.task_id, row.attempt))
            yield row
        except _BadRowError as error:
            warnings.append((line, f"{error}, row skipped"))


def _split(line: str, separator: str, width: int) -> list[str]:
    if len(line) > _MAX_LINE:
        raise _BadRowError("the line is too long")
    line = line.rstrip("\r\n")
    if '"' in line:
        try:
            values = next(csv.reader([line], delimiter=separator))
            if not width or len(values) == width:
                return values
        except (csv.Error, StopIteration):
            pass  # the quote is part of a value: Nextflow writes tags as they are
    return line.split(separator)


def _row(line: int, values: dict[str, str]) -> _Row:
    given = {name: value for name, value in values.items() if value not in ("", "-")}
    task_id, status = given.get("task_id", ""), given.get("status", "")
    tag = f" ({given['tag']})" if "tag" in given else ""
    label = given.get("name") or given.get("process", "") + tag
    for field, value in (("task_id", task_id), ("name", label)):
        if problem := text_problem(value):
            raise _BadRowError(f"{field} {problem}")
    if status not in _STATUS:
        raise _BadRowError(f"unknown status {quoted(status)}")
    submit, start, end = (_moment(field, given.get(field)) for field in ("submit", "start", "complete"))
    duration, realtime = (_duration(field, given.get(field)) for field in ("duration", "realtime"))
    if status == "CACHED":  # its times are those of the run that filled the cache, and need not be there
        start, submit = None, submit or 0
        end = submit
    if submit is None:
        raise _BadRowError("no submit time")
    if end is None and duration is not None:
        end = submit + duration
    if end is None and start is not None and realtime is not None:
        end = start + realtime
    if end is None and _STATUS[status] != "cancelled":
        raise _BadRowError(f"{status} without complete or duration")
    if any(time is not None and abs(time - submit) > _MAX_MS for time in (start, end)):
        raise _BadRowError("start or complete is more than a year from submit")
    attempt = given.get("attempt")
    if attempt is not None and not re.fullmatch("[0-9]{1,9}", attempt):
        raise _BadRowError(f"attempt {quoted(attempt)} is not a number")
    return _Row(
        line, task_id, label, status, int(attempt) if attempt else None, given.get("error_action"),
        submit, start, end, realtime,
    )  # fmt: skip


def _moment(field: str, text: str | None) -> int | None:
    """Return epoch milliseconds; Nextflow's dates carry no zone, and only their differences matter."""
    if text is None or text == "0":  # raw traces write a time that never came as 0
        return None
    if re.fullmatch("[0-9]{1,15}", text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
        return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise _BadRowError(f"{field} {quoted(text)} is not a time") from None


def _duration(field: str, text: str | None) -> int | None:
    if text is None:
        return None
    if re.fullmatch("[0-9]{1,15}", text):
        return int(text)
    total, rest = 0.0, text[:64]
    while part := _PART.match(rest):
        total += float(part[1]) * _UNIT_MS[part[2]]
        rest = rest[part.end() :]
    if rest or total > _MAX_MS:
        raise _BadRowError(f"{field} {quoted(text)} is not a duration")
    return round(total)


def _drop_strays(rows: list[_Row], warnings: list[tuple[int, str]]) -> list[_Row]:
    # A cached row carries the times of the run that filled the cache, so it says nothing about this one.
    submits = [row.submit for row in rows if row.status != "CACHED"]
    middle = median_low(submits) if submits else 0
    strays = [row for row in rows if row.status != "CACHED" and abs(row.submit - middle) > _MAX_MS]
    reason = "submit is more than a year from the other rows', row skipped"
    warnings += [(row.line, reason) for row in strays]
    lines = {row.line for row in strays}
    return [row for row in rows if row.line not in lines]


def _tasks(rows: list[_Row], warnings: list[tuple[int, str]]) -> tuple[TraceTask, ...]:
    live = [row for row in rows if row.status != "CACHED"]
    origin = min((row.submit for row in live), default=0)
    last = max((max(row.finish, row.submit, row.start or row.submit) for row in live), default=0)
    for row in rows:
        if row.status == "CACHED":
            row.submit = row.start = row.end = min(row.submit, last)
        elif row.end is None:
            row.end = last
            if row.status != "ABORTED":
                warnings.append((row.line, f"still {row.status} when the trace ends, taken as cancelled"))
    by_label: defaultdict[str, list[_Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.submit, row.attempt or 0, row.line)):
        by_label[row.label].append(row)
    tasks: dict[str, TraceTask] = {}
    for same_label in by_label.values():
        for chain in _chains(same_label):
            first = chain[0]
            if first.task_id in tasks:
                warnings.append((first.line, f"task_id {quoted(first.task_id)} is taken, row skipped"))
                continue
            tasks[first.task_id] = _task(chain, origin)
            if (first.attempt or 1) > 1 and first.status != "CACHED":
                warnings.append((first.line, f"attempt {first.attempt} comes first, taken as a task"))
    return tuple(sorted(tasks.values(), key=lambda task: task.attempts[0].submitted))


def _chains(rows: list[_Row]) -> list[list[_Row]]:
    """Split the rows of one name, in order of submission, into tasks: each a list of attempts."""
    # Unnumbered rows (and retries after a reclaimed spot machine, which keep their number) are joined only if
    # all rows of the name can be tries of one task, one after another; any overlap shows it is shared.
    if all(_may_follow(a, b) and (_is_next(a, b) or _is_unnumbered(a, b)) for a, b in pairwise(rows)):
        return [rows]
    chains: list[list[_Row]] = []
    failed: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)  # by attempt: heap of (finish, chain)
    for row in rows:
        waiting = failed[(row.attempt or 0) - 1]
        if waiting and _may_follow(chains[waiting[0][1]][-1], row):
            index = heappop(waiting)[1]
            chains[index].append(row)
        else:
            index = len(chains)
            chains.append([row])
        if row.attempt is not None and row.status == "FAILED" and row.action in (None, "RETRY"):
            heappush(failed[row.attempt], (row.finish, index))
    return chains


def _is_next(before: _Row, after: _Row) -> bool:
    return before.attempt is not None and after.attempt == before.attempt + 1


def _is_unnumbered(before: _Row, after: _Row) -> bool:
    return before.attempt == after.attempt and (after.attempt is None or before.action == "RETRY")


def _may_follow(before: _Row, after: _Row) -> bool:
    slack = _SKEW_MS if _is_next(before, after) else _SLACK_MS
    return (
        before.status == "FAILED"
        and after.status != "CACHED"
        and before.action in (None, "RETRY")
        and before.finish <= after.submit + slack
    )


def _task(chain: list[_Row], origin: int) -> TraceTask:
    process = chain[0].label.partition(" (")[0]
    *scope, name = [part for part in process.split(":") if part] or [process]
    attempts: list[Attempt] = []
    earliest = 0
    for row in chain:
        # Clocks of several machines disagree by a second or so: clamp, so that time never runs backwards.
        submit = max(row.submit - origin, earliest)
        end = earliest = max(row.finish - origin, submit)
        start = submit if row.realtime is None else end - row.realtime
        start = start if row.start is None else row.start - origin
        start = min(max(start, submit), end)
        attempts.append(Attempt(submit / 1000, start / 1000, end / 1000, _STATUS[row.status]))
    return TraceTask(chain[0].task_id, name, scope[-1] if scope else process, tuple(attempts))
