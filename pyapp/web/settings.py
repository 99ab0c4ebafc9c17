"""How the service is run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """What ``agent-progress serve`` was told; ``interval`` is the time between two looks, in seconds."""

    dsn: str
    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    interval: float = 0.5
    cors_origins: tuple[str, ...] = ()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")
