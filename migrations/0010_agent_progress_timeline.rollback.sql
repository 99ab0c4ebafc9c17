drop view if exists public.workflow_timeline;
drop trigger if exists workflow_events on public.workflow;
drop function if exists public.record_event();
