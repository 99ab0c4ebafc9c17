drop function if exists public.progress_total(public.workflow_status, bigint, bigint);
drop function if exists public.progress_percentage(bigint, bigint);
