-- The counter that everybody writes first: the workflows concerned are counted afresh, once a statement, and written
-- where something moved. It is wrong for good when tasks of one workflow finish together: each transaction counts what
-- its own snapshot shows, and the last one to write has not seen the others.

create function public.recount_workflows()
returns trigger
language plpgsql
as $$
begin
    update public.workflow as w
    set
        agents_created = c.created,
        agents_total = c.created,
        agents_completed = c.completed,
        agents_failed = c.failed,
        agents_cancelled = c.cancelled,
        progress = public.progress_percentage(c.completed, c.created),
        progress_updated_at = now()
    from (
        select
            a.workflow_id,
            count(*) as created,
            count(*) filter (where a.status = 'completed') as completed,
            count(*) filter (where a.status = 'failed') as failed,
            count(*) filter (where a.status = 'cancelled') as cancelled
        from public.agent_task as a
        where a.workflow_id in (select t.workflow_id from new_task as t)
        group by a.workflow_id
    ) as c
    where
        w.id = c.workflow_id
        and (w.agents_created, w.agents_completed, w.agents_failed, w.agents_cancelled)
        <> (c.created, c.completed, c.failed, c.cancelled);
    return null;
end
$$;

create trigger agent_task_recount_insert
    after insert on public.agent_task
    referencing new table as new_task
    for each statement
    execute function public.recount_workflows();

create trigger agent_task_recount_update
    after update on public.agent_task
    referencing new table as new_task
    for each statement
    execute function public.recount_workflows();
