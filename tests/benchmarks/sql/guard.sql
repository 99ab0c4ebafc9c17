-- Any BEFORE UPDATE trigger for each row of workflow, even one that never fires: each update locks the row first, and in a
-- savepoint the new version carries the lock of its subtransaction on.

create function public.do_nothing()
returns trigger
language plpgsql
as $$
begin
    return new;
end
$$;

create trigger workflow_do_nothing
    before update of name on public.workflow
    for each row
    execute function public.do_nothing();
