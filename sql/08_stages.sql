-- The plan of a workflow's stages, by its type, and the course of each workflow along it. The plan of a workflow is a
-- copy, so that editing the definition does not change workflows that run. It is made on demand and not when a workflow
-- is inserted: a restore brings workflows and their stages, which must not double.

create table public.stage_definition (
    workflow_type text not null,
    position integer not null,
    name text not null,
    weight integer not null default 1,
    agents integer,
    constraint stage_definition_pkey primary key (workflow_type, name),
    constraint stage_definition_workflow_type_position_key unique (workflow_type, position),
    constraint stage_definition_weight_check check (weight > 0),
    constraint stage_definition_agents_check check (agents >= 0)
);

comment on table public.stage_definition is 'Stages of a type of workflow, in order; to be edited.';
comment on column public.stage_definition.workflow_type is 'The type of workflow.';
comment on column public.stage_definition.position is 'Place of the stage in the order of stages, from 0.';
comment on column public.stage_definition.name is 'Name of the stage, as in workflow.current_stage and agent_task.stage.';
comment on column public.stage_definition.weight is 'Share of the stage in the whole, relative to the other stages; above 0.';
comment on column public.stage_definition.agents is
    'Number of tasks that the stage will have; where all stages name one, it fills workflow.agents_planned. Null if unknown.';

insert into public.stage_definition (workflow_type, position, name, weight)
values
    ('app', 0, 'initialization', 5),
    ('app', 1, 'scaffolding', 10),
    ('app', 2, 'dependency_installation', 10),
    ('app', 3, 'validation', 15),
    ('app', 4, 'e2e_testing', 20),
    ('app', 5, 'integration', 15),
    ('app', 6, 'deployment', 15),
    ('app', 7, 'monitoring', 10),
    ('feature', 0, 'initialization', 10),
    ('feature', 1, 'scaffolding', 20),
    ('feature', 2, 'dependency_installation', 15),
    ('feature', 3, 'validation', 25),
    ('feature', 4, 'e2e_testing', 30),
    ('bugfix', 0, 'initialization', 20),
    ('bugfix', 1, 'validation', 40),
    ('bugfix', 2, 'e2e_testing', 40);

create function public.plan_stages(workflow uuid)
returns void
language plpgsql
security invoker
set search_path = ''
as $$
begin
    insert into public.workflow_stage (workflow_id, name, position)
    select w.id, d.name, d.position
    from public.workflow as w
    join public.stage_definition as d on d.workflow_type = w.type
    where w.id = plan_stages.workflow
    on conflict do nothing;

    update public.workflow as w
    set agents_planned = p.agents
    from (
        select d.workflow_type, sum(d.agents) as agents
        from public.stage_definition as d
        group by d.workflow_type
        having count(d.agents) = count(*)
    ) as p
    where w.id = plan_stages.workflow and w.type = p.workflow_type and w.agents_planned is null;
end
$$;

comment on function public.plan_stages(uuid) is
    'Gives a workflow the stages of its type, and the planned number of agents if it has none and all stages name theirs.';

create function public.follow_stages()
returns trigger
language plpgsql
security definer
set search_path = ''
as $$
declare
    here integer;
begin
    if new.status = old.status and new.current_stage = old.current_stage then
        return null;
    end if;
    if not exists (select from public.workflow_stage as s where s.workflow_id = new.id) then
        perform public.plan_stages(new.id);
    end if;

    select s.position
    into here
    from public.workflow_stage as s
    where s.workflow_id = new.id and s.name = new.current_stage;
    if here is null then
        return null; -- no plan, or a stage that is not in it: nothing is known of the others
    end if;

    update public.workflow_stage as s
    set
        status = t.status,
        started_at = case t.status
            when 'running' then now()
            when 'pending' then null
            when 'skipped' then null
            else s.started_at
        end,
        completed_at = case when t.status in ('completed', 'failed') then now() end,
        retry_count = s.retry_count + (t.status = 'running' and s.status <> 'pending')::integer
    from (
        select
            p.id,
            case
                when p.position < here and p.status in ('completed', 'failed', 'skipped') then p.status
                when p.position < here and (p.status = 'running' or p.name = old.current_stage) then 'completed'
                when p.position < here then 'skipped'
                when p.position > here and new.status = 'completed' then 'skipped'
                when p.position > here then 'pending' -- after going back it is to be done again
                when new.status = 'completed' then 'completed'
                when new.status in ('failed', 'cancelled') then 'failed'
                when new.status = 'initiated' then 'pending'
                else 'running'
            end as status
        from public.workflow_stage as p
        where p.workflow_id = new.id
    ) as t
    where s.id = t.id and s.status <> t.status;
    return null;
end
$$;

comment on function public.follow_stages() is
    'Starts, completes and skips the stages of a workflow as its status and current stage move.';

revoke execute on function public.follow_stages() from public;

create trigger workflow_stages
    after update of status, current_stage on public.workflow
    for each row
    execute function public.follow_stages();

comment on trigger workflow_stages on public.workflow is 'Keeps workflow_stage in step with status and current_stage.';
