"""How a status looks: words of an application's own get the sign and the colour of those of ours that they mean."""

OTHER = "other"
ENDED = ("completed", "failed", "cancelled")
WORDS = {
    "running": ("in_progress", "in progress", "in-progress", "processing", "started", "active", "executing"),
    "assigned": ("claimed",),
    "initiated": ("created", "new", "draft"),
    "paused": ("suspended", "on_hold", "on hold", "blocked"),
    "pending": ("queued", "scheduled", "waiting", "ready", "open", "todo"),
    "completed": ("complete", "done", "succeeded", "success", "successful", "finished"),
    "failed": ("failure", "error", "errored", "timed_out", "timeout"),
    "cancelled": ("canceled", "aborted", "skipped"),
}
"""Looks in the order of the overview's tiles, and other words, in small letters, that look like them."""
LOOKS = {word: look for look, words in WORDS.items() for word in (look, *words)}
_ORDER = (*WORDS, OTHER)


def look(status: str | None) -> str:
    """Say how a status looks; one that is not known looks like nothing special."""
    return LOOKS.get((status or "").lower(), OTHER)


def rank(status: str) -> int:
    """Tell the place of a status among others."""
    return _ORDER.index(look(status))
