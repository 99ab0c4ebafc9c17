"""How a status looks: words of the application's own get the sign and the colour of those of ours that they mean."""

from collections.abc import Mapping

OTHER = "other"
_WORDS = {
    "running": ("running", "in_progress", "in progress", "in-progress", "processing", "started", "active", "executing"),
    "assigned": ("assigned", "claimed"),
    "paused": ("paused", "suspended", "on_hold", "on hold", "blocked"),
    "initiated": ("initiated", "created", "new", "draft"),
    "pending": ("pending", "queued", "scheduled", "waiting", "ready", "open", "todo"),
}
_KNOWN = {word: look for look, words in _WORDS.items() for word in words}


def of(outcomes: Mapping[str, str]) -> dict[str, str]:
    """Map statuses, in small letters, to looks; ``outcomes`` says which ones mean completed, failed or cancelled."""
    return _KNOWN | dict(outcomes)


def look(status: str | None, outcomes: Mapping[str, str]) -> str:
    """Say how a status looks; one that is not known looks like nothing special."""
    return of(outcomes).get((status or "").lower(), OTHER)
