"""check and repair: is every number right, and if not, mend it."""

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from pyapp.cli.common import (
    add_name,
    add_read_dsn,
    database,
    find_source,
    print_json,
    readable_database,
    say,
    workflow_key,
)
from pyapp.db import connect
from pyapp.models import Drift, Key
from pyapp.progress import find_drift, get_workflow
from pyapp.render import as_columns
from pyapp.retry import retry
from pyapp.schema import missing_objects
from pyapp.source import OWN, Source, verbatim
from pyapp.tasks import repair

# Seconds between two lines that say how far it is, where there is no terminal.
_PAUSE = 2.0
_PARTIAL: LiteralString = "select row_security_active('public.workflow') or row_security_active('public.agent_task')"


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "check",
        parents=[shared],
        help="compare what is stored with what is counted",
        description="Count every task and compare with what is stored; see that all triggers are there and enabled."
        " Exits 1 where anything is wrong.",
    )
    add_name(command)
    add_read_dsn(command)
    command.add_argument("ids", nargs="*", metavar="ID", help="check these workflows only")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(run=_check)

    command = commands.add_parser(
        "repair",
        parents=[shared],
        help="recount what is wrong, and mend it",
        description="Recount the workflows whose stored progress is wrong, and mend them, each in a transaction of its"
        " own, while others go on writing. Says what it changed.",
    )
    add_name(command)
    command.add_argument("ids", nargs="*", metavar="ID", help="repair these workflows only")
    command.add_argument("--json", action="store_true", help="print what was changed as JSON")
    command.set_defaults(run=_repair)


def _check(args: argparse.Namespace) -> int:
    keys = [workflow_key(text, args) for text in args.ids] or None
    with readable_database(args) as dsn, connect(dsn, autocommit=True) as conn:
        source = find_source(conn, args)
        missing, notes = _missing(conn, source)
        counted = True
        try:
            checked, drift = check(conn, keys, source)
        except psycopg.ProgrammingError as error:
            if not missing or not args.name:
                raise
            notes.append(f"nothing could be counted: {error.diag.message_primary}")
            checked, drift, counted = 0, list[Drift](), False
        if source is OWN and conn.execute(_PARTIAL).fetchone() == (True,):
            say("row-level security applies to this role: only what it may see was checked")
    if args.json:
        print_json(
            {"workflows": checked, "drift": drift, "missing": missing, **({"notes": notes} if args.name else {})}
        )
    else:
        for note in notes:
            print(note)
        for name in missing:
            print(f"missing: {name}")
        if drift:
            print(_as_text(drift, ("STORED", "COUNTED")))
        noun = "workflow" if checked == 1 else "workflows"
        repair_them = f"repair --name {args.name}" if args.name else "repair"
        verdict = f"{len(drift)} wrong: agent-progress {repair_them} mends them" if drift else "stored equals counted"
        if counted:
            print(f"{checked} {noun} checked, {verdict}")
        if missing:
            mend = f"adopt --name {args.name}" if args.name else "migrate"
            say(f"the schema is not whole: run agent-progress {mend}, or enable the triggers, and check again")
    return 1 if drift or missing else 0


def _repair(args: argparse.Namespace) -> int:
    mended: list[Drift] = []
    keys = [workflow_key(text, args) for text in args.ids] or None
    with database(args) as dsn, connect(dsn, autocommit=True) as conn:
        source = find_source(conn, args)
        _, drift = check(conn, keys, source)
        for wrong in drift:
            mended += _repair_one(conn, wrong.workflow_id, source)
    if args.json:
        print_json(mended)
    else:
        print(_as_text(mended, ("WAS", "IS")) if mended else "nothing to repair")
    return 0


def _missing(conn: psycopg.Connection[Any], source: Source) -> tuple[list[str], list[str]]:
    """List what is missing, and what else is to be said of adopted tables."""
    if source.name is None:
        return missing_objects(conn), []
    from pyapp.adopt.health import examine

    return examine(conn, source.name)


def _repair_one(conn: psycopg.Connection[Any], workflow: Key, source: Source) -> list[Drift]:
    try:
        return retry(lambda: repair(conn, workflow, source=source), tries=100)
    except LookupError:
        return []  # deleted meanwhile


def check(conn: psycopg.Connection[Any], ids: Sequence[Key] | None, source: Source = OWN) -> tuple[int, list[Drift]]:
    """Compare all workflows, or those given, showing that it is at work.

    Returns how many were compared and those that are wrong. Raises WorkflowNotFound for an unknown id.
    """
    for workflow in ids or ():
        get_workflow(conn, workflow, source=source)
    query = sql.SQL("select count(*), coalesce(sum(p.agents_created), 0) from {} as p").format(
        verbatim(source.progress)
    )
    row = conn.execute(query, []).fetchone()
    workflows, tasks = row or (0, 0)
    with _heartbeat(f"counting {tasks} tasks of {workflows} workflows" if ids is None else "counting tasks"):
        drift = find_drift(conn, ids, source=source)
    return workflows if ids is None else len(ids), drift


@contextmanager
def _heartbeat(message: str) -> Iterator[None]:
    """Show on stderr that a long statement is under way: a clock in a terminal, a line now and then elsewhere."""
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except ImportError:
        with _lines(message):
            yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        display.add_task(message, total=None)
        yield


@contextmanager
def _lines(message: str) -> Iterator[None]:
    began, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(_PAUSE):
            say(f"{message}: {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _as_text(drift: list[Drift], verbs: tuple[str, str]) -> str:
    def numbers(stored: bool, d: Drift) -> str:
        side = "stored" if stored else "calculated"
        completed, total, failed, cancelled, created = (
            getattr(d, f"{side}_{name}") for name in ("completed", "total", "failed", "cancelled", "created")
        )
        rest = f", {created} created, {failed} failed, {cancelled} cancelled"
        return f"{getattr(d, f'{side}_progress')} % ({completed} of {total}{rest})"

    rows = [(d.workflow_id, (d.name or "")[:40], numbers(True, d), numbers(False, d)) for d in drift]
    return as_columns(rows, ("ID", "NAME", *verbs))
