-- The counters beside the adopted table, as they were before the first run.

set session_replication_role = replica;

update agent_progress.workflow_counter
set
    agents_completed = 0,
    agents_created = case when key_1 = '10000000-0000-4000-8000-%(hot_workflow)s' then %(hot)s else %(tasks)s end
where
    agents_completed <> 0
    or agents_created <> case when key_1 = '10000000-0000-4000-8000-%(hot_workflow)s' then %(hot)s else %(tasks)s end;

update public.workflow
set progress = 0
where progress <> 0;

reset session_replication_role;
