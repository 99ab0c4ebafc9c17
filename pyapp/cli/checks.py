"""check and repair: is every number right, and if not, repair it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg import Connection, sql

import pyapp
from pyapp.adopt.health import examine
from pyapp.adopt.install import find_adoption
from pyapp.cli.common import Target, as_json, clean, command, connection, print_json, relations, say, spelled
from pyapp.cli.ids import find_id
from pyapp.cli.options import workflow_ids
from pyapp.cli.tables import Column, id_column, print_table
from pyapp.cli.text import plural
from pyapp.cli.waiting import at_work
from pyapp.db import find_schema, retry
from pyapp.errors import WorkflowNotFound
from pyapp.installed import differences
from pyapp.models import Drift


@command(reads=True)
@workflow_ids
@as_json
def check(target: Target, ids: tuple[str, ...], as_json: bool) -> int:
    """Compare what is stored with what is counted.

    Counts every task, or those of the workflows given, and compares with what is stored; sees that all functions,
    triggers and views are there, enabled and as they were shipped. Exits 1 where anything is wrong. Nothing is changed.

    Example:
      agent-progress check || agent-progress repair
    """
    schema = find_schema(target.schema)
    with connection(target, reads=True, autocommit=True) as conn:
        adoption = find_adoption(conn, schema)
        missing, notes = (differences(conn, schema), []) if adoption is None else examine(conn, adoption)
        checked, drift = 0, list[Drift]()
        verdict = "stored equals counted"
        try:
            checked, drift = compare(conn, ids, schema)
            if drift:
                verdict = f"{len(drift)} wrong: {spelled('repair', schema)} repairs them"
        except (psycopg.ProgrammingError, psycopg.DataError) as error:
            if not missing or not {"workflow_progress", "installed_object"} & relations(conn, schema):
                raise
            verdict = f"nothing could be counted: {error.diag.message_primary}"
        partial = _sees_a_part(conn, schema)
    if partial:
        say("row-level security applies to this role: only what it may see was checked")
    if as_json:
        print_json({"workflows": checked, "drift": drift, "missing": missing} | ({"notes": notes} if adoption else {}))
    else:
        for line in notes:
            say(f"note: {clean(line)}")
        for line in missing:
            print(clean(line))
        if drift:
            _print_drift(drift, ("STORED", "COUNTED"))
        print(clean(f"{plural(checked, 'workflow')} checked, {verdict}"))
        if missing:
            run = spelled("migrate" if adoption is None else "adopt", schema)
            say(f"the schema is not as it was shipped: run {run}, and check again")
    return 1 if drift or missing else 0


@command()
@workflow_ids
@as_json
def repair(target: Target, ids: tuple[str, ...], as_json: bool) -> None:
    """Recount what is wrong, and repair it.

    Each workflow whose stored progress is wrong is repaired in a transaction of its own, while others go on writing.
    Says what it changed.

    Example:
      agent-progress repair
      agent-progress repair ID
    """
    repaired: list[Drift] = []
    with connection(target, autocommit=True) as conn:
        for wrong in compare(conn, ids, target.schema)[1]:
            try:
                repair_it = partial(pyapp.repair, conn, wrong.workflow_id, schema=target.schema)
                repaired += retry(repair_it, tries=100)
            except WorkflowNotFound:
                continue  # deleted meanwhile
    if as_json:
        print_json(repaired)
    elif repaired:
        _print_drift(repaired, ("WAS", "IS"))
    else:
        print("nothing to repair")


def compare(conn: Connection[Any], ids: Sequence[Any], schema: str | None) -> tuple[int, list[Drift]]:
    """Compare all workflows, or those given, showing that it is at work.

    Returns how many were compared and those that are wrong. Raises WorkflowNotFound for an unknown id.
    """
    if ids:
        keys = [find_id(conn, given, schema) for given in ids]
        with at_work("counting tasks"):
            return len(keys), pyapp.find_drift(conn, keys, schema=schema)
    view = sql.Identifier(find_schema(schema), "workflow_progress")
    query = sql.SQL("select count(*), coalesce(sum(agents_created), 0) from {}").format(view)
    workflows, tasks = conn.execute(query).fetchone() or (0, 0)
    with at_work(f"counting {plural(tasks, 'task')} of {plural(workflows, 'workflow')}"):
        return workflows, pyapp.find_drift(conn, schema=schema)


def _sees_a_part(conn: Connection[Any], schema: str | None) -> bool:
    """Tell whether policies keep rows from this role."""
    row = conn.execute(
        "select coalesce(bool_or(pg_catalog.row_security_active(c.oid)), false) from pg_catalog.pg_class as c"
        " join pg_catalog.pg_namespace as n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname in ('workflow', 'agent_task') and c.relkind in ('r', 'p')",
        [find_schema(schema)],
    ).fetchone()
    return row == (True,)


def _print_drift(drift: list[Drift], verbs: tuple[str, str]) -> None:
    def numbers(d: Drift, side: str) -> str:
        """Tell percentage and completed tasks, and how many of the others where that differs."""
        others = {name: getattr(d, f"{side}_{name}") for name in ("created", "failed", "cancelled")}
        differ = [name for name in others if getattr(d, f"stored_{name}") != getattr(d, f"calculated_{name}")]
        told = [f"{others[name]} {name}" for name in differ if others[name]]
        completed = f"{getattr(d, f'{side}_completed')} of {getattr(d, f'{side}_total')}"
        return f"{getattr(d, f'{side}_progress')} % ({', '.join([completed, *told])})"

    columns = (
        id_column(d.workflow_id for d in drift),
        Column("NAME", least=8, most=40, last=True),
        *(Column(verb, least=12) for verb in verbs),
    )
    print_table(columns, [(d.workflow_id, d.name, numbers(d, "stored"), numbers(d, "calculated")) for d in drift])
