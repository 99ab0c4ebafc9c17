"""Exact, live workflow progress, kept by PostgreSQL itself: the public names of the package.

Helpers take a ``psycopg.Connection``, never commit and never cache; ``pyapp.aio`` has the same ones for an
``AsyncConnection``. They raise what ``pyapp.errors`` has, all of it below AgentProgressError; other errors of psycopg
pass through. ``schema`` is where the tables are: by default ``AGENT_PROGRESS_SCHEMA``, else ``public``.
"""

import warnings
from pathlib import Path

try:
    import psycopg as _psycopg  # noqa: F401 (only to see that it is there)
except ImportError as error:
    raise ImportError(
        "psycopg finds no libpq: install agent-progress with its extra binary, or libpq itself (on Debian libpq5)"
    ) from error

from pyapp import aio
from pyapp.db import connect, retry
from pyapp.errors import (
    AgentProgressError,
    MigrationError,
    ParentNotAllowed,
    RoleNotFound,
    StandbyBehind,
    TaskNotFound,
    TransitionNotAllowed,
    UnknownStatus,
    VersionConflict,
    WorkflowNotFound,
)
from pyapp.helpers import (
    add_tasks,
    advance,
    archive,
    create_workflow,
    find_drift,
    get_forecasts,
    get_state,
    get_tree,
    get_vocabulary,
    get_workflow,
    get_workflows,
    list_burnup,
    list_stages,
    list_task_trends,
    list_tasks,
    list_timeline,
    list_tree_progress,
    list_workflow_trends,
    list_workflows,
    progress_metrics,
    repair,
    report_task,
    report_tasks,
    stage_progress,
    transition,
    tree_progress,
    wait_for_position,
    wal_position,
)
from pyapp.migrate import mark, migrate, pending, rollback
from pyapp.models import (
    Archived,
    BurnupPoint,
    Drift,
    Forecast,
    Key,
    NewTask,
    Priority,
    ProgressMetrics,
    Stage,
    StageProgress,
    StageStatus,
    Task,
    TaskReport,
    TaskStatus,
    TimelineEntry,
    TreeNode,
    TreeProgress,
    Trend,
    Vocabulary,
    Workflow,
    WorkflowState,
    WorkflowStatus,
)
from pyapp.reporter import TaskReporter
from pyapp.roles import grant
from pyapp.watch import watch

__version__ = "1.0.0"

if any(Path(__file__).parents[1].glob("py[aA]pp-[0-9]*.dist-info")):
    warnings.warn(
        "another distribution, pyApp, is installed here, whose package is called pyapp as well: they overwrite each"
        " other. Uninstall both and install agent-progress anew, in an environment of its own",
        RuntimeWarning,
        stacklevel=2,
    )

# fmt: off
__all__ = [
    "AgentProgressError", "Archived", "BurnupPoint", "Drift", "Forecast", "Key", "MigrationError", "NewTask",
    "ParentNotAllowed", "Priority", "ProgressMetrics", "RoleNotFound", "Stage", "StageProgress", "StageStatus",
    "StandbyBehind", "Task", "TaskNotFound", "TaskReport", "TaskReporter", "TaskStatus", "TimelineEntry",
    "TransitionNotAllowed", "TreeNode", "TreeProgress", "Trend", "UnknownStatus", "VersionConflict", "Vocabulary",
    "Workflow", "WorkflowNotFound", "WorkflowState", "WorkflowStatus", "add_tasks", "advance", "aio", "archive",
    "connect", "create_workflow", "find_drift", "get_forecasts", "get_state", "get_tree", "get_vocabulary",
    "get_workflow", "get_workflows", "grant", "list_burnup", "list_stages", "list_task_trends", "list_tasks",
    "list_timeline", "list_tree_progress", "list_workflow_trends", "list_workflows", "mark", "migrate", "pending",
    "progress_metrics", "repair", "report_task", "report_tasks", "retry", "rollback", "stage_progress", "transition",
    "tree_progress", "wait_for_position", "wal_position", "watch",
]
# fmt: on
