"""The SQL of an adoption: the files of sql/ with other names, failing open, and those of sql/adopt/."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pyapp.adopt.pair import COUNTERS, OUTCOMES, SHADOW_COLUMN, Pair, quote
from pyapp.adopt.tokens import COUNT, QUOTE, SHARED, read_sql, render, views

_UPDATE = re.compile(r"^( +)update public\.workflow\n.*?where id = (\S+);\n", re.DOTALL | re.MULTILINE)
_READ = re.compile(r"^begin\n(    -- Read .*?)\n\n    -- Write it\.\n", re.DOTALL | re.MULTILINE)
_NEGATIVE = re.compile(r"^    elsif new\.agents_planned < 0 then\n.*?;\n(?=    elsif)", re.DOTALL | re.MULTILINE)
_PERCENTAGE = re.compile(r"(new\.progress := )(public\.progress_percentage\([^)]*\))")
_LOCK = re.compile(r"^( +)perform from public\.workflow where id = (\w+) for no key update;\n", re.MULTILINE)
_THAWED = "            new.progress_updated_at := old.progress_updated_at;\n        else\n"
_ON_TABLE = re.compile(
    r"^(?:create (?:or replace )?trigger|comment on trigger|alter table \S+\n    alter column) .*?;\n",
    re.DOTALL | re.MULTILINE,
)
# Two that miss the row at once: one inserts it, and the other adds to it after that one's commit.
_AGAIN = (
    "exit when found;",
    "exit when KEY is null",
    "    or (REMOVED and not exists (select from their_workflow as u where u.their_key = KEY));",
    "insert into public.workflow_counter (id, progress_frozen_at) values (KEY, 'epoch') on conflict (id) do nothing;",
)
# Our own table of counters takes those with which a row is inserted: nobody else may insert there.
_COUNTED = (
    "    elsif\n        tg_op = 'INSERT'\n        or (old.",
    "    elsif tg_op = 'INSERT' and new.agents_created is not null then\n"
    "        null; -- counted already, many at a time\n"
    "    elsif\n        tg_op = 'INSERT'\n        or (old.",
)
_RECOUNT = re.compile(
    r"        select\n            count\(\*\),.*?\n        into (.*?)\n"
    r"        from public\.agent_task as a\n(        where.*?);\n",
    re.DOTALL,
)
# An internal error is what a plan ends in that was made before a type was dropped.
_MISSING = "when syntax_error_or_access_rule_violation or invalid_schema_name or internal_error or data_exception then"
# Whoever publishes locks the row that it will write to first: the order in which its own writers come by.
_LOCK_FIRST = "{0}perform from their_workflow as u where u.their_key = {1} for no key update;\n"
_REFRESH = f"""\
            begin
                select their_status, their_planned
                into new.status, new.agents_planned
                from (select) as s
                left join their_workflow as u on u.their_key = new.id;
            exception
                {_MISSING}
                    null; -- they stay as they were
            end;
"""
# A session that came here before a column was retyped cannot read it in its plan.
_MEANING = f"""\
declare
    meaning public.workflow_status;
begin
    begin
        meaning := new.status;
    exception
        {_MISSING}
            meaning := new.their_meaning_by_name;
    end;

"""


@dataclass(frozen=True)
class Partitions:
    """The partitions of the two tables: statements on one fire its own statement triggers only."""

    workflows: Sequence[tuple[str, str]] = ()
    tasks: Sequence[tuple[str, str]] = ()


_NO_PARTITIONS = Partitions()
Trigger = tuple[str, tuple[str, str]]
"""A trigger and the table that it is on."""


def script(pair: Pair, partitions: Partitions = _NO_PARTITIONS) -> str:
    """Render all that an adoption installs; the statements that lock the application's tables for it come last."""
    return "\n".join(steps(pair, partitions))


