"""transition and advance: moving a workflow along."""

import argparse
from typing import Any

from pyapp.cli.common import STATUSES, database, print_json, workflow_id
from pyapp.db import connect
from pyapp.models import WorkflowState
from pyapp.render import clean
from pyapp.retry import retry
from pyapp.stages import advance, transition


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "transition",
        parents=[shared],
        help="move a workflow to a status",
        description="Move a workflow to a status, if the table workflow_transition allows it. Cancelling cancels its"
        " open tasks as well.",
    )
    command.add_argument("id", type=workflow_id, metavar="ID", help="the workflow's id")
    command.add_argument("status", choices=STATUSES, metavar="STATUS", help=", ".join(STATUSES))
    command.add_argument("--stage", metavar="S", help="move it to this stage as well")
    _add_options(command)
    command.set_defaults(run=_transition)

    command = commands.add_parser(
        "advance",
        parents=[shared],
        help="move a workflow to its next stage",
        description="Move a workflow to the next stage of its plan; after the last one it is completed.",
    )
    command.add_argument("id", type=workflow_id, metavar="ID", help="the workflow's id")
    _add_options(command)
    command.set_defaults(run=_advance)


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--version", type=int, metavar="N", help="only if the workflow still has this version (show tells it)"
    )
    command.add_argument("--json", action="store_true", help="print the state as JSON")


def _transition(args: argparse.Namespace) -> int:
    with database(args) as dsn, connect(dsn, autocommit=True) as conn:
        state = retry(lambda: transition(conn, args.id, args.status, stage=args.stage, expected_version=args.version))
    return _report(state, args.json)


def _advance(args: argparse.Namespace) -> int:
    with database(args) as dsn, connect(dsn, autocommit=True) as conn:
        state = retry(lambda: advance(conn, args.id, expected_version=args.version))
    return _report(state, args.json)


def _report(state: WorkflowState, as_json: bool) -> int:
    if as_json:
        print_json(state)
    else:
        print(f"{state.workflow_id}  {state.status}  {clean(state.current_stage)}  version {state.version}")
    return 0
