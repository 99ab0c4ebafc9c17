-- The views of an adoption have the columns of those in sql/, so that whatever reads those can read these.

create or replace view {schema}.workflow_progress
with (security_invoker = true)
as
select
    w.workflow_id,
    w.name,
    w.description,
    w.type,
    s.status,
    w.current_stage,
    w.priority,
    p.progress,
    p.progress as progress_percentage,
    n.completed as agents_completed,
    t.total::integer as agents_total,
    n.created as agents_created,
    n.failed as agents_failed,
    n.cancelled as agents_cancelled,
    n.created - n.completed - n.failed - n.cancelled as agents_open,
    w.planned as agents_planned,
    {schema}.progress_percentage(n.completed + n.failed + n.cancelled, t.total) as settled_percentage,
    'agent-based'::text as progress_calculation_method,
    w.trace_id,
    {shown_created_at} as created_at,
    coalesce(w.updated_at, c.progress_updated_at) as updated_at,
    w.completed_at,
    coalesce(c.progress_updated_at, w.updated_at, w.created_at) as last_updated_at,
    w.parent_id
from {schema}.read_workflows() as w
left join {schema}.workflow_counter as c on {c_is_w}
cross join (select case when coalesce(bool_and(g.live), true) then 0 end as none from {schema}.counting as g) as e
cross join lateral (
    select
        case when c.key_1 is null then e.none else c.agents_created end as created,
        case when c.key_1 is null then e.none else c.agents_completed end as completed,
        case when c.key_1 is null then e.none else c.agents_failed end as failed,
        case when c.key_1 is null then e.none else c.agents_cancelled end as cancelled
) as n
cross join lateral (
    select coalesce(
        w.status,
        case
            when coalesce(n.created, 0) = 0 then 'initiated'
            when n.created > n.completed + n.failed + n.cancelled then 'running'
            when n.failed > 0 then 'failed'
            when n.completed > 0 then 'completed'
            else 'cancelled'
        end
    ) as status
) as s
cross join lateral (
    select {schema}.progress_total(s.status::{schema}.workflow_status, n.created, w.planned) as total
) as t
cross join lateral (
    select coalesce(c.frozen_progress, {schema}.progress_percentage(n.completed, t.total)) as progress
) as p;

comment on view {schema}.workflow_progress is
    'Progress of each workflow as stored: exact as of the last commit; null numbers: not counted yet.';

create or replace view {schema}.workflow_progress_calculated
with (security_invoker = true)
as
select
    {calculated_id} as workflow_id,
    {schema}.progress_percentage(n.completed, t.total) as progress,
    n.completed::integer as agents_completed,
    t.total::integer as agents_total,
    n.created::integer as agents_created,
    n.failed::integer as agents_failed,
    n.cancelled::integer as agents_cancelled
from {calculated} on {k_is_w}
cross join lateral (
    select
        coalesce(k.calculated_created, 0) as created,
        coalesce(k.calculated_completed, 0) as completed,
        coalesce(k.calculated_failed, 0) as failed,
        coalesce(k.calculated_cancelled, 0) as cancelled
) as n
cross join lateral (
    select {schema}.progress_total(w.status::{schema}.workflow_status, n.created, w.planned) as total
) as t;

comment on view {schema}.workflow_progress_calculated is
    'Progress of each workflow counted afresh from its tasks: the definition of what is stored. Reads every task.';

create or replace view {schema}.workflow_progress_drift
with (security_invoker = true)
as
select
    k.workflow_id,
    coalesce(w.name, k.workflow_id::text) as name,
    {stored_progress} as stored_progress,
    p.progress as calculated_progress,
    k.stored_completed,
    k.calculated_completed::integer as calculated_completed,
    {schema}.progress_total(w.status::{schema}.workflow_status, k.stored_created, w.planned)::integer as stored_total,
    t.total::integer as calculated_total,
    k.stored_created,
    k.calculated_created::integer as calculated_created,
    k.stored_failed,
    k.calculated_failed::integer as calculated_failed,
    k.stored_cancelled,
    k.calculated_cancelled::integer as calculated_cancelled,
    true as stale_data
from {schema}.compare_progress() as k
left join {schema}.read_workflows() as w on {w_is_k}
cross join lateral (
    select {schema}.progress_total(w.status::{schema}.workflow_status, k.calculated_created, w.planned) as total
) as t
cross join lateral (
    select coalesce(k.frozen_progress, {schema}.progress_percentage(k.calculated_completed, t.total)) as progress
) as p
where
    case
        -- Not counted, or without counters: wrong once that is to be over.
        when k.stored_created is null then
            (select coalesce(bool_and(g.live), true) from {schema}.counting as g) and (k.counter or k.calculated_created > 0)
        else
            (k.stored_created, k.stored_completed, k.stored_failed, k.stored_cancelled)
            is distinct from
            (k.calculated_created, k.calculated_completed, k.calculated_failed, k.calculated_cancelled)
            or {published_differs}
    end;

