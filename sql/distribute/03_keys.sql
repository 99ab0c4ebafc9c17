-- Keys that a shard can watch over by itself: the id of the workflow stands first in each. Nobody writes meanwhile.

set local lock_timeout = '30s';

lock table
    public.agent_task,
    public.workflow,
    public.workflow_stage,
    public.workflow_event,
    public.workflow_transition,
    public.stage_definition
in access exclusive mode;

-- What moves to a shard was counted and recorded already.
alter table public.workflow disable trigger user;
alter table public.agent_task disable trigger user;

alter table public.agent_task drop constraint agent_task_workflow_id_fkey;
alter table public.workflow_stage drop constraint workflow_stage_workflow_id_fkey;
alter table public.workflow_event drop constraint workflow_event_workflow_id_fkey;

alter table public.agent_task drop constraint agent_task_pkey;
alter table public.agent_task add constraint agent_task_pkey primary key (workflow_id, id);
alter table public.workflow_stage drop constraint workflow_stage_pkey;
alter table public.workflow_stage add constraint workflow_stage_pkey primary key (workflow_id, id);
alter table public.workflow_event drop constraint workflow_event_pkey;
alter table public.workflow_event add constraint workflow_event_pkey primary key (workflow_id, id);
