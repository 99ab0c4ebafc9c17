"""adopt and unadopt: exact progress for tables that an application has already."""

import argparse
import csv
import re
from dataclasses import replace
from typing import Any

from psycopg import Connection

from pyapp.adopt.backfill import Counted, backfill, count_workflows, publish_all, uncounted
from pyapp.adopt.catalog import partitions
from pyapp.adopt.findings import Findings, Wanted, look
from pyapp.adopt.health import lost_columns
from pyapp.adopt.install import (
    Adoption,
    drop_shadow,
    full_script,
    get_adoption,
    install,
    leftovers,
    list_adoptions,
    refuse_other_things,
    remove,
    remove_script,
)
from pyapp.adopt.mend import mend
from pyapp.adopt.pair import OUTCOMES, SHOWN, Pair
from pyapp.adopt.preview import Preview, preview
from pyapp.adopt.render import script
from pyapp.agent import Agent
from pyapp.cli.bar import progress_bar
from pyapp.cli.common import UsageError, database, print_json, say
from pyapp.cli.errors import tell_loss
from pyapp.db import connect
from pyapp.render import as_columns, clean

_DESCRIPTION = """\
Keep exact progress for tables that an application has already, whatever writes them; the application stays as it is.
Looks at the tables first and says what it found. Counters are kept beside, in a schema of ours; the application's
column of progress, if it has one, is written when the percentage moves.
"""
_EPILOG = """\
names are written as in SQL: Workflow means workflow, '"Workflow"' means Workflow, 'app."Runs"' is in schema app

first steps:
  agent-progress adopt --workflows '"Workflow"' --tasks '"AgentTask"' --dry-run
  agent-progress adopt --workflows '"Workflow"' --tasks '"AgentTask"'
  agent-progress list --name default

in a migration of the application's own:
  agent-progress adopt --workflows runs --tasks steps --print > migration.sql
  agent-progress adopt --continue        (after it has been applied: counts what was there)
"""


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "adopt",
        parents=[shared],
        help="keep exact progress for tables that you have already",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_tables(command)
    command.add_argument("--name", default="default", help="what to call the pair, where there are several (default)")
    command.add_argument(
        "--schema", help="where to put what is ours (agent_progress, or agent_progress_NAME for another)"
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--dry-run", action="store_true", help="only show how many workflows would change, from what to what"
    )
    what.add_argument(
        "--print", action="store_true", help="only print the SQL, for a migration of the application's own"
    )
    what.add_argument("--continue", dest="go_on", action="store_true", help="count what has not been counted yet")
    what.add_argument("--shadow", action="store_true", help="leave the application's column of progress alone for now")
    what.add_argument("--live", action="store_true", help="after --shadow: write the application's column from now on")
    command.add_argument("--json", action="store_true", help="print what was done as JSON")
    command.set_defaults(run=_adopt)

    command = commands.add_parser(
        "unadopt",
        parents=[shared],
        help="take an adoption back",
        description="Remove all that adopt installed, in one transaction. The application's rows, and the progress that"
        " they have by then, stay.",
    )
    command.add_argument("--name", default="default", help="what the pair was called (default)")
    command.add_argument("--drop-columns", action="store_true", help="drop the columns that --columns added as well")
    command.add_argument("--print", action="store_true", help="only print the SQL")
    command.set_defaults(run=_unadopt)


def _add_tables(command: argparse.ArgumentParser) -> None:
    tables = command.add_argument_group("tables")
    tables.add_argument("--workflows", metavar="TABLE", help="the table of workflows")
    tables.add_argument("--tasks", metavar="TABLE", help="the table of their tasks")
    tables.add_argument(
        "--task-workflow", metavar="COLUMN", help="column of a task that holds its workflow (its foreign key)"
    )
    tables.add_argument("--status", metavar="COLUMN", help="column that tells the state of a task (status)")
    for outcome in OUTCOMES:
        tables.add_argument(f"--{outcome}", type=_values, metavar="VALUE,…", help=f"values of it that mean {outcome}")
    for outcome in OUTCOMES:
        tables.add_argument(
            f"--{outcome}-when",
            metavar="SQL",
            help=f"instead: when a task is {outcome}, such as 'finished_at is not null'",
        )
    tables.add_argument(
        "--workflow-status", metavar="COLUMN", help="column that tells the state of a workflow (status)"
    )
    tables.add_argument(
        "--workflow-completed", type=_values, metavar="VALUE,…", help="values of it that mean completed"
    )
    tables.add_argument(
        "--progress-column", metavar="COLUMN", help="column of a workflow to write progress to (progress)"
    )
    tables.add_argument("--no-progress-column", action="store_true", help="write no column of the application's")
    tables.add_argument("--columns", action="store_true", help="keep the counters in columns of the table of workflows")
    tables.add_argument(
        "--column",
        type=_mapping,
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help=f"column to show as {', '.join(SHOWN)}; found by its name where it is a usual one",
    )


