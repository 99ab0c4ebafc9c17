"""What an adoption would change, what it lacks by now, and what is to be known of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import Any

import psycopg
from psycopg import Connection, sql
from psycopg.rows import tuple_row

from pyapp.adopt.adoption import AdoptError, Adoption
from pyapp.adopt.backfill import Backfill, is_live
from pyapp.adopt.catalog import first_line, unindexed_key
from pyapp.adopt.install import new_partitions, outdated, render
from pyapp.adopt.render import Renderer, name

_EXAMPLES = 20


@dataclass(frozen=True)
class Change:
    """A workflow whose progress would change: what its column says, and what was counted, in percent."""

    workflow: str
    stored: int | None
    counted: int


@dataclass(frozen=True)
class Preview:
    """How many workflows would change, and those that would change most."""

    workflows: int
    unchanged: int
    raised: int
    lowered: int
    zeroed: int
    frozen: int
    examples: Sequence[Change]


def preview(conn: Connection[Any], adoption: Adoption) -> Preview:
    """Count all tasks, as they are now, and compare with what the application's column of progress says.

    What an adoption consists of besides triggers is made for it, in a transaction that is rolled back.
    """
    column = adoption.publish.get("progress")
    ended = Renderer(adoption).workflow_is("completed")
    if adoption.workflows is None or column is None:
        raise AdoptError("nothing would be written: no column of progress is published")
    query = f"""
        select
            c.workflow_id::text,
            w.published::integer,
            c.progress,
            {ended != "false"} and w.status = 'completed' and w.published >= 100 and c.agents_created > 0
                and c.agents_completed + c.agents_failed + c.agents_cancelled = 0
        from {name(adoption.schema)}.workflow_progress_calculated as c
        join {name(adoption.schema)}.read_workflows() as w on w.workflow_id = c.workflow_id
    """
    with conn.transaction(force_rollback=True):
        conn.execute("set local client_min_messages = warning")
        conn.execute(render(conn, adoption).objects.encode())
        with conn.cursor("preview", row_factory=tuple_row) as cursor:  # read bit by bit, however many there are
            return _compare(cursor.execute(query.encode()))


def _compare(rows: Iterable[tuple[str, int | None, int, bool]]) -> Preview:
    counts = dict.fromkeys(("workflows", "unchanged", "raised", "lowered", "zeroed", "frozen"), 0)

    def moved() -> Iterator[Change]:
        for workflow, stored, counted, frozen in rows:
            counts["workflows"] += 1
            if frozen or stored == counted:
                counts["frozen" if frozen else "unchanged"] += 1
                continue
            counts["raised" if stored is None or stored < counted else "lowered"] += 1
            counts["zeroed"] += bool(stored) and counted == 0
            yield Change(workflow, stored, counted)

    examples = nlargest(_EXAMPLES, moved(), key=lambda change: abs((change.stored or 0) - change.counted))
    return Preview(**counts, examples=examples)


def examine(conn: Connection[Any], adoption: Adoption) -> tuple[list[str], list[str]]:
    """Look at an adoption: list what it lacks, of its own or of the application's, and what is to be known.

    Whether the numbers are right is what the view workflow_progress_drift tells.
    """
    missing = outdated(conn, adoption, render(conn, adoption))
    try:
        conn.execute(sql.SQL("select from {}.workflow_progress_drift limit 0").format(sql.Identifier(adoption.schema)))
    except psycopg.Error as error:
        missing.append(
            f"the tables cannot be read as they were adopted: {first_line(error)}"
            " (adopt with --tasks and the like says how to read them now)"
        )
        return missing, []
    notes = []
    if not is_live(conn, adoption):
        more = f" ({waiting} have changed since)" if (waiting := Backfill(conn, adoption).waiting()) else ""
        notes.append(f"what was there before is not counted yet{more}: agent-progress adopt --continue")
    if new := new_partitions(conn, adoption):
        notes.append(
            f"new partitions ({', '.join(new)}): what is written to one by its own name is not counted, what is written"
            " through the whole table is; agent-progress adopt takes them in"
        )
    if told := unindexed_key(conn, adoption):
        notes.append(told)
    if adoption.shadow and (different := _different(conn, adoption)):
        noun = "workflow says" if different == 1 else "workflows say"
        notes.append(f"{different} {noun} something else than what was counted; adopt --live publishes it")
    return missing, notes


def _different(conn: Connection[Any], adoption: Adoption) -> int:
    """Count the workflows whose own column of progress says something else than our count."""
    row = conn.execute(
        sql.SQL(
            "select count(*) from {schema}.workflow_progress as p join {schema}.read_workflows() as w"
            " on w.workflow_id = p.workflow_id where w.published is distinct from p.progress"
        ).format(schema=sql.Identifier(adoption.schema))
    ).fetchone()
    return row[0] if row else 0
