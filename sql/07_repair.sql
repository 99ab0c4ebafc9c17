-- Repairs what was miscounted while triggers were off (README: what is not counted), exactly, while others write: the row
-- of a workflow is locked first and its tasks are counted in a later statement, so with a newer snapshot; without that
-- lock no other transaction can count a task in between. The count itself is the guard's (05), which recounts a workflow
-- when it thaws: nothing that a caller passes reaches a counter.

create or replace function public.repair_progress(workflow uuid default null)
returns setof public.workflow_progress_drift
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    candidate uuid;
    stale public.workflow_progress_drift;
begin
    for candidate in
        select d.workflow_id
        from public.workflow_progress_drift as d
        where repair_progress.workflow is null or d.workflow_id = repair_progress.workflow
        order by d.workflow_id
    loop
        perform from public.workflow where id = candidate for no key update;
        select d.* into stale from public.workflow_progress_drift as d where d.workflow_id = candidate;
        continue when not found; -- somebody else repaired, froze or deleted it
        update public.workflow set progress_frozen_at = now() where id = candidate;
        update public.workflow set progress_frozen_at = null where id = candidate;
        return next stale;
    end loop;
end
$$;

comment on function public.repair_progress(uuid) is
    'Recounts one workflow, or all, and repairs those that drifted; returns what was stored and what is stored now.';

revoke execute on function public.repair_progress(uuid) from public;
