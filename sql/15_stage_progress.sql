-- Progress by stages, beside progress by agents and never instead of it; and the agents of each stage.

create or replace view public.workflow_stage_progress
with (security_invoker = true)
as
select
    w.id as workflow_id,
    w.name,
    w.type,
    w.status,
    w.current_stage,
    case
        when p.weight is not null then public.progress_percentage(p.weight_finished, p.weight)
        when p.reached is not null then public.progress_percentage(p.reached, p.stages)
    end as progress_percentage,
    case
        when p.weight is not null then 'weighted'
        when p.reached is not null then 'linear'
    end as progress_calculation_method,
    p.stages::integer as stages,
    p.stages_finished::integer as stages_finished
from public.workflow as w
cross join lateral (
    select
        count(*) as stages,
        count(*) filter (where s.finished) as stages_finished,
        sum(s.weight) as weight,
        coalesce(sum(s.weight) filter (where s.finished), 0) as weight_finished,
        case
            when w.status = 'completed' then max(s.place)
            else max(s.place) filter (where s.name = w.current_stage)
        end as reached
    from (
        select
            f.name,
            f.weight,
            f.finished or w.status = 'completed' as finished,
            row_number() over (order by f.position, f.name) as place
        from (
            select
                t.workflow_id,
                t.name,
                t.position,
                coalesce(t.weight, d.weight) as weight,
                t.status in ('completed', 'skipped') as finished
            from public.workflow_stage as t
            left join public.stage_definition as d on d.workflow_type = w.type and d.name = t.name
            where t.workflow_id = w.id
            union all
            -- Where none of its stages has a weight, the plan was not copied (09): the stages of its type that it lacks are
            -- added; those before the current one are finished. The workflow is joined again, as v, and both sides name
            -- it, since Citus does not plan a union of a distributed table with a reference table.
            select
                v.id as workflow_id,
                d.name,
                d.position,
                d.weight,
                coalesce(d.position < h.position, false) as finished
            from public.workflow as v
            join public.stage_definition as d on d.workflow_type = v.type
            left join public.stage_definition as h on h.workflow_type = v.type and h.name = v.current_stage
            where
                v.id = w.id
                and not exists (
                    select
                    from public.workflow_stage as t
                    where t.workflow_id = v.id and (t.weight is not null or t.name = d.name)
                )
        ) as f
    ) as s
) as p;

comment on view public.workflow_stage_progress is
    'Progress of each workflow by its stages, by their weights where they have any, beside progress by agents.';
comment on column public.workflow_stage_progress.progress_percentage is
    'Weighted: share of the weights of finished stages; linear: (index of the current stage + 1) / stages. 0 to 100, null if neither is known.';
comment on column public.workflow_stage_progress.progress_calculation_method is
    'Weighted where a stage has a weight, its own or that of its type; else linear; null where the stage is unknown.';
comment on column public.workflow_stage_progress.stages is
    'Number of stages in the plan of the workflow, or in the definition of its type as long as it has no plan.';
comment on column public.workflow_stage_progress.stages_finished is 'Number of those that are completed or skipped.';

create or replace view public.workflow_stage_agents
with (security_invoker = true)
as
select
    w.id as workflow_id,
    s.name,
    s.position,
    s.status,
    coalesce(s.weight, d.weight) as weight,
    s.started_at,
    s.completed_at,
    s.retry_count,
    coalesce(t.completed, 0) as agents_completed,
    coalesce(t.failed, 0) as agents_failed,
    coalesce(t.created, 0) as agents_total
from public.workflow as w
join public.workflow_stage as s on s.workflow_id = w.id
left join public.stage_definition as d on d.workflow_type = w.type and d.name = s.name
-- Grouped, so that the tasks of a workflow are read once for all its stages.
left join lateral (
    select
        a.stage,
        count(*) as created,
        count(*) filter (where a.status = 'completed') as completed,
        count(*) filter (where a.status = 'failed') as failed
    from public.agent_task as a
    where a.workflow_id = w.id
    group by a.stage
) as t on t.stage = s.name;

comment on view public.workflow_stage_agents is
    'The stages of each workflow with their agents, counted from its tasks; to be read for one workflow at a time.';
comment on column public.workflow_stage_agents.weight is 'Weight of the stage, as planned or else as its type defines it; null if neither does.';
comment on column public.workflow_stage_agents.agents_completed is 'Tasks of the stage with status completed.';
comment on column public.workflow_stage_agents.agents_failed is 'Tasks of the stage with status failed.';
comment on column public.workflow_stage_agents.agents_total is 'All tasks of the stage.';
