-- Refuses, with nothing changed, to leave behind what is not of the schema. Then the rows as they are: they were counted
-- and recorded already. Events that workers numbered get numbers that follow the others, in order of time: a worker that
-- is used again later would give out the same ones.

do $$
declare
    lost text;
begin
    select string_agg(format('%s of %s', o.what, o.relname), ', ' order by o.relname, o.what)
    into lost
    from (
        select
            m.what,
            c.relname
        from pg_catalog.pg_class as c
        cross join lateral (
            select 'column ' || a.attname as what
            from pg_catalog.pg_attribute as a
            where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            union all
            select 'index ' || x.relname
            from pg_catalog.pg_index as i
            join pg_catalog.pg_class as x on x.oid = i.indexrelid
            where i.indrelid = c.oid
            union all
            select 'constraint ' || k.conname
            from pg_catalog.pg_constraint as k
            where k.conrelid = c.oid and k.contype not in ('p', 'u')
            union all
            select 'trigger ' || t.tgname
            from pg_catalog.pg_trigger as t
            where t.tgrelid = c.oid and not t.tgisinternal
            union all
            select 'policy ' || p.polname
            from pg_catalog.pg_policy as p
            where p.polrelid = c.oid
        ) as m
        where c.relkind = 'r' and c.relnamespace in ('agent_progress_distributed'::regnamespace, 'public'::regnamespace)
        group by c.relname, m.what
        having bool_and(c.relnamespace = 'agent_progress_distributed'::regnamespace)
    ) as o;
    if lost is not null then
        raise object_not_in_prerequisite_state using
            message = 'cannot go back: these of yours would be lost: ' || lost,
            hint = 'Write down how they are made, drop them, go back, and make them again.';
    end if;
end
$$;

alter table public.workflow disable trigger user;
alter table public.agent_task disable trigger user;

insert into public.workflow_transition table agent_progress_distributed.workflow_transition;
insert into public.stage_definition table agent_progress_distributed.stage_definition;
insert into public.workflow table agent_progress_distributed.workflow;
insert into public.agent_task table agent_progress_distributed.agent_task;
insert into public.workflow_stage table agent_progress_distributed.workflow_stage;
insert into public.workflow_event overriding system value
select
    e.id,
    e.workflow_id,
    e.event_type,
    e.payload,
    e.occurred_at,
    e.trace_id
from agent_progress_distributed.workflow_event as e
where e.id < 281474976710656;
select setval(pg_get_serial_sequence('public.workflow_event', 'id'), coalesce(max(e.id), 1), count(*) > 0)
from public.workflow_event as e;
insert into public.workflow_event (workflow_id, event_type, payload, occurred_at, trace_id)
select
    e.workflow_id,
    e.event_type,
    e.payload,
    e.occurred_at,
    e.trace_id
from agent_progress_distributed.workflow_event as e
where e.id >= 281474976710656
order by e.occurred_at, e.id;

alter table public.workflow enable trigger user;
alter table public.agent_task enable trigger user;
