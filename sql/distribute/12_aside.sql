-- Puts the distributed tables aside. Citus cannot turn them into plain ones: not a table with an identity column, nor
-- without dropping what depends on their row types. So they are made anew, from sql/.

set local lock_timeout = '30s';

lock table
    public.agent_task,
    public.workflow,
    public.workflow_stage,
    public.workflow_event,
    public.workflow_transition,
    public.stage_definition
in access exclusive mode;

drop view public.workflow_burnup;
drop view public.workflow_forecast;
drop view public.workflow_stage_agents;
drop view public.workflow_stage_progress;
drop view public.workflow_timeline;
drop function public.advance_workflow(uuid, integer);
drop function public.transition_workflow(uuid, public.workflow_status, text, integer);
drop function public.plan_stages(public.workflow);
drop function public.repair_progress(uuid);
drop view public.workflow_progress_drift;
drop view public.workflow_progress_calculated;
drop view public.workflow_progress;
drop trigger agent_task_progress_truncate on public.agent_task;
drop function public.refuse_truncate();

create schema agent_progress_distributed;
alter table public.workflow set schema agent_progress_distributed;
alter table public.agent_task set schema agent_progress_distributed;
alter table public.workflow_stage set schema agent_progress_distributed;
alter table public.workflow_event set schema agent_progress_distributed;
alter table public.workflow_transition set schema agent_progress_distributed;
alter table public.stage_definition set schema agent_progress_distributed;
