drop trigger if exists zz_workflow_progress_guard on public.workflow;
drop function if exists public.guard_progress();
