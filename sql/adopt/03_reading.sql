-- Reading the application's columns without standing in the way of its migrations: a view that names a column keeps it
-- from being dropped or retyped, a function body does not. Where a column is gone by now, its value is null.

create or replace function public.describe_workflow(workflow uuid)
returns table (their_reading)
language plpgsql
stable
security invoker
rows 1
set search_path = pg_catalog, pg_temp
as $$
begin
    return query select w.* from their_workflow_now as w where w.id = describe_workflow.workflow;
exception
    when undefined_column or undefined_function or datatype_mismatch or cannot_coerce then
        return query select w.* from their_workflow_by_name as w where w.id = describe_workflow.workflow;
end
$$;

comment on function public.describe_workflow(uuid) is
    'One workflow with the columns that the views show; null where the application has no such column.';

create or replace function public.count_tasks(workflow uuid default null)
returns table (workflow_id uuid, created bigint, completed bigint, failed bigint, cancelled bigint)
language plpgsql
stable
security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    if workflow is null then
        return query select g.* from their_count as g;
    else
        return query select g.* from their_count as g where g.workflow_id = count_tasks.workflow;
    end if;
end
$$;

comment on function public.count_tasks(uuid) is 'Tasks of one workflow, or of all, by what became of them; counted afresh.';
