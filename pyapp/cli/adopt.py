"""adopt and unadopt: exact progress for tables that an application has already."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import click
from psycopg import Connection

from pyapp.adopt.adoption import OUTCOMES, Adoption
from pyapp.adopt.backfill import Backfill, Counted
from pyapp.adopt.catalog import ask, retyped
from pyapp.adopt.health import Preview, preview
from pyapp.adopt.inspect import Findings, Value, inspect
from pyapp.adopt.install import find_adoption, get_adoption, install, remove, remove_script, render
from pyapp.adopt.render import name as quoted
from pyapp.adopt.request import Request, list_presets
from pyapp.cli.common import Target, as_json, clean, command, connection, print_json, say
from pyapp.cli.tables import Column, print_table
from pyapp.cli.text import plural
from pyapp.cli.waiting import at_work

SCHEMA = "agent_progress"
"""Where an adoption lies, unless --schema says otherwise."""


def _values(text: str) -> tuple[str, ...]:
    """Read values with commas between them; one with a comma in it stands in double quotes."""
    found = tuple(part.strip() for part in next(csv.reader([text], skipinitialspace=True), []))
    if not found or not all(found):
        raise click.BadParameter(f"{text!r} is empty, or has an empty value")
    return found


def _pair(text: str) -> tuple[str, str]:
    """Read OURS=THEIRS."""
    ours, _, theirs = (part.strip() for part in text.partition("="))
    if not (ours and theirs):
        raise click.BadParameter(f"{text!r} is not OURS=THEIRS")
    return ours, theirs


def _pairs(text: str) -> dict[str, str]:
    return dict(map(_pair, _values(text)))


def _noun(text: str) -> str:
    if not (text.strip() and text.isprintable()):
        raise click.BadParameter(f"{text!r}: it is a word or a few, which people read")
    return text


def _outcome_options(prefix: str, what: str, outcomes: Iterable[str]) -> Callable[[Callable[..., Any]], Any]:
    """Make the options that say when a task or a workflow is completed, failed, …: by values, or by a condition."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for outcome in reversed(list(outcomes)):
            function = click.option(
                f"--{prefix}{outcome}-when", metavar="SQL", help=f"Instead: when a {what} is {outcome}."
            )(function)
            function = click.option(
                f"--{prefix}{outcome}", type=_values, metavar="VALUE,...", help=f"Values of it that mean {outcome}."
            )(function)
        return function

    return decorate


