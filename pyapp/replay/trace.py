"""A recorded workflow run: what happened to each task, and when.

`read_trace` accepts a Nextflow trace or a WfFormat 1.5 instance, plain or gzipped, and tells them apart by
content. Files come from strangers: whatever they hold, the outcome is a Trace or a one-line TraceError.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

Status = Literal["completed", "failed", "cancelled"]

SAMPLE_PATH = Path(__file__).with_name("sample.trace.txt")

# The largest public traces are some tens of MiB. What a file unpacks to is held in memory, as text up to four times
# and parsed up to ten times its size, so a gzip bomb has to stop well before the memory does.
MAX_BYTES = 128 * 1024 * 1024
MAX_TASKS = 1_000_000
# No run lasts a year; a time further off is a damaged digit, and one of them would stretch the whole replay.
MAX_SECONDS = 366 * 24 * 3600
# Keys and names end up in B-tree indexes, which refuse entries above 2,700 bytes.
MAX_TEXT = 500


class TraceError(Exception):
    """Say why a file cannot be replayed; str() is one line, "FILE:LINE: reason" or "FILE: reason"."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Hold one attempt of a task, in seconds since the trace's start: submitted <= started <= finished."""

    submitted: float
    started: float
    finished: float
    status: Status


@dataclass(frozen=True, slots=True)
class TraceTask:
    """Hold one task with its attempts in time order; the last one's status is the task's."""

    key: str
    agent_type: str
    stage: str | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True)
class Trace:
    """Hold a run: its tasks in order of first submission, and what the reader had to leave out or assume."""

    name: str
    description: str | None
    system: str
    tasks: tuple[TraceTask, ...]
    warnings: tuple[str, ...]

    @property
    def duration(self) -> float:
        """Return the seconds from the first submission to the last finish."""
        return max((task.attempts[-1].finished for task in self.tasks), default=0.0)


def read_trace(path: Path, *, max_bytes: int = MAX_BYTES) -> Trace:
    """Read a Nextflow trace or a WfFormat 1.5 file, gzipped or not.

    Returns the trace. Raises TraceError when the file is missing, damaged, larger than max_bytes once
    unpacked, or of no known format.
    """
    # Imported here because both parsers need the types above.
    from pyapp.replay import nextflow, wfformat

    data = _read(path, max_bytes)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TraceError(f"{display(path)}:1: UTF-16 text; save it as UTF-8")
    data = data.removeprefix(b"\xef\xbb\xbf")
    opening = re.search(rb"\S", data)
    if opening is None:
        raise TraceError(f"{display(path)}: the file is empty")
    parse = wfformat.parse if opening[0] in (b"{", b"[") else nextflow.parse
    return parse(data, path)


def display(path: Path) -> str:
    """Return the path as printable text on one line."""
    text = str(path)
    return text if text.isprintable() else repr(text)


def quoted(value: object) -> str:
    """Return a value from a file as short printable text for a message."""
    if isinstance(value, (dict, list)):  # its repr could be as large or as deep as the file
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value[:MAX_TEXT] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def text_problem(text: str) -> str | None:
    """Return why a name or key from a file cannot be stored and shown, or None when it can."""
    if not text.strip():
        return "is empty"
    if len(text) > MAX_TEXT:
        return f"is longer than {MAX_TEXT} characters"
    if any(char < " " or char == "\x7f" for char in text):  # PostgreSQL refuses NUL, terminals obey ESC
        return "contains a control character"
    if any("\ud800" <= char <= "\udfff" for char in text):
        return "is not valid UTF-8 text"
    return None


def file_title(path: Path) -> str:
    """Return the file's name without the endings that only say how it is stored."""
    name = "".join(char if char.isprintable() else "?" for char in path.name)
    for ending in (".gz", ".csv", ".tsv", ".txt", ".json", ".trace"):
        name = name.removesuffix(ending)
    return name[:MAX_TEXT] or "trace"


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            if file.peek(2)[:2] != b"\x1f\x8b":
                return _read_limited(file, path, max_bytes)
            with gzip.open(file) as unpacked:
                return _read_limited(unpacked, path, max_bytes)
    except EOFError:
        raise TraceError(f"{display(path)}: the gzip data ends early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise TraceError(f"{display(path)}: damaged gzip data: {error}") from None
    except OSError as error:
        raise TraceError(f"{display(path)}: {error.strerror or error}") from None
    except ValueError as error:  # a path with a NUL byte
        raise TraceError(f"{display(path)}: {error}") from None


def _read_limited(file: BinaryIO | gzip.GzipFile, path: Path, max_bytes: int) -> bytes:
    data = bytearray()
    while chunk := file.read(1024 * 1024):
        data += chunk
        if len(data) > max_bytes:
            raise TraceError(f"{display(path)}: more than {max_bytes:,} bytes once unpacked")
    return bytes(data)
