"""Exact, live workflow progress, kept by PostgreSQL itself: the public names of the package.

Helpers take a psycopg connection, never commit and never cache. Errors of psycopg pass through.
"""

from pyapp.db import connect
from pyapp.history import get_forecasts, list_burnup, list_timeline
from pyapp.migrate import MigrationError, mark, migrate, pending, rollback
from pyapp.models import (
    BurnupPoint,
    Drift,
    Forecast,
    Moment,
    NewTask,
    ProgressMetrics,
    RoleNotFound,
    Stage,
    StageProgress,
    Task,
    TaskNotFound,
    TaskReport,
    TransitionNotAllowed,
    VersionConflict,
    Workflow,
    WorkflowNotFound,
    WorkflowState,
)
from pyapp.progress import (
    find_drift,
    get_workflow,
    list_tasks,
    list_workflows,
    progress_metrics,
)
from pyapp.reporter import TaskReporter
from pyapp.retry import retry
from pyapp.roles import grant
from pyapp.stages import advance, get_state, list_stages, stage_progress, transition
from pyapp.standby import StandbyBehind, wait_for_position, wal_position
from pyapp.tasks import add_tasks, create_workflow, repair, report_task, report_tasks
from pyapp.watch import watch

__all__ = [
    "BurnupPoint",
    "Drift",
    "Forecast",
    "MigrationError",
    "Moment",
    "NewTask",
    "ProgressMetrics",
    "RoleNotFound",
    "Stage",
    "StageProgress",
    "StandbyBehind",
    "Task",
    "TaskNotFound",
    "TaskReport",
    "TaskReporter",
    "TransitionNotAllowed",
    "VersionConflict",
    "Workflow",
    "WorkflowNotFound",
    "WorkflowState",
    "add_tasks",
    "advance",
    "connect",
    "create_workflow",
    "find_drift",
    "get_forecasts",
    "get_state",
    "get_workflow",
    "grant",
    "list_burnup",
    "list_stages",
    "list_tasks",
    "list_timeline",
    "list_workflows",
    "mark",
    "migrate",
    "pending",
    "progress_metrics",
    "repair",
    "report_task",
    "report_tasks",
    "retry",
    "rollback",
    "stage_progress",
    "transition",
    "wait_for_position",
    "wal_position",
    "watch",
]
