"""What ships: the tables of sql/, and its functions, views and triggers, with the statements that make each."""

import re
from dataclasses import dataclass
from functools import cache
from hashlib import md5
from pathlib import Path

from psycopg import sql

_HEAD = re.compile(r"^create or replace (function|view|trigger) (?:public\.)?(\w+)", re.MULTILINE)
_TABLE = re.compile(r"\son public\.(\w+)")
_FOLLOWS = re.compile(r"^(comment on|revoke) ", re.MULTILINE)
_ARGUMENTS = re.compile(r"^comment on function [\w.]+\((.*?)\) is", re.DOTALL | re.MULTILINE)
_COUNTING = "agent_task_progress_"


@dataclass(frozen=True)
class Item:
    """A function, view or trigger, or the comments of a file on its tables; its statements name the schema."""

    kind: str
    name: str
    detail: str
    """Of a function the types of its arguments, as written in the files; of a trigger its table."""
    statements: tuple[str, ...]

    @property
    def shipped_md5(self) -> str:
        """The hash of the statements."""
        return md5("\n".join(self.statements).encode(), usedforsecurity=False).hexdigest()

    @property
    def counts(self) -> bool:
        """Whether it is one of the triggers that keep the counters."""
        return self.kind == "trigger" and self.name.startswith(_COUNTING)

    def __str__(self) -> str:
        """Name it as ``check`` does."""
        return f"{self.kind} {self.name}" + (f" on {self.detail}" if self.kind == "trigger" else "")


def resource(name: str) -> Path:
    """Find the directory ``sql`` or ``migrations``: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def for_schema(text: str, schema: str) -> str:
    """Turn SQL as it stands in the files, where every name is written ``public.…``, into SQL for a schema."""
    if schema == "public":
        return text
    name = sql.Identifier(schema).as_string() + "."
    # In a literal such as 'public.workflow' a quote in the name has to be doubled.
    within = "'" + name.replace("'", "''")
    return re.sub(r"'?public\.", lambda found: within if found[0][0] == "'" else name, text)


def shipped_items(schema: str) -> list[Item]:
    """Read the repeatable objects from sql/, in their order; comments and revokes belong to the object before them."""
    items: list[Item] = []
    for file in _files():
        found: list[tuple[str, str, list[str]]] = [("comments", file.stem, [])]
        for statement in _split(file.read_text("utf-8")):
            if head := _HEAD.search(statement):
                found.append((head[1], head[2], [statement]))
            elif _FOLLOWS.search(statement):
                found[-1][2].append(statement)
        for kind, name, statements in found:
            detail = {"function": _ARGUMENTS, "trigger": _TABLE}.get(kind)
            match = detail.search("\n".join(statements)) if detail else None
            if statements:
                written = tuple(for_schema(text, schema) for text in statements)
                items.append(Item(kind, name, " ".join(match[1].split()) if match else "", written))
    return items


def names(kind: str, file: str = "*") -> list[str]:
    """Name what the files, or one of them, create once: tables or types."""
    pattern = re.compile(rf"^create {kind} public\.(\w+)", re.MULTILINE)
    return [name for path in _files() if path.match(file) for name in pattern.findall(path.read_text("utf-8"))]


@cache
def _split(script: str) -> list[str]:
    import sqlparse  # comes with yoyo; here, so that a program that only reads progress does not load it

    return sqlparse.split(script)


def _files() -> list[Path]:
    return sorted(resource("sql").glob("[0-9]*.sql"))
