"""What can go wrong: one base class, attributes to decide by, and the SQLSTATE where the database raised it."""

import copyreg
import json
from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID

import psycopg

from pyapp.models import TASK_STATUSES, WORKFLOW_STATUSES, Key


class AgentProgressError(Exception):
    """Base of the errors of this package but EmbeddedError; errors of psycopg that mean nothing here pass through."""

    sqlstate: str | None = None
    """What PostgreSQL calls it; None where the database did not raise it."""
    workflow_id: Key | None = None
    """The workflow that it is about."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle message and attributes, whatever the constructor takes."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class WorkflowNotFound(AgentProgressError, LookupError):
    """There is no workflow with this id."""

    sqlstate = "P0002"

    def __init__(self, workflow_id: Key) -> None:
        """Name the workflow that was looked for."""
        super().__init__(f"workflow {workflow_id} not found")
        self.workflow_id = workflow_id


class TaskNotFound(AgentProgressError, LookupError):
    """A workflow has no task with one of these ids or external ids."""

    sqlstate = "WP003"

    def __init__(self, workflow_id: Key, task_ids: Sequence[Key]) -> None:
        """Name the tasks that were looked for; the message names three of them."""
        listed = ", ".join(map(str, task_ids[:3])) + (" …" if len(task_ids) > 3 else "")
        super().__init__(f"task {listed} not found in workflow {workflow_id}")
        self.workflow_id = workflow_id
        self.task_ids = list(task_ids)


class RoleNotFound(AgentProgressError, LookupError):
    """The database server has no role of this name."""

    def __init__(self, role: str) -> None:
        """Name the role that was looked for."""
        super().__init__(f'role "{role}" does not exist')
        self.role = role


class VersionConflict(AgentProgressError):
    """The workflow has moved on since the caller read it: read it again and decide anew."""

    sqlstate = "WP001"


class TransitionNotAllowed(AgentProgressError):
    """A workflow cannot go from its status to the one asked for; the message says what is allowed."""

    sqlstate = "WP002"


class ParentNotAllowed(AgentProgressError):
    """A workflow cannot have this parent: it would be its own ancestor, or its tree deeper than 64 levels."""

    sqlstate = "WP004"


class UnknownStatus(AgentProgressError, ValueError):
    """A task, or a workflow, has no such status; raised before anything is sent."""

    sqlstate = "22P02"

    def __init__(self, status: str, of: Literal["task", "workflow"] = "task") -> None:
        """Name the status that was given; the message names those that there are."""
        statuses = TASK_STATUSES if of == "task" else WORKFLOW_STATUSES
        super().__init__(f"{status!r} is no status of a {of}: {', '.join(statuses)}")
        self.status = status


class MigrationError(AgentProgressError):
    """The migrations cannot be applied or taken back; the message says why, in one line."""


class StandbyBehind(AgentProgressError):
    """A standby has not replayed in time what was written to its primary: read there, or later."""

    def __init__(self, position: str) -> None:
        """Name the position that was waited for."""
        super().__init__(f"the standby is behind: it has not replayed its primary's log up to {position} yet")
        self.position = position


_REFUSED = {"WP001": VersionConflict, "WP002": TransitionNotAllowed, "WP004": ParentNotAllowed}


def translate(error: psycopg.Error, workflow_id: Any) -> AgentProgressError | None:
    """Return the error of this package for one of the database, by its SQLSTATE; None for one that passes through."""
    if error.sqlstate == "P0002":
        return WorkflowNotFound(workflow_id)
    if error.sqlstate == "WP003":
        missing = json.loads(error.diag.message_detail or "[]")
        return TaskNotFound(workflow_id, [_task_id(given) for given in missing])
    if error.sqlstate in _REFUSED:
        refused = _REFUSED[error.sqlstate](error.diag.message_primary)
        refused.workflow_id = workflow_id
        return refused
    return None


def _task_id(given: str) -> Key:
    try:
        return UUID(given)
    except ValueError:  # an external id
        return given
