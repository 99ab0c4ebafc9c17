drop trigger if exists agent_task_times_insert on public.agent_task;
drop trigger if exists agent_task_times on public.agent_task;
drop trigger if exists agent_task_reopened on public.agent_task;
drop function if exists public.fill_task_times();
drop function if exists public.clear_task_times();
