"""What an adoption test has to know of two tables of some shape.

In the SQL of a shape ``<name>`` stands for an identifier of it, ``<state>`` for the columns that tell the state of a
task and ``<=completed>`` for what they hold then. So the same statements run on every shape, with any names.
"""

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

STATES = ("pending", "running", "completed", "failed", "cancelled")


def quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def literal(value: str) -> str:
    return sql.Literal(value).as_string(None).strip()


@dataclass(frozen=True)
class Shape:
    """Two tables, and what a test has to know of them."""

    title: str
    ddl: str
    key: Callable[[int], Any]
    names: Mapping[str, str]
    labels: Mapping[str, str]  # of each state, in the column t_status
    states: Mapping[str, str] = field(default_factory=dict)  # what the columns of <state> hold, where it is no label
    tests: Mapping[str, str] = field(default_factory=dict)  # when a task, t, is completed, failed or cancelled
    w_done: str | None = "completed"  # label of a completed workflow
    options: tuple[str, ...] = ()
    progress: bool = True
    cascades: bool = False  # deleting a workflow deletes its tasks
    rekeys: str | None = None  # "cascade", or "apart": workflow and tasks in two statements

    def render(self, text: str, *, parameters: bool = True) -> str:
        """Put in the names; for statements with parameters a percent sign is doubled."""

        def put(match: re.Match[str]) -> str:
            kind, name = match[1], match[2]
            if kind == "=":
                found = self.states.get(name) or self._label(name)
            elif name == "state":
                found = ", ".join(quoted(self.names[column]) for column in self._state_columns)
            elif name in ("workflows", "tasks"):
                found = f"{quoted(self.names['schema'])}.{quoted(self.names[name])}"
            elif kind == "'":
                found = literal(self.names[name])
            else:
                found = quoted(self.names[name])
            return found.replace("%", "%%") if parameters else found

        return re.sub(r"<([=']?)(\w+)>", put, text)

    def _label(self, state: str) -> str:
        label = self.labels[state]
        return label if re.fullmatch(r"\d+", label) else literal(label)

    @property
    def _state_columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name.startswith("t_state")) or ("t_status",)

    def test(self, outcome: str) -> str:
        """Say when a task, called t, is completed, failed or cancelled: written here, not taken from the product."""
        return self.tests.get(outcome) or f"t.<t_status> = <={outcome}>"

    def table(self, name: str) -> str:
        return self.render(f"<{name}>", parameters=False)

    def adopt_options(self) -> list[str]:
        """Say what adopt has to be told about it."""
        given = ["--workflows", self.table("workflows"), "--tasks", self.table("tasks")]
        given += [self.render(option, parameters=False) for option in self.options]
        if "t_status" in self.names:
            given += ["--status", self.names["t_status"]]
            given += [part for outcome in STATES[2:] for part in (f"--{outcome}", values(self.labels[outcome]))]
        if self.w_done is not None:
            given += ["--workflow-status", self.names["w_status"], "--workflow-completed", values(self.w_done)]
        if self.progress:
            given += ["--progress-column", self.names["progress"]]
        if self.rekeys == "none":
            given += ["--task-workflow", self.names["t_workflow"]]
        return given


def values(*labels: str) -> str:
    """Write labels as options take them."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(labels)
    return text.getvalue()
