-- The back-fill: counts those that were changed meanwhile, under their locks. In a later statement than the one that locks
-- them, with a newer snapshot: whoever changes a task of these waits for the lock.

update {schema}.workflow_counter as c
set kept_by = pg_current_xact_id()
from (
    select {c_keys}
    from {schema}.workflow_counter as c
    where c.agents_created is null
    order by {c_keys}
    limit {batch}
    for no key update skip locked
) as k
where {c_is_k};

update {schema}.workflow_counter as c
set
    agents_created = k.created,
    agents_completed = k.completed,
    agents_failed = k.failed,
    agents_cancelled = k.cancelled,
    described = coalesce(c.described, k.described)
from (
    select
        {c_keys},
        count(t.outcome) + c.removed_completed + c.removed_failed + c.removed_cancelled as created,
        count(*) filter (where t.outcome = 1) + c.removed_completed as completed,
        count(*) filter (where t.outcome = 2) + c.removed_failed as failed,
        count(*) filter (where t.outcome = 3) + c.removed_cancelled as cancelled,
        {first_described}::jsonb as described
    from {schema}.workflow_counter as c
    left join {described_tasks} as t on {t_is_c}
    where c.kept_by = pg_current_xact_id() and c.agents_created is null
    group by {c_keys}, c.removed_completed, c.removed_failed, c.removed_cancelled
) as k
where {c_is_k};

delete from {schema}.workflow_counter as c
where
    c.kept_by = pg_current_xact_id()
    and c.agents_created = 0
    and (select bool_and(s.live) from {schema}.counting as s);
