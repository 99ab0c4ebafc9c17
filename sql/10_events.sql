-- What happened to a workflow: each change of status and stage is recorded; progress is not. Only updates are recorded,
-- no inserts: a restore brings its events along. Sequential scans are off for the foreign key, as in 09. The timeline
-- below reads events, stages and tasks together.

create or replace function public.record_event()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set row_security = off
as $$
#variable_conflict use_variable
declare
    -- Who acts: the role that was set, as connection pools do, else the one that logged in.
    actor constant text := coalesce(nullif(current_setting('role'), 'none'), session_user);
begin
    if new.status <> old.status then
        insert into public.workflow_event (workflow_id, event_type, payload, occurred_at, trace_id)
        values (
            new.id,
            'status_changed',
            jsonb_build_object('from', old.status, 'to', new.status, 'by', actor, 'version', new.version),
            new.updated_at,
            new.trace_id
        );
    end if;
    if new.current_stage <> old.current_stage then
        insert into public.workflow_event (workflow_id, event_type, payload, occurred_at, trace_id)
        values (
            new.id,
            'stage_changed',
            jsonb_build_object(
                'from', old.current_stage, 'to', new.current_stage, 'by', actor, 'version', new.version
            ),
            new.updated_at,
            new.trace_id
        );
    end if;
    return null;
end
$$;

comment on function public.record_event() is 'Records a change of a workflow''s status or stage in workflow_event.';

revoke execute on function public.record_event() from public;

create or replace trigger workflow_events
    after update of status, current_stage on public.workflow
    for each row
    execute function public.record_event();

comment on trigger workflow_events on public.workflow is 'Records changes of status and stage.';

create or replace view public.workflow_timeline
with (security_invoker = true)
as
select
    t.workflow_id,
    t.at,
    t.kind,
    t.name,
    t.what,
    t.detail,
    t.place
from (
    select
        e.workflow_id,
        e.occurred_at as at,
        'event' as kind,
        e.event_type as name,
        case when e.payload ? 'to' then (e.payload ->> 'from') || ' -> ' || (e.payload ->> 'to') end as what,
        e.payload as detail,
        e.id as place
    from public.workflow_event as e
    union all
    select
        s.workflow_id,
        c.at,
        'stage' as kind,
        s.name,
        c.what,
        jsonb_build_object('position', s.position, 'retry_count', s.retry_count) as detail,
        2 * s.position::bigint + c.place as place
    from public.workflow_stage as s
    cross join lateral (values (s.started_at, 'started', 0), (s.completed_at, s.status::text, 1)) as c (at, what, place)
    where c.at is not null
    union all
    select
        a.workflow_id,
        c.at,
        'task' as kind,
        a.agent_type as name,
        c.what,
        jsonb_build_object('task_id', a.id, 'external_id', a.external_id, 'stage', a.stage) as detail,
        3 * a.ordinal + c.place as place
    from public.agent_task as a
    cross join lateral (
        values (a.created_at, 'created', 0), (a.started_at, 'started', 1), (a.completed_at, a.status::text, 2)
    ) as c (at, what, place)
    where c.at is not null
) as t;

comment on view public.workflow_timeline is
    'Events, stages and tasks of each workflow; to be read for one workflow at a time, ordered by at, kind, place, name.';
comment on column public.workflow_timeline.at is 'When it happened.';
comment on column public.workflow_timeline.kind is 'Kind of what happened: event, stage or task.';
comment on column public.workflow_timeline.name is 'Type of the event, name of the stage, or type of the agent.';
comment on column public.workflow_timeline.what is 'What happened: from -> to, created, started, completed, failed, cancelled.';
comment on column public.workflow_timeline.place is
    'Order of what happened at the same time, within a kind; stages of one position come in the order of their names.';
