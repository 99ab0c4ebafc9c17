"""list: many workflows, a line each."""

from dataclasses import asdict
from datetime import tzinfo
from typing import Any, get_args

import click

from pyapp import helpers
from pyapp.cli.common import Target, as_json, command, connection, print_json, relations, vocabulary
from pyapp.cli.ids import find_id
from pyapp.cli.options import complete_from, complete_ids, zone_option
from pyapp.cli.tables import (
    Column,
    id_column,
    print_table,
    progress_cells,
    progress_columns,
)
from pyapp.cli.text import moment, whole
from pyapp.models import WORKFLOW_STATUSES, Key, Priority, TreeProgress

_STATUSES, _PRIORITIES = WORKFLOW_STATUSES, get_args(Priority)
_LIMIT = click.IntRange(1, 2**31 - 1)


@command(reads=True)
@click.option(
    "--status", help=f"Only those with this: {', '.join(_STATUSES)}.", shell_complete=complete_from(_STATUSES)
)
@click.option("--type", help="Only those of this type.")
@click.option(
    "--priority", help=f"Only with this: {', '.join(_PRIORITIES)}.", shell_complete=complete_from(_PRIORITIES)
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
        last = helpers.get_workflow(conn, find_id(conn, after, schema), schema=schema) if after else None
        workflows = helpers.list_workflows(
            conn, after=last, roots=not (below or chosen["match"]), schema=schema, **chosen
        )
        there = relations(conn, schema)
        called = vocabulary(conn, schema, there)
        trees: dict[Key, TreeProgress] = {}
        if "workflow_tree_progress" in there:
            trees = helpers.list_tree_progress(conn, [w.workflow_id for w in workflows], schema=schema)
    if as_json:
        found = {key: asdict(tree) for key, tree in trees.items()}
        print_json([asdict(w) | {"tree": found.get(w.workflow_id)} for w in workflows])
    elif not workflows:
        print(f"no {called.workflow_nouns}")
    else:
        columns = (
            id_column("ID", [w.workflow_id for w in workflows]),
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
        print_table(columns if any(row[-1] for row in rows) else columns[:-1], rows)
