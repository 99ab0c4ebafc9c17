-- How many workflows have other counters than tasks; created and completed, which every way of counting keeps.

select count(*)
from public.workflow as w
left join (
    select a.workflow_id, count(*) as created, count(*) filter (where a.status = 'completed') as completed
    from public.agent_task as a
    group by a.workflow_id
) as t on t.workflow_id = w.id
where (w.agents_created, w.agents_completed) <> (coalesce(t.created, 0), coalesce(t.completed, 0));
