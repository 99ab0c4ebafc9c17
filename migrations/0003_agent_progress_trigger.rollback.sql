drop trigger if exists agent_task_progress_truncate on public.agent_task;
drop trigger if exists agent_task_progress_delete on public.agent_task;
drop trigger if exists agent_task_progress_update on public.agent_task;
drop trigger if exists agent_task_progress_insert on public.agent_task;
drop function if exists public.maintain_progress();
