-- When a task was assigned, started and settled, where its writer does not say, and how often it was opened again: the
-- same for a report and for a plain UPDATE. The function has only the rights of the writer, who may set these columns
-- anyway, and names operators and functions with their schema, so that it runs nothing that another role put in the
-- writer's search_path: to pin that would make each call half as dear again. Stable, so that plpgsql takes no snapshot.

create or replace function public.keep_task_times()
returns trigger
language plpgsql
stable
security invoker
as $$
begin
    -- Settled statuses come last in task_status. In an insert, old is null. A task that goes from one settled status to
    -- another gets a new time, unless the writer gives one.
    if new.status operator(pg_catalog.>=) 'completed' then
        if new.completed_at is null then
            new.completed_at := pg_catalog.clock_timestamp();
        elsif old.completed_at is not null then
            if
                new.completed_at operator(pg_catalog.=) old.completed_at
                and new.status operator(pg_catalog.<>) old.status
            then
                new.completed_at := pg_catalog.clock_timestamp();
            end if;
        end if;
        return new;
    end if;

    if old.status operator(pg_catalog.>=) 'completed' then
        -- Opened again: what the update leaves unchanged was not given by its writer, and is filled in or cleared.
        new.completed_at := null;
        if new.retry_count operator(pg_catalog.=) old.retry_count then
            new.retry_count := new.retry_count operator(pg_catalog.+) 1;
        end if;
        if new.assigned_at operator(pg_catalog.=) old.assigned_at then
            new.assigned_at := null;
        end if;
        if new.started_at operator(pg_catalog.=) old.started_at then
            new.started_at := null;
        end if;
    end if;

    if new.status operator(pg_catalog.=) 'running' then
        new.started_at := coalesce(new.started_at, pg_catalog.clock_timestamp());
        new.assigned_at := coalesce(new.assigned_at, new.started_at);
    else
        new.started_at := null;
        new.assigned_at := case
            when new.status operator(pg_catalog.=) 'assigned' then coalesce(new.assigned_at, pg_catalog.clock_timestamp())
        end;
    end if;
    return new;
end
$$;

comment on function public.keep_task_times() is
    'Fills in and clears assigned_at, started_at and completed_at of a task by its status; counts how often it was opened again.';

revoke execute on function public.keep_task_times() from public;

create or replace trigger agent_task_times
    before update of status on public.agent_task
    for each row
    execute function public.keep_task_times();

comment on trigger agent_task_times on public.agent_task is
    'Keeps the times and the retry count of a task whose status is written.';

-- A task that is inserted as pending has no times to fill in.
create or replace trigger agent_task_times_insert
    before insert on public.agent_task
    for each row
    when (new.status <> 'pending')
    execute function public.keep_task_times();

comment on trigger agent_task_times_insert on public.agent_task is
    'Fills in the times of a task that is inserted as begun or settled.';
