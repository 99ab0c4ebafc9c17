"""WfFormat 1.5 (WfCommons): a graph of tasks with run times, but no clock times and no outcomes.

The schedule is therefore made here: every task starts when its last parent has finished, as if there were
always a free machine, and every task completes. The player's number of agents is what then limits it.
"""

from __future__ import annotations

import json
import re
from collections import deque
from pathlib import Path
from typing import Any, NoReturn

from pyapp.replay.trace import (
    MAX_SECONDS,
    MAX_TASKS,
    Attempt,
    Trace,
    TraceError,
    TraceTask,
    display,
    file_title,
    quoted,
    text_problem,
)

# Parsed values take far more memory than their text ("[]," is 3 bytes, its list 64); real files of the size
# limit have some 4 million.
_MAX_VALUES = 5_000_000
# A long chain has as many levels as tasks, and then they are no longer stages.
_MAX_STAGES = 40
# Pegasus names each task like its id, "mProject_ID0000001"; the type is what comes before the number.
_INSTANCE = re.compile(r"[_.-](?:ID)?[0-9]+$")


class _File:
    """Hold a file's text and path, so that any reason can name the line it is about."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text

    def fail(self, reason: str, about: str | None = None, *, last: bool = False) -> NoReturn:
        """Raise TraceError naming the line of the first or last record with this id, else its mention."""
        place = display(self.path)
        if about is not None:
            literal = json.dumps(about, ensure_ascii=False)
            records = [m.start() for m in re.finditer(r'"id"\s*:\s*' + re.escape(literal), self.text)]
            offset = records[-1 if last else 0] if records else self.text.find(literal)
            if offset >= 0:
                place += f":{self.text.count(chr(10), 0, offset) + 1}"
        raise TraceError(f"{place}: {reason}")


def parse(data: bytes, path: Path) -> Trace:
    """Parse a WfFormat 1.5 file and schedule its tasks; raises TraceError naming the line where it can."""
    try:
        file = _File(path, data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TraceError(f"{display(path)}:{line}: not valid UTF-8 text") from None
    root = _load(file)
    workflow = _member(file, root, "workflow", dict)
    specification = _member(file, workflow, "specification", dict, "workflow.")
    nodes = _nodes(file, _member(file, specification, "tasks", list, "workflow.specification."))
    warnings: list[str] = []
    runtimes = _runtimes(file, workflow, nodes, warnings)
    parents = _parents(file, nodes)
    system = root.get("runtimeSystem")
    system_name = _text(system.get("name") if isinstance(system, dict) else None)
    system_name = (system_name or "wfformat").lower()
    description = root.get("description")
    return Trace(
        name=_text(root.get("name")) or file_title(path),
        description=_text(" ".join(description.split())) if isinstance(description, str) else None,
        system=system_name,
        tasks=_schedule(file, nodes, runtimes, parents, system_name),
        warnings=tuple(warnings),
    )


def _load(file: _File) -> dict[str, Any]:
    if sum(map(file.text.count, "[{,")) > _MAX_VALUES:
        file.fail(f"more than {_MAX_VALUES:,} JSON values")
    try:
        root = json.loads(file.text)
    except json.JSONDecodeError as error:
        raise TraceError(f"{display(file.path)}:{error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        file.fail("the JSON is nested too deeply")
    except ValueError as error:  # an integer of thousands of digits
        file.fail(f"not usable JSON: {str(error).split(';')[0]}")
    if not isinstance(root, dict):
        file.fail("not a WfFormat file: the JSON is not an object")
    version = root.get("schemaVersion")
    if version != "1.5":
        # Before 1.5 ids were optional and edges could go by name, which need not be unique.
        hint = "; tools/wfcommons-migrate-instance.py of wfcommons/WfFormat converts older files"
        file.fail(f"schemaVersion is {quoted(version)}, only '1.5' can be read{hint if version else ''}")
    return root


def _member(file: _File, parent: dict[str, Any], key: str, kind: type, where: str = "") -> Any:
    value = parent.get(key)
    if not isinstance(value, kind):
        name = "an object" if kind is dict else "a list"
        file.fail(f"not a WfFormat 1.5 file: {where}{key} is missing or not {name}")
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and text_problem(value) is None else None


def _nodes(file: _File, records: list[Any]) -> dict[str, dict[str, Any]]:
    if not 0 < len(records) <= MAX_TASKS:
        file.fail(f"{len(records):,} tasks, but 1 to {MAX_TASKS:,} can be replayed")
    nodes: dict[str, dict[str, Any]] = {}
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            file.fail(f"task {number} of workflow.specification.tasks has no id")
        task_id = record["id"]
        for field in ("id", "name"):
            value = record.get(field)
            problem = text_problem(value) if isinstance(value, str) else "is missing"
            if problem:
                file.fail(f"task {quoted(task_id)}: its {field} {problem}", task_id)
        if task_id in nodes:
            file.fail(f"two tasks have the id {quoted(task_id)}", task_id)
        nodes[task_id] = record
    return nodes


def _runtimes(
    file: _File, workflow: dict[str, Any], nodes: dict[str, dict[str, Any]], warnings: list[str]
) -> dict[str, float]:
    execution = _member(file, workflow, "execution", dict, "workflow.")
    runtimes: dict[str, float] = {}
    unknown: list[str] = []
    for number, record in enumerate(_member(file, execution, "tasks", list, "workflow.execution."), 1):
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            file.fail(f"record {number} of workflow.execution.tasks has no id")
        task_id: str = record["id"]
        seconds: Any = record.get("runtimeInSeconds")
        if task_id not in nodes:
            unknown.append(task_id)
        elif task_id in runtimes:
            file.fail(f"two run times for task {quoted(task_id)}", task_id, last=True)
        # Written so that NaN and integers too large for a float are refused as well.
        elif type(seconds) not in (int, float) or not 0 <= seconds <= MAX_SECONDS:
            file.fail(f"task {quoted(task_id)}: runtimeInSeconds is {quoted(seconds)}", task_id, last=True)
        else:
            runtimes[task_id] = float(seconds)
    missing = [task_id for task_id in nodes if task_id not in runtimes]
    # One warning for all: a file may lack every run time, and a graph without them can still be played.
    for ids, what in (
        (unknown, "run time of an unknown task, ignored"),
        (missing, "no run time, taken as 0 s"),
    ):
        if ids:
            warnings.append(f"{display(file.path)}: {len(ids):,} times: {what} (first: {quoted(ids[0])})")
    return runtimes


def _parents(file: _File, nodes: dict[str, dict[str, Any]]) -> dict[str, dict[str, None]]:
    # Some writers fill only parents or only children, so the edges are the union; dicts keep their order.
    parents: dict[str, dict[str, None]] = {task_id: {} for task_id in nodes}
    for task_id, record in nodes.items():
        for field in ("parents", "children"):
            others = record.get(field) or []
            if not isinstance(others, list):
                file.fail(f"task {quoted(task_id)}: {field} is not a list", task_id)
            for other in others:
                if not isinstance(other, str) or other not in nodes:
                    about = other if isinstance(other, str) else task_id
                    file.fail(f"task {quoted(task_id)}: {field} names unknown task {quoted(other)}", about)
                parent, child = (other, task_id) if field == "parents" else (task_id, other)
                parents[child][parent] = None
    return parents


def _schedule(
    file: _File,
    nodes: dict[str, dict[str, Any]],
    runtimes: dict[str, float],
    parents: dict[str, dict[str, None]],
    system: str,
) -> tuple[TraceTask, ...]:
    children: dict[str, list[str]] = {task_id: [] for task_id in nodes}
    for child, its_parents in parents.items():
        for parent in its_parents:
            children[parent].append(child)
    waiting = {task_id: len(its_parents) for task_id, its_parents in parents.items()}
    ready = deque(task_id for task_id, count in waiting.items() if not count)
    finish: dict[str, float] = {}
    level: dict[str, int] = {}
    while ready:
        task_id = ready.popleft()
        start = max((finish[parent] for parent in parents[task_id]), default=0.0)
        finish[task_id] = start + runtimes.get(task_id, 0.0)
        level[task_id] = max((level[parent] for parent in parents[task_id]), default=0) + 1
        for child in children[task_id]:
            waiting[child] -= 1
            if not waiting[child]:
                ready.append(child)
    if len(finish) < len(nodes):
        member = _cycle_member(parents, finish)
        file.fail(f"task {quoted(member)} depends on itself through a cycle", member)
    if max(finish.values()) > MAX_SECONDS:
        file.fail("the run times add up to more than a year")
    staged = max(level.values()) <= _MAX_STAGES
    tasks = []
    for task_id, end in finish.items():
        start = max((finish[parent] for parent in parents[task_id]), default=0.0)
        stage = f"level {level[task_id]}" if staged else None
        attempt = Attempt(start, start, end, "completed")
        tasks.append(TraceTask(task_id, _agent_type(nodes[task_id], system), stage, (attempt,)))
    # finish is in topological order and the sort is stable: a parent that took no time still comes first.
    return tuple(sorted(tasks, key=lambda task: task.attempts[0].submitted))


def _agent_type(record: dict[str, Any], system: str) -> str:
    name: str = record["name"]
    if name == record["id"]:
        name = _INSTANCE.sub("", name) or name
    # Nextflow's "WORKFLOW:SUB:PROCESS" is written with dots here, because WfFormat's ids allow no colon.
    return (name.rsplit(".", 1)[-1] or name) if system == "nextflow" else name


def _cycle_member(parents: dict[str, dict[str, None]], done: dict[str, float]) -> str:
    # What is left over also holds tasks after the cycle; going up from one of them must end in the cycle.
    seen: set[str] = set()
    member = next(task_id for task_id in parents if task_id not in done)
    while member not in seen:
        seen.add(member)
        member = next(parent for parent in parents[member] if parent not in done)
    return member
