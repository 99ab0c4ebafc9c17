-- The usual counter: a row-level trigger that keeps the same numbers, written with care. It fires only when the status
-- changed, knows no plan and no guard, and runs with the rights of the writer.

create function public.count_task()
returns trigger
language plpgsql
as $$
begin
    if tg_op = 'INSERT' then
        update public.workflow
        set
            agents_created = agents_created + 1,
            agents_total = agents_total + 1,
            progress = public.progress_percentage(agents_completed, agents_total + 1),
            progress_updated_at = now()
        where id = new.workflow_id;
    elsif old.status >= 'completed' or new.status >= 'completed' then
        update public.workflow
        set
            agents_completed = agents_completed + (new.status = 'completed')::integer - (old.status = 'completed')::integer,
            agents_failed = agents_failed + (new.status = 'failed')::integer - (old.status = 'failed')::integer,
            agents_cancelled = agents_cancelled + (new.status = 'cancelled')::integer - (old.status = 'cancelled')::integer,
            progress = public.progress_percentage(
                agents_completed + (new.status = 'completed')::integer - (old.status = 'completed')::integer,
                agents_total
            ),
            progress_updated_at = now()
        where id = new.workflow_id;
    end if;
    return null;
end
$$;

create trigger agent_task_count_insert
    after insert on public.agent_task
    for each row
    execute function public.count_task();

create trigger agent_task_count_update
    after update of status on public.agent_task
    for each row
    when (old.status <> new.status)
    execute function public.count_task();
