-- The percentage that each workflow's column says beside the one that is counted, and the 20 that would move most.

with compared as materialized (
    select
        c.workflow_id::text as workflow,
        w.published::integer as stored,
        c.progress as counted,
        coalesce(
            w.status = 'completed' and w.published >= 100 and c.agents_created > 0
                and c.agents_completed + c.agents_failed + c.agents_cancelled = 0,
            false
        ) as frozen
    from {schema}.workflow_progress_calculated as c
    join {schema}.read_workflows() as w on w.workflow_id = c.workflow_id
), moved as (
    select m.workflow, m.stored, m.counted
    from compared as m
    where not m.frozen and m.stored is distinct from m.counted
    order by abs(coalesce(m.stored, 0) - m.counted) desc
    limit 20
)
select
    count(*) as workflows,
    count(*) filter (where not frozen and stored = counted) as unchanged,
    count(*) filter (where not frozen and (stored < counted or stored is null)) as raised,
    count(*) filter (where not frozen and stored > counted) as lowered,
    count(*) filter (where not frozen and stored > 0 and counted = 0) as zeroed,
    count(*) filter (where frozen) as frozen,
    (select coalesce(json_agg(m), '[]') from moved as m) as examples
from compared
