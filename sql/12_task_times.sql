-- When a task started and was settled, where its writer does not say. Three triggers, each with the shortest condition
-- that passes over a completion whose writer gave the time, and over new tasks that wait: a statement compiles it anew,
-- and each comparison in it costs as much as half a call. No pinned search_path, which would cost as much again: they
-- run with the rights of the writer, who may set these times himself. Instead their operators and functions are named
-- with their schema, lest they run what another role has put in the writer's search_path.

create function public.clear_task_times()
returns trigger
language plpgsql
security invoker
as $$
begin
    if new.status operator(pg_catalog.<) 'completed' then
        new.completed_at := null;
        -- What an update leaves as it was, its writer left out.
        if new.started_at operator(pg_catalog.=) old.started_at then
            new.started_at := null;
        end if;
    end if;
    return new;
end
$$;

comment on function public.clear_task_times() is 'Clears started_at and completed_at of a task that is opened again.';

revoke execute on function public.clear_task_times() from public;

create function public.fill_task_times()
returns trigger
language plpgsql
security invoker
as $$
begin
    if new.status operator(pg_catalog.>=) 'completed' then
        if new.completed_at is null then
            new.completed_at := pg_catalog.clock_timestamp();
        end if;
    elsif new.status operator(pg_catalog.=) 'running' then
        if new.started_at is null then
            new.started_at := pg_catalog.clock_timestamp();
        end if;
    elsif new.started_at is not null then
        new.started_at := null;
    end if;
    return new;
end
$$;

comment on function public.fill_task_times() is 'Fills in started_at and completed_at of a task by its status.';

revoke execute on function public.fill_task_times() from public;

-- BEFORE triggers fire in the order of their names: what is cleared first is filled in then.
create trigger agent_task_reopened
    before update of status on public.agent_task
    for each row
    when (old.completed_at is not null)
    execute function public.clear_task_times();

create trigger agent_task_times
    before update of status on public.agent_task
    for each row
    when (new.completed_at is null)
    execute function public.fill_task_times();

create trigger agent_task_times_insert
    before insert on public.agent_task
    for each row
    when (new.status <> 'pending')
    execute function public.fill_task_times();

comment on trigger agent_task_reopened on public.agent_task is 'Clears the times of a task that is opened again.';
comment on trigger agent_task_times on public.agent_task is 'Fills in the times that the writer of a task leaves out.';
comment on trigger agent_task_times_insert on public.agent_task is
    'Fills in the times of a task that is inserted as begun or settled.';
