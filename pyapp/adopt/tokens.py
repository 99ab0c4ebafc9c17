"""What depends on the tables that are adopted: the tokens of sql/, and what each stands for.

The logic is written once. What depends on the tables occurs in sql/ as a closed list of tokens (``TOKEN``); each stands
for a value of the pair, and for itself where the tables are ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pyapp.adopt.pair import COUNTERS, OUTCOMES, SHOWN, Pair, literal, quote
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
TOKEN = re.compile(
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
    | \b(?:new|old)\.(?:id|progress|status|their_\w+)\b
    | \bprogress_total\(w\.status,
    | \bcreate\ (?:function|view|trigger)\b
    | \$\$
    | \btheir_\w+
    """,
    re.VERBOSE,
)
COUNT = re.compile(
    r"left join \(\n(    select\n        a\.workflow_id,.*?\n    group by a\.workflow_id)\n\) as g", re.DOTALL
)
_SELECT = re.compile(r"create view public\.(\w+)\nwith \(security_invoker = true\)\nas\n(.*?);\n", re.DOTALL)
_BODY = re.compile(r"^begin\n(.*?\n)end\n\$\$;", re.DOTALL | re.MULTILINE)
QUOTE = "\0"  # in no name and no text: where a dollar quote begins or ends


def own(text: str) -> str:
    """Render a file of sql/ for our own tables, where each token stands for itself."""
    return TOKEN.sub(lambda token: token[0], text)


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
    types = render(pair, read_sql("adopt/01_schema.sql").partition("create table")[0])
    return (types + render(pair, read_sql(SHARED[0]))).replace(QUOTE, "$agent_progress$")


def meaning_and_plan(pair: Pair, row: str) -> tuple[str, str]:
    """Write the meaning of the status of a workflow, and its plan."""
    return _meaning(pair, row), _plan(pair, row)


def read_sql(name: str) -> str:
    """Read a file of sql/."""
    return (resource("sql") / name).read_text("utf-8")


def render(pair: Pair, text: str) -> str:
    """Put in what the tokens stand for; in views without naming a column of the application's but the key."""
    return TOKEN.sub(_put(pair, late=_BODY.search(text) is None), text)


def _put(pair: Pair, *, late: bool, existing: frozenset[str] | None = None) -> Callable[[re.Match[str]], str]:
    """Return what puts in the values of tokens; each that occurs is worked out once."""
    values: dict[str, str] = {}

    def put(found: re.Match[str]) -> str:
        token = found[0]
        if token not in values:
            values[token] = _value(pair, token, late=late, existing=existing)
        return values[token]

    return put


def _value(pair: Pair, token: str, *, late: bool, existing: frozenset[str] | None = None) -> str:
    """Say what a token stands for; ``late``: without naming a column of the application's but the key."""
    schema = quote(pair.schema)
    workflows, tasks, key = quote(*pair.workflows), quote(*pair.tasks), quote(pair.key)
    match token:
        case "$$":
            return QUOTE
        case "public.workflow as w" if late:
            return f"{workflows} as u\ncross join lateral {schema}.describe_workflow(u.{key}) as w"
        case "public.workflow as w":
            return f"{_workflows(pair, existing)} as w"
        case "public.workflow_progress_drift as d":
            return f"({_inline(pair, 'workflow_progress_drift', existing)}) as d"
        case "public.agent_task as a":
            return f"{_tasks(pair, tasks)} as a"
        case "old_task as o" | "new_task as n" | "changed_task as c":
            return f"{_tasks(pair, token[:-5])}{token[-5:]}"
        case "new_workflow as w":
            values = f"u.{key} as id, {_meaning(pair, 'u')} as status, {_plan(pair, 'u')} as agents_planned"
            return f"(select {values} from new_workflow as u) as w"
        case "old_workflow as w":
            return f"(select u.{key} as id from old_workflow as u) as w"
        case "public.workflow" | "their_counters":
            return pair.counters
        case "public.agent_task":
            return tasks
        case "public.":
            return f"{schema}."
        case "uuid":
            return pair.key_type
        case "where id =":
            # Qualified: a key can be called as a variable of ours is.
            return f"where {workflows}.{key} =" if pair.columns else token
        case "progress_total(w.status,":
            return "progress_total(w.meaning,"
    if token.startswith("create "):
        return token.replace("create ", "create or replace ")
    if token.startswith(("new.", "old.")):
        row, _, column = token.partition(".")
        return _column(pair, row, column)
    return _theirs(pair, token)


def _theirs(pair: Pair, token: str) -> str:
    """Say what a token stands for that is written for adopted tables alone."""
    workflows, tasks, key = quote(*pair.workflows), quote(*pair.tasks), quote(pair.key)
    match token:
        case "their_workflow":
            return workflows
        case "their_key":
            return key
        case "their_keys_cascade":
            return (
                "exists (select from pg_constraint as c where c.contype = 'f'"
                f" and c.conrelid = to_regclass({literal(tasks)})"
                f" and c.confrelid = to_regclass({literal(workflows)}) and c.confupdtype in ('c', 'n', 'd'))"
            )
        case "their_progress":
            return quote(pair.progress_column or "")
        case "their_reading":
            return ", ".join(f"{name} {type_}" for name, type_ in _reading(pair).items())
        case "their_values":
            # The key as it is compared, as varchar or integer by its index; and as it is shown, text or bigint.
            return ", ".join(f"w.id::{pair.key_type}" if name == "id" else f"w.{name}" for name in _reading(pair))
        case "their_id":
            return key if pair.columns else "id"
        case "their_status":
            return _meaning(pair, "u")
        case "their_planned":
            return _plan(pair, "u") if pair.planned else "new.agents_planned"
        case "their_workflow_now":
            return _workflows(pair, None)
        case "their_workflow_by_name":
            return _workflows(pair, frozenset())
        case "their_count":
            return f"({_count(pair)})"
        case "their_count_where":
            return f"({_count(pair, QUOTE).partition(QUOTE)[0]}"
        case "their_count_end":
            return f"{_count(pair, QUOTE).partition(QUOTE)[2]})"
    raise KeyError(token)


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


def views() -> Mapping[str, str]:
    """Map the views of sql/05 to their queries."""
    return dict(_SELECT.findall(read_sql("05_progress_views.sql")))


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
    queries = views()
    text = COUNT.sub("left join their_count as g", queries[view])
    calculated = "public.workflow_progress_calculated as c"
    parts = text.split(calculated)
    put = _put(pair, late=False, existing=existing)
    rendered = [TOKEN.sub(put, part) for part in parts]
    inner = "" if len(parts) == 1 else f"({_inline(pair, 'workflow_progress_calculated', existing)}) as c"
    return inner.join(rendered)
