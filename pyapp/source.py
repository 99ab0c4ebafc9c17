"""Where progress is read from: our own tables, or a pair that was adopted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from psycopg import sql

from pyapp.models import SETTLED


@dataclass(frozen=True)
class Source:
    """Relations of the same shape, whatever tables lie below: those of our own schema, or of an adopted pair.

    ``progress``, ``drift`` and ``tasks`` are SQL for a FROM clause, with the columns of the models Workflow, Drift and
    Task; for queries with parameters: a percent sign is doubled. Keys are of type ``key_type``. ``by_creation`` says
    whether they tell when a workflow was created. ``active`` are the statuses to look for among the newest
    workflows, None for any. ``outcomes`` says which statuses of a workflow, in small letters, mean completed, failed or
    cancelled, ``task_outcomes`` which of a task.
    """

    name: str | None = None
    schema: str = "public"
    key_type: str = "uuid"
    progress: str = "public.workflow_progress"
    drift: str = "public.workflow_progress_drift"
    tasks: str = "public.agent_task"
    status_type: str = "public.workflow_status"
    priority_type: str = "public.priority_level"
    by_creation: bool = True
    active: tuple[str, ...] | None = ("initiated", "running", "paused")
    outcomes: Mapping[str, str] = field(default_factory=lambda: {status: status for status in SETTLED})
    task_outcomes: Mapping[str, str] = field(default_factory=lambda: {status: status for status in SETTLED})

    @property
    def settled(self) -> frozenset[str]:
        """Statuses, in small letters, of a workflow that has ended."""
        return frozenset(self.outcomes)


OWN = Source()


def verbatim(text: str) -> sql.SQL:
    """Take SQL as it is: a name or a relation of a source."""
    return sql.SQL(text)
