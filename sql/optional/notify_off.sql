-- Takes back notify_on.sql, and tells those who listen: they poll from now on.

drop trigger if exists workflow_notify on public.workflow;
drop function if exists public.notify_progress();

select
    pg_notify(
        case
            when n.nspname = 'public' then 'agent_progress'
            when octet_length(convert_to(n.nspname, 'UTF8')) > 48
                then 'agent_progress_' || md5(convert_to(n.nspname, 'UTF8'))
            else 'agent_progress_' || n.nspname
        end,
        'off'
    )
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where c.oid = 'public.workflow'::regclass;
