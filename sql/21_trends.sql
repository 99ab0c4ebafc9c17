-- How much ended lately, how often it failed and how long it took, by type and period; and the burn-up of a workflow,
-- which reads all its tasks. These views read only workflow_progress and agent_task, so that the schema of adopted
-- tables has them from this text as well.

create or replace view public.workflow_trend
with (security_invoker = true)
as
select
    t.type,
    t.period,
    t.ended,
    t.completed,
    t.failed,
    t.cancelled,
    trim_scale(round(t.ended * 3600 / extract(epoch from t.length), 4)) as per_hour,
    trim_scale(round(t.failed::numeric / nullif(t.ended, 0), 4)) as failure_rate,
    round(t.p50::numeric, 3) as p50_seconds,
    round(t.p95::numeric, 3) as p95_seconds,
    false as sampled
from (
    select
        w.type,
        p.period,
        p.length,
        count(e.status) as ended,
        count(*) filter (where e.status = 'completed') as completed,
        count(*) filter (where e.status = 'failed') as failed,
        count(*) filter (where e.status = 'cancelled') as cancelled,
        percentile_cont(0.5) within group (order by e.seconds) as p50,
        percentile_cont(0.95) within group (order by e.seconds) as p95
    from public.workflow_progress as w
    cross join (values ('24 h', interval '24 hours'), ('7 d', '168 hours'), ('30 d', '720 hours')) as p (period, length)
    -- Null, not filtered out: so each type has a row for each period. The bound leaves out -infinity and years BC.
    cross join lateral (
        select
            d.status,
            case
                when d.status = 'completed' and w.created_at between '0001-01-01' and w.completed_at
                    then extract(epoch from w.completed_at - w.created_at)::double precision
            end as seconds
        from (select case when w.completed_at > now() - p.length then w.status end) as d (status)
    ) as e
    where
        w.status in ('completed', 'failed', 'cancelled')
        and w.completed_at > now() - interval '720 hours'
        and w.completed_at <= now()
    group by w.type, p.period, p.length
) as t;

comment on view public.workflow_trend is
    'Workflows of each type that ended in 24 hours, 7 days and 30 days: how many, how they ended, how long they took.';
comment on column public.workflow_trend.type is 'Type of the workflows; those of which some ended in the last 30 days.';
comment on column public.workflow_trend.period is 'The last 24 h, 7 d or 30 d.';
comment on column public.workflow_trend.ended is 'Workflows that ended in the period: completed, failed and cancelled.';
comment on column public.workflow_trend.per_hour is 'How many ended per hour of the period.';
comment on column public.workflow_trend.failure_rate is 'Share of failed in ended, 0 to 1; null where none ended.';
comment on column public.workflow_trend.p50_seconds is
    'So many seconds, from creation to completion, half of the completed ones took at most; null where there is none.';
comment on column public.workflow_trend.p95_seconds is 'The same for 95 of 100.';
comment on column public.workflow_trend.sampled is 'Whether only some were read: never.';

-- All tasks of all types take seconds to read, where there are a million: a sample takes the newest of each workflow,
-- whatever their status, by index.
create or replace view public.task_trend
with (security_invoker = true)
as
with sampled_workflow as materialized (
    select w.workflow_id
    from public.workflow_progress as w
    where w.created_at > now() - interval '720 hours'
    order by w.created_at desc
    limit 1000
),
sampled_task as materialized (
    select
        w.workflow_id,
        a.agent_type,
        a.status,
        a.started_at,
        a.completed_at
    from sampled_workflow as w
    cross join lateral (
        select s.agent_type, s.status, s.started_at, s.completed_at
        from (
            (
                select a.agent_type, a.status, a.started_at, a.completed_at
                from public.agent_task as a
                where a.workflow_id = w.workflow_id and a.status = 'completed' and a.completed_at <= now()
                order by a.completed_at desc
                limit 100
            )
            union all
            (
                select a.agent_type, a.status, a.started_at, a.completed_at
                from public.agent_task as a
                where a.workflow_id = w.workflow_id and a.status = 'failed' and a.completed_at <= now()
                order by a.completed_at desc
                limit 100
            )
            union all
            (
                select a.agent_type, a.status, a.started_at, a.completed_at
                from public.agent_task as a
                where a.workflow_id = w.workflow_id and a.status = 'cancelled' and a.completed_at <= now()
                order by a.completed_at desc
                limit 100
            )
        ) as s
        order by s.completed_at desc
        limit 100
    ) as a
)
select
    t.type,
    t.period,
    t.ended,
    t.completed,
    t.failed,
    t.cancelled,
    trim_scale(round(t.ended * 3600 / extract(epoch from t.length), 4)) as per_hour,
    trim_scale(round(t.failed::numeric / nullif(t.ended, 0), 4)) as failure_rate,
    round(t.p50::numeric, 3) as p50_seconds,
    round(t.p95::numeric, 3) as p95_seconds,
    (select count(*) = 1000 from sampled_workflow)
    or exists (select from sampled_task as s group by s.workflow_id having count(*) = 100) as sampled
