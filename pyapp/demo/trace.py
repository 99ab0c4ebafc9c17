"""A recorded workflow run: what happened to each of its tasks, and when."""

from dataclasses import dataclass
from typing import Literal

from pyapp.errors import AgentProgressError

Outcome = Literal["completed", "failed", "cancelled"]

MAX_TEXT = 500  # names and keys end up in B-tree indexes, which refuse entries above 2,700 bytes


class TraceError(AgentProgressError):
    """A file cannot be played; the message is one line, "FILE:LINE: reason" or "FILE: reason"."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a task, in seconds since the run began: submitted <= started <= finished."""

    submitted: float
    started: float
    finished: float
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class TraceTask:
    """A task with its attempts in order of time; the last outcome is the task's. Keys are unique in a trace."""

    key: str
    agent_type: str
    stage: str
    attempts: tuple[Attempt, ...]
    error: str | None = None
    """What the trace says of its last failure."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A run: its tasks in order of submission, what the reader left out or assumed, and how slowly to play it.

    ``parent`` is the name of the run that started it.
    """

    name: str
    system: str
    tasks: tuple[TraceTask, ...]
    warnings: tuple[str, ...]
    stretch: float = 1.0
    parent: str | None = None
