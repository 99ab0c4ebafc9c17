"""What an adoption lacks by now, and what is to be known of it."""

from collections.abc import Iterator
from typing import Any

from psycopg import Connection, sql

from pyapp.adopt.backfill import uncounted, unfollowed
from pyapp.adopt.catalog import columns_of, partitions
from pyapp.adopt.install import get_adoption, is_current
from pyapp.adopt.pair import COUNTERS, Pair, quote
from pyapp.adopt.render import script
from pyapp.schema import missing_objects


def examine(conn: Connection[Any], name: str) -> tuple[list[str], list[str]]:
    """Look at an adoption: list what it lacks, of ours or of the application's, and what is to be known.

    Raises AdoptError.
    """
    adoption = get_adoption(conn, name)
    pair = adoption.pair
    missing = [
        *lost_columns(conn, pair),
        *_lost_counters(conn, pair),
        *missing_objects(conn, script(pair, partitions(conn, pair))),
    ]
    if missing:
        return missing, []
    if behind := unfollowed(conn, pair):
        noun = "workflow" if behind == 1 else "workflows"
        missing.append(f"status or plan of {behind} {noun}, changed while nothing followed it")
    notes = []
    if not is_current(conn, adoption):
        notes.append(f"made by another version, or for other partitions: agent-progress adopt --name {name} renews it")
    if waiting := uncounted(conn, pair):
        noun = "workflow has" if waiting == 1 else "workflows have"
        notes.append(f"{waiting} {noun} not been counted yet: agent-progress adopt --continue --name {name}")
    if pair.progress is not None and (different := _different(conn, pair)):
        noun = "workflow says" if different == 1 else "workflows say"
        end = "adopt --live makes it ours" if not pair.live else f"agent-progress adopt --name {name} publishes ours"
        notes.append(f"{different} {noun} something else in {quote(pair.progress)} than what was counted; {end}")
    return missing, notes


def lost_columns(conn: Connection[Any], pair: Pair) -> list[str]:
    """List the tables and columns of the application's that an adoption reads and that are gone."""
    lost = []
    for table, wanted in (
        (pair.tasks, [pair.task_workflow, pair.task_status and pair.task_status.column]),
        (
            pair.workflows,
            [
                pair.key,
                pair.workflow_status and pair.workflow_status.column,
                pair.planned,
                None if pair.columns else pair.progress,
            ],
        ),
    ):
        there = columns_of(conn, table)
        if not there:
            lost.append(f"table {quote(*table)}")
        lost += [f"column {quote(*table, name)}" for name in wanted if there and name and name not in there]
    return lost


def _lost_counters(conn: Connection[Any], pair: Pair) -> Iterator[str]:
    there = columns_of(conn, pair.workflows) if pair.columns else frozenset()
    wanted = [name for name in (pair.progress_column, *COUNTERS) if name]
    yield from (f"column {quote(*pair.workflows, name)}" for name in wanted if there and name not in there)


def _different(conn: Connection[Any], pair: Pair) -> int:
    """Count the workflows whose own column of progress says something else than our count."""
    workflows, progress, key = (
        sql.Identifier(*pair.workflows),
        sql.Identifier(pair.progress or ""),
        sql.Identifier(pair.key),
    )
    if pair.columns:
        query = sql.SQL(
            "select count(*) from {workflows} as u where u.progress_frozen_at is null"
            " and u.{progress} is distinct from {schema}.progress_percentage(u.agents_completed, u.agents_total)"
        )
    else:
        query = sql.SQL(
            "select count(*) from {workflows} as u join {schema}.workflow_counter as s on s.id = u.{key}"
            " where s.progress_frozen_at is null and u.{progress} is distinct from s.progress"
        )
    row = conn.execute(
        query.format(workflows=workflows, progress=progress, key=key, schema=sql.Identifier(pair.schema))
    ).fetchone()
    return row[0] if row else 0
