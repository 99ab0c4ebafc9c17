"""How the pages write text, numbers and times."""

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from pyapp.models import Task, Workflow
from pyapp.web.answers import Standby

_BREAKS = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LONGEST = 600


def shown(text: str | None) -> str:
    """Make text fit for one line of a page: breaks become spaces, other control characters are made visible."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", _BREAKS.sub(" ", text or "")).strip()


def number(count: int | None) -> str:
    """Write a number with its thousands apart; what was not counted yet is a dash."""
    return "\N{EN DASH}" if count is None else f"{count:,}"


def few(value: Decimal) -> str:
    """Write a number with what tells of it: three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{float(value):.3g}"


def share(of: Workflow) -> str:
    """Write the progress of a workflow in percent; a dash where nothing was counted, or there is nothing to count."""
    return number(None if has_nothing(of) else of.progress_percentage)


def has_nothing(of: Workflow) -> bool:
    """Tell whether a workflow has no tasks, and none are planned. The script in the page tells it alike."""
    return of.agents_total == 0 and not of.progress_percentage


def iso(value: datetime | None) -> str:
    """Write a time for machines."""
    return "" if value is None else value.astimezone(UTC).isoformat(timespec="milliseconds")


def moment(value: datetime | None) -> str:
    """Write a time for people, in UTC."""
    return "" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def minute(value: datetime) -> str:
    """Write a time for people, in UTC, to the minute."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"


def clock(value: datetime, now: datetime) -> str:
    """Write a time in UTC: of the day where it is today, else with its date."""
    at = value.astimezone(UTC)
    return f"{at:%H:%M:%S}" if at.date() == now.astimezone(UTC).date() else f"{at:%Y-%m-%d %H:%M}"


def duration(seconds: float) -> str:
    """Write a length of time: 34 s, 3 min 20 s, 2 h 5 min, 3 d 4 h. The script in the page writes alike."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s" if whole else "< 1 s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def standby(of: Standby) -> str:
    """Write how far behind a standby is. The script in the page writes alike."""
    lag = "lag unknown" if of.lag_seconds is None else f"{duration(of.lag_seconds)} behind"
    return f"standby, {lag}" if of.following else f"standby, cut off, {lag}"


def between(began: datetime | None, ended: datetime | None) -> str:
    """Write how long it took; nothing where it is not known."""
    return "" if began is None or ended is None else duration((ended - began).total_seconds())


def parsed(text: str) -> Any:
    """Read JSON; what is too deep or too long a number for that stays as it is written."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def payload(value: Any) -> str:
    """Write JSON for people, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def task_name(task: Task, noun: str) -> str:
    """Name a task: by its external id or its type; a number by itself says nothing, and gets the type or the noun."""
    if task.external_id and not task.external_id.isdecimal():
        return shown(task.external_id)
    if task.agent_type and not task.external_id:
        return shown(task.agent_type)
    return f"{shown(task.agent_type) or noun} {shown(task.external_id or str(task.id))}"


def ticked(said: str) -> Markup:
    """Write what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(said))))  # noqa: S704


def segment(key: Any) -> str:
    """Write a key as a part of an address, or as the name of an element."""
    return quote(str(key), safe="")


def called(workflow: Any) -> str:
    """Name a workflow: by its key where it has no name."""
    return shown(workflow.name) or shown(str(workflow.workflow_id))


_WRITE = (shown, number, few, share, has_nothing, iso, moment, minute, clock, duration, standby, between)
FILTERS = {write.__name__: write for write in (*_WRITE, parsed, payload, segment, task_name, ticked)}
