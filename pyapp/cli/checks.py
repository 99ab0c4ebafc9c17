"""check and repair: is every number right, and if not, mend it."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from uuid import UUID

import psycopg

from pyapp.cli.common import database, print_json, say, workflow_id
from pyapp.db import connect
from pyapp.models import Drift
from pyapp.progress import find_drift, get_workflow
from pyapp.render import as_columns
from pyapp.schema import missing_objects
from pyapp.tasks import repair

# Tasks to count in one statement: enough to be quick, few enough for the display to move.
_BATCH = 200_000


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "check",
        parents=[shared],
        help="compare what is stored with what is counted",
        description="Count every task and compare with what is stored; see that all triggers are there and enabled."
        " Exits 1 where anything is wrong.",
    )
    command.add_argument("ids", type=workflow_id, nargs="*", metavar="ID", help="check these workflows only")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(run=_check)

    command = commands.add_parser(
        "repair",
        parents=[shared],
        help="recount what is wrong, and mend it",
        description="Recount the workflows whose stored progress is wrong, and mend them, each in a transaction of its"
        " own, while others go on writing. Says what it changed.",
    )
    command.add_argument("ids", type=workflow_id, nargs="*", metavar="ID", help="repair these workflows only")
    command.add_argument("--json", action="store_true", help="print what was changed as JSON")
    command.set_defaults(run=_repair)


def _check(args: argparse.Namespace) -> int:
    with database(args) as dsn, connect(dsn, autocommit=True) as conn:
        missing = missing_objects(conn)
        checked, drift = check(conn, args.ids or None)
    if args.json:
        print_json({"workflows": checked, "drift": drift, "missing": missing})
    else:
        for name in missing:
            print(f"missing: {name}")
        if drift:
            print(_as_text(drift, ("STORED", "COUNTED")))
        noun = "workflow" if checked == 1 else "workflows"
        verdict = f"{len(drift)} wrong: agent-progress repair mends them" if drift else "stored equals counted"
        print(f"{checked} {noun} checked, {verdict}")
        if missing:
            say("the schema is not whole: run agent-progress migrate, or enable the triggers, and check again")
    return 1 if drift or missing else 0


def _repair(args: argparse.Namespace) -> int:
    mended: list[Drift] = []
    with database(args) as dsn, connect(dsn, autocommit=True) as conn:
        _, drift = check(conn, args.ids or None)
        for wrong in drift:
            mended += _repair_one(conn, wrong.workflow_id)
    if args.json:
        print_json(mended)
    else:
        print(_as_text(mended, ("WAS", "IS")) if mended else "nothing to repair")
    return 0


def _repair_one(conn: psycopg.Connection[Any], workflow: UUID) -> list[Drift]:
    while True:
        try:
            return repair(conn, workflow)
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
            continue  # the other one went first; now it is our turn
        except LookupError:
            return []  # deleted meanwhile


def check(conn: psycopg.Connection[Any], ids: list[UUID] | None) -> tuple[int, list[Drift]]:
    """Compare all workflows, or those given, in batches, showing how far it is.

    Returns how many were compared and those that are wrong. Raises WorkflowNotFound for an unknown id.
    """
    drift: list[Drift] = []
    if ids is not None:
        for workflow in ids:
            get_workflow(conn, workflow)
        return len(ids), find_drift(conn, ids)
    row = conn.execute("select count(*), coalesce(sum(agents_created), 0) from public.workflow").fetchone()
    workflows, tasks = (int(value) for value in row or (0, 0))
    done = 0
    with _progress(workflows + tasks) as bar:
        for batch, weight in _batches(conn):
            drift += find_drift(conn, batch)
            done += len(batch)
            bar.advance(weight, f"{done} of {workflows} workflows")
    return done, drift


def _batches(conn: psycopg.Connection[Any]) -> Iterator[tuple[list[UUID], int]]:
    """Yield the ids of all workflows in batches of about as many tasks, with the number of rows to read."""
    last: UUID | None = None
    while True:
        rows = conn.execute(
            "select id, agents_created from public.workflow where %(last)s::uuid is null or id > %(last)s"
            " order by id limit 5000",
            {"last": last},
        ).fetchall()
        batch: list[UUID] = []
        weight = 0
        for workflow, created in rows:
            batch.append(workflow)
            weight += 1 + max(created, 0)
            if weight >= _BATCH:
                yield batch, weight
                batch, weight = [], 0
        if batch:
            yield batch, weight
        if not rows:
            return
        last = rows[-1][0]


class _Bar(Protocol):
    def advance(self, weight: int, message: str) -> None: ...


@contextmanager
def _progress(total: int) -> Iterator[_Bar]:
    """Show how far a long count is: a bar in a terminal, a line now and then elsewhere, both on stderr."""
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except ImportError:
        yield _Lines(total)
        return
    columns = (SpinnerColumn(), TextColumn("checking"), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as display:
        task = display.add_task("counting tasks", total=total)

        class Shown:
            def advance(self, weight: int, message: str) -> None:
                display.update(task, advance=weight, description=message)

        yield Shown()


class _Lines:
    def __init__(self, total: int) -> None:
        self.total, self.done, self.next = total, 0, time.monotonic() + 2

    def advance(self, weight: int, message: str) -> None:
        self.done += weight
        if time.monotonic() >= self.next:
            say(f"checking: {message}, {min(99, 100 * self.done // max(self.total, 1))} %")
            self.next = time.monotonic() + 2


def _as_text(drift: list[Drift], verbs: tuple[str, str]) -> str:
    def numbers(stored: bool, d: Drift) -> str:
        side = "stored" if stored else "calculated"
        completed, total, failed, cancelled, created = (
            getattr(d, f"{side}_{name}") for name in ("completed", "total", "failed", "cancelled", "created")
        )
        rest = f", {created} created, {failed} failed, {cancelled} cancelled"
        return f"{getattr(d, f'{side}_progress')} % ({completed} of {total}{rest})"

    rows = [(d.workflow_id, d.name[:40], numbers(True, d), numbers(False, d)) for d in drift]
    return as_columns(rows, ("ID", "NAME", *verbs))
