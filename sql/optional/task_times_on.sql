-- Takes back task_times_off.sql; times that were not given meanwhile stay null.

alter table public.agent_task enable trigger agent_task_times;
alter table public.agent_task enable trigger agent_task_times_insert;