def _adopt(args: argparse.Namespace) -> int:
    with database(args) as dsn:
        if args.go_on:
            with Agent(dsn, on_loss=tell_loss) as agent:
                return _report(args, _count(agent, args.name))
        with connect(dsn, autocommit=True) as conn:
            known = {adoption.pair.name: adoption for adoption in list_adoptions(conn)}
            before = known.get(args.name)
            findings = _find(conn, args, before, {adoption.pair.schema for adoption in known.values()})
            remains = before is None and refuse_other_things(conn, findings.pair.schema)
            if args.print:
                print(full_script(findings), end="")
                return 0
            if not args.json:
                _tell(findings, before)
            if args.dry_run:
                return _preview(args, preview(conn, findings.pair))
            install(conn, findings, on_step=say)
        if not args.json:
            print(f"adopted as {args.name}; from now on every change of a task is counted")
        # What follows can take long, and goes on where it was when the connection is lost.
        with Agent(dsn, on_loss=tell_loss) as agent:
            counted = _count(agent, args.name)
            if before is not None or remains:
                _mend(args, agent, findings.pair)
            if args.live or (before is not None and findings.pair.live):
                changed = _publish(agent, findings.pair)
                if changed and not args.json:
                    print(f"{changed} {'workflow' if changed == 1 else 'workflows'} now say what was counted")
            if before is not None and before.pair.columns and not before.pair.live and findings.pair.live:
                agent.persist(lambda conn: drop_shadow(conn, findings.pair, on_step=say))
        return _report(args, counted)


def _find(conn: Connection[Any], args: argparse.Namespace, before: Adoption | None, taken: set[str]) -> Findings:
    """Find out what to adopt: what the user says, or what was adopted before and is to be renewed."""
    if (args.workflows is None) != (args.tasks is None):
        raise UsageError("adopt needs both tables: --workflows and --tasks")
    if args.workflows is None:
        if before is None:
            raise UsageError("which tables? Give --workflows and --tasks (agent-progress adopt --help shows how)")
        pair = before.pair.with_live() if args.live else before.pair
        if lost := lost_columns(conn, pair):
            raise UsageError(
                f"{lost[0]} is gone: put it back, or say how to read the tables now (--workflows, --tasks, ...)"
            )
        return _with_leftovers(conn, Findings(pair, partitions(conn, pair), [], []))
    if before is not None and before.pair.live and args.shadow:
        raise UsageError(f"{args.name} is live already: take it back with unadopt first")
    schema = args.schema or (before.pair.schema if before else _free_schema(args.name, taken))
    for option, text in (("--schema", schema), ("--name", args.name)):
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,40}", text) or text.startswith("pg_"):
            raise UsageError(f"{option} {text!r}: small letters, digits and _ only, up to 40")
    if schema in ("public", "information_schema") or (before is None and schema in taken):
        raise UsageError(f"schema {schema} is taken: give another one, --schema")
    found = look(conn, _wanted(args, schema))
    if before is not None and _storage(before.pair) != _storage(found.pair):
        raise UsageError(f"{args.name} was adopted in another way: unadopt it first, or give another --name")
    if before is not None:
        # The column of progress that --columns added is not the application's own.
        ours = before.pair.columns and before.pair.progress is None and args.progress_column is None
        pair = replace(found.pair, recount=before.pair.recount, progress=None if ours else found.pair.progress)
        found = replace(found, pair=pair)
    return _with_leftovers(conn, found)


def _storage(pair: Pair) -> tuple[object, ...]:
    return pair.schema, pair.workflows, pair.tasks, pair.key, pair.key_type, pair.columns


def _with_leftovers(conn: Connection[Any], found: Findings) -> Findings:
    return replace(found, leftovers=leftovers(conn, found.pair, script(found.pair, found.partitions)))


def _wanted(args: argparse.Namespace, schema: str) -> Wanted:
    given = vars(args)
    conditions = {name: given[f"{name}_when"] for name in OUTCOMES if given[f"{name}_when"]}
    labels = {name: given[name] for name in OUTCOMES if given[name]}
    if args.columns and args.no_progress_column:
        raise UsageError("--columns keeps progress in a column of the table: --no-progress-column does not go with it")
    if both := sorted(conditions.keys() & labels.keys()):
        raise UsageError(f"--{both[0]} and --{both[0]}-when: only one of them")
    return Wanted(
        workflows=args.workflows,
        tasks=args.tasks,
        name=args.name,
        schema=schema,
        task_workflow=args.task_workflow,
        status=args.status,
        labels=labels,
        conditions=conditions,
        workflow_status=args.workflow_status,
        workflow_completed=args.workflow_completed or (),
        progress_column=args.progress_column,
        publish=not args.no_progress_column,
        columns=args.columns,
        live=not args.shadow,
        shown=dict(args.column),
    )


