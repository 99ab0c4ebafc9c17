"""The SQL of an adoption: the files of sql/ with other names, and those of sql/adopt/.

The logic is written once. What depends on the tables occurs in sql/ as a closed list of tokens (``_TOKEN``); each
stands for a value of the pair, and for itself where the tables are ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pyapp.adopt.pair import COUNTERS, OUTCOMES, SHADOW_COLUMN, SHOWN, Pair, literal, quote
from pyapp.schema import resource

SHARED = (
    "02_progress_formula.sql",
    "03_progress_trigger.sql",
    "04_progress_guard.sql",
    "05_progress_views.sql",
    "06_repair.sql",
)
"""Files of sql/ that an adoption has as well."""
# One pass over all of them: nothing that was put in is looked at again.
_TOKEN = re.compile(
    r"""
    public\.workflow_progress_drift\ as\ d
    | public\.workflow\ as\ w
    | public\.agent_task\ as\ a
    | (?:old_task\ as\ o|new_task\ as\ n|changed_task\ as\ c|new_workflow\ as\ w|old_workflow\ as\ w)
    | public\.workflow\b
    | public\.agent_task\b
    | \bpublic\.
    | \buuid\b
    | \bwhere\ id\ =
    | \b(?:new|old)\.(?:id|progress|status|their_key|their_\w+)\b
    | \bprogress_total\(w\.status,
    | \bcreate\ (?:function|view|trigger)\b
    | \$\$
    | \btheir_\w+
    """,
    re.VERBOSE,
)
_COUNT = re.compile(
    r"left join \(\n(    select\n        a\.workflow_id,.*?\n    group by a\.workflow_id)\n\) as g", re.DOTALL
)
_SELECT = re.compile(r"create view public\.(\w+)\nwith \(security_invoker = true\)\nas\n(.*?);\n", re.DOTALL)
_UPDATE = re.compile(r"^( +)update public\.workflow\n.*?where id = (\S+);\n", re.DOTALL | re.MULTILINE)
_READ = re.compile(r"^begin\n(    -- Read .*?)\n\n    -- Write it\.\n", re.DOTALL | re.MULTILINE)
_NEGATIVE = re.compile(r"^    if new\.agents_planned < 0 then\n.*?^    end if;\n\n", re.DOTALL | re.MULTILINE)
_PERCENTAGE = re.compile(r"(new\.progress := )(public\.progress_percentage\([^)]*\))")
_LOCK = re.compile(r"^( +)perform from public\.workflow where id = (\w+) for no key update;\n", re.MULTILINE)
_THAWED = "            new.progress_updated_at := old.progress_updated_at;\n        end if;\n    elsif new.id"
_BODY = re.compile(r"^begin\n(.*?\n)end\n\$\$;", re.DOTALL | re.MULTILINE)
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


def own(text: str) -> str:
    """Render a file of sql/ for our own tables, where each token stands for itself."""
    return _TOKEN.sub(lambda token: token[0], text)


def script(pair: Pair, partitions: Partitions = _NO_PARTITIONS) -> str:
    """Render all that an adoption installs; the statements that lock the application's tables for it come last."""
    return "\n".join(steps(pair, partitions))


def steps(pair: Pair, partitions: Partitions = _NO_PARTITIONS) -> list[str]:
    """Render the same in three parts, each of which locks one of the application's tables at most.

    They may be transactions of their own: what comes between them is counted later, as what was there before.
    """
    templates = [_read("adopt/01_schema.sql"), _read(f"adopt/{_storage(pair)}"), *_functions_and_views(pair)]
    triggers = "".join(statement for text in templates for statement in _ON_TABLE.findall(text))
    first = [_render(pair, re.sub(r"\n{3,}", "\n\n", _ON_TABLE.sub("", template))) for template in templates]
    # Tasks first: the order in which everybody locks.
    on_tasks = [
        *(
            _render(replace(pair, tasks=table), _on(triggers, "agent_task"))
            for table in (pair.tasks, *partitions.tasks)
        ),
        # A row trigger, which partitions take over.
        _render(pair, _on(_read("adopt/06_partitions.sql"), "agent_task")) if partitions.tasks else "",
    ]
    on_workflows = [
        _render(pair, _on(triggers, "workflow", "their_workflow", "workflow_counter")),
        *(
            # Row triggers are passed on to partitions, statement triggers are not.
            _render(replace(pair, workflows=table), _on(triggers, "their_workflow", but="_follow_update|zz_"))
            for table in partitions.workflows
        ),
    ]
    parts = [f"create schema if not exists {quote(pair.schema)};\n", *first], on_tasks, on_workflows
    texts = ["\n".join(part) for part in parts]
    tag = "$agent_progress$"
    while any(tag in text for text in texts):
        tag = f"{tag[:-1]}_$"
    return [text.replace(_QUOTE, tag) for text in texts]


def _on(triggers: str, *tables: str, but: str = r"\Z.") -> str:
    """Choose the statements on triggers of these tables."""
    chosen = re.compile(rf"\b(?:on|alter table) (?:public\.)?(?:{'|'.join(tables)})(?=\s)")
    return "\n".join(s for s in _ON_TABLE.findall(triggers) if chosen.search(s) and not re.search(but, s))


def removal(pair: Pair, *, drop_columns: bool = False, table: bool = True) -> list[str]:
    """Render what takes an adoption back, after its triggers; ``table``: that of the workflows is still there."""
    schema = quote(pair.schema)
    statements = [
        f"drop function if exists {schema}.repair_progress({pair.key_type});",
        *(f"drop view if exists {schema}.{view};" for view in reversed(list(_views()))),
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


def progress_relation(pair: Pair, existing: frozenset[str]) -> str:
    """Write the view workflow_progress as a subquery that reads the application's columns directly.

    For queries that are made when they are needed: the planner sees the application's own indexes. ``existing`` are the
    columns that its table has now.
    """
    return f"({_inline(pair, 'workflow_progress', existing)})"


def drift_relation(pair: Pair, existing: frozenset[str]) -> str:
    """Write the view workflow_progress_drift as such a subquery."""
    return f"({_inline(pair, 'workflow_progress_drift', existing)})"


def tasks_relation(pair: Pair) -> str:
    """Write the tasks as (workflow_id, status) with the statuses of task_status."""
    return _tasks(pair, quote(*pair.tasks))


def count_relation(pair: Pair, where: str = "") -> str:
    """Write the query that counts tasks by workflow; ``where`` is a condition on a task, called ``a``."""
    return _count(pair, where)


def formula(pair: Pair) -> str:
    """Render the types and the formula alone."""
    types = _render(pair, _read("adopt/01_schema.sql").partition("create table")[0])
    return (types + _render(pair, _read(SHARED[0]))).replace(_QUOTE, "$agent_progress$")


def meaning_and_plan(pair: Pair, row: str) -> tuple[str, str]:
    """Write the meaning of the status of a workflow, and its plan."""
    return _meaning(pair, row), _plan(pair, row)


def _read(name: str) -> str:
    return (resource("sql") / name).read_text("utf-8")


def _storage(pair: Pair) -> str:
    return "02_columns.sql" if pair.columns else "02_counter.sql"


def _functions_and_views(pair: Pair) -> Iterator[str]:
    formula, trigger, guard, views, repair = map(_read, SHARED)
    yield formula
    yield _conflicts(_read("adopt/03_reading.sql"), "use_column")
    yield _conflicts(_fail_open(pair, trigger), "use_variable")
    yield _conflicts(_guarded(pair, guard if pair.columns else _refresh(guard)), "use_variable")
    if not pair.columns:
        yield _conflicts(_read("adopt/04_follow.sql"), "use_variable")
    if pair.publishes:
        yield _conflicts(_read("adopt/05_publish.sql"), "use_column")
    yield _COUNT.sub("left join public.count_tasks() as g", views)
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


def _render(pair: Pair, text: str) -> str:
    if _BODY.search(text) is None:  # views
        return _TOKEN.sub(lambda token: _value(pair, token[0], late=True), text)
    return _TOKEN.sub(lambda token: _value(pair, token[0], late=False), text)


_QUOTE = "\0"  # in no name and no text: where a dollar quote begins or ends


def _value(pair: Pair, token: str, *, late: bool, existing: frozenset[str] | None = None) -> str:
    """Say what a token stands for; ``late``: without naming a column of the application's but the key."""
    schema = quote(pair.schema)
    workflows, key = quote(*pair.workflows), quote(pair.key)
    if token == "$$":
        return _QUOTE
    if token == "public.workflow as w":
        if late:
            return f"{workflows} as u\ncross join lateral {schema}.describe_workflow(u.{key}) as w"
        return f"{_workflows(pair, existing)} as w"
    if token == "public.workflow_progress_drift as d":
        return f"({_inline(pair, 'workflow_progress_drift', existing)}) as d"
    if token == "public.agent_task as a":
        return f"{_tasks(pair, quote(*pair.tasks))} as a"
    if token.endswith((" as o", " as n", " as c")):
        return f"{_tasks(pair, token[:-5])}{token[-5:]}"
    if token == "new_workflow as w":
        values = f"u.{key} as id, {_meaning(pair, 'u')} as status, {_plan(pair, 'u')} as agents_planned"
        return f"(select {values} from new_workflow as u) as w"
    if token == "old_workflow as w":
        return f"(select u.{key} as id from old_workflow as u) as w"
    if token.startswith("create "):
        return token.replace("create ", "create or replace ")
    if token.startswith(("new.", "old.")):
        row, _, column = token.partition(".")
        return _column(pair, row, column)
    reading = _reading(pair)
    fixed = {
        "public.workflow": pair.counters,
        "public.agent_task": quote(*pair.tasks),
        "public.": f"{schema}.",
        "uuid": pair.key_type,
        # Qualified: a key can be called as a variable of ours is.
        "where id =": f"where {workflows}.{key} =" if pair.columns else token,
        "progress_total(w.status,": "progress_total(w.meaning,",
        "their_workflow": workflows,
        "their_key": key,
        "their_keys_cascade": "exists (select from pg_constraint as c where c.contype = 'f'"
        f" and c.conrelid = to_regclass({literal(quote(*pair.tasks))})"
        f" and c.confrelid = to_regclass({literal(workflows)}) and c.confupdtype in ('c', 'n', 'd'))",
        "their_progress": quote(pair.progress_column or ""),
        "their_counters": pair.counters,
        "their_reading": ", ".join(f"{name} {type_}" for name, type_ in reading.items()),
        # The key as it is compared, as varchar or integer by its index; and as it is shown, text or bigint.
        "their_values": ", ".join(f"w.id::{pair.key_type}" if name == "id" else f"w.{name}" for name in reading),
        "their_id": key if pair.columns else "id",
        "their_status": _meaning(pair, "u"),
        "their_planned": _plan(pair, "u") if pair.planned else "new.agents_planned",
        "their_workflow_now": _workflows(pair, None),
        "their_workflow_by_name": _workflows(pair, frozenset()),
        "their_count": f"({_count(pair)})",
        "their_count_where": f"({_count(pair, _QUOTE).partition(_QUOTE)[0]}",
        "their_count_end": f"{_count(pair, _QUOTE).partition(_QUOTE)[2]})",
    }
    return fixed[token]


def _column(pair: Pair, row: str, column: str) -> str:
    """Write a column of a row in a trigger."""
    if column == "their_meaning" or (column == "status" and pair.columns):
        return _meaning(pair, row)
    if column == "their_meaning_by_name":
        return _meaning_by_name(pair, row)
    if column == "their_plan":
        return _plan(pair, row)
    if column == "their_plan_by_name":
        return (
            _plan(pair, row).replace(f"{row}.{quote(pair.planned)}", _by_name(row, pair.planned))
            if pair.planned
            else "null"
        )
    if column == "their_key" or (column == "id" and pair.columns):
        return f"{row}.{quote(pair.key)}"
    if column == "their_progress" or (column == "progress" and pair.columns):
        return f"{row}.{quote(pair.progress_column or '')}"
    return f"{row}.{column}"


def _tasks(pair: Pair, relation: str) -> str:
    """Write a subquery for tasks with our names; the planner makes it one with the query around it."""
    type_ = f"{quote(pair.schema)}.task_status"
    cases = "".join(
        f" when {test} then {literal(outcome)}::{type_}" for outcome in OUTCOMES if (test := pair.outcome(outcome))
    )
    status = f"(case{cases} else 'pending'::{type_} end)"
    return f"(select task.{quote(pair.task_workflow)} as workflow_id, {status} as status from {relation} as task)"


def _meaning(pair: Pair, row: str) -> str:
    """Write what the status of a workflow means for the total."""
    completed = pair.workflow_completed(row)
    type_ = f"{quote(pair.schema)}.workflow_status"
    return f"(case when {completed} then 'completed'::{type_} else 'initiated'::{type_} end)"


def _meaning_by_name(pair: Pair, row: str) -> str:
    """Write the same, by way of JSON: of a column that is gone, or of another type than the plan of a session says."""
    if pair.workflow_status is None:
        return _meaning(pair, row)
    column = pair.workflow_status.column
    return _meaning(pair, row).replace(f"{row}.{quote(column)}::text", _by_name(row, column))


def _by_name(row: str, column: str) -> str:
    return f"(to_jsonb({row}) ->> {literal(column)})"


def _plan(pair: Pair, row: str) -> str:
    """Write the plan that a workflow of the application's has; a negative one is none."""
    return f"nullif(greatest({row}.{quote(pair.planned)}::integer, -1), -1)" if pair.planned else "null::integer"


def _reading(pair: Pair) -> dict[str, str]:
    """List the columns of a workflow as the views see it, with their types."""
    numbers = ("progress", *(name for name in COUNTERS if name.startswith("agents_")))
    return {
        "id": pair.key_type,
        **SHOWN,
        "meaning": f"{quote(pair.schema)}.workflow_status",
        **dict.fromkeys(numbers, "integer"),
        "progress_updated_at": "timestamptz",
        "progress_frozen_at": "timestamptz",
    }


def _workflows(pair: Pair, existing: frozenset[str] | None) -> str:
    """Write a subquery for workflows with our names.

    It reads the columns of the application's that are in ``existing`` by their names, all of them for None; others by
    way of JSON, which does not mind if they are gone.
    """

    def theirs(column: str | None, type_: str) -> str:
        if column is None:
            return f"null::{type_}"
        if existing is None or column in existing:
            if type_ == "timestamptz" and column in pair.utc:
                return f"(u.{quote(column)} at time zone 'UTC')"
            return f"u.{quote(column)}::{type_}"
        return f"{_by_name('u', column)}::{type_}"

    def counter(name: str, type_: str) -> str:
        return theirs(name, type_) if pair.columns else f"s.{name}"

    status = pair.workflow_status
    if status is None or existing is None or status.column in existing:
        meaning = _meaning(pair, "u")
    else:
        meaning = _meaning_by_name(pair, "u")
    own_progress = theirs(pair.progress, "integer")
    stored = theirs(pair.progress_column, "integer") if pair.columns else "s.progress"
    values = {
        "id": f"u.{quote(pair.key)}",
        **{name: theirs(pair.shown.get(name), type_) for name, type_ in SHOWN.items()},
        "meaning": meaning,
        "progress": f"coalesce({stored}, {own_progress}, 0)",
        **{
            name: f"coalesce({counter(name, 'integer')}, 0)"
            for name in ("agents_completed", "agents_total", "agents_created", "agents_failed", "agents_cancelled")
        },
        "agents_planned": _plan(pair, "u")
        if pair.planned and not pair.columns and (existing is None or pair.planned in existing)
        else counter("agents_planned", "integer"),
        "progress_updated_at": counter("progress_updated_at", "timestamptz"),
        "progress_frozen_at": f"case when {counter('agents_created', 'integer')} is null"
        f" then coalesce({counter('progress_frozen_at', 'timestamptz')}, 'epoch')"
        f" else {counter('progress_frozen_at', 'timestamptz')} end",
    }
    listed = ",\n        ".join(f"{values[name]} as {name}" for name in _reading(pair))
    beside = "" if pair.columns else f"\n    left join {pair.counters} as s on s.id = u.{quote(pair.key)}"
    return f"(\n    select\n        {listed}\n    from {quote(*pair.workflows)} as u{beside}\n)"


def _views() -> Mapping[str, str]:
    """Map the views of sql/05 to their queries."""
    return dict(_SELECT.findall(_read("05_progress_views.sql")))


def _count(pair: Pair, where: str = "") -> str:
    """Write the query that counts tasks by workflow, as sql/05 does, but asks what a status means only once each."""
    tasks, meaning = _tasks(pair, quote(*pair.tasks)), {outcome: f"t.status = '{outcome}'" for outcome in OUTCOMES}
    if pair.task_status is not None and not pair.task_conditions:
        values = (
            f"task.{quote(pair.task_workflow)} as workflow_id, task.{quote(pair.task_status.column)}::text as status"
        )
        tasks = f"(select {values} from {quote(*pair.tasks)} as task)"
        meaning = {outcome: pair.task_status.means("t.status", outcome) or "false" for outcome in OUTCOMES}
    kinds = ", ".join(
        f"coalesce(sum(t.tasks) filter (where {test}), 0)::bigint as {outcome}" for outcome, test in meaning.items()
    )
    return (
        f"select t.workflow_id, sum(t.tasks)::bigint as created, {kinds}"
        f" from (select a.workflow_id, a.status, count(*) as tasks from {tasks} as a{where}"
        " group by a.workflow_id, a.status) as t group by t.workflow_id"
    )


def _inline(pair: Pair, view: str, existing: frozenset[str] | None) -> str:
    """Write the query of a view, with the views that it reads in place of their names."""
    queries = _views()
    text = _COUNT.sub("left join their_count as g", queries[view])
    calculated = "public.workflow_progress_calculated as c"
    parts = text.split(calculated)
    rendered = [_TOKEN.sub(lambda token: _value(pair, token[0], late=False, existing=existing), part) for part in parts]
    inner = "" if len(parts) == 1 else f"({_inline(pair, 'workflow_progress_calculated', existing)}) as c"
    return inner.join(rendered)
