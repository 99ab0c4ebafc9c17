-- How many workflows the maintained view tells other numbers of than their tasks.

select count(*)
from (
    select a.workflow_id, count(*) as created, count(*) filter (where a.status = 'completed') as completed
    from public.agent_task as a
    group by a.workflow_id
) as t
full join public.workflow_count as w on w.workflow_id = t.workflow_id
where (w.created, w.completed) is distinct from (t.created, t.completed);
