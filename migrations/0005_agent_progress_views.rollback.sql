drop view if exists public.workflow_progress_drift;
drop view if exists public.workflow_progress_calculated;
drop view if exists public.workflow_progress;
