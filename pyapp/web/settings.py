"""How the service is run."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """What ``agent-progress serve`` was told; ``interval`` is the time between two looks, in seconds."""

    dsn: str = field(repr=False)
    host: str = "127.0.0.1"
    token: str | None = field(default=None, repr=False)
    interval: float = 0.5
    cors_origins: tuple[str, ...] = ()
