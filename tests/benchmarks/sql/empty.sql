-- What any statement trigger with transition tables costs before it does anything.

create function public.do_nothing()
returns trigger
language plpgsql
as $$
begin
    return null;
end
$$;

create trigger agent_task_do_nothing
    after update on public.agent_task
    referencing old table as old_task new table as new_task
    for each statement
    execute function public.do_nothing();
