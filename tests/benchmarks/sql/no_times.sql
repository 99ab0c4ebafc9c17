-- Ours without the trigger that fills in the times of tasks (sql/12): what counting alone costs.

drop trigger agent_task_times on public.agent_task;
