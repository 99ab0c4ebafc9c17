"""What can go wrong: one base class, attributes to decide by, and the SQLSTATE where the database raised it."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import psycopg

from pyapp.models import TASK_STATUSES, Key


class AgentProgressError(Exception):
    """Base of all errors of this package; those of psycopg that mean something else pass through as they are."""

    sqlstate: str | None = None
    """What PostgreSQL calls it; None where the database did not raise it."""


class WorkflowNotFound(AgentProgressError, LookupError):
    """There is no workflow with this id."""

    sqlstate = "P0002"

    def __init__(self, workflow_id: Key) -> None:
        """Name the workflow that was looked for."""
        super().__init__(workflow_id)
        self.workflow_id = workflow_id

    def __str__(self) -> str:
        """Say which."""
        return f"workflow {self.workflow_id} not found"


class TaskNotFound(AgentProgressError, LookupError):
    """A workflow has no task with one of these ids or external ids."""

    sqlstate = "WP003"

    def __init__(self, workflow_id: Key, task_ids: Sequence[Key]) -> None:
        """Name the tasks that were looked for."""
        super().__init__(workflow_id, task_ids)
        self.workflow_id = workflow_id
        self.task_ids = list(task_ids)

    def __str__(self) -> str:
        """Say which, the first three of them."""
        listed = ", ".join(map(str, self.task_ids[:3])) + (" …" if len(self.task_ids) > 3 else "")
        return f"task {listed} not found in workflow {self.workflow_id}"


class RoleNotFound(AgentProgressError, LookupError):
    """The database server has no role of this name."""

    def __init__(self, role: str) -> None:
        """Name the role that was looked for."""
        super().__init__(role)
        self.role = role

    def __str__(self) -> str:
        """Say which."""
        return f'role "{self.role}" does not exist'


class _Refused(AgentProgressError):
    """The database refused to change a workflow, and said why."""

    def __init__(self, message: str, workflow_id: Key | None = None) -> None:
        """Pass on the message of the database."""
        super().__init__(message, workflow_id)
        self.workflow_id = workflow_id

    def __str__(self) -> str:
        """Say what the database said."""
        return str(self.args[0])


class VersionConflict(_Refused):
    """The workflow has moved on since the caller read it: read it again and decide anew."""

    sqlstate = "WP001"


class TransitionNotAllowed(_Refused):
    """A workflow cannot go from its status to the one asked for; the message says what is allowed."""

    sqlstate = "WP002"


class ParentNotAllowed(_Refused):
    """A workflow cannot have this parent: it would be its own ancestor, or its tree deeper than 64."""

    sqlstate = "WP004"


class UnknownStatus(AgentProgressError, ValueError):
    """A task has no such status; raised before anything is sent."""

    sqlstate = "22P02"

    def __init__(self, status: str) -> None:
        """Name the status that was given."""
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        """Say which, and which there are."""
        return f"{self.status!r} is no status of a task: {', '.join(TASK_STATUSES)}"


class MigrationError(AgentProgressError):
    """The migrations cannot be applied or taken back; the message says why, in one line."""


class StandbyBehind(AgentProgressError):
    """A standby has not replayed in time what was written to its primary: read there, or later."""

    def __init__(self, position: str) -> None:
        """Name the position that was waited for."""
        super().__init__(position)
        self.position = position

    def __str__(self) -> str:
        """Say which."""
        return f"the standby is behind: it has not replayed its primary's log up to {self.position} yet"


def translate(error: psycopg.Error, workflow_id: Any) -> AgentProgressError | None:
    """Say what an error of the database means, by its SQLSTATE; None for what passes through as it is."""
    message = error.diag.message_primary or str(error)
    match error.sqlstate:
        case "P0002":
            return WorkflowNotFound(workflow_id)
        case "WP001":
            return VersionConflict(message, workflow_id)
        case "WP002":
            return TransitionNotAllowed(message, workflow_id)
        case "WP003":
            return TaskNotFound(
                workflow_id, [_task_id(given) for given in json.loads(error.diag.message_detail or "[]")]
            )
        case "WP004":
            return ParentNotAllowed(message, workflow_id)
    return None


def _task_id(given: Any) -> Key:
    try:
        return UUID(str(given))
    except ValueError:  # an external id
        return str(given)
