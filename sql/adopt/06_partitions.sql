-- For partitioned tasks. A MERGE that inserts before it updates shows its update trigger the row inserted last, once for
-- each updated one (PostgreSQL 15 to 18: tcs_original_insert_tuple is not taken back). Where there is a BEFORE INSERT row
-- trigger, rows are shown as they were stored. So it has to be there; it never fires.

create or replace trigger agent_task_progress_merge
    before insert on public.agent_task
    for each row
    when (false)
    execute function public.maintain_progress();

comment on trigger agent_task_progress_merge on public.agent_task is
    'agent-progress: never fires; lets MERGE show updated rows as they are.';
