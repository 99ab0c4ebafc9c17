"""The one exception of the embedded server."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class EmbeddedError(Exception):
    """Say in one line why the embedded server cannot be used and what to do about it."""

    def __init__(self, message: str) -> None:
        """Keep the message, folded into one line."""
        super().__init__(" ".join(message.split()))


@contextmanager
def explained(data_dir: Path) -> Iterator[None]:
    """Turn an operating system error met inside into an EmbeddedError that names the way out."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename not in (None, str(data_dir)) else ""
        raise EmbeddedError(
            f"cannot use the data directory {data_dir}: {error.strerror or error}{where}; "
            "set AGENT_PROGRESS_DATA to a directory on a disk with room that you can write to"
        ) from error
