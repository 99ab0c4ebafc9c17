-- The rows as they are: triggers come after this. Events that workers numbered get numbers that follow the others, in
-- order of time: a worker that is used again later would give out the same ones.

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
