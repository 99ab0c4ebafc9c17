-- Takes back notify_on.sql, and tells those who listen: they poll from now on.

drop trigger if exists workflow_notify on public.workflow;
drop function if exists public.notify_progress();

notify agent_progress, 'off';