def _free_schema(name: str, taken: set[str]) -> str:
    return "agent_progress" if "agent_progress" not in taken else f"agent_progress_{name}"


def _tell(findings: Findings, before: Adoption | None) -> None:
    if before is not None and not findings.notes:
        print(f"renewing {before.pair.name}")
    for note in findings.notes:
        print(clean(note))
    for warning in findings.warnings:
        say(f"note: {clean(warning)}")


def _preview(args: argparse.Namespace, found: Preview) -> int:
    if args.json:
        print_json(found)
        return 0
    noun = "workflow" if found.workflows == 1 else "workflows"
    print(
        f"\n{found.workflows} {noun}: {found.unchanged} would stay as they are, {found.raised} rise,"
        f" {found.lowered} fall, {found.frozen} be frozen as they are (finished, and no task ever reported)"
    )
    if found.examples:
        rows = [
            (change.workflow, "none" if change.stored is None else f"{change.stored} %", f"{change.counted} %")
            for change in found.examples
        ]
        print(as_columns(rows, ("WORKFLOW", "SAYS", "WOULD SAY")))
        if (left := found.raised + found.lowered - len(rows)) > 0:
            print(f"and {left} more")
    print("nothing was changed")
    return 0


def _count(agent: Agent, name: str) -> Counted:
    done = latest = Counted(0, 0, [])

    def keep(counted: Counted) -> None:
        nonlocal latest
        latest = counted

    def attempt(conn: Connection[Any]) -> None:
        nonlocal done, latest
        done, latest = done + latest, Counted(0, 0, [])
        adoption = get_adoption(conn, name)
        # Counters of an earlier adoption are counted anew once.
        pair = replace(adoption.pair, recount=adoption.pair.recount and not adoption.counted)
        if uncounted(conn, pair) or pair.recount:
            with progress_bar("counting", count_workflows(conn, pair)) as advance:
                backfill(conn, pair, advance, say, keep)

    agent.persist(attempt)
    return done + latest


def _mend(args: argparse.Namespace, agent: Agent, pair: Pair) -> None:
    """Recount what is wrong: something may have been missing for a while."""

    def attempt(conn: Connection[Any]) -> int:
        with progress_bar("looking", count_workflows(conn, pair)) as advance:
            return mend(conn, pair, advance)

    mended = agent.persist(attempt)
    if mended and not args.json:
        print(f"{mended} {'workflow was' if mended == 1 else 'workflows were'} wrong, and mended")


def _publish(agent: Agent, pair: Pair) -> int:
    if pair.progress_column is None:
        return 0

    def attempt(conn: Connection[Any]) -> int:
        with progress_bar("writing progress", count_workflows(conn, pair)) as advance:
            return publish_all(conn, pair, advance)

    return agent.persist(attempt)


def _report(args: argparse.Namespace, counted: Counted) -> int:
    if args.json:
        print_json({"name": args.name, "counted": counted.workflows - counted.frozen, "frozen": counted.frozen})
        return 0
    if not counted.workflows:
        print("all workflows have been counted")
        return 0
    print(f"counted {counted.workflows - counted.frozen} workflows")
    if counted.frozen:
        were = "workflow was" if counted.frozen == 1 else "workflows were"
        print(f"{counted.frozen} finished {were} frozen as found, since no task was ever reported:")
        print("\n".join(f"  {clean(key)}" for key in counted.examples))
        if counted.frozen > len(counted.examples):
            print(f"  and {counted.frozen - len(counted.examples)} more")
    return 0


def _unadopt(args: argparse.Namespace) -> int:
    with database(args) as dsn, connect(dsn, autocommit=True) as conn:
        pair = get_adoption(conn, args.name).pair
        if args.print:
            print(remove_script(conn, pair, drop_columns=args.drop_columns), end="")
            return 0
        remove(conn, pair, drop_columns=args.drop_columns, on_step=say)
    kept = pair.columns and not args.drop_columns
    left = "the columns of --columns stay, with what they hold" if kept else "nothing of ours is left"
    print(f"{args.name} is no longer adopted; {left}")
    return 0


def _values(text: str) -> tuple[str, ...]:
    rows = csv.reader([text], skipinitialspace=True)  # a value with a comma in it stands in double quotes
    return tuple(value.strip() for row in rows for value in row if value.strip())


def _mapping(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals or not theirs:
        raise argparse.ArgumentTypeError(f"{text!r} is not OURS=THEIRS")
    return ours, theirs
