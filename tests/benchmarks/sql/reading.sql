-- Two workflows to read, one of 10 tasks and one of %(many)s.

set session_replication_role = replica;

insert into public.workflow (id, name, type, status)
select ('10000000-0000-4000-8000-' || 100000000000 + w)::uuid, 'workflow ' || w, 'benchmark', 'running'
from generate_series(0, 1) as w;

insert into public.agent_task (workflow_id, agent_type, status)
select
    ('10000000-0000-4000-8000-' || 100000000000 + (n > 10)::integer)::uuid,
    'agent',
    case when n %% 2 = 0 then 'completed' else 'pending' end::public.task_status
from generate_series(1, 10 + %(many)s) as n;

reset session_replication_role;

select count(*) from public.repair_progress();