def steps(pair: Pair, partitions: Partitions = _NO_PARTITIONS) -> list[str]:
    """Render the same in three parts, each of which locks one of the application's tables at most.

    They may be transactions of their own: what comes between them is counted later, as what was there before.
    """
    templates = [read_sql("adopt/01_schema.sql"), read_sql(f"adopt/{_storage(pair)}"), *_functions_and_views(pair)]
    triggers = "".join(statement for text in templates for statement in _ON_TABLE.findall(text))
    first = [render(pair, re.sub(r"\n{3,}", "\n\n", _ON_TABLE.sub("", template))) for template in templates]
    # Tasks first: the order in which everybody locks.
    on_tasks = [
        *(render(replace(pair, tasks=table), _on(triggers, "agent_task")) for table in (pair.tasks, *partitions.tasks)),
        # A row trigger, which partitions take over.
        render(pair, _on(read_sql("adopt/06_partitions.sql"), "agent_task")) if partitions.tasks else "",
    ]
    on_workflows = [
        render(pair, _on(triggers, "workflow", "their_workflow", "workflow_counter")),
        *(
            # Row triggers are passed on to partitions, statement triggers are not.
            render(replace(pair, workflows=table), _on(triggers, "their_workflow", but="_follow_update|zz_"))
            for table in partitions.workflows
        ),
    ]
    parts = [f"create schema if not exists {quote(pair.schema)};\n", *first], on_tasks, on_workflows
    texts = ["\n".join(part) for part in parts]
    tag = "$agent_progress$"
    while any(tag in text for text in texts):
        tag = f"{tag[:-1]}_$"
    return [text.replace(QUOTE, tag) for text in texts]


def _on(triggers: str, *tables: str, but: str = r"\Z.") -> str:
    """Choose the statements on triggers of these tables."""
    chosen = re.compile(rf"\b(?:on|alter table) (?:public\.)?(?:{'|'.join(tables)})(?=\s)")
    return "\n".join(s for s in _ON_TABLE.findall(triggers) if chosen.search(s) and not re.search(but, s))


def removal(pair: Pair, *, drop_columns: bool = False, table: bool = True) -> list[str]:
    """Render what takes an adoption back, after its triggers; ``table``: that of the workflows is still there."""
    schema = quote(pair.schema)
    statements = [
        f"drop function if exists {schema}.repair_progress({pair.key_type});",
        *(f"drop view if exists {schema}.{view};" for view in reversed(list(views()))),
        f"drop table if exists {schema}.workflow_counter;",
        f"drop table if exists {schema}.adoption;",
        *(
            f"drop function if exists {schema}.{function};"
            for function in (
                "maintain_progress()",
                "follow_workflow()",
                "publish_progress()",
                "guard_published_progress()",
                "guard_progress()",
                f"count_tasks({pair.key_type})",
                f"describe_workflow({pair.key_type})",
                f"progress_total({schema}.workflow_status, bigint, bigint)",
                "progress_percentage(bigint, bigint)",
            )
        ),
        f"drop type if exists {schema}.workflow_status;",
        f"drop type if exists {schema}.task_status;",
        f"drop schema if exists {schema};",
    ]
    if table and pair.columns and (drop_columns or not pair.live):
        dropped = [*(COUNTERS if drop_columns else ()), *(() if pair.live else (SHADOW_COLUMN,))]
        if drop_columns and pair.live and pair.progress is None:
            dropped.append("progress")
        columns = ", ".join(f"drop column if exists {quote(name)}" for name in dropped)
        statements.append(f"alter table {quote(*pair.workflows)} {columns};")
    return statements


def drop_trigger(trigger: Trigger) -> str:
    """Render what drops a trigger of ours."""
    name, table = trigger
    return f"drop trigger if exists {quote(name)} on {quote(*table)};"


def _storage(pair: Pair) -> str:
    return "02_columns.sql" if pair.columns else "02_counter.sql"


def _functions_and_views(pair: Pair) -> Iterator[str]:
    formula, trigger, guard, views, repair = map(read_sql, SHARED)
    yield formula
    yield _conflicts(read_sql("adopt/03_reading.sql"), "use_column")
    yield _conflicts(_fail_open(pair, trigger), "use_variable")
    yield _conflicts(_guarded(pair, guard if pair.columns else _refresh(guard)), "use_variable")
    if not pair.columns:
        yield _conflicts(read_sql("adopt/04_follow.sql"), "use_variable")
    if pair.publishes:
        yield _conflicts(read_sql("adopt/05_publish.sql"), "use_column")
    yield COUNT.sub("left join public.count_tasks() as g", views)
    yield _conflicts(_LOCK.sub(_lock_first, repair) if pair.publishes else repair, "use_variable")


def _conflicts(text: str, rule: str) -> str:
    """Say what a name means that is a variable and a column of the application's as well."""
    return re.sub(r"^as \$\$\n(?=declare|begin)", f"as $$\n#variable_conflict {rule}\n", text, flags=re.MULTILINE)


