"""What statuses and columns are usually called, and what they mean; in small letters."""

from __future__ import annotations

from collections.abc import Mapping

TASK_WORDS: Mapping[str, tuple[str, ...]] = {
    "completed": ("completed", "complete", "done", "succeeded", "success", "successful", "finished", "ok", "passed"),
    "failed": (
        *("failed", "failure", "error", "errored", "crashed", "discarded", "upstream_failed", "dead", "killed"),
        *("timed_out", "timed out", "timedout", "timeout", "expired", "rejected", "exhausted"),
    ),
    "cancelled": ("cancelled", "canceled", "aborted", "revoked", "stopped", "skipped", "removed"),
    "ignored": (),
    "running": (
        "running",
        "executing",
        "started",
        "active",
        "in_progress",
        "in progress",
        "processing",
        "working",
        "busy",
    ),
    "assigned": ("assigned", "reserved", "claimed", "locked", "fetched", "received", "acquired", "leased"),
    "pending": (
        *(
            "pending",
            "queued",
            "waiting",
            "scheduled",
            "created",
            "new",
            "available",
            "ready",
            "enqueued",
            "todo",
            "open",
        ),
        *("initiated", "submitted", "delayed", "deferred", "blocked", "paused", "suspended", "sleeping", "none"),
        *(
            "retry",
            "retryable",
            "retrying",
            "up_for_retry",
            "up_for_reschedule",
            "restarting",
            "cancelling",
            "canceling",
        ),
    ),
}
"""What a status of a task means; ``pending`` only tells that it is known."""
WORKFLOW_WORDS: Mapping[str, tuple[str, ...]] = {
    "completed": TASK_WORDS["completed"],
    "failed": TASK_WORDS["failed"],
    "cancelled": TASK_WORDS["cancelled"],
    "paused": ("paused", "pausing", "suspended"),
    "initiated": ("initiated", "pending", "queued", "scheduled", "created", "new", "enqueued", "late"),
}
STATUS = ("status", "state", "state_type")
WORKFLOW_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "title", "label"),
    "description": ("description",),
    "type": ("type", "workflow_type", "kind"),
    "current_stage": ("current_stage", "stage"),
    "priority": ("priority",),
    "trace_id": ("trace_id",),
    "created_at": ("created_at", "created", "created_on", "inserted_at"),
    "updated_at": ("updated_at", "updated", "updated_on", "modified_at"),
    "completed_at": ("completed_at", "finished_at", "ended_at", "completed", "end_time", "end_date"),
    "agents_planned": ("agents_planned",),
    "parent_id": (),
}
"""Columns of a workflow that are shown, by what others call them."""
TASK_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "external_id": ("external_id",),
    "agent_type": ("agent_type", "name", "task_name", "type", "kind", "title", "task_id"),
    "stage": ("stage", "phase", "step"),
    "priority": ("priority",),
    "payload": (),
    "result": ("result", "error", "error_message", "last_error"),
    "trace_id": ("trace_id",),
    "span_id": ("span_id",),
    "parent_span_id": ("parent_span_id",),
    "created_at": ("created_at", "created", "created_on", "inserted_at", "enqueued_at"),
    "assigned_at": ("assigned_at",),
    "started_at": ("started_at", "started", "start_time", "start_date", "attempted_at"),
    "completed_at": ("completed_at", "finished_at", "ended_at", "completed", "finished", "end_time", "end_date"),
    "retry_count": ("retry_count", "retries", "attempts", "attempt", "try_number"),
    "max_retries": ("max_retries", "max_attempts", "max_tries"),
    "timeout_ms": ("timeout_ms",),
    "ordinal": (),
}
"""Columns of a task that are shown, likewise."""
