-- Each value of the status of tasks, with its rows, and what it means for most of them.

select
    v.value,
    sum(v.tasks)::bigint as tasks,
    coalesce(
        (array['open', 'completed', 'failed', 'cancelled'])[1 + (array_agg(v.outcome order by v.tasks desc))[1]], 'ignored'
    ) as meaning
from (
    select ({status})::text as value, {outcome} as outcome, count(*) as tasks
    from {tasks} as task
    where ({where}) is true
    group by 1, 2
) as v
group by v.value
order by 2 desc, 1
limit 100
