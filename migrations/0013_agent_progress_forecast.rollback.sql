drop view if exists public.workflow_burnup;
drop view if exists public.workflow_forecast;
