-- Three views: the stored progress, which everyone reads; the same counted from the tasks, which defines it; and the
-- workflows where the two differ.

create or replace view public.workflow_progress
with (security_invoker = true)
as
select
    w.id as workflow_id,
    w.name,
    w.description,
    w.type,
    w.status,
    w.current_stage,
    w.priority,
    w.progress,
    w.progress as progress_percentage,
    w.agents_completed,
    w.agents_total,
    w.agents_created,
    w.agents_failed,
    w.agents_cancelled,
    w.agents_created - w.agents_completed - w.agents_failed - w.agents_cancelled as agents_open,
    w.agents_planned,
    public.progress_percentage(
        w.agents_completed + w.agents_failed + w.agents_cancelled,
        w.agents_total
    ) as settled_percentage,
    'agent-based'::text as progress_calculation_method,
    w.trace_id,
    w.created_at,
    w.updated_at,
    w.completed_at,
    w.progress_updated_at as last_updated_at,
    w.parent_id
from public.workflow as w;

comment on view public.workflow_progress is
    'Progress of each workflow as stored: exact as of the last commit, and as cheap to read as the row of the workflow.';
comment on column public.workflow_progress.progress_percentage is
    'The same as progress, under the name that workflow_stage_progress has for it.';
comment on column public.workflow_progress.agents_open is
    'Tasks that are pending, assigned or running.';
comment on column public.workflow_progress.settled_percentage is
    'Share of completed, failed and cancelled tasks in agents_total in percent, 0 to 100, rounded as progress is.';
comment on column public.workflow_progress.progress_calculation_method is
    'How progress is defined: agent-based, by completed tasks.';
comment on column public.workflow_progress.last_updated_at is
    'When progress, the total or a counter last moved.';
comment on column public.workflow_progress.parent_id is
    'The workflow that started this one; null if none did.';

create or replace view public.workflow_progress_calculated
with (security_invoker = true)
as
select
    w.id as workflow_id,
    public.progress_percentage(t.completed, public.progress_total(w.status, t.created, w.agents_planned)) as progress,
    t.completed::integer as agents_completed,
    public.progress_total(w.status, t.created, w.agents_planned)::integer as agents_total,
    t.created::integer as agents_created,
    t.failed::integer as agents_failed,
    t.cancelled::integer as agents_cancelled
from public.workflow as w
-- Grouped, not one count per workflow: all of them are read in one pass, and one of them still by index.
left join (
    select
        a.workflow_id,
        count(*) as created,
        count(*) filter (where a.status = 'completed') as completed,
        count(*) filter (where a.status = 'failed') as failed,
        count(*) filter (where a.status = 'cancelled') as cancelled
    from public.agent_task as a
    group by a.workflow_id
) as g on g.workflow_id = w.id
cross join lateral (
    select
        coalesce(g.created, 0) as created,
        coalesce(g.completed, 0) as completed,
        coalesce(g.failed, 0) as failed,
        coalesce(g.cancelled, 0) as cancelled
) as t;

comment on view public.workflow_progress_calculated is
    'Progress of each workflow counted afresh from its tasks: the definition of what workflow stores. Reads every task.';

create or replace view public.workflow_progress_drift
with (security_invoker = true)
as
select
    w.id as workflow_id,
    w.name,
    w.progress as stored_progress,
    c.progress as calculated_progress,
    w.agents_completed as stored_completed,
    c.agents_completed as calculated_completed,
    w.agents_total as stored_total,
    c.agents_total as calculated_total,
    w.agents_created as stored_created,
    c.agents_created as calculated_created,
    w.agents_failed as stored_failed,
    c.agents_failed as calculated_failed,
    w.agents_cancelled as stored_cancelled,
    c.agents_cancelled as calculated_cancelled,
    true as stale_data
from public.workflow as w
join public.workflow_progress_calculated as c on c.workflow_id = w.id
where
    w.progress_frozen_at is null
    -- Column by column: PostgreSQL prints a comparison of rows differently after a dump and restore, and `check`
    -- compares what it prints.
    and (
        w.progress is distinct from c.progress
        or w.agents_completed is distinct from c.agents_completed
        or w.agents_total is distinct from c.agents_total
        or w.agents_created is distinct from c.agents_created
        or w.agents_failed is distinct from c.agents_failed
        or w.agents_cancelled is distinct from c.agents_cancelled
    );

comment on view public.workflow_progress_drift is
    'Workflows, not frozen ones, whose stored progress differs from the calculated one; none where triggers fired.';
comment on column public.workflow_progress_drift.stale_data is
    'Always true: this view has only workflows whose stored progress is wrong.';
