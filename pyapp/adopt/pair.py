"""What an adoption is: a pair of tables of the application's, and how to read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from psycopg import sql

OUTCOMES = ("completed", "failed", "cancelled")
COUNTERS = (
    "agents_completed",
    "agents_total",
    "agents_planned",
    "agents_created",
    "agents_failed",
    "agents_cancelled",
    "progress_updated_at",
    "progress_frozen_at",
)
"""Columns that ``--columns`` adds to the application's table, beside that of progress."""
SHOWN = {
    "name": "text",
    "description": "text",
    "type": "text",
    "status": "text",
    "current_stage": "text",
    "priority": "text",
    "trace_id": "text",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
    "completed_at": "timestamptz",
}
"""Columns of ours that show a column of the application's, where it has one, with their types."""
SHADOW_COLUMN = "agents_progress"
"""Where ``--columns --shadow`` keeps the percentage, beside the application's own column."""


class AdoptError(Exception):
    """The tables cannot be adopted as asked; the message is one line that says why."""


def quote(*names: str) -> str:
    """Write a qualified name."""
    return sql.Identifier(*names).as_string(None)


def literal(value: str) -> str:
    """Write a string constant; a backslash in it means itself, whatever standard_conforming_strings says."""
    return sql.Literal(value).as_string(None).strip()


@dataclass(frozen=True)
class Labels:
    """A column whose values tell the state: ``completed`` and so on are what it holds then, as text."""

    column: str
    completed: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()

    def test(self, row: str, outcome: str) -> str | None:
        """Write the condition under which a row had this outcome; None if none is known."""
        return self.means(f"{row}.{quote(self.column)}::text", outcome)

    def means(self, value: str, outcome: str) -> str | None:
        """Write the condition under which a value of the column, as text, means this outcome."""
        values = getattr(self, outcome)
        return f"{value} in ({', '.join(map(literal, values))})" if values else None


@dataclass(frozen=True)
class Pair:
    """Two tables of the application's, how to read their state, and where the counters are kept."""

    name: str
    schema: str
    workflows: tuple[str, str]
    tasks: tuple[str, str]
    key: str
    key_type: str
    task_workflow: str
    task_status: Labels | None = None
    task_conditions: Mapping[str, str] = field(default_factory=dict)
    workflow_status: Labels | None = None
    progress: str | None = None
    planned: str | None = None
    columns: bool = False
    live: bool = True
    recount: bool = False
    shown: Mapping[str, str] = field(default_factory=dict)
    utc: tuple[str, ...] = ()
    """Columns that hold times without their time zone, which is taken to be UTC."""

    @property
    def progress_column(self) -> str | None:
        """The column of the application's table that we write; None where we write none."""
        if self.columns and not self.live:
            return SHADOW_COLUMN
        return (self.progress or "progress") if self.columns else self.progress

    @property
    def publishes(self) -> bool:
        """Whether the counters lie beside the table and the percentage goes to a column of it."""
        return not self.columns and self.live and self.progress is not None

    @property
    def counters(self) -> str:
        """The name of the table that holds the counters."""
        return quote(*self.workflows) if self.columns else quote(self.schema, "workflow_counter")

    def outcome(self, outcome: str) -> str | None:
        """Write the condition under which a task, called ``task``, had this outcome; None if it never has."""
        if condition := self.task_conditions.get(outcome):
            return f"({condition})"
        return self.task_status.test("task", outcome) if self.task_status else None

    def workflow_completed(self, row: str) -> str:
        """Write the condition under which a workflow is completed."""
        test = self.workflow_status.test(row, "completed") if self.workflow_status else None
        return f"coalesce({test}, false)" if test else "false"

    def to_json(self) -> str:
        """Write it for the table ``adoption``."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Pair:
        """Read it from the table ``adoption``."""

        def labels(of: Any) -> Labels | None:
            return of and Labels(of["column"], *(tuple(of[name]) for name in ("completed", "failed", "cancelled")))

        return cls(
            **{
                **given,
                "workflows": tuple(given["workflows"]),
                "tasks": tuple(given["tasks"]),
                "task_status": labels(given["task_status"]),
                "workflow_status": labels(given["workflow_status"]),
                "utc": tuple(given["utc"]),
            }
        )

    def with_live(self) -> Pair:
        """Return the same, publishing progress."""
        return replace(self, live=True)
