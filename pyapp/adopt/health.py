"""What an adoption would change, what it lacks by now, and what is to be known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row

from pyapp.adopt.adoption import AdoptError, Adoption
from pyapp.adopt.backfill import Backfill
from pyapp.adopt.catalog import first_line, reading, retyped, unindexed_key
from pyapp.adopt.install import FAULTS, new_partitions, outdated, render
from pyapp.adopt.render import Renderer, read_template


@dataclass(frozen=True)
class Preview:
    """How many workflows would change; those that would change most: what they say, and what is counted, in percent."""

    workflows: int
    unchanged: int
    raised: int
    lowered: int
    zeroed: int
    frozen: int
    examples: Sequence[Mapping[str, Any]]


def preview(conn: Connection[Any], adoption: Adoption) -> Preview:
    """Count all tasks, as they are now, and compare with what the application's column of progress says.

    What an adoption consists of besides triggers is made for it, in a transaction that is rolled back.
    """
    with conn.transaction(force_rollback=True):
        conn.execute("set local client_min_messages = warning")
        try:
            conn.execute(render(conn, adoption).objects.encode())
        except FAULTS as error:
            raise AdoptError(f"it could not be installed: {first_line(error)}") from error
        query = Renderer(adoption).render("ask/preview.sql").encode()
        [found] = conn.cursor(row_factory=class_row(Preview)).execute(query).fetchall()
    return found


def examine(conn: Connection[Any], adoption: Adoption) -> tuple[list[str], list[str]]:
    """Look at an adoption: list what it lacks, of its own or of the application's, and what is to be known.

    Whether the numbers are right is what the view workflow_progress_drift tells.
    """
    missing, counting = outdated(conn, adoption, render(conn, adoption)), Backfill(conn, adoption)
    try:
        if retyped(conn, adoption) != adoption:
            missing.append("a column that is part of a key is of another type by now")
        with reading(conn):
            counting.value("select null from {schema}.workflow_progress_drift limit 0")
    except AdoptError as error:
        return [*missing, str(error)], []
    notes = []
    if not counting.is_live():
        more = f" ({waiting} have changed since)" if (waiting := counting.waiting()) else ""
        notes.append(f"what was there before is not counted yet{more}: agent-progress adopt --continue")
    if new := new_partitions(conn, adoption):
        notes.append(
            f"new partitions ({', '.join(new)}): what is written to one by its own name is not counted, what is written"
            " through the whole table is; agent-progress adopt takes them in"
        )
    if told := unindexed_key(conn, adoption):
        notes.append(told)
    if adoption.shadow and (different := counting.value(read_template("ask/different.sql"))):
        noun = "workflow says" if different == 1 else "workflows say"
        notes.append(f"{different} {noun} something else than what was counted; adopt --live publishes it")
    return missing, notes
