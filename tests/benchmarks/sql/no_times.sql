-- Ours without the triggers that fill in the times of tasks (sql/11): what counting alone costs.

drop trigger agent_task_times on public.agent_task;
drop trigger agent_task_times_insert on public.agent_task;
