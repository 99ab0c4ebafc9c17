-- What `agent-progress check` would find.

select count(*) from public.workflow_progress_drift;