comment on view {schema}.workflow_progress_drift is
    'The workflows whose stored progress differs from the calculated one; empty, always. What is not counted yet is left out.';

create or replace view {schema}.agent_task
with (security_invoker = true)
as
select
    t.id,
    {task_workflow_id} as workflow_id,
    t.external_id,
    t.agent_type,
    t.stage,
    t.status,
    t.priority,
    t.payload,
    t.result,
    t.trace_id,
    t.span_id,
    t.parent_span_id,
    t.created_at,
    t.assigned_at,
    t.started_at,
    t.completed_at,
    t.retry_count,
    t.max_retries,
    t.timeout_ms,
    t.ordinal
from {schema}.read_tasks() as t
{join_counter};

comment on view {schema}.agent_task is 'The tasks of the application, with the columns of the table agent_task.';

create or replace view {schema}.workflow_forecast
with (security_invoker = true)
as
select
    w.workflow_id,
    trim_scale(round(60 / pace.seconds_each, 4)) as completed_per_minute,
    case
        when open_work.remaining > 0 and open_work.remaining * pace.seconds_each < 3155760000
            then now() + make_interval(secs => (open_work.remaining * pace.seconds_each)::double precision)
    end as estimated_completion_at,
    basis.completions::integer as basis_completions,
    basis.seconds as basis_seconds,
    w.last_updated_at as last_activity_at,
    coalesce(
        w.status = 'running' and w.last_updated_at
            < now() - coalesce(nullif(current_setting('agent_progress.stalled_after', true), ''), '10 minutes')::interval,
        false
    ) as stalled
from {schema}.workflow_progress as w
cross join lateral (
    select w.agents_total - w.agents_completed - w.agents_failed - w.agents_cancelled as remaining
) as open_work
cross join lateral (
    select
        count(*) as completions,
        array_agg(completion.gap) as gaps,
        percentile_disc(0.5) within group (order by completion.gap) as usual_gap
    from (
        select coalesce(lag(c.at) over (order by c.at desc), now()) - c.at as gap
        from (
            select a.completed_at as at
            from {schema}.agent_task as a
            where a.workflow_id = w.workflow_id and a.status = 'completed' and a.completed_at <= now()
            order by a.completed_at desc
            limit 100
        ) as c
    ) as completion
) as recent
cross join lateral (
    -- Nothing tells of pauses here: a gap that is far out of the ordinary was one, and counts as an ordinary one.
    select
        recent.completions,
        extract(
            epoch from sum(
                case
                    when completion.gap > greatest('10 minutes', 20 * recent.usual_gap) then recent.usual_gap
                    else completion.gap
                end
            )
        )::numeric as seconds
    from unnest(recent.gaps) as completion (gap)
) as basis
cross join lateral (
    select case
        when w.status = 'running' and basis.completions >= 3 and basis.seconds >= 1
            then basis.seconds / (basis.completions - 1)
    end as seconds_each
) as pace;

comment on view {schema}.workflow_forecast is
    'When each workflow will be done at the rate of its last 100 completions, and whether it has come to a halt.';

create or replace view {schema}.workflow_timeline
with (security_invoker = true)
as
select
    a.workflow_id,
    c.at,
    'task'::text as kind,
    a.agent_type as name,
    c.what,
    jsonb_build_object('task_id', a.id, 'external_id', a.external_id, 'stage', a.stage) as detail,
    3 * coalesce(a.ordinal, 0) + c.place as place
from {schema}.agent_task as a
cross join lateral (
    values (a.created_at, 'created', 0), (a.started_at, 'started', 1), (a.completed_at, a.status, 2)
) as c (at, what, place)
where c.at is not null;

comment on view {schema}.workflow_timeline is
    'What the tasks of a workflow say of their times; to be read for one workflow at a time.';

create or replace view {schema}.vocabulary
with (security_invoker = true)
as
select
    {workflow_noun}::text as workflow_noun,
    {workflow_nouns}::text as workflow_nouns,
    {task_noun}::text as task_noun,
    {task_nouns}::text as task_nouns;

comment on view {schema}.vocabulary is 'What workflows and tasks are called where people read of them; one row.';
