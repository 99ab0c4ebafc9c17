"""What statuses and columns are usually called: words.toml."""

import tomllib
from pathlib import Path

_WORDS: dict[str, dict[str, list[str]]] = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))
TASK_WORDS = _WORDS["task"]
"""What a status of a task means; ``pending`` only tells that it is known."""
WORKFLOW_WORDS = {meaning: TASK_WORDS[meaning] for meaning in ("completed", "failed", "cancelled")} | _WORDS["workflow"]
STATUS = ("status", "state", "state_type")
WORKFLOW_COLUMNS = _WORDS["workflow_columns"]
"""Columns of a workflow that are shown: type, and what others call them."""
TASK_COLUMNS = _WORDS["task_columns"]
"""Columns of a task that are shown, likewise."""


def fold(status: str) -> str:
    """Write a status as they are compared: in small letters of ASCII, since others depend on the server's locale."""
    return status.encode().lower().decode()


def spellings(word: str) -> list[str]:
    """List the ways to write a word, as they are compared: in small letters, in capitals, and with one capital."""
    return [fold(way) for way in (word, word.lower(), word.upper(), word.capitalize())]


def plural(noun: str) -> str:
    """Write the plural of an English noun."""
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "z", "ch", "sh")) else f"{noun}s"
