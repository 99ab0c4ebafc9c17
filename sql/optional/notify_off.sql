-- Takes back notify_on.sql.

drop trigger if exists workflow_notify on public.workflow;
drop function if exists public.notify_progress();
