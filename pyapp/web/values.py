"""How values of the database become Python's: whatever a writer stored, reading it does not fail."""

from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Loader


@dataclass(frozen=True, slots=True)
class RawJson:
    """JSON as the database wrote it: exact numbers, any depth, never parsed here."""

    text: str


class _JsonLoader(Loader):
    def load(self, data: Buffer) -> RawJson:
        return RawJson(bytes(data).decode())


class _TimeLoader(Loader):
    """Reads times of sessions in UTC, and moves those that Python has not into its range: infinity, BC, 10000."""

    def load(self, data: Buffer) -> datetime:
        text = bytes(data).decode()
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            limit = datetime.min if text.startswith("-") or text.endswith("BC") else datetime.max
            return limit.replace(tzinfo=UTC)


def adapters() -> AdaptersMap:
    """Make the adapters that the service's connections use."""
    made = AdaptersMap(psycopg.adapters)
    made.register_loader("timestamptz", _TimeLoader)
    made.register_loader("jsonb", _JsonLoader)
    return made