@command()
@click.option(
    "--preset",
    type=click.Choice(list_presets()),
    metavar="NAME",
    help=f"Tables of a known system: no other option is needed. One of {', '.join(list_presets())}.",
)
@click.option("--tasks", metavar="TABLE", help="The table of tasks.")
@click.option("--workflows", metavar="TABLE", help="The table of their workflows, if there is one.")
@click.option("--key", type=_values, metavar="COLUMN,...", help="Columns of a task that name its workflow.")
@click.option("--key-sql", multiple=True, metavar="SQL", help="Instead: an expression on the task's row.")
@click.option("--workflow-key", type=_values, metavar="COLUMN,...", help="The columns of a workflow that these are.")
@click.option("--status", metavar="COLUMN", help="What tells the state of a task: a column, or SQL.")
@_outcome_options("", "task", (*OUTCOMES, "ignored"))
@click.option("--workflow-status", metavar="COLUMN", help="What tells the state of a workflow.")
@_outcome_options("workflow-", "workflow", OUTCOMES)
@click.option("--where", metavar="SQL", help="Which tasks count, by their own row.")
@click.option("--keep-finished/--no-keep-finished", default=None, help="Count finished tasks on that are deleted.")
@click.option("--keep-failed/--no-keep-failed", default=None, help="Failed ones too, whatever the workflow says.")
@click.option(
    "--publish", type=_pairs, metavar="progress=COLUMN,...", help="Columns to write: progress, completed, total."
)
@click.option("--no-publish", is_flag=True, help="Write no column of the application's.")
@click.option("--column", type=_pair, multiple=True, metavar="OURS=THEIRS", help="What to show of a workflow.")
@click.option("--task-column", type=_pair, multiple=True, metavar="OURS=THEIRS", help="What to show of a task.")
@click.option("--workflow-noun", type=_noun, metavar="NOUN", help="What people call a workflow.")
@click.option("--task-noun", type=_noun, metavar="NOUN", help="What people call a task.")
@click.option("--dry-run", is_flag=True, help="Only show what would change, from what to what.")
@click.option("--print", "print_", is_flag=True, help="Only print the SQL, for a migration of the application's.")
@click.option("--continue", "go_on", is_flag=True, help="Count what has not been counted yet.")
@click.option("--shadow", is_flag=True, help="Count, but leave the application's columns alone for now.")
@click.option("--live", is_flag=True, help="After --shadow: write them from now on.")
@click.option("--yes", is_flag=True, help="Install, whatever is doubtful.")
@as_json
def adopt(target: Target, as_json: bool, **options: Any) -> None:
    """Keep exact progress for tables that an application has already, whatever writes them.

    The application stays as it is. Looks at the tables first, and says what it found. Counters lie in a schema beside,
    agent_progress or that of --schema; the application's column of progress, if it has one, is written when the
    percentage moves. Names are written as in SQL: Workflow means workflow, '"Workflow"' means Workflow. Without
    --tasks, what was adopted is renewed.

    Example:
      agent-progress adopt --workflows '"Workflow"' --tasks '"AgentTask"' --dry-run
      agent-progress adopt --workflows '"Workflow"' --tasks '"AgentTask"'
      agent-progress adopt --tasks jobs --key-sql "meta->>'workflow_id'"
      agent-progress list --schema agent_progress
    """
    schema = target.schema or SCHEMA
    with connection(target, autocommit=True) as conn:
        before = find_adoption(conn, schema)
        if options["go_on"]:
            adoption = get_adoption(conn, schema)
            _report(adoption, _count(conn, adoption), as_json)
            return
        found = _find(conn, before, schema, options)
        if options["print_"]:
            print(render(conn, found.adoption), end="")
            return
        if not as_json:
            _tell(found)
        seen = preview(conn, found.adoption) if found.adoption.publish.get("progress") else None
        if options["dry_run"]:
            _dry_run(found, seen, as_json)
            return
        doubts = [*found.doubts, *_zeroed(found.adoption, seen)] if before is None else []
        if doubts and not options["yes"]:
            raise click.ClickException(f"nothing was changed: {'; '.join(doubts)} (--yes installs it nevertheless)")
        install(conn, found.adoption, on_step=say)
        if not as_json:
            print(f"adopted in schema {schema}; from now on every change of a task is counted")
        counted = _count(conn, found.adoption)
        if before is not None:
            _repair(conn, found.adoption, as_json)
        _report(found.adoption, counted, as_json)


def _find(conn: Connection[Any], before: Adoption | None, schema: str, options: dict[str, Any]) -> Findings:
    """Find out what to adopt: what the user says, or what was adopted before and is to be renewed."""
    if options["shadow"] and options["live"]:
        raise click.UsageError("--shadow and --live: only one of them")
    if options["tasks"] is None and options["preset"] is None:
        if before is None:
            raise click.UsageError("which tables? Give --tasks and --workflows or --key, or a --preset")
        nouns = {noun: options[noun] for noun in ("workflow_noun", "task_noun") if options[noun]}
        renewed = replace(retyped(conn, before), shadow=before.shadow and not options["live"], **nouns)
        return Findings(renewed, [], [], [])
    found = inspect(conn, _request(schema, options))
    if before is not None and _place(conn, before) != _place(conn, found.adoption):
        raise click.UsageError(f"schema {schema} holds another adoption: unadopt it first, or give another --schema")
    return found


def _place(conn: Connection[Any], adoption: Adoption) -> tuple[Any, ...]:
    """Tell where an adoption lies: the table that has its triggers, whatever it is called now, and parts of keys."""
    row = ask(conn, "place.sql", schema=quoted(adoption.schema), tasks=adoption.tasks.sql)
    return row, adoption.workflows is None, len(adoption.keys)


