"""list: many workflows, a line each."""

from dataclasses import asdict
from datetime import tzinfo
from typing import Any, get_args

import click
from psycopg import Connection, sql

import pyapp
from pyapp.cli.common import Target, as_json, command, connection, print_json, relations, vocabulary
from pyapp.cli.ids import find_id
from pyapp.cli.options import complete_ids, zone_option
from pyapp.cli.tables import Column, id_column, print_table, progress_cells, progress_columns
from pyapp.cli.text import moment, whole
from pyapp.db import find_schema
from pyapp.models import WORKFLOW_STATUSES, Priority

_PRIORITIES = get_args(Priority)
_LIMIT = click.IntRange(1, 2**31 - 1)


@command(reads=True)
@click.option(
    "--status",
    type=click.Choice(WORKFLOW_STATUSES),
    metavar="STATUS",
    help=f"Only those with this: {', '.join(WORKFLOW_STATUSES)}.",
)
@click.option("--type", help="Only those of this type.")
@click.option(
    "--priority",
    help=f"Only with this: {', '.join(_PRIORITIES)}; adopted ones may have others.",
    shell_complete=lambda _ctx, _param, word: [name for name in _PRIORITIES if name.startswith(word)],
)
@click.option(
    "--match", metavar="TEXT", help="Only those whose name contains it, in capitals or not; of all, also below others."
)
@click.option("--all", "below", is_flag=True, help="Those that others started as well, wherever in a tree they are.")
@click.option("--limit", type=_LIMIT, default=50, show_default=True, metavar="N", help="At most N of them.")
@click.option("--after", metavar="ID", help="The next page: those after this one.", shell_complete=complete_ids)
@zone_option
@as_json
def list_(target: Target, after: str | None, below: bool, zone: tzinfo | None, as_json: bool, **chosen: Any) -> None:
    """List the workflows that no other started, newest first, each with how far it is with all below it.

    In a terminal ids are cut to what tells them apart: wherever an ID is asked for, its beginning will do.

    Example:
      agent-progress list --status running --match checkout
      agent-progress list --json | jq -r '.[] | "\\(.name) \\(.progress)"'
    """
    schema = target.schema
    with connection(target, reads=True) as conn:
        if chosen["priority"]:
            _check_priority(conn, schema, chosen["priority"])
        last = pyapp.get_workflow(conn, find_id(conn, after, schema), schema=schema) if after else None
        workflows = pyapp.list_workflows(
            conn, after=last, roots=not (below or chosen["match"]), schema=schema, **chosen
        )
        called = vocabulary(conn, schema)
        trees = pyapp.list_tree_progress(conn, [w.workflow_id for w in workflows], schema=schema)
    if as_json:
        found = {key: asdict(tree) for key, tree in trees.items()}
        print_json([asdict(w) | {"tree": found.get(w.workflow_id)} for w in workflows])
    elif not workflows:
        print(f"no {called.workflow_nouns}")
    else:
        columns = (
            id_column(w.workflow_id for w in workflows),
            Column("NAME", least=6, most=40, last=True),
            *progress_columns(called.task_nouns),
            Column("STAGE", least=8, most=24, style="dim", leaves=6),
            Column("CREATED", style="dim", leaves=7),
            Column("WITH ALL BELOW", leaves=5),
        )
        rows = [
            (
                w.workflow_id,
                w.name,
                *progress_cells(w, called.task_nouns),
                w.current_stage,
                moment(w.created_at, zone, "%H:%M"),
                whole(trees.get(w.workflow_id)),
            )
            for w in workflows
        ]
        print_table(columns, rows)


def _check_priority(conn: Connection[Any], schema: str | None, given: str) -> None:
    """Refuse a priority that cannot be, or that no adopted workflow has: it may be a text or a number there."""
    known = _PRIORITIES
    if "workflow" not in relations(conn, schema):
        view = sql.Identifier(find_schema(schema), "workflow_progress")
        query = sql.SQL("select distinct priority::text from {} where priority is not null order by 1").format(view)
        known = tuple(priority for (priority,) in conn.execute(query).fetchall())
    if given not in known:
        raise click.UsageError(f"--priority {given!r}: there are {', '.join(known) or 'none in this schema'}")
