"""watch: following workflows live."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import click
from psycopg import Connection, sql
from rich.console import RenderableType
from rich.live import Live

import pyapp
from pyapp.cli.common import Target, as_json, command, database, in_terminal, print_json, say, vocabulary
from pyapp.cli.errors import tell_loss, telling_what_lacks
from pyapp.cli.ids import find_id
from pyapp.cli.live import live_table
from pyapp.cli.options import interval_option, workflow_ids
from pyapp.cli.tables import console
from pyapp.cli.text import plain_line
from pyapp.db import connect, find_schema
from pyapp.models import SETTLED, Forecast, Key, TreeProgress, Vocabulary, Workflow
from pyapp.watch import ACTIVE, MOST, watch_changes


@command(reads=True)
@workflow_ids
@interval_option(0.001, 3600)
@click.option("--all", "below", is_flag=True, help="All that is below them as well; without an ID, all active ones.")
@click.option("--failed", is_flag=True, help="Show only those that have failed, or have failed tasks.")
@click.option("--exit-status", is_flag=True, help="Exit 1 unless all have been completed; needs an ID.")
@as_json
def watch(
    target: Target,
    ids: tuple[str, ...],
    interval: float,
    below: bool,
    failed: bool,
    exit_status: bool,
    as_json: bool,
) -> int:
    """Follow workflows live: bars in a terminal, a line for each change in a pipe.

    Ends when all those given have ended; without an ID it follows the active ones that no other workflow started, until
    Ctrl-C: first those with failed tasks, then stalled and slow ones, then the newest. Where the server is away it
    waits until it is back. With --json each change is a line of JSON.

    With --exit-status it exits 0 if all that it followed were completed, and 1 if one failed, was cancelled or deleted.

    Example:
      agent-progress watch                           (all that is active)
      agent-progress watch 3f2a --all                (one and its sub-workflows)
      agent-progress watch ID --exit-status || ...   (in a script or in CI)
    """
    if exit_status and not ids:
        raise click.UsageError("--exit-status of which workflows? Give an ID: without one it does not end")
    with database(target, reads=True) as dsn:
        with connect(dsn) as conn, telling_what_lacks(conn, target.schema):  # what is wrong from the beginning ends it
            keys = [find_id(conn, given, target.schema) for given in ids]
            called = vocabulary(conn, target.schema)
        following = Following(keys, target.schema, called, below=below, failed=failed)
        if as_json:
            for changes in following.changes(dsn, interval):
                for workflow in changes:
                    print_json(workflow)
        else:
            following.show(dsn, interval)
    return following.exit_status() if exit_status else 0


class Following:
    """The workflows that are followed, what else is known of them, and how they ended."""

    def __init__(
        self,
        keys: Sequence[Key],
        schema: str | None,
        called: Vocabulary,
        *,
        below: bool = False,
        failed: bool = False,
    ) -> None:
        """Follow these workflows, or the active ones; ``below``: what they started too; ``failed``: only such."""
        self._keys, self._schema, self._called = keys, schema, called
        self._below, self._failed = below, failed
        self._seen: dict[Key, Workflow] = {}
        self._deleted: list[Key] = []
        self._forecasts: dict[Key, Forecast] = {}
        self._trees: dict[Key, TreeProgress] = {}
        self._told: dict[Key, TreeProgress] = {}
        self._active = 0

    def changes(self, dsn: str, interval: float) -> Iterator[list[Workflow]]:
        """Yield what each look finds changed, which may be nothing."""
        looks = watch_changes(
            dsn, self._keys or None, interval, self._read_more, tell_loss, below=self._below, schema=self._schema
        )
        for changes in looks:
            self._seen |= {workflow.workflow_id: workflow for workflow in changes}
            yield [workflow for workflow in changes if self._is_wanted(workflow)]

    def show(
        self, dsn: str, interval: float, *, ended: Callable[[], bool] = lambda: False, transient: bool = False
    ) -> None:
        """Show workflows until they have ended: as live bars in a terminal, elsewhere as a line for each change.

        ``ended`` is asked after each look. ``transient`` bars go at the end.
        """
        out = console()
        size = out.size
        with Live(auto_refresh=False, transient=transient, console=out) if in_terminal() else nullcontext() as live:
            for changes in self.changes(dsn, interval):
                if live is not None:
                    if size != (size := out.size):
                        out.clear()  # its lines have been wrapped: the cursor cannot find their beginning
                    live.update(self._table(size), refresh=True)
                else:
                    self._print(changes)
                if ended():
                    return

    def _print(self, changes: Sequence[Workflow]) -> None:
        """Print what has changed, and what has news of what is below it."""
        moved = {key for key, tree in self._trees.items() if self._told.get(key, tree) != tree and key in self._seen}
        moved -= {workflow.workflow_id for workflow in changes}
        self._told |= self._trees
        for workflow in [*changes, *filter(self._is_wanted, (self._seen[key] for key in moved))]:
            key = workflow.workflow_id
            print(plain_line(workflow, self._forecasts.get(key), self._trees.get(key), self._called.task_nouns))
        sys.stdout.flush()

    def exit_status(self) -> int:
        """Tell whether all that was followed has been completed: 0 or 1."""
        for key in self._deleted:
            say(f"workflow {key} was deleted")
        return 1 if self._deleted or any(w.status != "completed" for w in self._seen.values()) else 0

    def _table(self, size: tuple[int, int]) -> RenderableType:
        rows = list(filter(self._is_wanted, self._seen.values()))
        if not rows:
            with_failed = f" with failed {self._called.task_nouns}" if self._failed else ""
            return f"no active {self._called.workflow_nouns}{with_failed}; waiting (Ctrl-C ends)"
        ended = sum(workflow.status in SETTLED for workflow in rows)
        return live_table(rows, self._forecasts, self._trees, self._active + ended, self._called.task_nouns, size)

    def _is_wanted(self, workflow: Workflow) -> bool:
        tree = self._trees.get(workflow.workflow_id)
        with_failed = workflow.agents_failed or (tree is not None and tree.agents_failed)
        return not self._failed or workflow.status == "failed" or bool(with_failed)

    def _read_more(self, conn: Connection[Any], workflows: list[Workflow]) -> None:
        there = {workflow.workflow_id for workflow in workflows}
        gone = [key for key, w in self._seen.items() if key not in there and w.status not in SETTLED]
        if self._keys:
            self._deleted += gone
        for key in gone:
            del self._seen[key]
        running = [workflow.workflow_id for workflow in workflows if workflow.status == "running"]
        self._forecasts = pyapp.get_forecasts(conn, running, schema=self._schema)
        if not self._below:  # who sees them all needs no sum of them
            self._trees = pyapp.list_tree_progress(conn, there, schema=self._schema)
        self._active = sum(w.status not in SETTLED and self._is_wanted(w) for w in workflows)
        if not self._keys and len(workflows) >= MOST:
            self._active = self._count_active(conn)

    def _count_active(self, conn: Connection[Any]) -> int:
        query = sql.SQL("select count(*) from {} where status in ({}) {} {}").format(
            sql.Identifier(find_schema(self._schema), "workflow_progress"),
            sql.SQL(", ").join(map(sql.Literal, ACTIVE)),
            sql.SQL("" if self._below else "and parent_id is null"),
            sql.SQL("and agents_failed > 0" if self._failed else ""),
        )
        [(count,)] = conn.execute(query).fetchall()
        return int(count)
