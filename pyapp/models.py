"""What the helpers take and return: rows of the views as frozen dataclasses, and the errors."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

SETTLED = frozenset({"completed", "failed", "cancelled"})
"""Final statuses, of a task as of a workflow."""
TASK_STATUSES = ("pending", "assigned", "running", "completed", "failed", "cancelled")
"""All statuses of a task, in the order of its life."""
Key: TypeAlias = UUID | str | int
"""The key of a workflow: a UUID in our own tables, whatever it is in adopted ones."""


class WorkflowNotFound(LookupError):
    """There is no workflow with this id."""

    def __init__(self, workflow_id: Key) -> None:
        """Name the workflow that was looked for."""
        super().__init__(f"workflow {workflow_id} not found")


class TaskNotFound(LookupError):
    """A workflow has no task with one of these ids."""

    def __init__(self, workflow_id: Key, task_ids: list[UUID]) -> None:
        """Name the tasks that were looked for."""
        listed = ", ".join(map(str, task_ids[:3])) + (" …" if len(task_ids) > 3 else "")
        super().__init__(f"task {listed} not found in workflow {workflow_id}")


class RoleNotFound(LookupError):
    """The database server has no role of this name."""

    def __init__(self, role: str) -> None:
        """Name the role that was looked for."""
        super().__init__(f'role "{role}" does not exist')


class VersionConflict(Exception):
    """The workflow has moved on since the caller read it (SQLSTATE WP001): read it again and decide anew."""


class TransitionNotAllowed(Exception):
    """A workflow cannot go from its status to the one asked for (SQLSTATE WP002); the message says what is allowed."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow and its progress: one row of the view ``workflow_progress``, whose comments give meaning and unit."""

    workflow_id: Key
    name: str
    description: str | None
    type: str
    status: str
    current_stage: str
    priority: str
    progress: int
    progress_percentage: int
    agents_completed: int
    agents_total: int
    agents_created: int
    agents_failed: int
    agents_cancelled: int
    agents_open: int
    agents_planned: int | None
    settled_percentage: int
    progress_calculation_method: str
    trace_id: str | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    last_updated_at: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """A task: one row of the table ``agent_task``, whose comments give meaning and unit."""

    id: Key
    workflow_id: Key
    external_id: str | None
    agent_type: str
    stage: str | None
    status: str
    priority: str
    payload: Any
    result: Any
    trace_id: str | None
    span_id: str | None
    parent_span_id: str | None
    created_at: datetime
    assigned_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    retry_count: int
    max_retries: int
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be added to a workflow."""

    agent_type: str
    external_id: str | None = None
    stage: str | None = None
    status: str = "pending"
    priority: str = "medium"
    payload: Any = field(default_factory=dict)
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    max_retries: int = 3
    timeout_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class TaskReport:
    """What an agent says of its task: the status it is in now and, if it has one, its result (JSON)."""

    task_id: Key
    status: str
    result: Any = None
    reopen: bool = False


@dataclass(frozen=True, slots=True)
class Drift:
    """A workflow whose stored progress is wrong: one row of the view ``workflow_progress_drift``."""

    workflow_id: Key
    name: str
    stored_progress: int
    calculated_progress: int
    stored_completed: int
    calculated_completed: int
    stored_total: int
    calculated_total: int
    stored_created: int
    calculated_created: int
    stored_failed: int
    calculated_failed: int
    stored_cancelled: int
    calculated_cancelled: int
    stale_data: bool


@dataclass(frozen=True, slots=True)
class WorkflowState:
    """Where a workflow stands: what compare and swap works on. ``version`` moves with status and stage only."""

    workflow_id: UUID
    status: str
    current_stage: str
    version: int
    updated_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a workflow with its agents: one row of the view ``workflow_stage_agents``."""

    workflow_id: UUID
    name: str
    position: int
    status: str
    weight: int | None
    started_at: datetime | None
    completed_at: datetime | None
    retry_count: int
    agents_completed: int
    agents_failed: int
    agents_total: int


@dataclass(frozen=True, slots=True)
class StageProgress:
    """Progress of a workflow by its stages: one row of the view ``workflow_stage_progress``."""

    workflow_id: UUID
    current_stage: str
    progress_percentage: int | None
    progress_calculation_method: str | None
    stages: int
    stages_finished: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a workflow will be done, and whether it has come to a halt: one row of the view ``workflow_forecast``."""

    workflow_id: UUID
    completed_per_minute: Decimal | None
    estimated_completion_at: datetime | None
    basis_completions: int
    basis_seconds: Decimal | None
    last_activity_at: datetime
    stalled: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a workflow: one row of the view ``workflow_timeline``."""

    workflow_id: UUID
    at: datetime
    kind: str
    name: str
    what: str | None
    detail: Any


@dataclass(frozen=True, slots=True)
class BurnupPoint:
    """Tasks completed and created until a time: one row of the view ``workflow_burnup``."""

    workflow_id: UUID
    at: datetime
    agents_completed: int
    agents_total: int


@dataclass(frozen=True, slots=True)
class ProgressMetrics:
    """Progress of one workflow, how long it took to read (milliseconds), and whether it is wrong."""

    workflow_id: Key
    progress_percentage: int
    agents_completed: int
    agents_total: int
    calculation_time_ms: float
    stale_data: bool
