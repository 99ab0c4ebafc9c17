"""WfFormat 1.5 (WfCommons): a graph of tasks with run times, without clock times or outcomes.

So the times are made here: each task starts when its last parent has ended, as if there were always a free machine, and
each task completes.
"""

import json
import re
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from pyapp.demo.trace import MAX_TEXT, Attempt, Trace, TraceError, TraceTask

# Parsed values take far more memory than their text; real files of the size limit have some 4 million.
_MAX_VALUES = 5_000_000
# Pegasus names each task like its id, "mProject_ID0000001"; its type is what comes before the number.
_INSTANCE = re.compile(r"[_.-](?:ID)?[0-9]+$")


def parse(data: bytes, path: Path) -> Trace:
    """Read a run; a task without a usable run time takes none, with a warning. Raises TraceError."""
    if sum(map(data.count, (b"[", b"{", b","))) > _MAX_VALUES:
        raise TraceError(f"{path}: more than {_MAX_VALUES:,} JSON values")
    try:
        root = json.loads(data.decode("utf-8-sig"))
        if root["schemaVersion"] != "1.5":
            raise ValueError("the schemaVersion is another")
        system = _text(root.get("runtimeSystem", {}).get("name") or "wfformat").lower()
        tasks, warnings = _tasks(root["workflow"], system)
        name = _text(root.get("name") or path.name)
    except KeyError as error:
        raise TraceError(f"{path}: {error.args[0]!r:.60} is missing, as a member or as a parent of a task") from None
    # ValueError: also text that is no JSON, an integer of thousands of digits, and a cycle.
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise TraceError(f"{path}: not sound WfFormat 1.5: {error!s:.100}") from None
    tasks.sort(key=lambda task: task.attempts[0].submitted)
    return Trace(name, system, tuple(tasks), tuple(f"{path}: {warning}" for warning in warnings))


def _tasks(workflow: Any, system: str) -> tuple[list[TraceTask], list[str]]:
    """Give the tasks their times, parents first."""
    records = workflow["specification"]["tasks"]
    nodes = {_text(record["id"]): record for record in records}
    if not len(records) == len(nodes) > 0:
        raise ValueError("no tasks, or two with one id")
    run_times = {r["id"]: r.get("runtimeInSeconds") for r in workflow["execution"]["tasks"]}
    parents = {key: node.get("parents") or [] for key, node in nodes.items()}
    ends: dict[str, float] = {}
    tasks, warnings = [], []
    for key in TopologicalSorter(parents).static_order():
        agent_type = _agent_type(nodes[key], system)
        seconds: Any = run_times.get(key)
        if type(seconds) not in (int, float) or not 0 <= seconds < 1e9:
            warnings.append(f"task {key!r:.60} has no usable run time, taken as 0 s")
            seconds = 0
        begin = max((ends[parent] for parent in parents[key]), default=0.0)
        ends[key] = begin + seconds
        tasks.append(TraceTask(key, agent_type, agent_type, (Attempt(begin, begin, ends[key], "completed"),)))
    return tasks, warnings


def _agent_type(node: dict[str, Any], system: str) -> str:
    name = _text(node["name"])
    if name == node["id"]:
        name = _INSTANCE.sub("", name) or name
    # Nextflow's "WORKFLOW:SUB:PROCESS" is written with dots here, since ids in WfFormat have no colon.
    return (name.rsplit(".", 1)[-1] or name) if system == "nextflow" else name


def _text(value: object) -> str:
    """Return what is stored as a name or a key; PostgreSQL refuses NUL, and terminals obey ESC."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= MAX_TEXT:
        raise ValueError(f"{value!r:.60} is no name that can be shown")
    return value
