"""What the service answers: the core's rows, a few more, and how all of them are described at /openapi.json."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from decimal import Decimal
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, create_model

from pyapp.models import Key, Workflow
from pyapp.web.rows import KEYS

PARENT = "^(none|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})$"
"""What names a parent in our own tables; in adopted ones it is any text."""


@dataclass(frozen=True, slots=True)
class Listed(Workflow):
    """A workflow as the service shows it: its key once more as ``id``, its progress by stages, and that of its tree.

    What begins with ``tree_`` is about the workflow and all below it; ``tree_workflows`` is 1 where there is nothing.
    """

    id: Key
    stage_progress: int | None
    tree_workflows: int | None
    tree_progress: int | None
    tree_completed: int | None
    tree_total: int | None
    tree_created: int | None
    tree_failed: int | None
    tree_cancelled: int | None

    @property
    def whole(self) -> Workflow:
        """The workflow with the numbers of all below it, where there is something."""
        if (self.tree_workflows or 1) == 1:
            return self
        settled = (self.tree_completed or 0) + (self.tree_failed or 0) + (self.tree_cancelled or 0)
        counts = ("completed", "total", "created", "failed", "cancelled")
        numbers: dict[str, Any] = {f"agents_{what}": getattr(self, f"tree_{what}") for what in counts}
        numbers |= {"progress": self.tree_progress, "progress_percentage": self.tree_progress}
        return replace(self, **numbers, agents_open=(self.tree_created or 0) - settled)


@dataclass(frozen=True, slots=True)
class Event:
    """A change of status or stage: one row of the table ``workflow_event``."""

    id: int
    workflow_id: Key
    event_type: str
    payload: Any
    occurred_at: datetime
    trace_id: str | None


@dataclass(frozen=True)
class Standby:
    """The standby that is read: the age of what it shows, at most, and whether it is connected to its primary.

    Where it is not connected, it may show all that there is, and cannot know. The age is in seconds, None where it
    cannot be told.
    """

    lag_seconds: float | None
    following: bool

    @property
    def mark(self) -> tuple[int | None, bool]:
        """What of it is worth telling anew: whole seconds."""
        return None if self.lag_seconds is None else int(self.lag_seconds), self.following


class Overview(BaseModel):
    """All workflows in numbers: by status, as ``running_workflows``, with ``total_workflows``; and tasks by outcome."""

    overview: dict[str, int]
    agents: dict[str, int]


class SignedLink(BaseModel):
    """A key for ``?key=`` of one workflow, its stream, its badge and its bar; null where no token is needed."""

    key: str | None
    expires_at: datetime


class Ready(BaseModel):
    """The database answers and has the schema; where it is a standby, how far it is behind."""

    status: Literal["ready"] = "ready"
    standby: Standby | None = None


class Problem(BaseModel):
    """An error, as RFC 9457 has it; ``error`` says the same as ``detail``."""

    type: str
    title: str
    status: int
    detail: str
    error: str


def described(of: type[Any], name: str | None = None, without: Iterable[str] = ()) -> type[BaseModel]:
    """Describe a row as it is sent: keys are text, and numbers are numbers."""
    hints = get_type_hints(of)
    listed: Any = {field.name: (_sent(hints[field.name]), ...) for field in fields(of) if field.name not in without}
    made: type[BaseModel] = create_model(name or of.__name__, __doc__=of.__doc__, **listed)
    return made


def _sent(hint: Any) -> Any:
    if hint in KEYS:
        return str
    if get_origin(hint) in (UnionType, Union):
        return reduce(or_, map(_sent, get_args(hint)))
    return float if hint is Decimal else hint
