drop view if exists public.workflow_stage_agents;
drop view if exists public.workflow_stage_progress;
