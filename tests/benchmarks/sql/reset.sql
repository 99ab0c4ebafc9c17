-- Opens all tasks again behind the back of every trigger, so that the next run settles them anew.

set session_replication_role = replica;

delete from public.agent_task where agent_type = 'inserted';

update public.agent_task
set
    status = 'pending',
    started_at = null,
    completed_at = null
where status <> 'pending';

update public.workflow
set
    progress = 0,
    agents_completed = 0,
    agents_created = case when id = '10000000-0000-4000-8000-%(hot_workflow)s' then %(hot)s else %(tasks)s end,
    agents_total = case when id = '10000000-0000-4000-8000-%(hot_workflow)s' then %(hot)s else %(tasks)s end
where
    agents_completed <> 0
    or agents_created <> case when id = '10000000-0000-4000-8000-%(hot_workflow)s' then %(hot)s else %(tasks)s end;

reset session_replication_role;
