-- When a workflow will be done, at the rate of its last completions, and whether it has come to a halt. Both are read
-- by index from the last completions and the assigned and running tasks, however many others there are. Time in which
-- the workflow did not run is left out of the rate.

create or replace view public.workflow_forecast
with (security_invoker = true)
as
select
    w.id as workflow_id,
    trim_scale(round(60 / pace.seconds_each, 4)) as completed_per_minute,
    case
        -- More than a hundred years are no estimate, and may be more than a timestamp can hold.
        when open_work.remaining > 0 and open_work.remaining * pace.seconds_each < 3155760000
            then now() + make_interval(secs => (open_work.remaining * pace.seconds_each)::double precision)
    end as estimated_completion_at,
    basis.completions::integer as basis_completions,
    basis.seconds as basis_seconds,
    activity.last_activity_at,
    w.status = 'running' and activity.last_activity_at
        < now() - coalesce(nullif(current_setting('agent_progress.stalled_after', true), ''), '10 minutes')::interval
        as stalled
from public.workflow as w
cross join lateral (
    select w.agents_total - w.agents_completed - w.agents_failed - w.agents_cancelled as remaining
) as open_work
cross join lateral (
    select
        count(*) as completions,
        min(completion.at) as began_at,
        array_agg(completion.at) as times
    from (
        select a.completed_at as at
        from public.agent_task as a
        where a.workflow_id = w.id and a.status = 'completed' and a.completed_at between '0001-01-01' and now()
        order by a.completed_at desc
        limit 100
    ) as completion
) as recent
cross join lateral (
    select
        recent.completions,
        extract(
            epoch from now() - recent.began_at - coalesce(sum(move.at - pause.began_at), '0')
        )::numeric as seconds
    from (
        select
            e.occurred_at as at,
            e.payload ->> 'to' as status,
            lag(e.occurred_at) over (order by e.id) as paused_at
        from public.workflow_event as e
        where
            e.workflow_id = w.id
            and e.occurred_at > recent.began_at
            and e.occurred_at <= now()
            and e.event_type = 'status_changed'
            and 'running' in (e.payload ->> 'from', e.payload ->> 'to')
    ) as move
    -- Agents may complete what they had begun: the pause begins after the last completion in it.
    cross join lateral (
        select greatest(move.paused_at, max(completion.at)) as began_at
        from unnest(recent.times) as completion (at)
        where completion.at <= move.at
    ) as pause
    where move.status = 'running' -- it ends a pause
) as basis
cross join lateral (
    select case
        when w.status = 'running' and basis.completions >= 3 and basis.seconds >= 1
            -- The oldest only marks the beginning of the time in which the others were completed.
            then basis.seconds / (basis.completions - 1)
    end as seconds_each
) as pace
cross join lateral (
    select
        greatest(
            w.progress_updated_at,
            (select max(e.occurred_at) from public.workflow_event as e where e.workflow_id = w.id),
            -- Who waits for sub-agents that are at work has not come to a halt.
            (select p.last_updated_at from public.workflow_tree_progress as p where p.workflow_id = w.id),
            max(at_work.assigned_at),
            max(at_work.started_at)
        ) as last_activity_at
    from (
        -- At most 1000 of either status: where more are at work, tasks are settled all the time, which shows anyway. In
        -- the order of the index, so that the rest of the table is not read.
        (
            select
                a.assigned_at,
                a.started_at
            from public.agent_task as a
            where a.workflow_id = w.id and a.status = 'assigned'
            order by a.completed_at desc
            limit 1000
        )
        union all
        (
            select
                a.assigned_at,
                a.started_at
            from public.agent_task as a
            where a.workflow_id = w.id and a.status = 'running'
            order by a.completed_at desc
            limit 1000
        )
    ) as at_work
) as activity;

comment on view public.workflow_forecast is
    'When each workflow will be done at the rate of its last 100 completions, and whether it has come to a halt.';
comment on column public.workflow_forecast.completed_per_minute is
    'Tasks completed per minute lately; null unless the workflow runs and at least 3 were completed, over a second or more.';
comment on column public.workflow_forecast.estimated_completion_at is
    'When the last of agents_total will be settled at that rate; null where the rate is unknown or nothing remains.';
comment on column public.workflow_forecast.basis_completions is 'Completions that the rate is taken from, at most 100.';
comment on column public.workflow_forecast.basis_seconds is 'Seconds since the first of these completions, without those in which the workflow did not run.';
comment on column public.workflow_forecast.last_activity_at is
    'When a task was last created, assigned, started or settled, or the workflow changed status or stage; or tasks were counted below it.';
comment on column public.workflow_forecast.stalled is
    'Whether the workflow runs and nothing of that happened for 10 minutes, or for the interval in the parameter agent_progress.stalled_after.';
