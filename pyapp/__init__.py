"""Exact, live workflow progress, kept by PostgreSQL itself: the public names of the package.

Helpers take a psycopg connection, never commit and never cache. Errors of psycopg pass through.
"""

from pyapp.db import connect
from pyapp.migrate import MigrationError, mark, migrate, pending, rollback
from pyapp.models import (
    Drift,
    NewTask,
    ProgressMetrics,
    Task,
    TaskNotFound,
    TaskReport,
    Workflow,
    WorkflowNotFound,
)
from pyapp.progress import (
    find_drift,
    get_workflow,
    list_tasks,
    list_workflows,
    progress_metrics,
)
from pyapp.tasks import add_tasks, create_workflow, repair, report_task, report_tasks
from pyapp.watch import watch

__all__ = [
    "Drift",
    "MigrationError",
    "NewTask",
    "ProgressMetrics",
    "Task",
    "TaskNotFound",
    "TaskReport",
    "Workflow",
    "WorkflowNotFound",
    "add_tasks",
    "connect",
    "create_workflow",
    "find_drift",
    "get_workflow",
    "list_tasks",
    "list_workflows",
    "mark",
    "migrate",
    "pending",
    "progress_metrics",
    "repair",
    "report_task",
    "report_tasks",
    "rollback",
    "watch",
]
