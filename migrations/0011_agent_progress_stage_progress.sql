-- depends: 0010_agent_progress_timeline
-- Progress by stages.

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
        when d.weight is not null then public.progress_percentage(d.finished, d.weight)
        else public.progress_percentage(s.reached, s.stages)
    end as progress_percentage,
    case
        when d.weight is not null then 'weighted'
        when s.reached is not null then 'linear'
    end as progress_calculation_method,
    s.stages::integer as stages,
    s.finished::integer as stages_finished
from public.workflow as w
cross join lateral (
    select
        sum(f.weight) as weight,
        coalesce(
            sum(f.weight) filter (where w.status = 'completed' or t.status in ('completed', 'skipped')), 0
        ) as finished
    from public.stage_definition as f
    left join public.workflow_stage as t on t.workflow_id = w.id and t.name = f.name
    where f.workflow_type = w.type
) as d
cross join lateral (
    select
        count(*) as stages,
        count(*) filter (where t.status in ('completed', 'skipped')) as finished,
        -- index + 1 of the current stage; null where it is not among the stages
        case
            when bool_or(t.name = w.current_stage) then count(*) filter (where t.position <= h.position)
        end as reached
    from public.workflow_stage as t
    left join public.workflow_stage as h on h.workflow_id = w.id and h.name = w.current_stage
    where t.workflow_id = w.id
) as s;

comment on view public.workflow_stage_progress is
    'Progress of each workflow by its stages, by weight where its type has a definition, beside progress by agents.';
comment on column public.workflow_stage_progress.progress_percentage is
    'Weighted: share of the weights of finished stages; linear: (index of the current stage + 1) / stages. 0 to 100, null if neither is known.';
comment on column public.workflow_stage_progress.progress_calculation_method is
    'weighted where the type has a definition, linear where only the workflow has stages, null where the stage is unknown.';
comment on column public.workflow_stage_progress.stages is 'Number of stages in the plan of the workflow.';
comment on column public.workflow_stage_progress.stages_finished is 'Number of those that are completed or skipped.';

create or replace view public.workflow_stage_agents
with (security_invoker = true)
as
select
    s.workflow_id,
    s.name,
    s.position,
    s.status,
    d.weight,
    s.started_at,
    s.completed_at,
    s.retry_count,
    t.completed as agents_completed,
    t.failed as agents_failed,
    t.created as agents_total
from public.workflow_stage as s
join public.workflow as w on w.id = s.workflow_id
left join public.stage_definition as d on d.workflow_type = w.type and d.name = s.name
left join lateral (
    select
        count(*) as created,
        count(*) filter (where a.status = 'completed') as completed,
        count(*) filter (where a.status = 'failed') as failed
    from public.agent_task as a
    where a.workflow_id = s.workflow_id and a.stage = s.name
) as t on true;

comment on view public.workflow_stage_agents is
    'The stages of each workflow with their agents, counted from its tasks; to be read for one workflow at a time.';
comment on column public.workflow_stage_agents.weight is 'Weight of the stage in the definition of the type; null if it has none.';
comment on column public.workflow_stage_agents.agents_completed is 'Tasks of the stage with status completed.';
comment on column public.workflow_stage_agents.agents_failed is 'Tasks of the stage with status failed.';
comment on column public.workflow_stage_agents.agents_total is 'All tasks of the stage.';
