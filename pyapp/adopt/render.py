"""The SQL of an adoption: the templates of sql/adopt/, with their slots filled in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from psycopg import sql

from pyapp.adopt.adoption import OUTCOMES, AdoptError, Adoption, Table
from pyapp.renew import for_schema, resource

MARK = "$agent_progress$"
"""Quotes the bodies of functions: nothing that is filled in may hold it."""
_TASK_COLUMNS = {
    "external_id": "text",
    "agent_type": "text",
    "stage": "text",
    "priority": "text",
    "payload": "jsonb",
    "result": "jsonb",
    "trace_id": "text",
    "span_id": "text",
    "parent_span_id": "text",
    "created_at": "timestamptz",
    "assigned_at": "timestamptz",
    "started_at": "timestamptz",
    "completed_at": "timestamptz",
    "retry_count": "integer",
    "max_retries": "integer",
    "timeout_ms": "integer",
    "ordinal": "bigint",
}
_WORKFLOW_COLUMNS = {
    "name": "text",
    "description": "text",
    "type": "text",
    "current_stage": "text",
    "priority": "text",
    "trace_id": "text",
    "created_at": "timestamptz",
    "updated_at": "timestamptz",
    "completed_at": "timestamptz",
}
_STATES = ("completed", "failed", "cancelled", "paused", "initiated")


def read_template(file: str) -> str:
    """Read a template of sql/adopt/."""
    return (resource("sql") / "adopt" / file).read_text("utf-8")


def text(value: str) -> str:
    """Write a string as a literal."""
    return sql.Literal(value).as_string(None).strip()


def name(value: str) -> str:
    """Write an identifier."""
    return sql.Identifier(value).as_string(None)


def trigger_name(adoption: Adoption, what: str) -> str:
    """Name a trigger: several adoptions can share a table."""
    return f"{adoption.schema[:40]}_{what}"


@dataclass(frozen=True)
class Partitions:
    """The partitions of the two tables: statements on one fire its own statement triggers only."""

    tasks: Sequence[Table] = ()
    workflows: Sequence[Table] = ()


@dataclass(frozen=True)
class Script:
    """The SQL that installs an adoption, in parts that each lock one table of the application's at most."""

    hash: str
    objects: str
    tasks: str
    workflows: Sequence[str]

    def __str__(self) -> str:
        """Return all of it."""
        return "\n".join((self.objects, self.tasks, *self.workflows))


