"""transition and advance: moving a workflow along."""

from functools import partial

import click

import pyapp
from pyapp.cli.common import Target, answer, as_json, clean, command, connection
from pyapp.cli.ids import find_id
from pyapp.cli.options import workflow_id
from pyapp.db import retry
from pyapp.models import WORKFLOW_STATUSES, WorkflowState, WorkflowStatus

_VERSIONS = click.IntRange(0, 2**31 - 1)
_version = click.option("--version", type=_VERSIONS, metavar="N", help="Only if it has this version (show tells it).")


@command()
@workflow_id
@click.argument("status", type=click.Choice(WORKFLOW_STATUSES), metavar="STATUS")
@click.option("--stage", metavar="NAME", help="Move it to this stage as well.")
@_version
@as_json
def transition(
    target: Target, id: str, status: WorkflowStatus, stage: str | None, version: int | None, as_json: bool
) -> None:
    """Move a workflow to a status.

    STATUS is one of initiated, running, paused, completed, failed, cancelled; the table workflow_transition says which
    may follow which. Cancelling a workflow cancels its open tasks as well.

    Example:
      agent-progress transition ID running
      agent-progress transition ID failed --version 4    (if nobody moved it since)
    """
    with connection(target, autocommit=True) as conn:
        key = find_id(conn, id, target.schema)
        move = partial(pyapp.transition, conn, key, status, stage=stage)
        _report(retry(partial(move, expected_version=version, schema=target.schema)), as_json)


@command()
@workflow_id
@_version
@as_json
def advance(target: Target, id: str, version: int | None, as_json: bool) -> None:
    """Move a workflow to its next stage.

    The stages are those of its plan; after the last one it is completed.

    Example:
      agent-progress advance ID
    """
    with connection(target, autocommit=True) as conn:
        key = find_id(conn, id, target.schema)
        move = partial(pyapp.advance, conn, key, expected_version=version, schema=target.schema)
        _report(retry(move), as_json)


def _report(state: WorkflowState, as_json: bool) -> None:
    where = f"{state.status}  {clean(state.current_stage)}  version {state.version}"
    answer(state, f"{state.workflow_id}  {where}", as_json)
