"""Names for what goes over the wire."""

from typing import Any, Literal

Row = dict[str, Any]
Status = Literal["initiated", "running", "paused", "completed", "failed", "cancelled"]
Priority = Literal["low", "medium", "high", "critical"]
Sort = Literal["created", "-created", "name", "-name", "status", "-status"]
