"""transition and advance: moving a workflow along."""

import click

from pyapp.cli.common import STATUSES, Command, Target, as_json, clean, connection, pass_target, print_json, workflow_id
from pyapp.models import WorkflowState

_version = click.option(
    "--version",
    type=click.IntRange(0, 2**31 - 1),
    metavar="N",
    help="Only if it still has this version (show says it).",
)


@click.command(
    cls=Command,
    example="""
    agent-progress transition 6f1c29a0-… running
    agent-progress transition 6f1c29a0-… failed --version 4     only if nobody moved it meanwhile
    """,
)
@workflow_id
@click.argument("status", type=click.Choice(STATUSES), metavar="STATUS")
@click.option("--stage", metavar="NAME", help="Move it to this stage as well.")
@_version
@as_json
@pass_target
def transition(target: Target, id: str, status: str, stage: str | None, version: int | None, as_json: bool) -> None:
    """Move a workflow to a status.

    STATUS is one of initiated, running, paused, completed, failed, cancelled; the table workflow_transition says which
    may follow which. Cancelling a workflow cancels its open tasks as well.
    """
    import pyapp

    with connection(target, autocommit=True) as conn:
        state = pyapp.retry(
            lambda: pyapp.transition(conn, id, status, stage=stage, expected_version=version, schema=target.schema)
        )
    _report(state, as_json)


@click.command(cls=Command, example="agent-progress advance 6f1c29a0-…")
@workflow_id
@_version
@as_json
@pass_target
def advance(target: Target, id: str, version: int | None, as_json: bool) -> None:
    """Move a workflow to its next stage.

    The stages are those of its plan; after the last one it is completed.
    """
    import pyapp

    with connection(target, autocommit=True) as conn:
        state = pyapp.retry(lambda: pyapp.advance(conn, id, expected_version=version, schema=target.schema))
    _report(state, as_json)


def _report(state: WorkflowState, as_json: bool) -> None:
    if as_json:
        print_json(state)
    else:
        print(f"{state.workflow_id}  {state.status}  {clean(state.current_stage)}  version {state.version}")
