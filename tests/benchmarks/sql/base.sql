-- What every variant starts from, on top of sql/01 and sql/02: %(workflows)s workflows of %(tasks)s open tasks, and one
-- hot workflow of %(hot)s. Ids follow from numbers, so that a script names a task without reading it first: task n
-- belongs to workflow n modulo %(workflows)s.

insert into public.workflow (id, name, type, status, agents_created, agents_total)
select
    ('10000000-0000-4000-8000-' || 100000000000 + w)::uuid,
    'workflow ' || w,
    'benchmark',
    'running',
    case when w < %(workflows)s then %(tasks)s else %(hot)s end,
    case when w < %(workflows)s then %(tasks)s else %(hot)s end
from generate_series(0, %(workflows)s) as w;

-- As a bulk load would: without the foreign key's look at every row.
set session_replication_role = replica;

insert into public.agent_task (id, workflow_id, agent_type)
select
    ('20000000-0000-4000-8000-' || 100000000000 + n)::uuid,
    (
        '10000000-0000-4000-8000-'
        || 100000000000 + case when n < %(workflows)s * %(tasks)s then n %% %(workflows)s else %(workflows)s end
    )::uuid,
    'agent'
from generate_series(0, %(workflows)s * %(tasks)s + %(hot)s - 1) as n;

reset session_replication_role;
