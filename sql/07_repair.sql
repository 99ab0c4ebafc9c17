-- Repairs what was not counted while triggers did not fire (sql/README.md: What is not counted), exactly, while others
-- write. The row of a workflow is locked first, and its tasks are counted by a later statement, with a newer snapshot:
-- in between nobody else can count a task, which takes the same lock. The guard (05) does the count, as it recounts
-- each workflow that thaws: nothing that a caller passes reaches a counter.

create or replace function public.repair_progress(workflow uuid default null)
returns setof public.workflow_progress_drift
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_custom_plan -- one workflow is found by index, all of them in one pass
set row_security = off
as $$
#variable_conflict use_variable
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
        continue when not found; -- another session repaired, froze or deleted it
        update public.workflow set progress_frozen_at = now() where id = candidate;
        update public.workflow set progress_frozen_at = null where id = candidate;
        return next stale;
    end loop;
end
$$;

comment on function public.repair_progress(uuid) is
    'Recounts one workflow, or all, and repairs those that drifted; returns what was stored and what is stored now.';

revoke execute on function public.repair_progress(uuid) from public;
