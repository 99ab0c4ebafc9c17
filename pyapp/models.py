"""What the helpers take and return: rows of views and tables, as frozen dataclasses."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias, get_args
from uuid import UUID

WorkflowStatus: TypeAlias = Literal["initiated", "running", "paused", "completed", "failed", "cancelled"]
"""Status of a workflow; that of an adopted one is translated into these."""
TaskStatus: TypeAlias = Literal["pending", "assigned", "running", "completed", "failed", "cancelled"]
StageStatus: TypeAlias = Literal["pending", "running", "completed", "failed", "skipped"]
Priority: TypeAlias = Literal["low", "medium", "high", "critical"]
Key: TypeAlias = UUID | str | int
"""The id of a workflow or a task: a UUID in the tables that migrate creates, whatever it is in adopted ones."""

WORKFLOW_STATUSES: tuple[WorkflowStatus, ...] = get_args(WorkflowStatus)
TASK_STATUSES: tuple[TaskStatus, ...] = get_args(TaskStatus)
SETTLED = frozenset({"completed", "failed", "cancelled"})
"""Statuses of a task that is settled, and of a workflow that has ended."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow and its progress: one row of the view ``workflow_progress``, whose comments give meaning and unit."""

    workflow_id: Key
    name: str
    description: str | None
    type: str
    status: WorkflowStatus
    current_stage: str
    priority: Priority
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
    parent_id: Key | None


@dataclass(frozen=True, slots=True)
class TreeNode(Workflow):
    """A workflow of a tree, with its own progress, from the view ``workflow_tree``: ``level`` is 1 at the top."""

    level: int


@dataclass(frozen=True, slots=True)
class TreeProgress:
    """Progress of a workflow and all that is below it: one row of the view ``workflow_tree_progress``.

    ``workflows`` counts them, the one at the top included; ``depth`` is the number of levels.
    """

    workflow_id: Key
    workflows: int
    depth: int
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
    last_updated_at: datetime


@dataclass(frozen=True, slots=True)
class Task:
    """A task: one row of the table ``agent_task``, whose comments give meaning and unit."""

    id: Key
    workflow_id: Key
    external_id: str | None
    agent_type: str
    stage: str | None
    status: TaskStatus
    priority: Priority
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
    ordinal: int | None


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be added to a workflow."""

    agent_type: str
    external_id: str | None = None
    stage: str | None = None
    status: TaskStatus = "pending"
    priority: Priority = "medium"
    payload: Any = field(default_factory=dict)
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    max_retries: int = 3
    timeout_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class TaskReport:
    """What an agent says of its task: the status it is in now and, if it has one, its result (JSON).

    ``external_id``, the orchestrator's own key, may name the task instead of its id, which is None then.
    """

    task_id: Key | None
    status: TaskStatus
    result: Any = None
    reopen: bool = False
    external_id: str | None = None


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
    """Status, stage and version of a workflow, for compare and swap: ``version`` moves with status and stage only."""

    workflow_id: Key
    status: WorkflowStatus
    current_stage: str
    version: int
    updated_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a workflow with its agents: one row of the view ``workflow_stage_agents``."""

    workflow_id: Key
    name: str
    position: int
    status: StageStatus
    weight: int | None
    started_at: datetime | None
    completed_at: datetime | None
    retry_count: int
    agents_completed: int
    agents_failed: int
    agents_total: int


@dataclass(frozen=True, slots=True)
class StageProgress:
    """Progress of a workflow by its stages: from the view ``workflow_stage_progress``."""

    workflow_id: Key
    current_stage: str
    progress_percentage: int | None
    progress_calculation_method: str | None
    stages: int
    stages_finished: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """When a workflow will be done, and whether it has come to a halt: one row of the view ``workflow_forecast``."""

    workflow_id: Key
    completed_per_minute: Decimal | None
    estimated_completion_at: datetime | None
    basis_completions: int
    basis_seconds: Decimal | None
    last_activity_at: datetime
    stalled: bool


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """Something that happened to a workflow: one row of the view ``workflow_timeline``.

    Ordered by ``at``, ``kind``, ``place`` and ``name``, no two are equal.
    """

    workflow_id: Key
    at: datetime
    kind: Literal["event", "stage", "task"]
    name: str
    what: str | None
    detail: Any
    place: int


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What workflows and tasks are called, one and several of them: the row of the view ``vocabulary``."""

    workflow_noun: str
    workflow_nouns: str
    task_noun: str
    task_nouns: str


@dataclass(frozen=True, slots=True)
class BurnupPoint:
    """Tasks completed and created until a time: one row of the view ``workflow_burnup``."""

    workflow_id: Key
    at: datetime
    agents_completed: int
    agents_total: int


@dataclass(frozen=True, slots=True)
class Trend:
    """How what is of a type ended in a period: one row of the view ``workflow_trend`` or ``task_trend``.

    Where it is ``sampled``, the numbers and ``per_hour`` are those of the tasks that were read.
    """

    type: str | None
    period: Literal["24 h", "7 d", "30 d"]
    ended: int
    completed: int
    failed: int
    cancelled: int
    per_hour: Decimal
    failure_rate: Decimal | None
    p50_seconds: Decimal | None
    p95_seconds: Decimal | None
    sampled: bool


@dataclass(frozen=True, slots=True)
class ProgressMetrics:
    """Progress of one workflow, how long it took to read (milliseconds), and whether it is wrong."""

    workflow_id: Key
    progress_percentage: int
    agents_completed: int
    agents_total: int
    calculation_time_ms: float
    stale_data: bool


@dataclass(frozen=True, slots=True)
class Archived:
    """A workflow that was archived, and how many tasks were deleted."""

    workflow_id: Key
    tasks: int