def _request(schema: str, options: dict[str, Any]) -> Request:
    """Read what was asked for: options have the names of its fields, but for those that say what is completed, …."""

    def said(pattern: str) -> dict[str, Any]:
        named = {outcome: options.get(pattern.format(outcome)) for outcome in (*OUTCOMES, "ignored")}
        return {outcome: value for outcome, value in named.items() if value is not None}

    given = {field.name: options[field.name] for field in fields(Request) if options.get(field.name) is not None}
    given |= {"words": said("{}"), "conditions": said("{}_when")}
    given |= {"workflow_words": said("workflow_{}"), "workflow_conditions": said("workflow_{}_when")}
    if both := sorted(given["words"].keys() & given["conditions"].keys()):
        raise click.UsageError(f"--{both[0]} and --{both[0]}-when: only one of them")
    given |= {name: dict(options[name]) for name in ("column", "task_column")}
    return Request(**given | {"schema": schema} | ({"publish": {}} if options["no_publish"] else {}))


def _tell(found: Findings) -> None:
    for note in found.notes:
        print(clean(note))
    for warning in found.warnings:
        say(f"note: {clean(warning)}")
    if found.values:
        rows = [
            (_shown(value), value.rows, f"{value.meaning}{'' if value.known else ' (nobody named it)'}")
            for value in found.values
        ]
        print_table((Column("STATUS", least=8, most=40), Column("TASKS", least=5), Column("MEANS", least=8)), rows)
    for value in found.values:
        if not value.known:
            say(f"note: status {_shown(value)} is taken for open: say --completed, --failed, --cancelled or --ignored")


def _shown(value: Value) -> str:
    return "null" if value.value is None else clean(value.value)


def _zeroed(adoption: Adoption, seen: Preview | None) -> list[str]:
    """Doubt an adoption that would set most percentages that say something to 0."""
    if seen is None or adoption.shadow:
        return []
    told = seen.workflows - seen.frozen
    if seen.zeroed and 2 * seen.zeroed > told:
        return [
            f"{seen.zeroed} of {plural(told, 'workflow')} would fall to 0 %"
            " (--dry-run shows which; --shadow leaves them)"
        ]
    return []


def _dry_run(found: Findings, seen: Preview | None, as_json: bool) -> None:
    if as_json:
        print_json({"values": found.values, "doubts": found.doubts, "preview": seen})
        return
    for doubt in found.doubts:
        say(f"doubtful: {doubt}")
    if seen is not None:
        print(
            f"{plural(seen.workflows, 'workflow')}: {seen.unchanged} would stay as they are, {seen.raised} rise,"
            f" {seen.lowered} fall, {seen.frozen} keep what they say (finished, and no task ever reported)"
        )
        rows = [
            (row["workflow"], "none" if row["stored"] is None else f"{row['stored']} %", f"{row['counted']} %")
            for row in seen.examples
        ]
        if rows:
            print_table((Column("WORKFLOW", least=8, most=60), "SAYS", "WOULD SAY"), rows)
        if (left := seen.raised + seen.lowered - len(rows)) > 0:
            print(f"and {left} more")
        if found.adoption.shadow:
            print("with --shadow, none of it is written")
    print("nothing was changed")


def _count(conn: Connection[Any], adoption: Adoption) -> Counted:
    with at_work("counting") as advance:
        return Backfill(conn, adoption).run(advance, say)


def _repair(conn: Connection[Any], adoption: Adoption, as_json: bool) -> None:
    from pyapp import repair
    from pyapp.db import retry

    with at_work("looking for what went wrong"):
        repaired = retry(lambda: repair(conn, schema=adoption.schema), tries=100)
    if repaired and not as_json:
        print(f"{plural(len(repaired), 'workflow')} repaired")


def _report(adoption: Adoption, counted: Counted, as_json: bool) -> None:
    if as_json:
        print_json({"schema": adoption.schema, **vars(counted)})
        return
    print(f"{plural(counted.workflows, 'workflow')} counted")
    if counted.frozen:
        print(f"{plural(counted.frozen, 'finished workflow')} without any report left at 100 %")


@command()
@click.option("--print", "print_", is_flag=True, help="Only print the SQL.")
def unadopt(target: Target, print_: bool) -> None:
    """Take an adoption back.

    Removes all that adopt installed. The application's rows, and the progress that they have by then, stay.

    Example:
      agent-progress unadopt --schema agent_progress
    """
    with connection(target, autocommit=True) as conn:
        adoption = get_adoption(conn, target.schema or SCHEMA)
        if print_:
            print("".join(remove_script(conn, adoption)), end="")
            return
        remove(conn, adoption, on_step=say)
    print(f"the adoption in schema {adoption.schema} is gone")
