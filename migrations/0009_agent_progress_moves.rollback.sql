drop function if exists public.advance_workflow(uuid, integer);
drop function if exists public.transition_workflow(uuid, public.workflow_status, text, integer);