from (
    select
        a.agent_type as type,
        p.period,
        p.length,
        count(e.status) as ended,
        count(*) filter (where e.status = 'completed') as completed,
        count(*) filter (where e.status = 'failed') as failed,
        count(*) filter (where e.status = 'cancelled') as cancelled,
        percentile_cont(0.5) within group (order by e.seconds) as p50,
        percentile_cont(0.95) within group (order by e.seconds) as p95
    from sampled_task as a
    cross join (values ('24 h', interval '24 hours'), ('7 d', '168 hours'), ('30 d', '720 hours')) as p (period, length)
    cross join lateral (
        select
            d.status,
            case
                when d.status = 'completed' and a.started_at between '0001-01-01' and a.completed_at
                    then extract(epoch from a.completed_at - a.started_at)::double precision
            end as seconds
        from (select case when a.completed_at > now() - p.length then a.status end) as d (status)
    ) as e
    where a.completed_at > now() - interval '720 hours'
    group by a.agent_type, p.period, p.length
) as t;

comment on view public.task_trend is
    'As workflow_trend, of tasks: the newest 100 of each of the newest 1000 workflows that were created in 30 days.';
comment on column public.task_trend.type is 'Type of the agents; those of whose tasks some ended in the last 30 days.';
comment on column public.task_trend.period is 'The last 24 h, 7 d or 30 d.';
comment on column public.task_trend.ended is 'Tasks that ended in the period: completed, failed and cancelled.';
comment on column public.task_trend.per_hour is 'How many ended per hour of the period.';
comment on column public.task_trend.failure_rate is 'Share of failed in ended, 0 to 1; null where none ended.';
comment on column public.task_trend.p50_seconds is
    'So many seconds, from start to completion, half of the completed ones took at most; null where there is none.';
comment on column public.task_trend.p95_seconds is 'The same for 95 of 100.';
comment on column public.task_trend.sampled is
    'Whether there may be more than were read: then ended, completed, failed, cancelled and per_hour are too small.';

create or replace view public.workflow_burnup
with (security_invoker = true)
as
select
    c.workflow_id,
    c.at,
    (sum(sum(c.completed)) over (partition by c.workflow_id order by c.at))::integer as agents_completed,
    (sum(sum(c.created)) over (partition by c.workflow_id order by c.at))::integer as agents_total
from (
    select a.workflow_id, a.created_at as at, 0 as completed, 1 as created
    from public.agent_task as a
    where a.created_at is not null
    union all
    select a.workflow_id, a.completed_at as at, 1 as completed, 0 as created
    from public.agent_task as a
    where a.status = 'completed' and a.completed_at is not null
) as c
group by c.workflow_id, c.at;

comment on view public.workflow_burnup is
    'Tasks completed and created over time, cumulated, from their own timestamps; to be read for one workflow at a time.';
comment on column public.workflow_burnup.at is 'When the number changed.';
comment on column public.workflow_burnup.agents_completed is 'Tasks completed until then, of those that are completed now.';
comment on column public.workflow_burnup.agents_total is 'Tasks created until then, of those that exist now.';
