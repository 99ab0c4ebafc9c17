"""Systems whose tables are adopted by a preset: lives/PRESET.sql has tables of their shape, and how their jobs live.

Only what a preset reads is there, written as the system writes it. A line that begins so is not only a comment:
--> what happens in the statements that follow; "pruned" begins what is deleted after the end
--= workflow: completed of total, failed, cancelled; as it says from here on, or gone
--| workflow | name | status, and | task | status | retries | times | error, as they show before anything is pruned
--> every task, or workflow: statements that make one of every word of the table every
--: meaning words; which words there are, and what each of them means
What :run1 stands for is a UUID.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .application import percent

Numbers = tuple[int, int, int, int, int]  # progress, completed, total, failed, cancelled
LIVES = Path(__file__).parent / "lives"
RUN = "00000000-0000-0000-0000-00000000000"
_SAYS = re.compile(r"(\S+): (?:gone|(\d+) of (\d+)(?:, (\d+) failed)?(?:, (\d+) cancelled)?)")


@dataclass(frozen=True)
class Step:
    """What a system does, and what its workflows say afterwards."""

    what: str
    sql: str
    says: Mapping[str, Numbers]

    @property
    def prunes(self) -> bool:
        return self.what.startswith("pruned")


@dataclass(frozen=True)
class Words:
    """Statements that make a row of every word, and what the words mean."""

    sql: str
    meanings: Mapping[str | None, str]


@dataclass(frozen=True)
class System:
    """A system: its tables, a life, what is shown of it before anything is pruned, and all words of its statuses."""

    preset: str
    ddl: str
    life: tuple[Step, ...]
    workflows: Mapping[str, tuple[str, str]]  # name and status
    tasks: frozenset[tuple[str, ...]]  # what they are called, status, retries, times, error
    task_words: Words
    workflow_words: Words | None


def read_system(path: Path) -> System:
    """Read a life."""
    text = path.read_text("utf-8").replace(":run", RUN)
    ddl, *parts = re.split(r"(?m)^--> ", text)
    life: list[Step] = []
    words: dict[str, Words] = {}
    for part in parts:
        what, sql = part.split("\n", 1)
        if what in ("every task", "every workflow"):
            words[what] = Words(sql, _meanings(sql))
            continue
        says = dict(life[-1].says) if life else {}
        for key, *numbers in (found for line in _lines(sql, "--= ") for found in _SAYS.findall(line)):
            says.pop(key, None)
            if numbers[1]:
                completed, total, failed, cancelled = (int(number or 0) for number in numbers)
                says[key] = (percent(completed, total), completed, total, failed, cancelled)
        life.append(Step(what, sql, says))
    shown = [tuple(cell.strip() for cell in line.split(" |")) for line in _lines(text, "--| ")]
    workflows = {row[0]: (row[1], row[2]) for row in shown if len(row) == 3}
    tasks = frozenset(row for row in shown if len(row) == 5)
    return System(path.stem, ddl, tuple(life), workflows, tasks, words["every task"], words.get("every workflow"))


def _lines(text: str, mark: str) -> list[str]:
    return [line.removeprefix(mark) for line in text.splitlines() if line.startswith(mark)]


def _meanings(text: str) -> dict[str | None, str]:
    found: dict[str | None, str] = {}
    for group in (group for line in _lines(text, "--: ") for group in line.split("; ")):
        meaning, words = group.split(" ", 1)
        found |= {None if word == "null" else word: meaning for word in words.split(", ")}
    return found


SYSTEMS = {path.stem: read_system(path) for path in sorted(LIVES.glob("*.sql"))}
