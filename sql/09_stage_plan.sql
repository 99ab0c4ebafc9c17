-- The stages that a workflow is planned to have, by its type, and how they follow its status and current stage. Each
-- workflow has a copy of the definition, so that editing that does not change workflows that run. The copy is made by
-- create_workflow or at the first change, not by an insert: a restore brings workflows and their stages, which must not
-- double. Sequential scans are off here and in most functions: PostgreSQL keeps the query plans of functions and foreign
-- keys, and one made while a table was small would read all of it again and again once it has grown.

create or replace function public.plan_stages(planned public.workflow)
returns void
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_variable
begin
    insert into public.workflow_stage (workflow_id, name, position, weight, status, started_at)
    select
        planned.id,
        d.name,
        d.position,
        d.weight,
        s.status,
        -- A workflow that never moved has been in its stage since it was created.
        case when s.status = 'running' and planned.version = 1 then planned.created_at end
    from public.stage_definition as d
    left join public.stage_definition as h -- the current stage
        on h.workflow_type = planned.type and h.name = planned.current_stage
    cross join lateral (
        select case
            when d.position < h.position then 'skipped'
            when d.name = h.name and planned.status in ('running', 'paused') then 'running'
            when d.name = h.name and planned.status = 'completed' then 'completed'
            when d.name = h.name and planned.status in ('failed', 'cancelled') then 'failed'
            when planned.status = 'completed' then 'skipped'
            else 'pending'
        end::public.stage_status as status
    ) as s
    where d.workflow_type = planned.type
    on conflict do nothing;

    update public.workflow as w
    set agents_planned = p.agents
    from (
        select sum(d.agents) as agents
        from public.stage_definition as d
        where d.workflow_type = planned.type
        having count(d.agents) = count(*) and count(*) > 0
    ) as p
    where w.id = planned.id and w.agents_planned is null;
end
$$;

comment on function public.plan_stages(public.workflow) is
    'Gives a workflow the stages of its type, and the planned number of agents if it has none and all stages name theirs.';

create or replace function public.follow_stages()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set row_security = off
as $$
#variable_conflict use_variable
declare
    before public.workflow := old;
    here record;
begin
    if new.status = old.status and new.current_stage = old.current_stage then
        return null;
    end if;
    if not exists (select from public.workflow_stage as s where s.workflow_id = new.id) then
        -- Planned as of before this change, which is then followed like any other.
        before.type := new.type;
        perform public.plan_stages(before);
    end if;

    -- No row: the current stage is not in the plan. Stages of the same position are ordered by name.
    select s.position, s.name
    into here
    from public.workflow_stage as s
    where s.workflow_id = new.id and s.name = new.current_stage;

    update public.workflow_stage as s
    set
        status = t.status,
        started_at = case t.status
            when 'running' then new.updated_at
            when 'pending' then null
            when 'skipped' then null
            else s.started_at
        end,
        completed_at = case when t.status in ('completed', 'failed') then new.updated_at end,
        retry_count = s.retry_count + (t.status = 'running' and s.status <> 'pending')::integer
    from (
        select
            p.id,
            case
                when p.name = here.name then case
                    when new.status = 'completed' then 'completed'::public.stage_status
                    when new.status = 'initiated' then 'pending'
                    when new.status in ('paused', 'cancelled') and p.status = 'pending' then 'pending' -- never begun
                    when new.status in ('failed', 'cancelled') then 'failed'
                    else 'running'
                end
                when new.status = 'completed' then case
                    when p.status in ('completed', 'failed') then p.status
                    when p.status = 'running' or p.name = old.current_stage then 'completed'
                    else 'skipped'
                end
                when here.name is null then case -- a stage outside of the plan says nothing about those not begun
                    when p.status = 'running' and new.status in ('failed', 'cancelled') then 'failed'
                    when p.status = 'running' and p.name = old.current_stage then 'completed'
                    else p.status
                end
                when (p.position, p.name) > (here.position, here.name) then 'pending' -- to be done again
                when p.status in ('completed', 'failed') then p.status
                when p.status = 'running' or p.name = old.current_stage then 'completed'
                else 'skipped'
            end as status
        from public.workflow_stage as p
        where p.workflow_id = new.id
    ) as t
    where s.workflow_id = new.id and s.id = t.id and s.status <> t.status;
    return null;
end
$$;

comment on function public.follow_stages() is
    'Starts, completes and skips the stages of a workflow as its status and current stage move.';

revoke execute on function public.follow_stages() from public;

create or replace trigger workflow_stages
    after update of status, current_stage on public.workflow
    for each row
    execute function public.follow_stages();

comment on trigger workflow_stages on public.workflow is 'Keeps workflow_stage in step with status and current_stage.';
