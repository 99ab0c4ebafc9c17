"""Options and arguments that several commands have, and how a shell completes them."""

from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import TYPE_CHECKING, Any

import click

from pyapp.cli.common import Target, clean, connection

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def complete_ids(ctx: click.Context, _: click.Parameter, incomplete: str) -> list["CompletionItem"]:
    """Complete the id of a workflow: the newest ones, with their names where the shell shows them."""
    from click.shell_completion import CompletionItem

    from pyapp import list_workflows

    target = ctx.ensure_object(Target)
    if target.embedded:
        return []  # starting a server is more than a key press asks for
    try:
        with connection(target, reads=True, connect_timeout=2) as conn:
            found = list_workflows(conn, limit=100, schema=target.schema)
    except Exception:  # a completion never complains
        return []
    counted = {w.workflow_id: "not counted" if w.progress is None else f"{w.progress} %" for w in found}
    return [
        CompletionItem(clean(str(w.workflow_id)), help=f"{clean(w.name)}: {counted[w.workflow_id]} {clean(w.status)}")
        for w in found
        if str(w.workflow_id).startswith(incomplete)
    ]


workflow_id = click.argument("id", metavar="ID", shell_complete=complete_ids)
workflow_ids = click.argument("ids", nargs=-1, metavar="[ID]...", shell_complete=complete_ids)


def _find_zone(_ctx: click.Context, _param: click.Parameter, name: str | None) -> tzinfo | None:
    from zoneinfo import ZoneInfo

    try:
        return UTC if name and name.upper() == "UTC" else ZoneInfo(name) if name else None
    except (LookupError, ValueError, OSError):
        told = f"{name!r} is no time zone that is known here: say UTC, or one like Europe/Berlin"
        raise click.BadParameter(told) from None


def _complete_zones(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from zoneinfo import available_timezones

    return sorted(name for name in available_timezones() if name.startswith(incomplete))


zone_option = click.option(
    "--zone",
    callback=_find_zone,
    metavar="NAME",
    help="Time zone to show times in: UTC, Europe/Berlin; the local one by default.",
    shell_complete=_complete_zones,
)


class Number(click.FloatRange):
    """A number within bounds, which nan is not."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        number = float(super().convert(value, param, ctx))
        if number != number:
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def interval_option(least: float, most: float) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make the option that says how often to look."""
    help = "Time between two looks."
    return click.option(
        "--interval", type=Number(least, most), default=0.5, show_default=True, metavar="SECONDS", help=help
    )
