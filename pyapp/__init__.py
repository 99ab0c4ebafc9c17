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

from pyapp import aio, reading, standby, writing
from pyapp.both import sync
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

get_workflow = sync(reading.get_workflow)
get_workflows = sync(reading.get_workflows)
list_workflows = sync(reading.list_workflows)
get_tree = sync(reading.get_tree)
tree_progress = sync(reading.tree_progress)
list_tree_progress = sync(reading.list_tree_progress)
list_tasks = sync(reading.list_tasks)
get_state = sync(reading.get_state)
list_stages = sync(reading.list_stages)
stage_progress = sync(reading.stage_progress)
get_forecasts = sync(reading.get_forecasts)
list_timeline = sync(reading.list_timeline)
list_burnup = sync(reading.list_burnup)
list_workflow_trends = sync(reading.list_workflow_trends)
list_task_trends = sync(reading.list_task_trends)
find_drift = sync(reading.find_drift)
get_vocabulary = sync(reading.get_vocabulary)
progress_metrics = sync(reading.progress_metrics)
create_workflow = sync(writing.create_workflow)
add_tasks = sync(writing.add_tasks)
report_task = sync(writing.report_task)
report_tasks = sync(writing.report_tasks)
transition = sync(writing.transition)
advance = sync(writing.advance)
repair = sync(writing.repair)
archive = sync(writing.archive)
wal_position = sync(standby.wal_position)
wait_for_position = sync(standby.wait_for_position)

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
