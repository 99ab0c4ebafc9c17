"""What a user asks for: options of the command line, and presets, which are options in a file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pyapp.adopt.adoption import AdoptError, tuples
from pyapp.adopt.words import fold

PRESETS = Path(__file__).resolve().parent / "presets"


@dataclass(frozen=True)
class Request:
    """One field for each option; what is None or empty is for us to find out.

    ``words`` has values of the status by their meaning (completed, failed, cancelled, ignored), ``conditions`` has SQL
    by the same names, ``workflow_words`` and ``workflow_conditions`` are the same for workflows.
    """

    tasks: str | None = None
    workflows: str | None = None
    key: tuple[str, ...] = ()
    key_sql: tuple[str, ...] = ()
    workflow_key: tuple[str, ...] = ()
    status: str | None = None
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    conditions: Mapping[str, str] = field(default_factory=dict)
    workflow_status: str | None = None
    workflow_words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    workflow_conditions: Mapping[str, str] = field(default_factory=dict)
    where: str | None = None
    keep_finished: bool | None = None
    keep_failed: bool | None = None
    publish: Mapping[str, str] | None = None
    column: Mapping[str, str] = field(default_factory=dict)
    task_column: Mapping[str, str] = field(default_factory=dict)
    shadow: bool | None = None
    workflow_noun: str | None = None
    task_noun: str | None = None
    schema: str = "agent_progress"
    preset: str | None = None

    def over(self, other: Request) -> Request:
        """Return this request with what it leaves open taken from another; mappings are merged.

        A key is taken as a whole, and a word has the meaning that it has here.
        """
        if self.key or self.key_sql:
            other = replace(other, key=(), key_sql=())
        other = replace(
            other,
            words=_without(other.words, self.words),
            workflow_words=_without(other.workflow_words, self.workflow_words),
        )
        merged: dict[str, Any] = {}
        for name in (f.name for f in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
                merged[name] = {**theirs, **mine}
            else:
                merged[name] = theirs if mine is None or mine == () else mine
        return replace(self, **merged)


def _without(words: Mapping[str, tuple[str, ...]], named: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    taken = {fold(word) for given in named.values() for word in given}
    return {meaning: tuple(word for word in given if word not in taken) for meaning, given in words.items()}


def list_presets() -> list[str]:
    """List the names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read_preset(name: str) -> Request:
    """Read the options of a preset. Raises AdoptError if there is none of this name."""
    if name not in list_presets():
        raise AdoptError(f"there is no preset {name}; there are: {', '.join(list_presets()) or 'none'}")
    values = tomllib.loads((PRESETS / f"{name}.toml").read_text(encoding="utf-8"))
    return Request(preset=name, **{f.name: tuples(values[f.name]) for f in fields(Request) if f.name in values})
