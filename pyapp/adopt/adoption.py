"""What an adoption is: which tables, and how their rows are read. Stored as JSON by ``adoption()`` in its schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg import sql

from pyapp.errors import AgentProgressError

OUTCOMES = ("completed", "failed", "cancelled")
"""What a settled task is, in the order of the numbers that stand for it in SQL: 1, 2, 3."""


class AdoptError(AgentProgressError):
    """Tables that cannot be adopted as asked, or a schema that holds no adoption."""


@dataclass(frozen=True)
class Table:
    """A table of the application's."""

    schema: str
    name: str

    @property
    def sql(self) -> str:
        """Return its qualified name, quoted."""
        return sql.Identifier(self.schema, self.name).as_string(None)


@dataclass(frozen=True)
class Key:
    """A part of the key that names a workflow: an expression on its row, and its type."""

    sql: str
    type: str


@dataclass(frozen=True)
class Adoption:
    """Tables whose progress is kept, and how to read them.

    All SQL is about one row: ``task`` for a task, ``workflow`` for a workflow. ``outcomes`` says by SQL when a task is
    completed, failed, cancelled or ignored; ``words`` says so by its status, in small letters of ASCII; ``seen``
    are the statuses that are compared first, as they are written. ``columns`` shows a
    workflow (its first task, where there is no table of workflows) under our names, ``task_columns`` a task.
    ``workflow_generated`` has the expressions of generated columns: BEFORE triggers cannot read these.
    ``script`` is the MD5 of the SQL that made it: another version may render another one.
    """

    schema: str
    tasks: Table
    keys: tuple[Key, ...]
    workflows: Table | None = None
    workflow_keys: tuple[Key, ...] = ()
    task_id: Key = Key("null", "text")
    where: str | None = None
    status: str | None = None
    outcomes: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seen: tuple[str, ...] = ()
    workflow_status: str | None = None
    workflow_outcomes: Mapping[str, str] = field(default_factory=dict)
    workflow_words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keep_finished: bool = False
    keep_failed: bool = False
    publish: Mapping[str, str] = field(default_factory=dict)
    shadow: bool = False
    columns: Mapping[str, str] = field(default_factory=dict)
    task_columns: Mapping[str, str] = field(default_factory=dict)
    workflow_generated: Mapping[str, str] = field(default_factory=dict)
    preset: str | None = None
    workflow_noun: str = "workflow"
    task_noun: str = "task"
    script: str = field(default="", compare=False)

    @property
    def publishes(self) -> bool:
        """Tell whether columns of the application's are written."""
        return bool(self.publish) and not self.shadow and self.workflows is not None

    @property
    def id_type(self) -> str:
        """Return the type of workflow_id: of the key, or text where it has several parts."""
        return (self.workflow_keys or self.keys)[0].type if len(self.keys) == 1 else "text"

    def counts(self) -> dict[str, Any]:
        """Return what decides which tasks are counted, and how; where it changes, all is counted anew."""
        names = ("tasks", "where", "status", "outcomes", "words")
        counted = {name: value for name, value in self.to_json().items() if name in names}
        return counted | {"keys": [key.sql for key in self.keys]}  # of whatever type

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Adoption:
        """Read what ``to_json`` returned."""
        made = {name: tuples(value) for name, value in values.items()}
        for name in ("tasks", "workflows"):
            made[name] = made[name] and Table(**made[name])
        for name in ("keys", "workflow_keys"):
            made[name] = tuple(Key(**key) for key in made[name])
        return cls(**made | {"task_id": Key(**made["task_id"])})


def tuples(value: Any) -> Any:
    """Make tuples of the lists that JSON and TOML know, also in mappings."""
    if isinstance(value, Mapping):
        return {key: tuples(part) for key, part in value.items()}
    return tuple(value) if isinstance(value, list) else value
