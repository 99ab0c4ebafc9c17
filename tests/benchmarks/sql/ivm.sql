-- The counters as a view that the extension pg_ivm maintains, one row a workflow; a percentage would be a view on it.

create extension pg_ivm;

do $$
begin
    execute format('alter database %I set session_preload_libraries = pg_ivm', current_database());
    -- Where it puts its functions depends on its version.
    execute format('alter database %I set search_path = public, pgivm', current_database());
end
$$;

set search_path = public, pgivm;

select create_immv(
    'workflow_count',
    $$
    select workflow_id, count(*) as created, sum((status = 'completed')::integer) as completed
    from public.agent_task
    group by workflow_id
    $$
);

analyze public.workflow_count;