def _fail_open(pair: Pair, trigger: str) -> str:
    """Let a statement through that cannot be counted since a column is gone, and add to rows that are not there yet."""

    def read_apart(match: re.Match[str]) -> str:
        block = re.sub(r"^(?=.)", "    ", match[1], flags=re.MULTILINE)
        counted = " + ".join(f"w.agents_{name}" for name in ("created", "completed", "failed", "cancelled"))
        return (
            "begin\n    -- What is missing is found out here, where nothing has been written yet.\n"
            f"    begin\n{block}\n\n"
            f"        perform {counted}\n"
            "        from their_counters as w left join their_workflow as u on u.their_key = w.their_id where false;\n"
            f"    exception\n        {_MISSING}\n            raise warning using\n"
            "                message = format('agent-progress: not counted: %s', sqlerrm),\n"
            "                hint = 'agent-progress check says what is missing.';\n"
            "            return null;\n    end;\n\n    -- Write it.\n"
        )

    def again(match: re.Match[str]) -> str:
        indent, key = match[1], match[2]
        update = re.sub(r"^(?=.)", "    ", match[0], flags=re.MULTILINE)
        lines = [
            *(_LOCK_FIRST.format(indent, key).splitlines() if pair.publishes else ()),
            f"{indent}loop",
            update.rstrip("\n"),
            *(f"{indent}    {line}" for line in _AGAIN),
            f"{indent}end loop;",
        ]
        removed = "change.created < 0" if key.startswith("change.") else "tg_op = 'DELETE'"
        return "\n".join(lines).replace("KEY", key).replace("REMOVED", removed) + "\n"

    text = _READ.sub(read_apart, trigger)
    return text if pair.columns else _UPDATE.sub(again, text)


def _refresh(guard: str) -> str:
    """Let thawing read status and plan again, which the counters keep a copy of."""
    assert guard.count(_THAWED) == 1, "sql/04 thaws in a way that is not known here"
    return guard.replace(_THAWED, _REFRESH + _THAWED)


def _lock_first(match: re.Match[str]) -> str:
    """Lock the application's row before that of the counters."""
    return _LOCK_FIRST.format(match[1], match[2]) + match[0]


def _recounting(guard: str) -> str:
    """Count a workflow as all are counted: by the values of the status, whose meaning is asked for once each."""
    counts = ", ".join(f"coalesce(sum(g.{name}), 0)" for name in ("created", *OUTCOMES))
    text = (
        "        select COUNTS\n        into \\1\n        from their_count_where\n\\2\n        their_count_end as g;\n"
    )
    guard, found = _RECOUNT.subn(text.replace("COUNTS", counts), guard)
    assert found == 1, "sql/04 counts in a way that is not known here"
    return guard


def _rekeyed(guard: str) -> str:
    """Count under a new key, where no cascade lets the tasks follow: they can be there already."""
    recount = re.search(r"^        select coalesce\(sum.*? as g;\n", guard, re.DOTALL | re.MULTILINE)
    head, branch, tail = guard.partition("    elsif new.id <> old.id and new.progress_frozen_at is null then\n")
    zeroed, mark, rest = tail.partition("    else\n")
    assert recount is not None, "sql/04 counts in a way that is not known here"
    assert mark, "sql/04 is not what it was when this was written"
    counted = re.sub(r"^(?=.)", "    ", recount[0], flags=re.MULTILINE)
    return f"{head}{branch}{zeroed}        if not their_keys_cascade then\n{counted}        end if;\n{mark}{rest}"


def _guarded(pair: Pair, guard: str) -> str:
    """Let a workflow through whose columns of ours are gone; and one with a plan below zero, which is none."""
    text = _NEGATIVE.sub("", _recounting(guard))
    # Where the counters are null, not counted, the application's column keeps its number: it may allow no null.
    text = _PERCENTAGE.sub(r"\1coalesce(\2, old.progress)", text)
    if pair.columns:
        text = text.replace("progress_total(new.status,", "progress_total(meaning,")
        text = text.replace("as $$\nbegin\n", f"as $$\n{_MEANING}", 1)
        text = _rekeyed(text)
    else:
        before, after = _COUNTED
        assert before in text, "sql/04 is not what it was when this was written"
        text = text.replace(before, after)
    return text.replace("\nend\n$$;", f"\nexception\n    {_MISSING}\n        return new;\nend\n$$;", 1)
