"""Reading recorded runs from files, plain or gzipped, and the runs of the demo."""

import gzip
import zlib
from dataclasses import replace
from pathlib import Path

from pyapp.demo import nextflow, wfformat
from pyapp.demo.trace import Trace, TraceError

SAMPLE = Path(__file__).with_name("sample.trace.txt")
# The largest public traces are some tens of MiB; parsed, a file takes up to ten times its size in memory.
MAX_BYTES = 128 * 1024 * 1024


def read_trace(path: Path) -> Trace:
    """Read a Nextflow trace or a WfFormat 1.5 file, told apart by what is in them.

    Returns the run. Raises TraceError where the file is missing, damaged, too large or of no known format.
    """
    try:
        with path.open("rb") as file:
            packed = file.peek(2).startswith(b"\x1f\x8b")
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(MAX_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:  # damaged gzip data, or a path with a NUL byte, too
        raise TraceError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise TraceError(f"{path}: more than {MAX_BYTES:,} bytes once unpacked")
    is_json = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{")
    return wfformat.parse(data, path) if is_json else nextflow.parse(data, path)


def demo_traces() -> list[Trace]:
    """Return four runs of the bundled sample, at several speeds, two without what fails in it; three are a tree."""
    sample = read_trace(SAMPLE)
    calm = replace(sample, tasks=tuple(task for task in sample.tasks if task.attempts[-1].outcome == "completed"))
    return [
        replace(sample, name="checkout service", stretch=1.3),
        replace(calm, name="login page", stretch=0.5),
        replace(calm, name="invoice export", stretch=0.8, parent="checkout service"),
        replace(sample, name="search index", parent="invoice export"),
    ]
