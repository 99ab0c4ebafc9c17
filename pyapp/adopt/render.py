"""The SQL of an adoption: the templates of sql/adopt/, with their slots filled in.

Slots that are about each part of the key say what they write: ``{list:key_# @type}``, ``{and:@sql = c.key_#}`` or
``{each:this.key_# := new.key_#;}``, with its number, SQL and type; ``{workflow_list:…}`` and so on are about the key of
workflows. ``{c_keys}`` is short for ``{list:c.key_#}``, ``{c_is_t}`` for ``{and:c.key_# = t.key_#}``; ``this`` are the
variables of a function. The other slots are named in Renderer.slots.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any

from psycopg import sql

from pyapp.adopt.adoption import OUTCOMES, AdoptError, Adoption, Key, Table
from pyapp.adopt.words import TASK_COLUMNS, WORKFLOW_COLUMNS, fold, plural
from pyapp.shipped import for_schema, resource

MARK = "$agent_progress$"
"""Quotes the bodies of functions: nothing that is filled in may hold it."""
_STATES = ("completed", "failed", "cancelled", "paused", "initiated")
_JOINTS = {"list": ", ", "and": " and ", "each": " "}
_COMPARED = re.compile(r"(\w+)_is_(\w+)")
_AS_JSON = re.compile(r"(?<![\w.])as_json\(")


def read_template(file: str) -> str:
    """Read a template of sql/adopt/."""
    return (resource("sql") / "adopt" / file).read_text("utf-8")


def text(value: str) -> str:
    """Write a string as a literal."""
    return sql.Literal(value).as_string(None).strip()


def name(value: str) -> str:
    """Write an identifier."""
    return sql.Identifier(value).as_string(None)


def locate(expressions: str, schema: str) -> str:
    """Write out where the function as_json() lies, which expressions name without a schema."""
    return _AS_JSON.sub(lambda _: f"{schema}.as_json(", expressions)


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

    def __init__(self, adoption: Adoption, tasks: Sequence[Table] = (), workflows: Sequence[Table] = ()) -> None:
        """Take the adoption, and the partitions that its tables have now: statements on one fire its own triggers."""
        self._record = adoption.to_json()
        written = _json(self._record)
        self._schema, self._tasks, self._workflows = name(adoption.schema), tasks, workflows
        self._of = Adoption.from_json(json.loads(locate(written, json.dumps(self._schema)[1:-1])))
        if MARK in written:
            raise AdoptError(f"{MARK} cannot stand in a name or an expression")

    def script(self) -> Script:
        """Render all that an adoption installs."""
        of = self._of
        files = ["../03_formula.sql", "as_json.sql", "02_count.sql", *(["03_delete.sql"] if of.workflows else [])]
        files += ["04_workflows.sql", "05_tasks.sql", "06_views.sql", "07_repair.sql"]
        files += ["../16_tree_progress.sql", "../21_trends.sql"]
        files += [*(["08_publish.sql"] if of.publishes else []), "09_rights.sql"]
        # What is written once for all: the files of sql/ that adoptions share.
        objects = [
            for_schema(read_template(file), of.schema) if file.startswith("../") else self.render(file)
            for file in files
        ]
        made = _hash("\n".join([*objects, read_template("01_schema.sql")]))
        definition = text(_json(self._record | {"script": made}))
        objects.insert(0, self.render("01_schema.sql", definition=definition))
        on_tasks = [self.render("11_task_triggers.sql", table=table.sql) for table in (of.tasks, *self._tasks)]
        on_tasks += [self.render("12_partitions.sql")] if self._tasks else []
        on_workflows = [
            self.render("13_workflow_triggers.sql", table=table.sql)
            + (self.render("14_publish_triggers.sql", table=table.sql) if of.publishes else "")
            for table in ((of.workflows, *self._workflows) if of.workflows else ())
        ]
        on_workflows += [self.render("15_guard_trigger.sql")] if of.publishes else []
        return Script(made, "\n".join(objects), "\n".join([self.render("10_tasks.sql"), *on_tasks]), on_workflows)

    def render(self, file: str, **slots: str) -> str:
        """Fill in the slots of a template, those given as well."""
        return self.fill(read_template(file), **slots)

    def fill(self, template: str, **slots: str) -> str:
        """Fill in the slots of a text, those given as well."""
        known: Mapping[str, str] = self.slots | slots
        parts = Formatter().parse(template)
        return "".join(
            literal + (self._slot(slot, spec or "", known) if slot else "") for literal, slot, spec, _ in parts
        )

    # The parts of the key.

    def _slot(self, slot: str, pattern: str, known: Mapping[str, str]) -> str:
        if slot in known:
            return known[slot]
        if pattern:
            of = slot.removeprefix("workflow_")
            return self._each(pattern, _JOINTS[of], self._of.keys if of == slot else self._of.workflow_keys)
        if match := _COMPARED.fullmatch(slot):
            return self._each(f"{match[1]}.key_# = {match[2]}.key_#", " and ")
        if slot.endswith("_keys"):
            return self._each(f"{slot.removesuffix('_keys')}.key_#")
        raise KeyError(slot)

    def _each(self, pattern: str, joint: str = ", ", keys: Sequence[Key] = ()) -> str:
        """Write a list of the parts of a key, that of tasks or another."""
        return joint.join(
            pattern.replace("#", str(i)).replace("@type", key.type).replace("@sql", key.sql)
            for i, key in enumerate(keys or self._of.keys, 1)
        )

    def _id(self, parts: Sequence[str]) -> str:
        """Write the id of a workflow: its key, or its parts as a path."""
        if len(parts) == 1:
            return parts[0]
        return " || '/' || ".join(f"replace(replace(({part})::text, '%', '%25'), '/', '%2F')" for part in parts)

    def _argument(self, argument: str) -> str:
        """Write that the key of k is that of an id: the reverse of _id."""
        if len(self._of.keys) == 1:
            return f"k.key_1 = {argument}"
        part = f"split_part({argument}, '/', #)"
        return self._each(f"k.key_# = replace(replace({part}, '%2F', '/'), '%25', '%')::@type", " and ")

    # What tasks and workflows are.

    @cached_property
    def outcome(self) -> str:
        """Write what became of a task: 1 completed, 2 failed, 3 cancelled, 0 open, null not counted."""
        of = self._of
        cases = [f"when ({of.where}) is not true then null"] if of.where else []
        numbers = {"ignored": "null", **{outcome: str(i + 1) for i, outcome in enumerate(OUTCOMES)}}
        cases += [f"when ({of.outcomes[o]}) then {n}" for o, n in numbers.items() if o in of.outcomes]
        words = {o: of.words[o] for o in numbers if o not in of.outcomes and of.words.get(o)}
        if of.status and words:
            # An array for each meaning, and only for what is not seen often: a long expression costs in each statement.
            known = " ".join(f"when {_among(of.status, w)} then {numbers[o]}" for o, w in words.items())
            number = {word: numbers[o] for o, w in words.items() for word in w}
            seen = " ".join(f"when {text(value)} then {number.get(fold(value), '0')}" for value in of.seen)
            rest = f"case {known} else 0 end"
            cases.append(f"else case ({of.status})::text {seen} else {rest} end" if seen else f"else {rest}")
        else:
            cases.append("else 0")
        return f"(case {' '.join(cases)} end)" if len(cases) > 1 else f"({cases[0].removeprefix('else ')})"

    def _open_status(self) -> str:
        of = self._of
        cases = " ".join(
            f"when {_among(of.status, of.words[state])} then {text(state)}"
            for state in ("running", "assigned")
            if of.status and state in of.words
        )
        return f"case {cases} else 'pending' end" if cases else "'pending'"

    def workflow_is(self, state: str) -> str:
        """Write when a workflow is in one of our states; false where nothing tells."""
        of = self._of
        if state in of.workflow_outcomes:
            return f"coalesce(({of.workflow_outcomes[state]}), false)"
        if of.workflow_status and (words := of.workflow_words.get(state)):
            return f"coalesce({_among(of.workflow_status, words)}, false)"
        return "false"

    def _status(self) -> str:
        tests = {state: test for state in _STATES if (test := self.workflow_is(state)) != "false"}
        if not tests.keys() & set(OUTCOMES):
            return "null::text"
        return f"case {' '.join(f'when {test} then {text(state)}' for state, test in tests.items())} else 'running' end"

    def _counted(self, relation: str, more: str = "") -> str:
        """Write a subquery for tasks: their keys, and what became of them."""
        keys = self._each("(@sql)::@type as key_#")
        return f"(select {keys}, {self.outcome} as outcome{more} from {relation})"

    @cached_property
    def _described(self) -> str:
        """Write what a task says of its workflow, as JSON, where there is no table of workflows."""
        shown = [f"{text(c)}, {value}" for c, value in self._of.columns.items() if not self._of.workflows]
        return f"jsonb_build_object({', '.join(shown)})" if shown else "null::jsonb"

    def _listed(self) -> dict[str, str]:
        """Write where workflows are read from, and which: of one table in both roles, no child without children."""
        of, counter = self._of, f"{self._schema}.workflow_counter as c"
        if not of.workflows:
            of_json = {c: f"(c.described ->> {text(c)})::{kind}" for c, (kind, *_) in WORKFLOW_COLUMNS.items()}
            done = "c.agents_created = c.agents_completed + c.agents_failed + c.agents_cancelled"
            return of_json | {
                "listed": f"{counter}",
                "parent_id": f"null::{of.id_type}",
                "workflow_keys": self._each("c.key_#"),
                "workflow_id": "c.key_1" if len(of.keys) == 1 else "c.workflow_id",
                "created_at": f"coalesce({of_json['created_at']}, c.created_at)",
                "updated_at": f"coalesce({of_json['updated_at']}, c.progress_updated_at)",
                "completed_at": f"case when {done} then coalesce({of_json['completed_at']}, c.progress_updated_at) end",
            }
        listed = f"{of.workflows.sql} as workflow where {self._each('@sql is not null', ' and ', of.workflow_keys)}"
        if of.workflows == of.tasks:
            child = self._each("(@sql) is not null", " and ").replace("task.", "workflow.")
            counted = self._each("@sql = c.key_#", " and ", of.workflow_keys)
            listed += f" and (not ({child}) or exists (select from {counter} where {counted}))"
        columns = {c: _cast(of.columns.get(c), kind) for c, (kind, *_) in WORKFLOW_COLUMNS.items()}
        keys = [key.sql for key in of.workflow_keys]
        # What started a workflow: of one table in both roles, what its tasks name.
        parent = of.keys[0].sql.replace("task.", "workflow.") if of.workflows == of.tasks else None
        columns["parent_id"] = _cast(of.columns.get("parent_id", parent) if len(keys) == 1 else None, of.id_type)
        return columns | {"listed": listed, "workflow_keys": ", ".join(keys), "workflow_id": self._id(keys)}

    # Publishing.

    def _published(self, created: str, completed: str, frozen: str) -> dict[str, str]:
        """Write what each published column is to say, of a row of the workflow and these counters."""
        total, schema = created, self._schema
        if planned := self._of.columns.get("agents_planned"):
            status = f"(case when {self.workflow_is('completed')} then 'completed' else 'running' end)"
            total = f"{schema}.progress_total({status}::{schema}.workflow_status, {created}, ({planned})::bigint)"
        progress = f"coalesce({frozen}, {schema}.progress_percentage({completed}, {total}))"
        values = {"progress": progress, "completed": completed, "total": total}
        return {self._of.publish[what]: value for what, value in values.items() if what in self._of.publish}

    def _publish_slots(self) -> dict[str, str]:
        of, slots = self._of, dict[str, str]()
        of_variables = self._published("this.now_created", "this.now_completed", "this.now_frozen")
        planned, progress = of.columns.get("agents_planned"), of.publish.get("progress")
        slots["publish_percentage"] = of_variables[progress] if progress and not planned else "null"
        in_variable = {progress: "publishing.percentage"} if progress and not planned else {}
        counters = ("coalesce(c.agents_created, 0)", "coalesce(c.agents_completed, 0)", "c.frozen_progress")
        for kind, values in (("publish", of_variables | in_variable), ("publish_counter", self._published(*counters))):
            differ = " or ".join(f"workflow.{name(c)} is distinct from {value}" for c, value in values.items())
            slots[f"{kind}_set"] = ", ".join(f"{name(c)} = {value}" for c, value in values.items())
            slots[f"{kind}_differs"] = f"({differ})"

        def of_row(expression: str, record: str) -> str:
            return f"(select {expression} from (select {record}.*) as workflow)"

        def key(part: Key, record: str) -> str:
            """Write a part of the key of a record; a generated one by its expression: BEFORE triggers lack it."""
            expression = of.workflow_generated.get(part.sql)
            return of_row(expression, record) if expression else part.sql.replace("workflow.", f"{record}.", 1)

        moved = [f"new.{name(column)} is distinct from old.{name(column)}" for column in of_variables]
        moved += [f"{key(part, 'new')} is distinct from {key(part, 'old')}" for part in of.workflow_keys]
        if planned:
            plan = f"array[({planned})::bigint, ({self.workflow_is('completed')})::integer]"
            moved.append(f"{of_row(plan, 'new')} is distinct from {of_row(plan, 'old')}")
        assigned = {c: of_row(value, "new") if planned else value for c, value in of_variables.items()}
        slots["publish_assignments"] = " ".join(f"new.{name(c)} := {value};" for c, value in assigned.items())
        slots["published_moved"] = " or ".join(moved)
        slots["counter_is_of_new"] = " and ".join(
            f"c.key_{i + 1} = {key(part, 'new')}" for i, part in enumerate(of.workflow_keys)
        )
        return slots

    # All slots.

    @cached_property
    def slots(self) -> dict[str, str]:
        """What stands in the slots of all templates."""
        of, each, schema, single = self._of, self._each, self._schema, len(self._of.keys) == 1
        tasks, counter_id = f"{of.tasks.sql} as task", "c.key_1" if single else "c.workflow_id"
        identity = f"workflow_id text not null generated always as ({self._id(each('key_#').split(', '))}) stored"
        retyped = each("alter key_# type @type using key_#::@type")
        slots = {
            "schema": schema,
            "prefix": of.schema,
            "tasks": of.tasks.sql,
            "workflows": of.workflows.sql if of.workflows else "",
            "counts": text(_hash(_json(of.counts()))),
            "former_counts": text(_hash(json.dumps(of.counts() | {"keys": of.to_json()["keys"]}, sort_keys=True))),
            "nothing_removed": ", ".join(
                f"{kind}_{outcome} = 0" for kind in ("removed", "kept") for outcome in OUTCOMES
            ),
            "tasks_name": text(of.tasks.sql),
            "workflow_noun": text(of.workflow_noun),
            "workflow_nouns": text(plural(of.workflow_noun)),
            "task_noun": text(of.task_noun),
            "task_nouns": text(plural(of.task_noun)),
            "keys": each("key_#"),
            "identity_column": "" if single else f"{identity}, unique (workflow_id),",
            "retyped_keys": retyped
            if single
            else f"drop workflow_id, {retyped}, add {identity}, add unique (workflow_id)",
            "id_type": of.id_type,
            "counter_id": f"{counter_id}::{of.id_type}",
            "b_id": f"({self._id(each('b.key_#').split(', '))})::{of.id_type}",
            "k_is_argument": self._argument("repair_progress.workflow"),
            "outcome": self.outcome,
            "open_status": self._open_status(),
            "counted_tasks": self._counted(tasks),
            "described_tasks": self._counted(tasks, f", ({self._described})::text as described"),
            "first_described": "null" if self._described == "null::jsonb" else "min(t.described)",
            # Worked out once for each row, however often it is named.
            "old_tasks": self._counted("old_task as task offset 0"),
            "new_tasks": self._counted("new_task as task offset 0"),
            "changed_tasks": self._counted("changed_task as task offset 0"),
            "described": self._described,
            "task_id": f"({of.task_id.sql})::{of.task_id.type}",
            "task_id_type": of.task_id.type,
            "task_workflow_id": f"t.key_1::{of.id_type}" if single else "c.workflow_id",
            "join_counter": ""
            if single
            else f"join {schema}.workflow_counter as c on {each('c.key_# = t.key_#', ' and ')}",
            "workflow_keys_as_keys": ", ".join(
                f"({theirs.sql})::{ours.type} as key_{i + 1}"
                for i, (ours, theirs) in enumerate(zip(of.keys, of.workflow_keys, strict=False))
            ),
            "status": self._status(),
            "workflow_completed": self.workflow_is("completed"),
            "planned": _cast(of.columns.get("agents_planned") if of.workflows else None, "integer"),
            "published": _cast(
                f"workflow.{name(of.publish['progress'])}" if "progress" in of.publish else None, "numeric"
            ),
            "calculated": f"{schema}.read_workflows() as w left join {schema}.compare_progress() as k"
            if of.workflows
            else f"{schema}.compare_progress() as k left join {schema}.read_workflows() as w",
            # As it is where there is one, so that the application's index on it serves lists.
            "shown_created_at": "w.created_at"
            if "created_at" in of.columns
            else "coalesce(w.created_at, c.created_at)",
            "calculated_id": "w.workflow_id" if of.workflows else "k.workflow_id",
            "stored_progress": f"coalesce(k.frozen_progress, {schema}.progress_percentage(k.stored_completed,"
            f" {schema}.progress_total(w.status::{schema}.workflow_status, k.stored_created, w.planned)))",
            "published_differs": "false",
            **dict.fromkeys(("keep", "carry", "ended", "publish", "publish_counted", "lock_workflow", "describe"), ""),
            **{f"task_{c}": _cast(of.task_columns.get(c), kind) for c, (kind, *_) in TASK_COLUMNS.items()},
            **self._listed(),
        }
        slots["name"] = f"coalesce({slots['name']}, ({slots['workflow_id']})::text)"
        return self._with_fragments(slots)

    def _with_fragments(self, slots: dict[str, str]) -> dict[str, str]:
        """Fill in what an adoption has only where it keeps what is finished, or publishes; and what may be missing."""
        of = self._of
        self.__dict__["slots"] = slots  # what the fragments are filled in from
        probes = []
        if of.publishes:
            slots |= self._publish_slots()
            parts = ["lock_workflow"] if "agents_planned" in of.columns else []
            for part in (*parts, "publish", "publish_counted"):
                slots[part] = self.render(f"{part}.sql").strip()
            if "progress" in of.publish:
                slots["stored_progress"] = "w.published::integer"
                slots["published_differs"] = "(w.key_1 is not null and w.published is distinct from p.progress)"
            probes += [f"workflow.{name(column)}::numeric = 0" for column in of.publish.values()]
            probes += [f"{value} = 0" for value in self._published("0", "0", "null::integer").values()]
        if of.keep_finished:
            ended = " or ".join(map(self.workflow_is, OUTCOMES))
            slots |= {"keep_failed": str(of.keep_failed).lower(), "workflow_ended": f"({ended})"}
            for part in (*(["ended"] if of.workflows else []), "keep", "carry"):
                slots[part] = self.render(f"{part}.sql").strip()
            probes.append(ended)
        if self._described != "null::jsonb":
            slots["describe"] = self.render("describe.sql").strip()
        numbers = " + ".join(f"c.agents_{what}" for what in ("created", *OUTCOMES))
        needed = [f"{self._schema}.workflow_counter as c, {self._schema}.counting as s where {numbers} = 0 and s.live"]
        if of.workflows and probes:
            known = self._each("@sql is not null", " and ", of.workflow_keys)
            needed.append(f"{of.workflows.sql} as workflow where {known} and ({' or '.join(probes)})")
        slots["needed"] = " or ".join(f"exists (select from {rows})" for rows in needed)
        return slots


def _json(value: Mapping[str, Any]) -> str:
    """Write JSON in one order, wherever it comes from, and without escapes, which not every encoding can take."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _hash(value: str) -> str:
    return hashlib.md5(value.encode(), usedforsecurity=False).hexdigest()


def _among(status: str, words: Sequence[str]) -> str:
    """Write that a status is one of these words, which are one constant."""
    quoted = ",".join('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
    return f'lower(({status})::text collate pg_catalog."C") = any ({text("{" + quoted + "}")}::text[])'


def _cast(expression: str | None, kind: str) -> str:
    if expression is None:
        return f"null::{kind}"
    return f"to_jsonb({expression})" if kind == "jsonb" else f"({expression})::{kind}"
