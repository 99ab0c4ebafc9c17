"""partition and archive: agent_task in partitions, and without the tasks of workflows that ended long ago."""

import argparse
from dataclasses import asdict
from typing import Any

from psycopg import Connection

from pyapp import partitions as triggers
from pyapp.agent import Agent
from pyapp.cli.bar import progress_bar
from pyapp.cli.common import database, print_json, say
from pyapp.cli.errors import tell_loss
from pyapp.db import connect
from pyapp.locks import patiently
from pyapp.models import SETTLED
from pyapp.scale.archive import Archive, foresee, moment
from pyapp.scale.partition import Outlook, abandon, blocks, look, outlook, partition, require_ready

_PARTITION = """\
Make agent_task a table that is partitioned by a hash of workflow_id, for many millions of tasks. Everybody goes on
writing while it is copied; at the end stands a lock of a moment. Broken off, the same command goes on where it was.
"""
_PARTITION_EPILOG = """\
first steps:
  agent-progress partition --dry-run           what would be done, how much room it takes, or why it cannot be done
  agent-progress partition
  agent-progress check

its primary key becomes (id, workflow_id): pyapp/scale/README.md says what changes with it
"""
_ARCHIVE = """\
Freeze the numbers of workflows that ended long ago, and remove the rows of their tasks, in batches, while everybody
goes on writing. Progress stays readable, with workflow, stages and events; the tasks are gone for good. Broken off,
the same command goes on where it was.
"""
_ARCHIVE_EPILOG = """\
first steps:
  agent-progress archive --older-than 90d --dry-run
  agent-progress archive --older-than 90d --status completed      (leaves those that may be retried)

a length of time: 90d, 12h, 2w, 6 months, or another interval of PostgreSQL. What an archived workflow still tells, and
what not to do with it: pyapp/scale/README.md
"""


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "partition",
        parents=[shared],
        help="partition agent_task by workflow_id, online",
        description=_PARTITION,
        epilog=_PARTITION_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "--partitions", type=_count, default=16, metavar="N", help="number of partitions, 2 to 1024; default 16"
    )
    command.add_argument("--dry-run", action="store_true", help="only say what would be done, or why it cannot be")
    command.add_argument("--abandon", action="store_true", help="drop what a run that was broken off left behind")
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(run=_partition)

    command = commands.add_parser(
        "archive",
        parents=[shared],
        help="freeze workflows that ended long ago, and remove their tasks",
        description=_ARCHIVE,
        epilog=_ARCHIVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--older-than", required=True, metavar="AGE", help="how long ago they must have ended, as 90d")
    command.add_argument(
        "--status",
        action="append",
        choices=sorted(SETTLED),
        help="only workflows that ended with this status (may be repeated); all three by default",
    )
    command.add_argument("--dry-run", action="store_true", help="only say how much it would be")
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")
    command.set_defaults(run=_archive)


def _partition(args: argparse.Namespace) -> int:
    with database(args) as dsn:
        if args.abandon:
            with connect(dsn, autocommit=True) as conn:
                there = abandon(conn)
            return _tell(args, {"abandoned": there}, "dropped" if there else "nothing to drop: no run was broken off")
        with connect(dsn, autocommit=True) as conn:
            require_ready(conn, dsn)
            if triggers.is_partitioned(conn):
                return _mend(args, conn)
            seen = outlook(conn, look(conn, args.partitions))
        if args.dry_run:
            return _tell(args, seen.as_dict(), _foreseen(seen))
        with Agent(dsn, on_loss=tell_loss) as agent:

            def attempt(conn: Connection[Any]) -> None:
                with progress_bar("copying", blocks(conn), "blocks") as advance:
                    partition(conn, seen.shape, advance, say)

            agent.persist(attempt)
    return _tell(
        args, seen.as_dict(), f"agent_task has {args.partitions} partitions; agent-progress check counts all of it"
    )


def _mend(args: argparse.Namespace, conn: Connection[Any]) -> int:
    """Give the partitions the triggers that they lack."""
    parts = triggers.count(conn)
    done = 0 if args.dry_run else patiently(lambda: triggers.renew(conn))
    told = f"nothing to do: agent_task has {parts} partitions"
    return _tell(args, {"partitions": parts}, f"{told}; they lacked triggers, which are there now" if done else told)


def _foreseen(seen: Outlook) -> str:
    lines = [
        f"agent_task, about {seen.tasks} tasks, would be copied into {seen.shape.partitions} partitions,"
        f" {seen.shape.partition(0)} to {seen.shape.partition(seen.shape.partitions - 1)}",
        f"room that it takes until then, beside the table: about {seen.size}",
        "primary key: (id, workflow_id) instead of (id)",
        *(f"index: {name}" for name, *_ in seen.shape.indexes),
        *(f"foreign key: {name}" for name, _ in seen.shape.keys),
        *(f"view that reads it: {name}" for name in seen.views),
        *(f"trigger: {name}" for name in seen.triggers),
        "nothing was changed",
    ]
    return "\n".join(lines)


def _archive(args: argparse.Namespace) -> int:
    statuses = args.status or sorted(SETTLED)
    with database(args) as dsn:
        with connect(dsn, autocommit=True) as conn:
            before = moment(conn, args.older_than)
            seen = foresee(conn, before, statuses)
        if args.dry_run:
            would = f"{seen.workflows} {_workflows(seen.workflows)} would be archived, {seen.tasks} tasks removed"
            return _tell(args, asdict(seen), f"{would}\nnothing was changed")
        with progress_bar("archiving", seen.tasks, "tasks") as advance, Agent(dsn, on_loss=tell_loss) as agent:
            work = Archive(before, statuses, advance)
            agent.persist(work.run)
    done = work.done
    if done.in_use:
        say(f"{done.in_use} {_workflows(done.in_use)} left alone, since others hold their rows: run it again")
    archived = f"{done.workflows} {_workflows(done.workflows)} archived, {done.tasks} tasks removed"
    return _tell(args, asdict(done), archived)


def _workflows(number: int) -> str:
    return "workflow" if number == 1 else "workflows"


def _tell(args: argparse.Namespace, result: dict[str, Any], text: str) -> int:
    if args.json:
        print_json(result)
    else:
        print(text)
    return 0


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and 2 <= int(text) <= 1024:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of partitions (2 to 1024)")
