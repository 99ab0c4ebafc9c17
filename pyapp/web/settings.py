"""How the service is run."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """What ``agent-progress serve`` was told.

    ``interval`` is the time between two looks, in seconds; ``name`` that of an adopted pair, None for our own tables.
    ``read_dsn`` is that of a standby to read from, while ``dsn`` tells of changes; None to do both in one place.
    """

    dsn: str = field(repr=False)
    host: str = "127.0.0.1"
    token: str | None = field(default=None, repr=False)
    interval: float = 0.5
    cors_origins: tuple[str, ...] = ()
    name: str | None = None
    read_dsn: str | None = field(default=None, repr=False)


def incomplete(name: str) -> str:
    """Say that an adopted pair lacks something."""
    return f"what was adopted as {name} is not all there: agent-progress check --name {name} says what is missing"
