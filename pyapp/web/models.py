"""The shapes of the answers, for their description at /openapi.json."""

from datetime import datetime
from typing import Any, Literal, get_args
from uuid import UUID

from pydantic import BaseModel

from pyapp.web.types import Priority, Status

TaskStatus = Literal["pending", "assigned", "running", "completed", "failed", "cancelled"]


class Problem(BaseModel):
    """An error."""

    error: str


class Workflow(BaseModel):
    """A workflow with its progress, as the view workflow_progress has it, and its progress by stages."""

    workflow_id: UUID
    id: UUID
    name: str
    description: str | None
    type: str
    status: Status
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
    stage_progress: int | None
    trace_id: str | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    last_updated_at: datetime


class Task(BaseModel):
    """A task of a workflow."""

    id: UUID
    workflow_id: UUID
    external_id: str | None
    agent_type: str
    stage: str | None
    status: TaskStatus
    priority: Priority
    created_at: datetime
    assigned_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    retry_count: int
    max_retries: int
    result: Any
    trace_id: str | None


class Event(BaseModel):
    """A change of status or stage."""

    id: int
    workflow_id: UUID
    event_type: str
    payload: Any
    occurred_at: datetime
    trace_id: str | None


class Moment(BaseModel):
    """Something that happened to a workflow."""

    workflow_id: UUID
    at: datetime
    kind: Literal["event", "stage", "task"]
    name: str
    what: str | None
    detail: Any


class Stage(BaseModel):
    """A stage of a workflow with its agents."""

    workflow_id: UUID
    name: str
    position: int
    status: Literal["pending", "running", "completed", "failed", "skipped"]
    weight: int | None
    started_at: datetime | None
    completed_at: datetime | None
    retry_count: int
    agents_completed: int
    agents_failed: int
    agents_total: int


class BurnupPoint(BaseModel):
    """Tasks completed and created until a time."""

    at: datetime
    agents_completed: int
    agents_total: int


class Forecast(BaseModel):
    """When a workflow will be done."""

    workflow_id: UUID
    completed_per_minute: float | None
    estimated_completion_at: datetime | None
    basis_completions: int
    basis_seconds: float | None
    last_activity_at: datetime
    stalled: bool


class Metrics(BaseModel):
    """The progress of a workflow, measured."""

    workflow_id: UUID
    progress_percentage: int
    agents_completed: int
    agents_total: int
    calculation_time_ms: float
    stale_data: bool


class Counts(BaseModel):
    """Workflows by status."""

    total_workflows: int
    initiated_workflows: int
    running_workflows: int
    paused_workflows: int
    completed_workflows: int
    failed_workflows: int
    cancelled_workflows: int


class Agents(BaseModel):
    """Tasks of all workflows by outcome."""

    created: int
    completed: int
    failed: int
    cancelled: int
    open: int


class Standby(BaseModel):
    """The standby that is read: how old at most is what it shows, and whether it is connected to its primary."""

    lag_seconds: float | None
    following: bool


class Ready(BaseModel):
    """The database answers and has the schema; where it is a standby, how far it is behind."""

    status: Literal["ready"] = "ready"
    standby: Standby | None = None


class Overview(BaseModel):
    """All workflows in numbers."""

    overview: Counts
    agents: Agents


def loosened(described: dict[str, Any]) -> dict[str, Any]:
    """Describe the same for adopted tables: keys and statuses are any text, what the application lacks is null."""
    ours = [list(get_args(words)) for words in (Status, TaskStatus, Priority)]

    def loosen(part: Any) -> Any:
        if isinstance(part, list):
            return [loosen(one) for one in part]
        if not isinstance(part, dict):
            return part
        return {
            name: loosen(value)
            for name, value in part.items()
            if (name, value) != ("format", "uuid") and not (name == "enum" and value in ours)
        }

    found: dict[str, Any] = loosen(described)
    schemas = found["components"]["schemas"]
    for name in ("Workflow", "Task", "Forecast"):
        properties = schemas[name]["properties"]
        properties |= {key: {"anyOf": [value, {"type": "null"}]} for key, value in properties.items()}
    schemas["Counts"] = {"type": "object", "additionalProperties": {"type": "integer"}, "title": "Counts"}
    return found