class Renderer:
    """Fills in the slots for one adoption."""

    def __init__(self, adoption: Adoption, partitions: Partitions = Partitions()) -> None:
        """Take the adoption, and the partitions that its tables have now."""
        self._of, self._partitions = adoption, partitions
        self._size = len(adoption.keys)
        if MARK in json.dumps(adoption.to_json()):
            raise AdoptError(f"{MARK} cannot stand in a name or an expression")

    def script(self) -> Script:
        """Render all that an adoption installs."""
        of = self._of
        # The formula is written once for all: its file is the one of sql/ that adoptions share.
        objects = [for_schema(read_template("../03_formula.sql"), of.schema)]
        names = ["02_count.sql", *(["03_delete.sql"] if of.workflows else [])]
        names += [
            "04_workflows.sql" if of.workflows else "04_groups.sql",
            "05_tasks.sql",
            "06_views.sql",
            "07_repair.sql",
            "09_trees.sql",
        ]
        names += ["08_publish.sql"] if of.publishes else []
        objects += [self.render(file) for file in names]
        made = _hash("\n".join([*objects, read_template("01_schema.sql")]))
        definition = text(json.dumps(of.to_json() | {"script": made}, sort_keys=True))
        objects.insert(0, self.fill(read_template("01_schema.sql"), definition=definition))
        tasks = [self.render("10_tasks.sql")]
        tasks += [self.render("11_task_triggers.sql", table=table) for table in (of.tasks, *self._partitions.tasks)]
        if self._partitions.tasks:
            tasks.append(self.render("12_partitions.sql"))
        return Script(made, "\n".join(objects), "\n".join(tasks), self._on_workflows())

    def _on_workflows(self) -> list[str]:
        of, parts = self._of, []
        for table in (of.workflows, *self._partitions.workflows) if of.workflows else ():
            files = ["13_workflow_triggers.sql", *(["14_publish_triggers.sql"] if of.publishes else [])]
            parts.append("\n".join(self.render(file, table=table) for file in files))
        if of.publishes:
            parts.append(self.render("15_guard_trigger.sql"))
        return parts

    def render(self, file: str, table: Table | None = None) -> str:
        """Fill in the slots of a template; ``table``: the one that its triggers are on."""
        return self.fill(read_template(file), **({"table": table.sql} if table else {}))

    def fill(self, template: str, **more: str) -> str:
        """Fill in the slots of a text, those given as well."""
        return _fill(template, self.slots | more)

    # What the slots stand for. Lists of the parts of the key are written by _each, with {i} for its number.

    def _each(self, pattern: str, joint: str = ", ") -> str:
        return joint.join(pattern.replace("{i}", str(i + 1)) for i in range(self._size))

    def _id(self, parts: Sequence[str]) -> str:
        """Write the id of a workflow: its key, or its parts as a path."""
        if len(parts) == 1:
            return parts[0]
        return " || '/' || ".join(f"replace(replace(({part})::text, '%', '%25'), '/', '%2F')" for part in parts)

    def _parts(self, argument: str) -> list[str]:
        """Write what an id has for each part of the key: the reverse of _id."""
        if self._size == 1:
            return [argument]
        return [
            f"replace(replace(split_part({argument}, '/', {i + 1}), '%2F', '/'), '%25', '%')::{key.type}"
            for i, key in enumerate(self._of.keys)
        ]

    @cached_property
    def outcome(self) -> str:
        """Write what became of a task: 1 completed, 2 failed, 3 cancelled, 0 open, null not counted."""
        of = self._of
        cases = [f"when ({of.where}) is not true then null"] if of.where else []
        numbers = {"ignored": "null", **{outcome: str(i + 1) for i, outcome in enumerate(OUTCOMES)}}
        cases += [f"when ({of.outcomes[o]}) then {n}" for o, n in numbers.items() if o in of.outcomes]
        words = {o: of.words[o] for o in numbers if o not in of.outcomes and of.words.get(o)}
        rest = "0"
        if of.status and words:
            # An array for each meaning, and only for what is not seen often: a long expression costs in each statement.
            known = "".join(
                f" when lower(({of.status})::text) = any ({_array(w)}) then {numbers[o]}" for o, w in words.items()
            )
            number = {word: numbers[o] for o, w in words.items() for word in w}
            seen = "".join(f" when {text(value)} then {number.get(value.lower(), '0')}" for value in of.seen)
            rest = f"case{known} else 0 end"
            rest = f"case ({of.status})::text{seen} else {rest} end" if seen else rest
        return f"(case {' '.join(cases)} else {rest} end)" if cases else f"({rest})"

    def _open_status(self) -> str:
        of, words = self._of, []
        for state in ("running", "assigned"):
            words += [f"when {text(word)} then {text(state)}" for word in of.words.get(state, ())]
        return (
            f"case lower(({of.status})::text) {' '.join(words)} else 'pending' end"
            if of.status and words
            else "'pending'"
        )

    def workflow_is(self, state: str) -> str:
        """Write when a workflow is in one of our states; null where nothing tells."""
        of = self._of
        if state in of.workflow_outcomes:
            return f"coalesce(({of.workflow_outcomes[state]}), false)"
        if of.workflow_status and (words := of.workflow_words.get(state)):
            return f"coalesce(lower(({of.workflow_status})::text) in ({', '.join(map(text, words))}), false)"
        return "false"

    def _status(self) -> str:
        tests = {state: test for state in _STATES if (test := self.workflow_is(state)) != "false"}
        if not any(state in tests for state in OUTCOMES):
            return "null::text"
        return f"case {' '.join(f'when {test} then {text(state)}' for state, test in tests.items())} else 'running' end"

    def _counted(self, relation: str, more: str = "") -> str:
        """Write a subquery for tasks: their keys, and what became of them."""
        keys = ", ".join(f"({key.sql})::{key.type} as key_{i + 1}" for i, key in enumerate(self._of.keys))
        return f"(select {keys}, {self.outcome} as outcome{more} from {relation})"

    def _published(self, created: str, completed: str, frozen: str) -> dict[str, str]:
        """Write what each published column is to say, of a row of the workflow and these counters."""
        total = created
        if planned := self._of.columns.get("agents_planned"):
            status = f"case when {self.workflow_is('completed')} then 'completed' else 'running' end"
            schema = name(self._of.schema)
            total = f"{schema}.progress_total(({status})::{schema}.workflow_status, {created}, ({planned})::bigint)"
        progress = f"coalesce({frozen}, {name(self._of.schema)}.progress_percentage({completed}, {total}))"
        values = {"progress": progress, "completed": completed, "total": total}
        return {self._of.publish[what]: value for what, value in values.items() if what in self._of.publish}

    def _publish_slots(self) -> dict[str, str]:
        of = self._of
        here = self._published("this.now_created", "this.now_completed", "this.now_frozen")
        there = self._published("c.agents_created", "c.agents_completed", "c.frozen_progress")
        any_row = self._published(
            "coalesce(c.agents_created, 0)", "coalesce(c.agents_completed, 0)", "c.frozen_progress"
        )
        columns = list(here)
        moved = [f"new.{name(c)} is distinct from old.{name(c)}" for c in columns]
        if planned := of.columns.get("agents_planned"):
            plan = f"array[({planned})::bigint, ({self.workflow_is('completed')})::integer]"

        def differs(values: dict[str, str]) -> str:
            return (
                "(" + " or ".join(f"workflow.{name(c)} is distinct from {value}" for c, value in values.items()) + ")"
            )

        def given(values: dict[str, str]) -> str:
            return ", ".join(f"{name(c)} = {value}" for c, value in values.items())

        lock = f"perform from {of.workflows.sql if of.workflows else ''} as workflow where {self._workflow_is('this.key_')} for no key update;"

        def row(expression: str, record: str) -> str:
            return f"(select {expression} from (select {record}.*) as workflow)"

        def key(part: str, record: str) -> str:
            """Write a part of the key of a record; a generated one by its expression: BEFORE triggers lack it."""
            expression = of.workflow_generated.get(part)
            return row(expression, record) if expression else part.replace("workflow.", f"{record}.", 1)

        parts = [part.sql for part in of.workflow_keys]
        moved += [f"{row(plan, 'new')} is distinct from {row(plan, 'old')}"] if planned else []
        moved += [f"{key(part, 'new')} is distinct from {key(part, 'old')}" for part in parts]
        return {
            "publish_set": given(here),
            "publish_differs": differs(here),
            "publish_counter_set": given(there),
            "publish_counter_differs": differs(there),
            "publish_any_set": given(any_row),
            "publish_any_differs": differs(any_row),
            "publish_assignments": " ".join(
                f"new.{name(column)} := {row(value, 'new') if planned else value};" for column, value in here.items()
            ),
            "published_moved": " or ".join(moved),
            "counter_is_new_workflow": " and ".join(
                f"c.key_{i + 1} = {key(part, 'new')}" for i, part in enumerate(parts)
            ),
            "lock_workflow": lock if planned else "",
        }

    def _workflow_is(self, prefix: str) -> str:
        keys = self._of.workflow_keys
        return " and ".join(f"{key.sql} = {prefix}{i + 1}" for i, key in enumerate(keys))

    def _listed(self) -> str:
        """Write which workflows are shown; of one table in both roles, no child without children: that is a task."""
        of = self._of
        known = " and ".join(f"{key.sql} is not null" for key in of.workflow_keys)
        if of.workflows != of.tasks:
            return known
        child = " and ".join(f"({key.sql.replace('task.', 'workflow.')}) is not null" for key in of.keys)
        counter = f"select from {name(of.schema)}.workflow_counter as c where {self._workflow_is('c.key_')}"
        return f"{known} and (not ({child}) or exists ({counter}))"

    def _describe(self) -> str:
        """Write how the first task of a workflow describes it, where there is no table of workflows."""
        of = self._of
        if of.workflows or not (columns := {c: v for c, v in of.columns.items() if c in _WORKFLOW_COLUMNS}):
            return ""
        keys = " and ".join(f"({key.sql})::{key.type} = this.key_{i + 1}" for i, key in enumerate(of.keys))
        updates = [
            f"if tg_op = '{op}' then update {name(of.schema)}.workflow_counter as c set described = "
            f"(select {self.described} from {relation} as task where {keys} and {self.outcome} is not null limit 1)"
            f" where {self._each('c.key_{i} = this.key_{i}', ' and ')}; end if;"
            for op, relation in (("INSERT", "changed_task"), ("UPDATE", "new_task"))
        ]
        return " ".join(updates)

    @property
    def described(self) -> str:
        """Write what a task says of its workflow, as JSON."""
        columns = {c: v for c, v in self._of.columns.items() if c in _WORKFLOW_COLUMNS}
        if self._of.workflows or not columns:
            return "null::jsonb"
        return f"jsonb_build_object({', '.join(f'{text(c)}, {v}' for c, v in columns.items())})"

    def _parent(self) -> str:
        """Write which workflow started one: as the user says; of one table in both roles, what its tasks name."""
        of = self._of
        if self._size > 1 or not of.workflows:
            return f"null::{of.id_type}"
        own = of.keys[0].sql.replace("task.", "workflow.") if of.workflows == of.tasks else None
        return _cast(of.columns.get("parent_id", own), of.id_type)

    @cached_property
    def slots(self) -> dict[str, str]:
        of, each, keys = self._of, self._each, self._of.keys
        schema, n = name(of.schema), self._size
        workflow_keys = [key.sql for key in of.workflow_keys]
        workflows = of.workflows.sql if of.workflows else ""
        wtypes = of.workflow_keys or of.keys
        counter_id = "c.key_1" if n == 1 else "c.workflow_id"
        b_id = self._id([f"b.key_{i + 1}" for i in range(n)])
        slots = {
            "schema": schema,
            "tasks": of.tasks.sql,
            "workflows": workflows,
            "counts": text(_hash(json.dumps(of.counts(), sort_keys=True))),
            "tasks_name": text(of.tasks.sql),
            # The key of a workflow.
            "keys": each("key_{i}"),
            "key_columns": ", ".join(f"key_{i + 1} {key.type} not null" for i, key in enumerate(keys)),
            "identity_column": ""
            if n == 1
            else f"workflow_id text not null generated always as ({self._id([f'key_{i + 1}' for i in range(n)])}) stored,"
            " constraint workflow_counter_workflow_id_key unique (workflow_id),",
            "key_variables": "; ".join(f"key_{i + 1} {key.type}" for i, key in enumerate(keys)),
            "the_keys": each("this.key_{i}"),
            "new_keys": each("n.key_{i}"),
            "same_keys": f"({each('n.key_{i} = o.key_{i}', ' and ')})",
            "keys_known": f"({each('key_{i} is not null', ' and ')})",
            "t_keys": each("t.key_{i}"),
            "counter_keys": each("c.key_{i}"),
            "k_keys": each("k.key_{i}"),
            "both_keys": each("b.key_{i}"),
            "both_id": f"({b_id})::{of.id_type}",
            "counter_id": counter_id if not of.workflows or n > 1 else f"{counter_id}::{of.id_type}",
            "id_type": of.id_type,
            "counter_is_the": each("c.key_{i} = this.key_{i}", " and "),
            "counter_is_new": each("c.key_{i} = new.key_{i}", " and "),
            "counter_is_k": each("c.key_{i} = k.key_{i}", " and "),
            "counter_is_w": each("c.key_{i} = w.key_{i}", " and "),
            "w_is_k": each("w.key_{i} = k.key_{i}", " and "),
            "take_new": each("this.key_{i} := new.key_{i}", "; "),
            "task_is_new": each("t.key_{i} = new.key_{i}", " and "),
            "task_is_the": each("t.key_{i} = this.key_{i}", " and "),
            "counter_is_missing": "c.key_1 is null",
            "k_is_argument": " and ".join(
                f"k.key_{i + 1} = {part}" for i, part in enumerate(self._parts("repair_progress.workflow"))
            ),
            # The tasks.
            "outcome": self.outcome,
            "counted_tasks": self._counted(f"{of.tasks.sql} as task"),
            "old_tasks": self._counted("old_task as task offset 0"),
            "new_tasks": self._counted("new_task as task offset 0"),
            "changed_tasks": self._counted("changed_task as task offset 0"),
            "task_keys": ", ".join(f"({key.sql})::{key.type}" for key in keys),
            "task_key_columns": ", ".join(f"key_{i + 1} {key.type}" for i, key in enumerate(keys)),
            "compare_key_columns": ", ".join(f"key_{i + 1} {key.type}" for i, key in enumerate(keys)),
            "task_id": f"({of.task_id.sql})::{of.task_id.type}",
            "task_id_type": of.task_id.type,
            "open_status": self._open_status(),
            "task_workflow_id": f"t.key_1::{of.id_type}" if n == 1 else "c.workflow_id",
            "join_counter": ""
            if n == 1
            else f"join {schema}.workflow_counter as c on {each('c.key_{i} = t.key_{i}', ' and ')}",
            "described_tasks": self._counted(f"{of.tasks.sql} as task", f", ({self.described})::text as described"),
            "task_is_counter": each("t.key_{i} = c.key_{i}", " and "),
            # The workflows.
            "workflow_keys_as_is": ", ".join(f"{key} as key_{i + 1}" for i, key in enumerate(workflow_keys)),
            "workflow_is_b": self._workflow_is("b.key_"),
            "counter_is_b": each("c.key_{i} = b.key_{i}", " and "),
            "keys_as_text": each("key_{i}::text"),
            "last_keys": each("key_{i} desc"),
            "workflow_key_columns": ", ".join(f"key_{i + 1} {key.type}" for i, key in enumerate(wtypes)),
            "workflow_keys": ", ".join(workflow_keys),
            "workflow_id": self._id(workflow_keys) if workflow_keys else "",
            "workflow_keys_known": " and ".join(f"{key} is not null" for key in workflow_keys),
            "workflow_is_listed": self._listed(),
            "workflow_keys_as_keys": ", ".join(
                f"({key})::{keys[i].type} as key_{i + 1}" for i, key in enumerate(workflow_keys)
            ),
            "workflow_is_the": self._workflow_is("this.key_"),
            "workflow_is_counter": self._workflow_is("c.key_"),
            "old_workflows": "old_workflow",
            "new_workflows": "new_workflow",
            "status": self._status(),
            "planned": f"({of.columns['agents_planned']})::integer"
            if "agents_planned" in of.columns
            else "null::integer",
            "parent_id": self._parent(),
            "published": f"workflow.{name(of.publish['progress'])}::numeric"
            if "progress" in of.publish
            else "null::numeric",
            # The views.
            "calculated_id": "w.workflow_id" if of.workflows else "k.workflow_id",
            "calculated_from": f"{schema}.read_workflows() as w left join {schema}.compare_progress() as k on {each('k.key_{i} = w.key_{i}', ' and ')}"
            if of.workflows
            else f"{schema}.compare_progress() as k left join {schema}.read_workflows() as w on {each('w.key_{i} = k.key_{i}', ' and ')}",
            "calculated_where": "true" if of.workflows else "k.counter or n.created > 0",
            "stored_progress": f"coalesce(k.frozen_progress, {schema}.progress_percentage(k.stored_completed,"
            f" {schema}.progress_total(w.status::{schema}.workflow_status, k.stored_created, w.planned)))",
            "published_differs": "false",
            "probe": "",
            "keep": "",
            "carry": "",
            "publish": "",
            "publish_counted": "",
            "describe": self._describe(),
        }
        for column, kind in _TASK_COLUMNS.items():
            slots[f"task_{column}"] = _cast(of.task_columns.get(column), kind)
        for column, kind in _WORKFLOW_COLUMNS.items():
            slots[column] = _cast(of.columns.get(column), kind)
        if of.workflows:
            slots["name"] = f"coalesce({slots['name']}, ({slots['workflow_id']})::text)"
        for what in ("insert", "update", "delete", "truncate", "merge"):
            slots[f"{what}_trigger"] = name(trigger_name(of, what))
            slots[f"workflow_{what}_trigger"] = name(trigger_name(of, f"workflow_{what}"))
        slots["update_trigger_name"] = text(trigger_name(of, "update"))
        slots["guard_trigger"] = name(f"zz_{trigger_name(of, 'guard')}")
        return slots | self._fragments(slots)

    def _fragments(self, slots: dict[str, str]) -> dict[str, str]:
        """Fill in what an adoption has only where it keeps what is finished, or publishes."""
        of = self._of
        filled = dict(slots)
        probes = []

        def fragment(file: str) -> str:
            return _fill(read_template(file), filled).strip()

        ended = " or ".join(test for state in OUTCOMES if (test := self.workflow_is(state)) != "false") or "false"
        if of.publishes:
            filled |= self._publish_slots()
            filled["publish"] = fragment("publish.sql")
            filled["publish_counted"] = fragment("publish_counted.sql")
            if "progress" in of.publish:
                filled["stored_progress"] = "w.published::integer"
                filled["published_differs"] = "(w.key_1 is not null and w.published is distinct from p.progress)"
            probes += [f"workflow.{name(column)}::numeric = 0" for column in sorted(of.publish.values())]
            probes += [f"{value} = 0" for value in self._published("0", "0", "null::integer").values()]
        if of.keep_finished:
            filled["ended_by_workflow"] = (
                f"select this.ended or {ended} into ended from {of.workflows.sql} as workflow where {filled['workflow_is_the']};"
                if of.workflows
                else ""
            )
            filled["keep"] = fragment("keep.sql")
            each = self._each
            filled |= {
                "old_and_new_keys": f"{each('o.key_{i} as old_{i}')}, {each('n.key_{i} as new_{i}')}",
                "old_and_new_places": f"{each('old_{i}')}, {each('new_{i}')}",
                "counter_is_pair": each("c.key_{i} = pair.old_{i}", " and "),
                "take_pair": each("this.key_{i} := pair.new_{i}", "; "),
            }
            filled["carry"] = fragment("carry.sql")
            probes.append(ended)
        if of.workflows and probes:
            keys = " and ".join(filled["workflow_keys_known"].split(" and "))
            filled["probe"] = (
                f"left join (select from {of.workflows.sql} as workflow where {keys} and ({' or '.join(probes)})) as w on false"
            )
        counters = "c.agents_created + c.agents_completed + c.agents_failed + c.agents_cancelled = 0"
        filled["probe"] = (
            f"left join (select from {filled['schema']}.workflow_counter as c, {filled['schema']}.counting as s"
            f" where {counters} and s.live) as z on false {filled['probe']}"
        )
        return filled


def _hash(value: str) -> str:
    return hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()


def _array(words: Sequence[str]) -> str:
    """Write an array of words as one constant."""
    quoted = ",".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
    return f"{text('{' + quoted + '}')}::text[]"


def _fill(template: str, slots: Mapping[str, str]) -> str:
    composed = {slot: sql.SQL(value) for slot, value in slots.items()}
    return sql.SQL(template).format(**composed).as_string(None)


def _cast(expression: str | None, kind: str) -> str:
    if expression is None:
        return f"null::{kind}"
    return f"to_jsonb({expression})" if kind == "jsonb" else f"({expression})::{kind}"
