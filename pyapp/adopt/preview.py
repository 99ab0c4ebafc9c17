"""What an adoption would change in the application's column of progress; nothing is installed to find out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import Connection

from pyapp.adopt.catalog import columns_of
from pyapp.adopt.pair import Pair, quote
from pyapp.adopt.tokens import formula, meaning_and_plan, tasks_relation

_EXAMPLES = 20


@dataclass(frozen=True)
class Change:
    """A workflow whose progress would change: what its column says, and what was counted, in percent."""

    workflow: str
    stored: int | None
    counted: int


@dataclass(frozen=True)
class Preview:
    """How many workflows would change, and those that would change most."""

    workflows: int
    unchanged: int
    raised: int
    lowered: int
    frozen: int
    examples: Sequence[Change]


def preview(conn: Connection[Any], pair: Pair) -> Preview:
    """Count all tasks, as they are now, and compare with what the application's column of progress says.

    The formula is created as a temporary function for it, and gone afterwards.
    """
    there = "agents_planned" in columns_of(conn, pair.workflows)
    temporary = replace(pair, schema="pg_temp", planned="agents_planned" if there else None)
    meaning, plan = meaning_and_plan(temporary, "u")
    stored = f"u.{quote(pair.progress)}::integer" if pair.progress else "null::integer"
    completed = pair.workflow_completed("u")
    query = f"""
        with seen as materialized (
            select
                u.{quote(pair.key)}::text as workflow,
                {stored} as stored,
                pg_temp.progress_percentage(
                    coalesce(g.completed, 0), pg_temp.progress_total({meaning}, coalesce(g.created, 0), {plan})
                ) as counted,
                {completed} and {stored} >= 100 and coalesce(g.settled, 0) = 0 as frozen
            from {quote(*pair.workflows)} as u
            left join (
                select
                    a.workflow_id,
                    count(*) as created,
                    count(*) filter (where a.status = 'completed') as completed,
                    count(*) filter (where a.status <> 'pending') as settled
                from {tasks_relation(temporary)} as a
                group by a.workflow_id
            ) as g on g.workflow_id = u.{quote(pair.key)}
        )
        select
            count(*),
            count(*) filter (where stored = counted and frozen is not true),
            count(*) filter (where coalesce(stored, 0) < counted and frozen is not true),
            count(*) filter (where coalesce(stored, 0) > counted and frozen is not true),
            count(*) filter (where frozen),
            (
                select coalesce(jsonb_agg(jsonb_build_array(e.workflow, e.stored, e.counted)), '[]')
                from (
                    select workflow, stored, counted
                    from seen
                    where stored is distinct from counted and frozen is not true
                    order by abs(coalesce(stored, 0) - counted) desc, workflow
                    limit {_EXAMPLES}
                ) as e
            )
        from seen
    """
    with conn.transaction(force_rollback=True):
        conn.execute(formula(temporary).encode())
        row = conn.execute(query.encode()).fetchone()
    assert row is not None, "an aggregate gave no row"
    total, unchanged, raised, lowered, frozen, examples = row
    # A column without a value, where nothing is completed, rises from nothing to 0.
    raised += total - unchanged - raised - lowered - frozen
    return Preview(total, unchanged, raised, lowered, frozen, [Change(*change) for change in examples])
